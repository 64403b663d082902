"""What the best of many trials is worth: the score it won with is too high, since it was chosen for it.

BBC-CV (Tsamardinos, Greasidou, Borboudakis 2018, algorithm 5) repeats the choice on songs drawn with replacement and
scores what was chosen on the songs that were not drawn. Trials that were stopped early have no scores on all songs and
are missing from the choice, although the same songs stopped them: with pruning, what is left of the luck is more
(`tests/benchmarks/selection_coverage.py` says how much).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.stats import norm

from rainbow_ray.evaluation.bootstrap import Difference, paired_bootstrap, percentile_interval, resample
from rainbow_ray.tasks.base import Task

POWER = 0.8
DISAGREE = 0.2  # share of songs on which two configs of a sweep typically differ


@dataclass(frozen=True)
class Corrected:
    """A winner's score corrected for its selection, with a 95% interval; `selected_score` is what it was chosen for.

    `gain` is the same of the difference to one of the trials, the default config; `larger` is better for the winner.
    """

    selected_score: float
    value: float
    low: float
    high: float
    gain: Difference | None = None


def best_of(task: Task, metric: str, targets: np.ndarray, scores: np.ndarray) -> int | None:
    """Which row of `scores`, `(trials, examples, …)`, is best; the first of equals, None where no one is defined."""
    sign = 1.0 if task.larger_is_better(metric) else -1.0
    values = [task.metric(metric, targets, row) for row in scores]
    defined = [(sign * value, -i) for i, value in enumerate(values) if value is not None]
    return -max(defined)[1] if defined else None


def corrected(
    task: Task,
    metric: str,
    targets: np.ndarray,
    scores: np.ndarray,
    songs: np.ndarray,
    *,
    seed: int,
    default: int | None = None,
) -> Corrected | None:
    """The score of the best of some trials, from their out-of-fold scores `(trials, examples, …)`.

    `default` is the trial that a gain is told over. The intervals have the width of the winner's own bootstrap over
    songs, around the corrected values: scores on the songs not drawn, a third of all, would make them too wide. None
    where the metric is not defined.
    """
    winner = best_of(task, metric, targets, scores)
    won = None if winner is None else task.metric(metric, targets, scores[winner])
    if winner is None or won is None:
        return None
    outside: list[float] = []
    gains: list[float] = []
    own: list[float | None] = []
    sign = 1.0 if task.larger_is_better(metric) else -1.0
    for drawn in resample(songs, seed=seed):
        own.append(task.metric(metric, targets[drawn], scores[winner][drawn]))
        left = np.setdiff1d(np.arange(len(targets)), drawn)
        chosen = best_of(task, metric, targets[drawn], scores[:, drawn])
        value = None if chosen is None else task.metric(metric, targets[left], scores[chosen][left])
        if value is None:
            continue
        outside.append(value)
        base = None if default is None else task.metric(metric, targets[left], scores[default][left])
        gains += [] if base is None else [sign * (value - base)]
    interval = percentile_interval(own)
    if not outside or interval is None:
        return None
    # never better than what it won with: there, the mean over smaller samples says nothing about selection
    value = min(sign * float(np.mean(outside)), sign * won) * sign
    gain = None
    if default is not None and gains:
        seen = paired_bootstrap(task, metric, targets, scores[winner], scores[default], songs, seed=seed)
        gain = None if seen is None else seen.moved_to(min(float(np.mean(gains)), seen.value))
    return Corrected(won, value, value + interval[0] - won, value + interval[1] - won, gain)


def smallest_difference(songs: int) -> float:
    """The smallest difference of accuracy that a paired comparison on so many songs finds 4 times out of 5.

    From McNemar's test (Connor 1987, without the small term): (z_0.975 + z_0.8) × sqrt(share that differs / songs).
    """
    return float((norm.ppf(0.975) + norm.ppf(POWER)) * np.sqrt(DISAGREE / songs))
