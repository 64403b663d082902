"""The page of a run of segments: timelines of songs, with label, prediction and score."""

from __future__ import annotations

import json
import re

import pandas as pd
import pytest
from matplotlib.figure import Figure

from rainbow_ray.html_report.run_artifacts import read_run
from rainbow_ray.html_report.theme import LIGHT
from rainbow_ray.html_report.timelines import COLORS, make_timelines
from tests.song_tables import HOSTILE

pytestmark = pytest.mark.slow  # trains several models


@pytest.fixture(params=["segmentation", "segmentation of numbers", "weak segmentation"])
def run(request, finished):
    return finished(request.param)


def test_each_song_has_a_timeline_the_worst_first(finished):
    run = read_run(finished("segmentation"))
    timelines = make_timelines(run, {})
    assert timelines is not None
    assert {timeline.song for timeline in timelines.songs} == set(run.predictions["song"])
    assert all(timeline.rows == ["label", "prediction", "score"] for timeline in timelines.songs)
    agreements = [float(timeline.claim.split("%")[0]) for timeline in timelines.songs]
    assert agreements == sorted(agreements)
    for timeline in timelines.songs:
        rows = run.predictions[run.predictions["song"] == timeline.song]
        assert len(timeline.boxes) == 3 * len(rows)
        assert min(box.x for box in timeline.boxes) > 0, "no segment covers the first two seconds"
        assert max(box.x + box.width for box in timeline.boxes) <= 1000.5


def test_colors_show_labels_and_predictions(finished):
    run = read_run(finished("segmentation"))
    timelines = make_timelines(run, {})
    assert timelines is not None
    timeline = timelines.songs[0]
    rows = run.predictions[run.predictions["song"] == timeline.song]
    tops = sorted({box.y for box in timeline.boxes if box.height == 20})
    for column, top in (("target", tops[0]), ("prediction", tops[1])):
        colors = [box.color for box in timeline.boxes if box.y == top]
        expected = [-1 if value is None or value != value else timelines.legend.index(value) for value in rows[column]]
        assert colors == expected


def test_heights_show_the_score_of_the_predicted_class(finished):
    """Decoding may choose another class than the one with the highest score."""
    run = read_run(finished("segmentation"))
    song = run.predictions["song"].iloc[0]
    names = [name for name in run.predictions if str(name).startswith("score_")]
    is_song = run.predictions["song"] == song
    lowest = run.predictions.loc[is_song, names].to_numpy().argmin(axis=1)
    run.predictions.loc[is_song, "prediction"] = [names[i].removeprefix("score_") for i in lowest]
    timelines = make_timelines(run, {})
    assert timelines is not None
    timeline = next(timeline for timeline in timelines.songs if timeline.song == str(song))
    heights = [box.height / 14 for box in timeline.boxes if box.color == len(COLORS)]
    assert heights == pytest.approx(
        run.predictions.loc[is_song, names].min(axis=1).clip(lower=0.5 / 14).tolist(), abs=1e-3
    )


def test_the_page_shows_timelines_and_escapes_names(run):
    page = (run / "report.html").read_text()
    assert "Timelines" in page
    assert HOSTILE not in page
    assert "&lt;script&gt;alert(1)" in page
    assert page.count("<svg") >= 14
    assert (run / "plots" / "timelines.png").stat().st_size > 5000


def test_weak_scores_are_marked_in_page_chart_and_file(finished):
    run = finished("weak segmentation")
    page, summary = (run / "report.html").read_text(), json.loads((run / "summary.json").read_text())
    assert summary["weak"] == "attention"
    assert len(re.findall("WEAK", page)) >= 2
    timelines = make_timelines(read_run(run), {})
    assert timelines is not None
    assert "WEAK" in timelines.picture.caption
    figure = Figure()
    timelines.picture.draw(figure, LIGHT)
    assert "WEAK" in figure.axes[0].get_xlabel()
    songs = len(figure.axes[0].get_yticks())
    drawn_rows = [collection for collection in figure.axes[0].collections if len(collection.get_facecolor()) > 1]
    assert len(drawn_rows) == songs, "predictions of segments, but no labels, which are unknown"
    rows = pd.read_parquet(run / "predictions.parquet")
    assert rows["weak"].all()
    validation_rows = rows[(rows["split"] == "val") & rows["fold"].notna()]
    sums = (
        validation_rows.groupby("song")[[name for name in validation_rows if str(name).startswith("score_")]]
        .sum()
        .sum(axis=1)
    )
    assert sums.to_numpy() == pytest.approx(1.0, abs=1e-3), "scores of segments add up to the score of their song"


def test_predictions_have_times(finished):
    rows = pd.read_parquet(finished("segmentation") / "predictions.parquet")
    validation_rows = rows[(rows["split"] == "val") & rows["fold"].notna()]
    assert (validation_rows["end"] > validation_rows["start"]).all()
    assert not validation_rows["weak"].any()
    assert validation_rows["target"].isna().sum() == 3
    assert validation_rows["example_id"].is_unique


def test_weak_songs_are_sorted_by_the_score_of_the_song(finished):
    run = read_run(finished("weak yes and no"))
    timelines = make_timelines(run, {})
    assert timelines is not None
    songs = run.predictions.groupby("song").agg(
        target=("target", "first"), score=("score", "sum"), n_positive=("prediction", "sum")
    )
    label_score = songs["score"].where(songs["target"] > 0, 1 - songs["score"])
    assert label_score[[timeline.song for timeline in timelines.songs]].is_monotonic_increasing
    assert ((songs["n_positive"] > 0) == (songs["score"] > 0.5)).all(), "a song is positive if any of its segments is"
