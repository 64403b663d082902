"""Tables of segments scored by a bundle: what cannot be used is said, and stands in no stretch."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from rainbow_ray import predict
from rainbow_ray.data.manifest import ID_MISSING
from rainbow_ray.data.timelines import NO_LENGTH
from rainbow_ray.results.inference import Predictor
from rainbow_ray.results.summary import NONE, evaluate
from rainbow_ray.training.folds import Job, Shared, out_of_fold, read_outcome, run_job
from rainbow_ray.training.team import Team
from tests.conftest import segment_rows
from tests.in_process import data_of, plan_of


@pytest.fixture
def table():
    return pd.DataFrame(segment_rows(songs=3, segments=6))


def test_what_has_no_time_has_scores_a_reason_and_no_stretch(finished, table, tmp_path, capsys):
    table.loc[table["song_id"] == "00", "start_seconds"] = np.nan
    table.loc[2 * 8 : 2 * 8 + 1, "end_seconds"] = -5.0  # the third segment of the second song
    table.loc[table.index[-2:], "song_id"] = None
    table.to_parquet(tmp_path / "p.parquet")
    run, out = finished("segmentation"), tmp_path / "o.parquet"
    predict.main(["--model", str(run), "--manifest", str(tmp_path / "p.parquet"), "--out", str(out)])
    said = capsys.readouterr().out
    assert f"7: {NO_LENGTH}" in said
    assert f"2: {ID_MISSING}" in said
    found, stretches = pd.read_parquet(out), pd.read_parquet(tmp_path / "o.stretches.parquet")
    lost = found["reason"].notna()
    assert lost.sum() == 7
    assert len(found) == 3 * 6 - 1
    assert found.loc[lost, ["start", "end"]].isna().all(axis=None)
    assert (found.loc[~lost, "end"] > found.loc[~lost, "start"]).all()
    assert found["prediction"].notna().all()
    assert set(stretches["song"]) == {"01", "02"}
    assert stretches["segments"].sum() == (~lost).sum()
    assert not stretches["weak"].any()


def test_weak_stretches_say_so(finished, table):
    found = Predictor.load(finished("weak yes and no")).predict_segments(table)
    assert found.stretches["weak"].all()
    assert found.segments["weak"].all()
    yes = found.segments.groupby("song")["prediction"].any()
    assert (yes == (found.segments.groupby("song")["score"].sum() > 0.5)).all()


def test_a_long_song_is_scored_whole(finished):
    """Windows of one song that do not follow each other lie in one batch: lengths decide that."""
    lines = pd.DataFrame(segment_rows(songs=1, segments=704, stems=1))
    lines.loc[300, "lyric_text"] += " river" * 12
    lines.loc[690, "lyric_text"] += " river" * 8
    found = Predictor.load(finished("segmentation")).predict_segments(lines).segments
    scores = found[[name for name in found if str(name).startswith("score_")]]
    assert scores.notna().all(axis=None)
    assert scores.sum(axis=1).to_numpy() == pytest.approx(1.0, abs=1e-4)


def test_the_same_model_without_neighbours_is_decoded_as_ours_is(write_table, tiny_encoder, tmp_path):
    """With the same scores, the baseline is level with the model to the bit."""
    path = write_table(segment_rows(), "segments.parquet")
    plan = plan_of("demo", tiny_encoder("bert"), phase=5, segments__path=str(path), segments__decoding="viterbi",
                   data__folds=2, training__epochs=1, training__min_steps=0, training__device="cpu")  # fmt: skip
    data = data_of(plan)
    shared = Shared(plan.config, data.source, data.problem, plan.reading, "id")
    jobs = [Job(k, *data.split.sides(k), tmp_path / str(k)) for k in range(2)]
    for job in jobs:
        run_job(shared, job, Team())
    folds = [read_outcome(job) for job in jobs]
    scores = out_of_fold(data.source, data.problem, folds, lambda outcome: outcome.val_scores)
    results = evaluate(plan, data, folds, {NONE: scores, "other": scores})
    assert results.baselines[NONE] == results.metrics
    assert results.baselines["other"] != results.metrics, "else this tells nothing"
