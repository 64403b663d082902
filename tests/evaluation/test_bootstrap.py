"""Confidence intervals and comparisons over songs, verdicts, and warnings of a collapsed model."""

from __future__ import annotations

import numpy as np
import pytest

from rainbow_ray.config.schema import TrainingConfig
from rainbow_ray.evaluation.bootstrap import (
    Difference,
    ScoredPredictions,
    best_baseline,
    bootstrap_ci,
    paired_bootstrap,
    resample,
    verdict,
)
from rainbow_ray.evaluation.diagnostics import training_warnings
from rainbow_ray.tasks.binary import Binary

TASK = Binary()


def test_all_rows_of_a_song_are_drawn_together():
    songs = np.array(["a", "b", "a", "c", "b", "a"])
    for rows in resample(songs, seed=0):
        drawn, counts = np.unique(rows, return_counts=True)
        for song in "abc":
            n_draws = {int(counts[drawn == i][0]) if i in drawn else 0 for i in np.flatnonzero(songs == song)}
            assert len(n_draws) == 1
        break


def test_repeating_each_song_does_not_narrow_its_interval():
    rng = np.random.default_rng(0)
    targets, scores = (rng.random(40) < 0.5).astype(float), rng.random(40)
    songs = np.array([f"s{i}" for i in range(40)])
    interval = bootstrap_ci(TASK, targets, ScoredPredictions(scores, scores), songs, seed=0)["accuracy"]
    repeated_scores = np.repeat(scores, 9)
    repeated_interval = bootstrap_ci(
        TASK, np.repeat(targets, 9), ScoredPredictions(repeated_scores, repeated_scores), np.repeat(songs, 9), seed=0
    )["accuracy"]
    np.testing.assert_allclose(interval, repeated_interval)


def test_a_metric_undefined_in_most_resamples_has_no_interval():
    targets = np.array([1.0] + [0.0] * 2)
    intervals = bootstrap_ci(
        TASK, targets, ScoredPredictions(*[np.array([0.9, 0.1, 0.2])] * 2), np.array(["a", "b", "c"]), seed=0
    )
    assert intervals["roc_auc"] is None


@pytest.mark.parametrize(("scores", "metric"), [([0.9, 0.8, 0.1, 0.2], "accuracy"), ([0.1] * 4, "mcc")])
def test_a_metric_that_is_the_same_on_every_resample_has_no_interval(scores, metric):
    targets = np.array([1.0, 1.0, 0.0, 0.0] * 5)
    values = np.array(scores * 5)
    intervals = bootstrap_ci(TASK, targets, ScoredPredictions(values, values), np.arange(20).astype(str), seed=0)
    assert intervals[metric] is None  # neither is known to be certain
    low, high = intervals["log_loss"]
    assert low < high


def test_an_interval_as_narrow_as_rounding_is_none():
    targets = np.array([1.0, 0.0] * 10)
    scores = np.where(targets > 0.5, 0.9, 0.1).astype(np.float32)
    intervals = bootstrap_ci(TASK, targets, ScoredPredictions(scores, scores), np.arange(20).astype(str), seed=0)
    assert intervals["brier"] is None


def test_a_paired_interval_is_narrower_than_that_of_one_model():
    rng = np.random.default_rng(0)
    n = 200
    targets = (rng.random(n) < 0.5).astype(float)
    is_hard = rng.random(n) < 0.3  # both fail on the same songs
    model = np.where(is_hard, 1 - targets, targets) * 0.8 + 0.1
    baseline = model.copy()
    baseline[:10] = 1 - model[:10]
    songs = np.arange(n).astype(str)
    difference = paired_bootstrap(TASK, "accuracy", targets, model, baseline, songs, seed=0)
    low, high = bootstrap_ci(TASK, targets, ScoredPredictions(model, model), songs, seed=0)["accuracy"]
    assert difference.high - difference.low < 0.8 * (high - low)
    assert paired_bootstrap(TASK, "accuracy", targets, model, model, songs, seed=0) == Difference(0.0, 0.0, 0.0)
    worse = paired_bootstrap(TASK, "log_loss", targets, np.full(n, 0.5), model, songs, seed=0)
    better = paired_bootstrap(TASK, "log_loss", targets, model, np.full(n, 0.5), songs, seed=0)
    assert worse.value == -better.value


def test_the_best_baseline_follows_the_metric():
    baselines = {"a": {"macro_f1": 0.6, "log_loss": 0.9}, "b": {"macro_f1": None, "log_loss": 0.2}}
    assert best_baseline(TASK, "macro_f1", baselines) == "a"
    assert best_baseline(TASK, "log_loss", baselines) == "b"
    assert best_baseline(TASK, "mcc", {"a": {"mcc": None}}) is None


@pytest.mark.parametrize(
    ("difference", "best", "message"),
    [
        (Difference(0.2, 0.1, 0.3), "majority", "beats the best baseline, majority"),
        (Difference(-0.2, -0.3, -0.1), "bag of words + boosting", "Words alone do better"),
        (Difference(-0.2, -0.3, -0.1), "frozen encoder + linear", "loses to"),
        (Difference(0.1, -0.1, 0.3), "majority", "ahead of the best baseline"),
        (Difference(-0.1, -0.3, 0.1), "majority", "behind the best baseline"),
        (None, "majority", "No verdict"),
    ],
)
def test_the_verdict_follows_from_the_interval(difference, best, message):
    sentence = verdict("macro_f1", best, 0.5, 0.7, difference, 43)
    assert message in sentence
    assert ("Words alone" in sentence) == (message == "Words alone do better")


def fit_infos(losses, best_step=50, warmup_steps=10):
    return [{"losses": losses, "best_step": best_step, "warmup_steps": warmup_steps}] * 3


def test_warnings_of_collapse_name_the_key_to_change():
    config = TrainingConfig()
    assert training_warnings(config, fit_infos([0.7, 0.2]), [True, False], "training.pos_weight=auto") == []
    one_class_warnings = training_warnings(config, fit_infos([0.7, 0.2]), [True, True], "training.pos_weight=auto")
    assert "every song is predicted True" in one_class_warnings[0]
    assert "training.pos_weight" in one_class_warnings[0]
    flat_loss_warnings = training_warnings(config, fit_infos([0.7, 0.699]), [True, False], "training.pos_weight=auto")
    assert "hardly decreased" in flat_loss_warnings[0]
    assert "training.head_learning_rate" in flat_loss_warnings[0]
    config.early_stopping.enabled = True
    early_stop_warnings = training_warnings(
        config, fit_infos([0.7, 0.2], best_step=5), [True, False], "training.pos_weight=auto"
    )
    assert "warm-up" in early_stop_warnings[0]
    assert "training.warmup_ratio=0" in early_stop_warnings[0]
