"""The page of a run over segments: each song's timeline, truth above prediction above confidence."""

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


@pytest.fixture(params=["segmentation", "segmentation of numbers", "weak segmentation"])
def run(request, finished):
    return finished(request.param)


def test_every_song_has_its_line_worst_first(finished):
    run = read_run(finished("segmentation"))
    made = make_timelines(run, {})
    assert made is not None
    assert {line.song for line in made.songs} == set(run.predictions["song"])
    assert all(line.rows == ["label", "prediction", "score"] for line in made.songs)
    shares = [float(line.claim.split("%")[0]) for line in made.songs]
    assert shares == sorted(shares)
    for line in made.songs:
        rows = run.predictions[run.predictions["song"] == line.song]
        assert len(line.boxes) == 3 * len(rows)
        assert min(box.x for box in line.boxes) > 0, "the two seconds before the first segment are silence"
        assert max(box.x + box.width for box in line.boxes) <= 1000.5


def test_what_is_shown_is_what_the_predictions_say(finished):
    run = read_run(finished("segmentation"))
    made = make_timelines(run, {})
    assert made is not None
    line = made.songs[0]
    rows = run.predictions[run.predictions["song"] == line.song]
    tops = sorted({box.y for box in line.boxes if box.height == 20})
    for row, top in (("target", tops[0]), ("prediction", tops[1])):
        colors = [box.color for box in line.boxes if box.y == top]
        said = [-1 if value is None or value != value else made.legend.index(value) for value in rows[row]]
        assert colors == said


def test_how_surely_is_of_what_is_called(finished):
    """Not of the class with the highest score, which a decoding may pass over."""
    run = read_run(finished("segmentation"))
    song = run.predictions["song"].iloc[0]
    names = [name for name in run.predictions if str(name).startswith("score_")]
    mine = run.predictions["song"] == song
    lowest = run.predictions.loc[mine, names].to_numpy().argmin(axis=1)
    run.predictions.loc[mine, "prediction"] = [names[i].removeprefix("score_") for i in lowest]
    made = make_timelines(run, {})
    assert made is not None
    line = next(line for line in made.songs if line.song == str(song))
    heights = [box.height / 14 for box in line.boxes if box.color == len(COLORS)]
    assert heights == pytest.approx(
        run.predictions.loc[mine, names].min(axis=1).clip(lower=0.5 / 14).tolist(), abs=1e-3
    )


def test_the_page_shows_lines_and_no_markup_of_others(run):
    page = (run / "report.html").read_text()
    assert "Timelines" in page
    assert HOSTILE not in page
    assert "&lt;script&gt;alert(1)" in page
    assert page.count("<svg") >= 14
    assert (run / "plots" / "timelines.png").stat().st_size > 5000


def test_weak_scores_say_so_wherever_they_appear(finished):
    run = finished("weak segmentation")
    page, summary = (run / "report.html").read_text(), json.loads((run / "summary.json").read_text())
    assert summary["weak"] == "attention"
    assert len(re.findall("WEAK", page)) >= 2
    made = make_timelines(read_run(run), {})
    assert made is not None
    assert "WEAK" in made.picture.caption
    figure = Figure()
    made.picture.draw(figure, LIGHT)
    assert "WEAK" in figure.axes[0].get_xlabel()
    songs = len(figure.axes[0].get_yticks())
    rows_drawn = [one for one in figure.axes[0].collections if len(one.get_facecolor()) > 1]
    assert len(rows_drawn) == songs, "what segments are called, and no truth that nobody knows"
    rows = pd.read_parquet(run / "predictions.parquet")
    assert rows["weak"].all()
    held = rows[(rows["split"] == "val") & rows["fold"].notna()]
    sums = held.groupby("song")[[name for name in held if str(name).startswith("score_")]].sum().sum(axis=1)
    assert sums.to_numpy() == pytest.approx(1.0, abs=1e-3), "segments share in what is said of their song"


def test_predictions_have_times(finished):
    rows = pd.read_parquet(finished("segmentation") / "predictions.parquet")
    held = rows[(rows["split"] == "val") & rows["fold"].notna()]
    assert (held["end"] > held["start"]).all()
    assert not held["weak"].any()
    assert held["target"].isna().sum() == 3
    assert held["example_id"].is_unique


def test_weak_songs_are_worst_first_by_what_is_said_of_the_song(finished):
    run = read_run(finished("weak yes and no"))
    made = make_timelines(run, {})
    assert made is not None
    songs = run.predictions.groupby("song").agg(
        target=("target", "first"), said=("score", "sum"), yes=("prediction", "sum")
    )
    right = songs["said"].where(songs["target"] > 0, 1 - songs["said"])
    assert right[[line.song for line in made.songs]].is_monotonic_increasing
    assert ((songs["yes"] > 0) == (songs["said"] > 0.5)).all(), "a song is yes where any of its segments is"
