"""The power law of a learning curve is recovered; held-out labels are not read."""

from __future__ import annotations

import dataclasses

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from rainbow_ray.baselines import learning_curve
from rainbow_ray.baselines.compute import compute_baselines
from rainbow_ray.baselines.learning_curve import FRACTIONS, CurveScores, learning_curve_scores
from rainbow_ray.baselines.model_family import model_family
from rainbow_ray.baselines.models import BaselineInputs
from rainbow_ray.evaluation.learning_curve import fit_learning_curve
from rainbow_ray.tasks.registry import make_task
from rainbow_ray.tasks.segment_targets import SegmentTargets
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


def test_segments_are_drawn_by_song(tmp_path, monkeypatch):
    pq.write_table(pa.table(segment_rows(songs=50, segments=4)), tmp_path / "segments.parquet")
    plan = plan_of("demo", phase=5, segments__path=str(tmp_path / "segments.parquet"))
    data = data_of(plan)
    context = FitContext(plan.config, data.source, data.task, plan.input_spec, data.split.split_by)
    songs = data.index.codes("song")
    trained_on = []

    def spy(inputs: BaselineInputs, train: np.ndarray, val: np.ndarray, layer: int) -> np.ndarray:
        trained_on.append(train)
        assert not set(songs[train]) & set(songs[val])
        return fit_predict(inputs, train, val, layer)

    fit_predict = learning_curve._fit_predict
    monkeypatch.setattr(learning_curve, "_fit_predict", spy)
    scores = compute_baselines(context, data.split, keep_fits=True).curve
    assert scores is not None
    for train in trained_on:
        assert set(train) == set(np.flatnonzero(np.isin(songs, songs[train]))), "songs are whole"
    assert len(scores.songs) == len(data.source)
    assert list(scores.n_songs) == [16, 24, 32, 40]  # songs, of which 40 are in the training side of a fold
    curve = fit_learning_curve(data.task, "macro_f1", data.source.targets, scores, seed=0)
    assert curve is not None
    assert curve.sentence.startswith("20 more songs: macro f1")  # half of 50, in steps of 10
    # songs are resampled, not segments: three copies of each segment leave the interval as it is
    rows = np.repeat(np.arange(len(songs)), 3)
    copies = CurveScores(scores.n_songs, scores.scores[:, :, rows], scores.rows[rows], scores.songs[rows])
    same = fit_learning_curve(data.task.base_task, "macro_f1", labels_of(data)[rows], copies, seed=0)
    once = fit_learning_curve(data.task.base_task, "macro_f1", labels_of(data), scores, seed=0)
    assert same is not None
    assert once is not None
    assert same.change == pytest.approx(once.change, abs=1e-9)


def labels_of(data):
    return SegmentTargets.from_array(data.source.targets).labels


@pytest.mark.parametrize("unit", [1e3, 1e-3])
def test_the_curve_does_not_depend_on_the_unit_of_the_numbers(unit):
    targets, scores = curve_of_errors(0.5, 300)
    small = dataclasses.replace(scores, scores=unit * scores.scores)
    curve = fit_learning_curve(make_task("regression"), "mae", unit * targets, small, seed=0)
    same = fit_learning_curve(make_task("regression"), "mae", targets, scores, seed=0)
    assert curve is not None
    assert same is not None
    assert curve.exponent == pytest.approx(same.exponent, abs=1e-3)
    assert np.array(curve.change) / unit == pytest.approx(np.array(same.change), rel=0.01)


def test_a_fold_with_hardly_any_training_song_gives_no_curve(tmp_path):
    rows = song_rows(songs=59, stems=1)
    pq.write_table(pa.table(rows), tmp_path / "songs.parquet")
    data = data_of(plan_of(tmp_path / "songs.parquet"))
    inputs = BaselineInputs(model_family(data.task), data.examples.targets, data.examples.texts, np.arange(59))
    split = dataclasses.replace(data.split, fold=np.array([0] * 2 + [1] * 57), n_folds=2)
    assert learning_curve_scores(inputs, split, np.arange(59), layer=0) is None
