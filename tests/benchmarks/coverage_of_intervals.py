"""Coverage of the 95% intervals for a fixed predictor of known quality.

Songs are drawn from a population whose true metrics are known from a very large sample; intervals are computed from
samples of realistic size; coverage is that of the samples for which an interval is given.
`python -m tests.benchmarks.coverage_of_intervals` prints JSON.
"""

from __future__ import annotations

import argparse
import json

import numpy as np

from rainbow_ray.evaluation.bootstrap import ScoredPredictions, bootstrap_ci
from rainbow_ray.tasks.binary import Binary

METRICS = ("accuracy", "macro_f1", "average_precision_rarer", "roc_auc", "mcc", "log_loss")
POPULATION = 400_000


def draw(rng: np.random.Generator, n: int, signal: float) -> tuple[np.ndarray, np.ndarray]:
    """Return targets, 45% positive, and scores whose log-odds are shifted by `signal` towards the target."""
    truth = (rng.random(n) < 0.45).astype(np.float32)
    log_odds = rng.normal(size=n) * 1.2 + signal * (truth - 0.45)
    return truth, (1 / (1 + np.exp(-log_odds))).astype(np.float32)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--songs", type=int, nargs="+", default=[43, 84, 300])
    parser.add_argument("--repeats", type=int, default=300)
    options = parser.parse_args()
    task = Binary()
    for signal in (0.0, 2.5, 6.0):
        population = draw(np.random.default_rng(1), POPULATION, signal)
        truth = {name: task.metric(name, *population) for name in METRICS}
        for songs in options.songs:
            rng = np.random.default_rng(2)
            covered, given = dict.fromkeys(METRICS, 0), dict.fromkeys(METRICS, 0)
            for repeat in range(options.repeats):
                targets, scores = draw(rng, songs, signal)
                intervals = bootstrap_ci(
                    task, targets, ScoredPredictions(scores, scores), np.arange(songs), seed=repeat
                )
                for name in METRICS:
                    interval = intervals[name]
                    true_value = truth[name]
                    assert true_value is not None
                    if interval is not None:
                        given[name] += 1
                        covered[name] += interval[0] <= true_value <= interval[1]
            coverage = {name: round(covered[name] / given[name], 3) if given[name] else None for name in METRICS}
            row = {"signal": signal, "songs": songs, "repeats": options.repeats}
            print(json.dumps({**row, "coverage": coverage, "intervals": given}), flush=True)


if __name__ == "__main__":
    main()
