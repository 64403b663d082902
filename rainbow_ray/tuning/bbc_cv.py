"""Bootstrap bias corrected cross-validation: the score of the best of many trials, corrected for its selection.

The score by which a trial was selected is too high, because it was selected for that score. BBC-CV repeats the
selection on songs drawn with replacement and measures the selected trial on the songs that were not drawn. Trials that
were pruned have no scores on all songs and are missing from the selection, although the same songs pruned them: some of
the bias remains (measured by `tests/benchmarks/selection_coverage.py`).

Reference:
    Tsamardinos, Greasidou and Borboudakis 2018, "Bootstrapping the out-of-sample predictions for efficient and accurate
    cross-validation", algorithm 5.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.stats import norm

from rainbow_ray.evaluation.bootstrap import Difference, paired_bootstrap, percentile_interval, resample
from rainbow_ray.tasks.base import Task

POWER = 0.8
DISAGREEMENT_FRACTION = 0.2  # fraction of songs on which the predictions of two configs of a sweep typically differ


@dataclass(frozen=True)
class CorrectedScore:
    """Score of the selected trial, corrected for the selection.

    Attributes:
        selected_score: Score by which the trial was selected.
        value: Corrected score.
        low: Lower end of its 95% interval.
        high: Upper end of its 95% interval.
        gain: Corrected difference to the default config, positive where the selected trial is better, or None.
    """

    selected_score: float
    value: float
    low: float
    high: float
    gain: Difference | None = None


def select_best(task: Task, metric: str, targets: np.ndarray, scores: np.ndarray) -> int | None:
    """Return the trial that is best on a metric.

    Args:
        task: The task.
        metric: Name of the metric.
        targets: Targets, `(examples, …)`.
        scores: Scores of each trial, `(trials, examples, …)`.

    Returns:
        Index of the best trial, the first of equals; None where no trial defines the metric.
    """
    sign = 1.0 if task.larger_is_better(metric) else -1.0
    values = [task.metric(metric, targets, of_trial) for of_trial in scores]
    defined = [(sign * value, -i) for i, value in enumerate(values) if value is not None]
    return -max(defined)[1] if defined else None


def correct_score(
    task: Task,
    metric: str,
    targets: np.ndarray,
    scores: np.ndarray,
    songs: np.ndarray,
    *,
    seed: int,
    default: int | None = None,
) -> CorrectedScore | None:
    """Return the corrected score of the best of some trials.

    The intervals have the width of the selected trial's own bootstrap over songs, around the corrected values. Scores
    on the songs that were not drawn, a third of all, would make them too wide.

    Args:
        task: The task.
        metric: Name of the metric.
        targets: Targets, `(examples, …)`.
        scores: Out-of-fold scores of each trial, `(trials, examples, …)`.
        songs: Song of each example, `(examples,)`.
        seed: Seed of the bootstrap.
        default: Index of the trial that the gain is measured against, or None.

    Returns:
        The corrected score, or None where the metric is undefined.
    """
    best = select_best(task, metric, targets, scores)
    selected_score = None if best is None else task.metric(metric, targets, scores[best])
    if best is None or selected_score is None:
        return None
    out_of_bag: list[float] = []
    gains: list[float] = []
    resampled: list[float | None] = []
    sign = 1.0 if task.larger_is_better(metric) else -1.0
    for drawn in resample(songs, seed=seed):
        resampled.append(task.metric(metric, targets[drawn], scores[best][drawn]))
        not_drawn = np.setdiff1d(np.arange(len(targets)), drawn)
        selected = select_best(task, metric, targets[drawn], scores[:, drawn])
        value = None if selected is None else task.metric(metric, targets[not_drawn], scores[selected][not_drawn])
        if value is None:
            continue
        out_of_bag.append(value)
        baseline = None if default is None else task.metric(metric, targets[not_drawn], scores[default][not_drawn])
        gains += [] if baseline is None else [sign * (value - baseline)]
    interval = percentile_interval(resampled)
    if not out_of_bag or interval is None:
        return None
    # never better than the selected score: there, the mean over smaller samples carries no information on selection
    value = min(sign * float(np.mean(out_of_bag)), sign * selected_score) * sign
    gain = None
    if default is not None and gains:
        observed = paired_bootstrap(task, metric, targets, scores[best], scores[default], songs, seed=seed)
        gain = None if observed is None else observed.moved_to(min(float(np.mean(gains)), observed.value))
    low, high = value + interval[0] - selected_score, value + interval[1] - selected_score
    return CorrectedScore(selected_score, value, low, high, gain)


def min_detectable_difference(n_songs: int) -> float:
    """Return the smallest difference in accuracy that a paired comparison detects with a power of 0.8.

    Args:
        n_songs: Number of songs that both configs are measured on.

    Returns:
        (z_0.975 + z_0.8) × sqrt(fraction of songs with different predictions / songs).

    Reference:
        Connor 1987, "Sample size for testing differences in proportions for the paired-sample design" (McNemar's
        test), without the small term.
    """
    return float((norm.ppf(0.975) + norm.ppf(POWER)) * np.sqrt(DISAGREEMENT_FRACTION / n_songs))
