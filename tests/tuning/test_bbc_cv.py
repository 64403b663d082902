"""The score of the best of many trials is optimistic, and the correction removes the bias."""

from __future__ import annotations

import numpy as np
import pytest

from rainbow_ray.evaluation.bootstrap import paired_bootstrap_over_seeds
from rainbow_ray.tasks.registry import make_task
from rainbow_ray.tuning.bbc_cv import correct_score, min_detectable_difference, select_best

SONGS = 84
TASK = make_task("binary")


def trials(accuracies, seed: int, songs: int = SONGS) -> tuple[np.ndarray, np.ndarray]:
    """Return targets, and scores `(trials, songs)` of classifiers with these accuracies."""
    rng = np.random.default_rng(seed)
    targets = (rng.random(songs) < 0.45).astype(np.float32)
    is_correct = rng.random((len(accuracies), songs)) < np.asarray(accuracies)[:, None]
    return targets, np.where(is_correct, targets, 1 - targets).astype(np.float32)


def test_thirty_equal_trials_are_not_better_than_one():
    selected_scores, values = [], []
    for seed in range(12):
        targets, scores = trials([0.65] * 30, seed)
        corrected = correct_score(TASK, "accuracy", targets, scores, np.arange(SONGS), seed=0)
        selected_scores.append(corrected.selected_score)
        values.append(corrected.value)
        assert corrected.low < corrected.value < corrected.high
    assert np.mean(selected_scores) > 0.73, "the selected score is optimistic"
    assert abs(np.mean(values) - 0.65) < 0.03


def test_one_trial_needs_no_correction():
    targets, scores = trials([0.7], 0)
    corrected = correct_score(TASK, "accuracy", targets, scores, np.arange(SONGS), seed=0)
    assert corrected.value == pytest.approx(corrected.selected_score, abs=0.01)


def test_a_smaller_metric_is_corrected_upwards():
    rng = np.random.default_rng(0)
    targets = (rng.random(SONGS) < 0.5).astype(np.float32)
    scores = np.clip(0.5 + (targets - 0.5) * 0.4 + rng.normal(0, 0.3, (30, SONGS)), 0.01, 0.99).astype(np.float32)
    corrected = correct_score(TASK, "log_loss", targets, scores, np.arange(SONGS), seed=0)
    assert corrected.value > corrected.selected_score


def test_the_first_of_equals_is_the_best():
    targets, scores = trials([0.7, 0.7], 1)
    equal_scores = np.stack([scores[0], scores[0], scores[1] * 0])
    assert select_best(TASK, "accuracy", targets, equal_scores) == 0
    assert select_best(TASK, "macro_f1", np.ones(3, np.float32), equal_scores[:, :3]) is None


def test_seeds_are_compared_on_the_same_songs():
    targets, better = trials([0.9] * 3, 0, songs=300)
    _, worse = trials([0.6] * 3, 0, songs=300)
    difference = paired_bootstrap_over_seeds(TASK, "accuracy", targets, better, worse, np.arange(300), seed=0)
    assert difference.low > 0.15
    assert difference.value == pytest.approx(0.3, abs=0.06)
    no_difference = paired_bootstrap_over_seeds(TASK, "accuracy", targets, better, better, np.arange(300), seed=0)
    assert (no_difference.low, no_difference.value, no_difference.high) == (0, 0, 0)


def test_the_detectable_difference_shrinks_with_songs():
    assert min_detectable_difference(84) == pytest.approx(2.8016 * (0.2 / 84) ** 0.5, abs=1e-3)
    assert min_detectable_difference(8400) == pytest.approx(min_detectable_difference(84) / 10)
