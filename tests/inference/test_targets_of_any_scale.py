"""Targets of any scale keep their precision from the table to the scores and in printed numbers."""

from __future__ import annotations

import json
from decimal import Decimal

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest

import rainbow_ray
from rainbow_ray.inference.onnx_predictor import OnnxPredictor
from rainbow_ray.tasks.segment_targets import LABEL
from rainbow_ray.utils.number_format import (
    format_alike,
    format_difference,
    format_interval,
    format_number,
    format_numbers,
)
from tests.helpers import data_of, finish_run, plan_of
from tests.song_tables import segment_rows, song_rows

TARGET = "rebracketing_intensity"
# the targets say nothing of the texts: a stacked ensemble would rightly predict their mean
SHORT = {"phase": 4, "training__epochs": 2, "training__min_steps": 0, "data__folds": 2, "training__combine": "none"}
BASE = 1e9


def songs_with_targets(values) -> dict:
    """Return columns of songs with these targets."""
    return {**song_rows(songs=len(values), stems=1), TARGET: values}


CLOSE_TARGETS = [BASE + 0.001 * i for i in range(40)]


@pytest.mark.parametrize("values", [
    pa.array(CLOSE_TARGETS), pa.array([str(value) for value in CLOSE_TARGETS]),
    pa.array([Decimal(str(value)) for value in CLOSE_TARGETS]),
    pa.array([2**40 + i for i in range(40)]), pa.array([1e-30 * (1 + 1e-9 * i) for i in range(40)]),
])  # fmt: skip
def test_distinct_targets_stay_distinct(write_table, tiny_encoder, values):
    data = data_of(plan_of(write_table(songs_with_targets(values)), tiny_encoder("bert"), phase=4))
    assert len(np.unique(data.source.targets)) == 40
    assert sorted(data.source.targets) == sorted(float(value) for value in values.to_pylist())


def test_targets_of_one_song_agree_up_to_rounding(write_table, tiny_encoder):
    rows = song_rows(songs=24, stems=2)
    rows[TARGET] = [(0.1 + 0.2 if i % 2 else 0.3) + i // 2 for i in range(48)]
    rows[TARGET][0] += 1e-9
    data = data_of(plan_of(write_table(rows), tiny_encoder("bert"), phase=4))
    assert data.profile["songs"] == 23
    assert data.profile["dropped"]["labels of one song disagree"] == 2


def test_targets_beyond_the_precision_of_float64_are_warned_of(write_table, tiny_encoder):
    values = pa.array([10**17 + i for i in range(40)])
    data = data_of(plan_of(write_table(songs_with_targets(values)), tiny_encoder("bert"), phase=4))
    assert any("40 different values, of which" in warning for warning in data.warnings)


@pytest.mark.parametrize(("transform", "is_warned"), [("none", True), ("standardize", False)])
def test_targets_beyond_the_precision_of_float32_are_warned_of_without_standardization(
    write_table, tiny_encoder, transform, is_warned
):
    keys = {"phase": 4, "training__target_transform": transform}
    data = data_of(plan_of(write_table(songs_with_targets(CLOSE_TARGETS)), tiny_encoder("bert"), **keys))
    assert any("in float32, in which 40 different values are 1;" in warning for warning in data.warnings) == is_warned


def test_targets_of_segments_keep_their_precision(write_table, tiny_encoder):
    rows = segment_rows(songs=12, segments=6, stems=1)
    rows["loudness"] = [BASE + 0.001 * i for i in range(len(rows["loudness"]))]
    keys = {"phase": 5, "data__target_column": "loudness", "segments__path": str(write_table(rows))}
    data = data_of(plan_of("demo", tiny_encoder("bert"), **keys))
    assert sorted(data.source.targets[:, LABEL]) == sorted(rows["loudness"])


@pytest.mark.slow
@pytest.mark.parametrize(("base", "step"), [(BASE, 0.001), (0.0, 1e-5)])
def test_scores_keep_the_targets_scale(write_table, tiny_encoder, tmp_path, base, step, capsys):
    """Validation rows, the loaded model and its ONNX graph agree within a small fraction of the targets' spread."""
    from rainbow_ray.bundle.bundle import load_bundle
    from rainbow_ray.exporters.onnx import export_onnx

    values = [base + step * ((7 * i) % 40) for i in range(40)]
    run = finish_run(plan_of(write_table(songs_with_targets(values)), tiny_encoder("bert"), **SHORT), tmp_path / "run")
    spread = float(np.std(values))
    rows = pd.read_parquet(run / "predictions.parquet")
    validation_rows = rows[(rows["split"] == "val") & rows["fold"].notna()]
    assert validation_rows["target"].nunique() == 40
    assert sorted(validation_rows["target"]) == sorted(values)
    assert validation_rows["score"].nunique() > 10
    assert np.abs(validation_rows["score"] - np.mean(values)).max() < 10 * spread
    texts = [str(text) for text in songs_with_targets(values)["concept"][:6]]
    scores = rainbow_ray.load(run).predict(texts)["score"].to_numpy()
    assert scores.dtype == np.float64
    assert len(np.unique(scores)) == len(texts)
    export_onnx(load_bundle(run / "model"), tmp_path / "onnx", "x")
    onnx_scores = OnnxPredictor.load(tmp_path / "onnx").score_texts(texts)[:, 0]
    assert np.abs(onnx_scores - scores).max() < 1e-3 * spread
    summary = json.loads((run / "summary.json").read_text())
    assert 0 < summary["metrics"]["mae"] < 10 * spread
    output = capsys.readouterr().out + summary["verdict"]
    assert "0.000 against 0.000" not in output


@pytest.mark.parametrize(("values", "texts"), [
    ([0.1234, 12.5], ["0.123", "12.500"]),
    ([0.000123, 0.000456], ["0.000123", "0.000456"]),
    ([1.5e-9, -2.25e-9], ["1.50e-09", "-2.25e-09"]),
    ([0.0, 0.0], ["0.000", "0.000"]),
    ([None, float("nan"), 1.0], ["–", "–", "1.000"]),
    ([1234567890.125], ["1234567890.125"]),
    ([1e20], ["1.000e+20"]),
])  # fmt: skip
def test_numbers_have_significant_digits(values, texts):
    assert format_numbers(values) == texts


def test_intervals_and_differences_share_their_decimals():
    assert format_interval([0.0001, 0.00025]) == "0.00010–0.00025"
    assert format_interval([0.5, 0.75], separator=" to ") == "0.50 to 0.75"
    assert format_difference(0.00012, -0.00003, 0.0002) == "+0.000120 [-0.000030, +0.000200]"
    assert format_difference(0.0, -0.02, 0.02) == "+0.000 [-0.020, +0.020]"
    assert format_number(None) == "–"


def test_close_quantiles_are_printed_with_distinguishing_digits():
    assert format_alike([BASE, BASE + 0.01, BASE + 0.02]) == ["1000000000", "1000000000.01", "1000000000.02"]
    assert format_alike([0.0, 5.25, 22.0]) == ["0", "5.25", "22"]
