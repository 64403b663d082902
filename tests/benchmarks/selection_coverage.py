"""How often the corrected score's 95% interval holds the truth, for the best of 30 trials on 84 songs.

`python -m tests.benchmarks.selection_coverage [--repeats 200]` prints JSON: for sweeps with and without signal, and for
trials whose mistakes fall on the same songs or not, the share of intervals that hold the winner's true accuracy, and
the mean error of the score it won with and of the corrected one.
"""

from __future__ import annotations

import argparse
import json

import numpy as np
from scipy.stats import norm

from rainbow_ray.problems import make_problem
from rainbow_ray.results.selection import best_of, corrected

SONGS, TRIALS = 84, 30
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


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=200)
    options = parser.parse_args()
    problem, songs = make_problem("binary"), np.arange(SONGS)
    found = {}
    for name, accuracies in SIGNALS.items():
        for shared in SHARED:
            rng = np.random.default_rng(0)
            inside, won, value = [], [], []
            for repeat in range(options.repeats):
                targets, scores = sweep(rng, accuracies, shared)
                result = corrected(problem, "accuracy", targets, scores, songs, seed=repeat)
                winner = best_of(problem, "accuracy", targets, scores)
                assert result is not None
                assert winner is not None
                truth = accuracies[winner]
                inside.append(result.low <= truth <= result.high)
                won.append(result.won - truth)
                value.append(result.value - truth)
            found[f"{name}, {shared:.0%} shared"] = {
                "covers": round(float(np.mean(inside)), 3),
                "error_of_what_it_won_with": round(float(np.mean(won)), 4),
                "error_corrected": round(float(np.mean(value)), 4),
            }
    print(json.dumps(found, indent=2))


if __name__ == "__main__":
    main()
