"""Predictions for tables of segments: unusable segments have a reason and are in no interval."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from rainbow_ray import predict
from rainbow_ray.baselines.common import Baselines
from rainbow_ray.baselines.names import NO_CONTEXT
from rainbow_ray.data.normalize_rows import ID_MISSING
from rainbow_ray.data.segments import NO_LENGTH
from rainbow_ray.distributed.process_group import ProcessGroup
from rainbow_ray.evaluation.results import evaluate
from rainbow_ray.inference.predictor import Predictor
from rainbow_ray.training.cross_validation import FitContext, FitJob, out_of_fold, read_result, run_job
from rainbow_ray.utils.errors import InputError
from tests.helpers import data_of, plan_of
from tests.song_tables import segment_rows

pytestmark = pytest.mark.slow  # trains several models


@pytest.fixture
def table():
    return pd.DataFrame(segment_rows(songs=3, segments=6))


def test_segments_without_time_have_scores_and_a_reason_and_are_in_no_interval(finished, table, tmp_path, capsys):
    table.loc[table["song_id"] == "00", "start_seconds"] = np.nan
    table.loc[2 * 8 : 2 * 8 + 1, "end_seconds"] = -5.0  # the third segment of the second song
    table.loc[table.index[-2:], "song_id"] = None
    table.to_parquet(tmp_path / "p.parquet")
    run, out = finished("segmentation"), tmp_path / "o.parquet"
    predict.main(["--model", str(run), "--manifest", str(tmp_path / "p.parquet"), "--out", str(out)])
    output = capsys.readouterr().out
    assert f"7: {NO_LENGTH}" in output
    assert f"2: {ID_MISSING}" in output
    result, intervals = pd.read_parquet(out), pd.read_parquet(tmp_path / "o.intervals.parquet")
    is_timeless = result["reason"].notna()
    assert is_timeless.sum() == 7
    assert len(result) == 3 * 6 - 1
    assert result.loc[is_timeless, ["start", "end"]].isna().all(axis=None)
    assert (result.loc[~is_timeless, "end"] > result.loc[~is_timeless, "start"]).all()
    assert result["prediction"].notna().all()
    assert set(intervals["song"]) == {"01", "02"}
    assert intervals["segments"].sum() == (~is_timeless).sum()
    assert not intervals["weak"].any()


def test_weak_intervals_are_marked(finished, table):
    result = Predictor.load(finished("weak yes and no")).predict_segments(table)
    assert result.intervals["weak"].all()
    assert result.segments["weak"].all()
    is_positive = result.segments.groupby("song")["prediction"].any()
    assert (is_positive == (result.segments.groupby("song")["score"].sum() > 0.5)).all()


def test_all_segments_of_a_long_song_are_scored(finished):
    """Windows of one song are batched by length, so a batch has windows that are not adjacent."""
    segments = pd.DataFrame(segment_rows(songs=1, segments=704, stems=1))
    segments.loc[300, "lyric_text"] += " river" * 12
    segments.loc[690, "lyric_text"] += " river" * 8
    result = Predictor.load(finished("segmentation")).predict_segments(segments).segments
    scores = result[[name for name in result if str(name).startswith("score_")]]
    assert scores.notna().all(axis=None)
    assert scores.sum(axis=1).to_numpy() == pytest.approx(1.0, abs=1e-4)


def test_the_baseline_without_context_is_decoded_like_the_model(write_table, tiny_encoder, tmp_path):
    """With the same scores, the metrics of the baseline equal those of the model exactly."""
    path = write_table(segment_rows(), "segments.parquet")
    plan = plan_of("demo", tiny_encoder("bert"), phase=5, segments__path=str(path), segments__decoding="viterbi",
                   data__folds=2, training__epochs=1, training__min_steps=0, training__device="cpu")  # fmt: skip
    data = data_of(plan)
    context = FitContext(plan.config, data.source, data.task, plan.input_spec, "id")
    jobs = [FitJob(k, *data.split.train_val_indices(k), tmp_path / str(k)) for k in range(2)]
    for job in jobs:
        run_job(context, job, ProcessGroup())
    folds = [read_result(job) for job in jobs]
    scores = out_of_fold(data.source, data.task, folds, lambda result: result.val_scores)
    results = evaluate(plan, data, folds, Baselines({NO_CONTEXT: scores, "other": scores}))
    assert results.comparison.baselines[NO_CONTEXT] == results.measurements.metrics
    assert results.comparison.baselines["other"] != results.measurements.metrics, (
        "other baselines are not decoded, so their metrics differ"
    )


def test_intervals_end_at_gaps(finished, table):
    table = table[table["song_id"] == "00"].drop_duplicates("segment_index")
    starts, ends = [0.0, 5.0, 10.0, 60.0, 65.0, 70.2], [5.0, 10.0, 15.0, 65.0, 70.0, 75.0]
    table = table.assign(start_seconds=starts, end_seconds=ends, lyric_text="the same line")
    result = Predictor.load(finished("segmentation")).predict_segments(table)
    intervals = result.intervals
    assert intervals["segments"].sum() == 6
    assert not ((intervals["start"] < 20) & (intervals["end"] > 20)).any()
    has_one_class = result.segments["prediction"].nunique() == 1
    assert not has_one_class or len(intervals) == 2


@pytest.mark.parametrize("time_format", ["text", "mixed", "duration", "time", "decimal comma"])
def test_times_of_any_type_are_parsed(finished, table, time_format):
    predictor = Predictor.load(finished("segmentation"))
    table = table.assign(start_seconds=table["segment_index"] * 10.0, end_seconds=table["segment_index"] * 10.0 + 10)
    expected = predictor.predict_segments(table).segments
    convert = {
        "text": lambda seconds: f"0:{seconds:04.1f}" if seconds < 60 else f"1:{seconds - 60:04.1f}",
        "mixed": lambda seconds: seconds if seconds > 30 else f"{seconds} s",
        "duration": lambda seconds: pd.Timedelta(seconds=seconds),
        "time": lambda seconds: (pd.Timestamp(0) + pd.Timedelta(seconds=seconds)).time(),
        "decimal comma": lambda seconds: f"{seconds:.1f}".replace(".", ","),
    }[time_format]
    converted = table.assign(**{name: table[name].map(convert) for name in ("start_seconds", "end_seconds")})
    result = predictor.predict_segments(converted).segments
    pd.testing.assert_frame_equal(result, expected)


def test_times_in_other_units_raise_or_warn(finished, table):
    predictor = Predictor.load(finished("segmentation"))
    times = ["start_seconds", "end_seconds"]
    for factor, unit in ((1e6, "microseconds"), (44_100 * 60, "samples|microseconds"), (1 / 86_400, "days")):
        with pytest.raises(InputError, match=f"likely ({unit})"):
            predictor.predict_segments(table.assign(**{name: table[name] * factor for name in times}))
    with pytest.warns(UserWarning, match="likely milliseconds"):
        predictor.predict_segments(table.assign(lyric_text=None, **{name: table[name] * 1000 for name in times}))
    with pytest.raises(InputError, match=r"'start_seconds'.*'soon'.*write seconds"):
        predictor.predict_segments(table.assign(start_seconds="soon"))
    with pytest.raises(InputError, match="'end_seconds' holds list"):
        predictor.predict_segments(table.assign(end_seconds=[[1.0]] * len(table)))


def test_a_table_in_another_unit_ends_the_command_before_it_scores(finished, table, tmp_path):
    table = table.assign(start_seconds=table["start_seconds"] * 1e6, end_seconds=table["end_seconds"] * 1e6)
    table.to_parquet(tmp_path / "p.parquet")
    out = ["--out", str(tmp_path / "o.parquet")]
    with pytest.raises(InputError, match="likely microseconds: divide by 1000000"):
        predict.main(["--model", str(finished("segmentation")), "--manifest", str(tmp_path / "p.parquet"), *out])
    assert not (tmp_path / "o.parquet").exists()
