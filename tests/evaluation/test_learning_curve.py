"""The power law of a learning curve is recovered; held-out labels are not read."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from rainbow_ray.baselines.compute import compute_baselines
from rainbow_ray.baselines.learning_curve import FRACTIONS, CurveScores, learning_curve_scores
from rainbow_ray.baselines.model_family import model_family
from rainbow_ray.baselines.models import BaselineInputs
from rainbow_ray.evaluation.learning_curve import fit_learning_curve
from rainbow_ray.tasks.registry import make_task
from rainbow_ray.training.cross_validation import FitContext
from tests.helpers import data_of, plan_of
from tests.song_tables import segment_rows, song_rows


def curve_of_errors(exponent: float, n: int) -> tuple[np.ndarray, CurveScores]:
    """Predictions of numbers whose mean absolute error is 2 n^(-exponent)."""
    rng, n_songs = np.random.default_rng(0), np.array([40.0, 60.0, 80.0, 100.0])
    targets = rng.normal(size=n)
    errors = 2 * n_songs**-exponent
    noise = rng.normal(size=(3, 4, n)) * np.sqrt(np.pi / 2)
    return targets, CurveScores(n_songs, targets + errors[None, :, None] * noise, np.arange(n), np.arange(n))


@pytest.mark.parametrize("exponent", [0.0, 0.5, 1.0])
def test_the_exponent_and_the_gain_of_a_power_law_are_recovered(exponent):
    n = 3000
    targets, scores = curve_of_errors(exponent, n)
    curve = fit_learning_curve(make_task("regression"), "mae", targets, scores, seed=0)
    assert curve is not None
    value, low, high = curve.exponent
    assert value == pytest.approx(exponent, abs=0.05)
    assert low <= exponent <= high
    assert curve.n_more == n // 2
    expected = 2 * (1.5 * n) ** -exponent - 2 * n**-exponent  # errors fall
    assert curve.change[0] == pytest.approx(expected, abs=0.15)
    assert f"{curve.n_more} more songs: mae" in curve.sentence


def test_a_metric_that_is_better_when_larger_grows():
    rng = np.random.default_rng(1)
    targets = (rng.random(400) < 0.5).astype(np.float32)
    noise = np.array([1.6, 1.2, 0.9, 0.7])[None, :, None] * rng.normal(size=(3, 4, 400))
    scores = 1 / (1 + np.exp(-(targets - 0.5 + noise)))
    points = CurveScores(np.array([30.0, 45, 60, 75]), scores, np.arange(400), np.arange(400))
    curve = fit_learning_curve(make_task("binary"), "macro_f1", targets, points, seed=0)
    assert curve is not None
    assert curve.change[0] > 0
    assert curve.change[1] < curve.change[0] < curve.change[2]


def test_scores_do_not_depend_on_labels_of_the_validation_set(tmp_path):
    pq.write_table(pa.table(song_rows(songs=60, stems=1)), tmp_path / "songs.parquet")
    data = data_of(plan_of(tmp_path / "songs.parquet"))
    examples, targets = data.examples, data.examples.targets.copy()

    def scores_of(targets: np.ndarray) -> CurveScores:
        inputs = BaselineInputs(model_family(data.task), targets, examples.texts, np.arange(60))
        curve = learning_curve_scores(inputs, data.split, np.arange(60), layer=0)
        assert curve is not None
        return curve

    before = scores_of(targets)
    assert before.scores.shape == (3, len(FRACTIONS), 60)
    assert list(before.n_songs) == sorted(before.n_songs)
    _, val = data.split.train_val_indices(0)
    targets[val] = 1 - targets[val]
    np.testing.assert_array_equal(before.scores[:, :, val], scores_of(targets).scores[:, :, val])
    few = BaselineInputs(model_family(data.task), targets[:30], examples.texts[:30], np.arange(30))
    assert learning_curve_scores(few, data.split.take(np.arange(30)), np.arange(30), layer=0) is None


def test_segments_are_drawn_by_song(tmp_path):
    pq.write_table(pa.table(segment_rows(songs=50, segments=4)), tmp_path / "segments.parquet")
    plan = plan_of("demo", phase=5, segments__path=str(tmp_path / "segments.parquet"))
    data = data_of(plan)
    context = FitContext(plan.config, data.source, data.task, plan.input_spec, data.split.split_by)
    scores = compute_baselines(context, data.split, keep_fits=True).curve
    assert scores is not None
    assert len(scores.songs) == len(data.source)
    assert list(scores.n_songs) == [16, 24, 32, 40]  # songs, of which 40 are in the training side of a fold
    curve = fit_learning_curve(data.task, "macro_f1", data.source.targets, scores, seed=0)
    assert curve is not None
    assert curve.sentence.startswith("20 more songs: macro f1")  # half of 50, in steps of 10
