"""Coverage of the 95% interval of the corrected score, for the best of 30 trials on 84 songs.

`python -m tests.benchmarks.selection_coverage [--repeats 60]` prints JSON: for sweeps with and without signal, for
trials with more or less correlated errors, and with or without a race, the fraction of intervals that contain
the true accuracy of the selected trial, the mean error of its selected and of its corrected score, and the fraction of
sweeps whose corrected gain over trial 0 is above zero (without signal: false positives, nominally 0.025).
"""

from __future__ import annotations

import argparse
import itertools
import json
from typing import cast

import numpy as np
from scipy.stats import norm

from rainbow_ray.config.schema import Config, TrainingConfig
from rainbow_ray.data.dataset import Dataset
from rainbow_ray.modalities.spec import InputSpec
from rainbow_ray.tasks.registry import make_task
from rainbow_ray.training.cross_validation import FitContext
from rainbow_ray.tuning.bbc_cv import correct_score, select_best
from rainbow_ray.tuning.racing import Race, pooled_score

SONGS, TRIALS, FOLDS = 84, 30, 5
SIGNALS = {
    "no signal": np.full(TRIALS, 0.65),
    "some": np.linspace(0.6, 0.75, TRIALS),
    "much": np.linspace(0.5, 0.85, TRIALS),
}
CORRELATIONS = (0.3, 0.7)  # between the difficulties of a song for different trials


def sweep(rng: np.random.Generator, accuracies: np.ndarray, correlation: float) -> tuple[np.ndarray, np.ndarray]:
    """Return targets, and scores `(trials, songs)` of trials with these true accuracies."""
    targets = (rng.random(SONGS) < 0.45).astype(np.float32)
    difficulty = np.sqrt(correlation) * rng.normal(size=SONGS) + np.sqrt(1 - correlation) * rng.normal(
        size=(TRIALS, SONGS)
    )
    is_correct = difficulty < norm.ppf(accuracies)[:, None]
    return targets, np.where(is_correct, targets, 1 - targets).astype(np.float32)


class Songs:
    """A dataset of songs that are independent examples."""

    songs = None
    sequence_index = None

    def __init__(self, targets: np.ndarray) -> None:
        self.targets = targets

    def __len__(self) -> int:
        return len(self.targets)


def survivors(targets: np.ndarray, scores: np.ndarray) -> list[int]:
    """Return the trials that win or survive the race, which compares after each fold."""
    fold = np.arange(SONGS) % FOLDS
    folds = [(np.flatnonzero(fold != k), np.flatnonzero(fold == k)) for k in range(FOLDS)]
    config, dataset = Config(training=TrainingConfig(metric="accuracy")), cast(Dataset, Songs(targets))
    context = FitContext(config, dataset, make_task("binary"), cast(InputSpec, None), "id")
    race, completed = Race(context, folds, alpha=config.tune.race_alpha, larger_is_better=True), []
    for trial, of_trial in enumerate(scores):
        for n_folds in range(1, FOLDS):
            comparison = race.compare(np.where(fold < n_folds, of_trial, np.nan).astype(np.float32))
            if comparison is not None and comparison.loses:
                break
        else:
            race.add_complete(trial, pooled_score(context, folds, of_trial) or 0.0, of_trial)
            completed.append(trial)
    return completed


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=60)
    options = parser.parse_args()
    task, songs = make_task("binary"), np.arange(SONGS)
    for (name, accuracies), correlation, is_pruning in itertools.product(SIGNALS.items(), CORRELATIONS, (False, True)):
        rng = np.random.default_rng(0)
        is_covered, selected_errors, corrected_errors, is_gain_positive = [], [], [], []
        for repeat in range(options.repeats):
            order = rng.permutation(TRIALS)
            true_accuracies = accuracies[order]
            targets, scores = sweep(rng, true_accuracies, correlation)
            completed = np.array(survivors(targets, scores)) if is_pruning else np.arange(TRIALS)
            scores, true_accuracies = scores[completed], true_accuracies[completed]
            default = int(np.flatnonzero(completed == 0)[0]) if 0 in completed else None
            result = correct_score(task, "accuracy", targets, scores, songs, seed=repeat, default=default)
            winner = select_best(task, "accuracy", targets, scores)
            assert result is not None
            assert winner is not None
            is_covered.append(result.low <= true_accuracies[winner] <= result.high)
            selected_errors.append(result.selected_score - true_accuracies[winner])
            corrected_errors.append(result.value - true_accuracies[winner])
            if result.gain is not None and winner != default:
                is_gain_positive.append(result.gain.low > 0)
        print(
            json.dumps(
                {
                    "sweep": f"{name}, {correlation:.0%} shared, {'pruned' if is_pruning else 'not pruned'}",
                    "covers": round(float(np.mean(is_covered)), 3),
                    "error_of_what_it_won_with": round(float(np.mean(selected_errors)), 4),
                    "error_corrected": round(float(np.mean(corrected_errors)), 4),
                    "gain_above_zero": round(float(np.sum(is_gain_positive)) / options.repeats, 3),
                }
            ),
            flush=True,
        )


if __name__ == "__main__":
    main()
