"""How often the corrected score's 95% interval holds the truth, for the best of 30 trials on 84 songs.

`python -m tests.benchmarks.selection_coverage [--repeats 60]` prints JSON: for sweeps with and without signal, for
trials whose mistakes fall on the same songs or not, and with ASHA's pruning or without it, the share of intervals that
hold the winner's true accuracy, the mean error of the score it won with and of the corrected one, and the share of
sweeps whose corrected gain over trial 0 is above zero (without signal: false alarms; 0.025 is aimed at).
"""

from __future__ import annotations

import argparse
import itertools
import json

import numpy as np
from scipy.stats import norm

from rainbow_ray.tasks.registry import make_task
from rainbow_ray.tuning.bbc_cv import correct_score, select_best
from rainbow_ray.tuning.trial import make_rungs
from rainbow_ray.tuning.trial_log import FULL_BUDGET

SONGS, TRIALS, FOLDS, REDUCTION = 84, 30, 5, 3.0
SIGNALS = {
    "no signal": np.full(TRIALS, 0.65),
    "some": np.linspace(0.6, 0.75, TRIALS),
    "much": np.linspace(0.5, 0.85, TRIALS),
}
SHARED = (0.3, 0.7)  # of what makes a song hard is the same for all trials


def sweep(rng: np.random.Generator, accuracies: np.ndarray, shared: float) -> tuple[np.ndarray, np.ndarray]:
    """Targets, and scores `(trials, songs)` of trials with these true accuracies."""
    targets = (rng.random(SONGS) < 0.45).astype(np.float32)
    hard = np.sqrt(shared) * rng.normal(size=SONGS) + np.sqrt(1 - shared) * rng.normal(size=(TRIALS, SONGS))
    right = hard < norm.ppf(accuracies)[:, None]
    return targets, np.where(right, targets, 1 - targets).astype(np.float32)


def survivors(targets: np.ndarray, scores: np.ndarray) -> list[int]:
    """Trials that ASHA lets run to their end, one after the other: at each rung, those above the best third so far."""
    fold, kept = np.arange(SONGS) % FOLDS, []
    rungs: dict[float, list[float]] = {rung: [] for rung in make_rungs(FOLDS, REDUCTION)}
    for trial in range(TRIALS):
        for rung, before in rungs.items():
            known = fold < np.ceil(rung / FULL_BUDGET * FOLDS)
            value = float(np.mean((scores[trial] > 0.5)[known] == (targets > 0.5)[known]))
            behind = bool(before) and value < np.nanpercentile(before, (1 - 1 / REDUCTION) * 100)
            before.append(value)
            if behind:
                break
        else:
            kept.append(trial)
    return kept


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=60)
    options = parser.parse_args()
    task, songs = make_task("binary"), np.arange(SONGS)
    for (name, accuracies), shared, prunes in itertools.product(SIGNALS.items(), SHARED, (False, True)):
        rng = np.random.default_rng(0)
        inside, won, value, found = [], [], [], []
        for repeat in range(options.repeats):
            order = rng.permutation(TRIALS)
            truths = accuracies[order]
            targets, scores = sweep(rng, truths, shared)
            kept = np.array(survivors(targets, scores)) if prunes else np.arange(TRIALS)
            scores, truths = scores[kept], truths[kept]
            default = int(np.flatnonzero(kept == 0)[0]) if 0 in kept else None
            result = correct_score(task, "accuracy", targets, scores, songs, seed=repeat, default=default)
            winner = select_best(task, "accuracy", targets, scores)
            assert result is not None
            assert winner is not None
            inside.append(result.low <= truths[winner] <= result.high)
            won.append(result.selected_score - truths[winner])
            value.append(result.value - truths[winner])
            if result.gain is not None and winner != default:
                found.append(result.gain.low > 0)
        print(
            json.dumps(
                {
                    "sweep": f"{name}, {shared:.0%} shared, {'pruned' if prunes else 'not pruned'}",
                    "covers": round(float(np.mean(inside)), 3),
                    "error_of_what_it_won_with": round(float(np.mean(won)), 4),
                    "error_corrected": round(float(np.mean(value)), 4),
                    "gain_above_zero": round(float(np.sum(found)) / options.repeats, 3),
                }
            ),
            flush=True,
        )


if __name__ == "__main__":
    main()
