"""The best of many trials is worth less than it won with, and the correction says how much."""

from __future__ import annotations

import numpy as np
import pytest

from rainbow_ray.evaluation.bootstrap import paired_bootstrap_over_seeds
from rainbow_ray.tasks.registry import make_task
from rainbow_ray.tuning.bbc_cv import correct_score, min_detectable_difference, select_best

SONGS = 84
PROBLEM = make_task("binary")


def trials(accuracies, seed: int, songs: int = SONGS) -> tuple[np.ndarray, np.ndarray]:
    """Targets, and scores of classifiers that are right on each song with their accuracy: `(trials, songs)`."""
    rng = np.random.default_rng(seed)
    targets = (rng.random(songs) < 0.45).astype(np.float32)
    right = rng.random((len(accuracies), songs)) < np.asarray(accuracies)[:, None]
    return targets, np.where(right, targets, 1 - targets).astype(np.float32)


def test_thirty_equal_trials_are_not_better_than_one():
    won, values = [], []
    for seed in range(12):
        targets, scores = trials([0.65] * 30, seed)
        found = correct_score(PROBLEM, "accuracy", targets, scores, np.arange(SONGS), seed=0)
        won.append(found.selected_score)
        values.append(found.value)
        assert found.low < found.value < found.high
    assert np.mean(won) > 0.73, "the luckiest of thirty"
    assert abs(np.mean(values) - 0.65) < 0.03


def test_one_trial_needs_no_correction():
    targets, scores = trials([0.7], 0)
    found = correct_score(PROBLEM, "accuracy", targets, scores, np.arange(SONGS), seed=0)
    assert found.value == pytest.approx(found.selected_score, abs=0.01)


def test_a_smaller_metric_is_corrected_upwards():
    rng = np.random.default_rng(0)
    targets = (rng.random(SONGS) < 0.5).astype(np.float32)
    scores = np.clip(0.5 + (targets - 0.5) * 0.4 + rng.normal(0, 0.3, (30, SONGS)), 0.01, 0.99).astype(np.float32)
    found = correct_score(PROBLEM, "log_loss", targets, scores, np.arange(SONGS), seed=0)
    assert found.value > found.selected_score


def test_the_first_of_equals_is_the_best():
    targets, scores = trials([0.7, 0.7], 1)
    same = np.stack([scores[0], scores[0], scores[1] * 0])
    assert select_best(PROBLEM, "accuracy", targets, same) == 0
    assert select_best(PROBLEM, "macro_f1", np.ones(3, np.float32), same[:, :3]) is None


def test_seeds_are_compared_on_the_same_songs():
    targets, good = trials([0.9] * 3, 0, songs=300)
    _, bad = trials([0.6] * 3, 0, songs=300)
    gap = paired_bootstrap_over_seeds(PROBLEM, "accuracy", targets, good, bad, np.arange(300), seed=0)
    assert gap.low > 0.15
    assert gap.value == pytest.approx(0.3, abs=0.06)
    level = paired_bootstrap_over_seeds(PROBLEM, "accuracy", targets, good, good, np.arange(300), seed=0)
    assert (level.low, level.value, level.high) == (0, 0, 0)


def test_the_difference_that_can_be_seen_shrinks_with_songs():
    assert min_detectable_difference(84) == pytest.approx(2.8016 * (0.2 / 84) ** 0.5, abs=1e-3)
    assert min_detectable_difference(8400) == pytest.approx(min_detectable_difference(84) / 10)
