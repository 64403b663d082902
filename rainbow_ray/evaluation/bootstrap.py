"""Metrics of out-of-fold predictions with bootstrap intervals over songs, and paired comparisons.

The bootstrap draws songs, not examples: all examples of a song are drawn together, as they are split together.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np
import pandas as pd

from rainbow_ray.baselines.names import READS_WORDS
from rainbow_ray.tasks.base import Metrics, Task
from rainbow_ray.tasks.scores import is_scored
from rainbow_ray.utils.number_format import format_difference, format_numbers

CONFIDENCE_LEVEL = 0.95
MIN_RESAMPLES, MAX_RESAMPLES = 200, 1000  # fewer for many songs, whose intervals need less
RESAMPLED_ROWS = 2_000_000  # about as many rows are drawn for one interval
WIDTH_TOLERANCE = 1e-6  # of an interval without a width, relative to its ends
MIN_DEFINED_FRACTION = 0.8  # of the resamples must define a metric, or it has no interval


@dataclass(frozen=True)
class Difference:
    """Difference of a metric between a model and a baseline on the same songs; positive where the model is better.

    Attributes:
        value: The difference.
        low: Lower end of its 95% interval.
        high: Upper end of its 95% interval.
    """

    value: float
    low: float
    high: float

    def moved_to(self, value: float) -> Difference:
        """Return a difference with an interval of the same width around another value.

        Args:
            value: The new difference.

        Returns:
            The moved difference.
        """
        return Difference(value, value + self.low - self.value, value + self.high - self.value)


@dataclass(frozen=True)
class ScoredPredictions:
    """Scores of examples, and the same with the decision threshold at 0.5.

    Attributes:
        scores: Scores, `(examples,)` or `(examples, classes)`.
        thresholded: Scores of the same shape that `Task.decode_predictions` converts to the predictions, whatever
            threshold was chosen for them.
    """

    scores: np.ndarray
    thresholded: np.ndarray

    def take(self, rows: np.ndarray) -> ScoredPredictions:
        """Return some examples.

        Args:
            rows: Indices or a mask of examples.

        Returns:
            Their scores.
        """
        return ScoredPredictions(self.scores[rows], self.thresholded[rows])

    def for_metric(self, task: Task, metric: str) -> np.ndarray:
        """Return the scores that a metric is computed from.

        Args:
            task: The task.
            metric: Name of the metric.

        Returns:
            Thresholded scores for metrics of predictions, scores for all others.
        """
        return self.thresholded if metric in task.threshold_metrics else self.scores


def compute_metrics(task: Task, targets: np.ndarray, predictions: ScoredPredictions) -> tuple[Metrics, dict[str, str]]:
    """Compute all metrics of a task.

    Args:
        task: The task.
        targets: Targets, `(examples, …)`.
        predictions: Scores of the same examples.

    Returns:
        Metrics by name, None where undefined; and the reason why each undefined one is.
    """
    values, undefined = task.metrics(targets, predictions.scores)
    thresholded = {name: task.metric(name, targets, predictions.thresholded) for name in task.threshold_metrics}
    return values | thresholded, undefined


def bootstrap_ci(
    task: Task, targets: np.ndarray, predictions: ScoredPredictions, songs: np.ndarray, *, seed: int
) -> dict[str, list[float] | None]:
    """Return the 95% percentile bootstrap interval over songs of each metric.

    Args:
        task: The task.
        targets: Targets, `(examples, …)`.
        predictions: Scores of the same examples.
        songs: Song of each example, `(examples,)`.
        seed: Seed of the resampling.

    Returns:
        Low and high end by metric; None where more than a fifth of the resamples do not define the metric, and where
        the ends agree, as with a single predicted class: a bootstrap knows no error that the sample does not have.

    Reference:
        Efron and Tibshirani 1993, "An introduction to the bootstrap", chapter 13.
    """
    values: dict[str, list[float | None]] = {name: [] for name in task.metric_names}
    of_thresholded = [name for name in values if name in task.threshold_metrics]
    of_scores = [name for name in values if name not in task.threshold_metrics]
    for rows in resample(songs, seed=seed):  # one draw at a time: all draws of many songs would fill the memory
        drawn = task.metric_values(of_scores, targets[rows], predictions.scores[rows])
        drawn |= task.metric_values(of_thresholded, targets[rows], predictions.thresholded[rows])
        for name, of_metric in values.items():
            of_metric.append(drawn[name])
    intervals = {name: percentile_interval(of_metric) for name, of_metric in values.items()}
    return {name: None if ends is None or _agree(*ends) else ends for name, ends in intervals.items()}


def _agree(low: float, high: float) -> bool:
    return high - low <= WIDTH_TOLERANCE * max(abs(low), abs(high))


def paired_bootstrap(
    task: Task,
    metric: str,
    targets: np.ndarray,
    model: np.ndarray,
    baseline: np.ndarray,
    songs: np.ndarray,
    *,
    seed: int,
) -> Difference | None:
    """Return the paired bootstrap interval of the difference between a model and a baseline.

    Args:
        task: The task.
        metric: Name of the metric.
        targets: Targets, `(examples, …)`.
        model: Scores of the model that the metric is computed from, `(examples,)` or `(examples, classes)`.
        baseline: Scores of the baseline, of the same shape.
        songs: Song of each example, `(examples,)`.
        seed: Seed of the resampling.

    Returns:
        The difference, or None where the metric is undefined.

    Reference:
        Efron and Tibshirani 1993, "An introduction to the bootstrap", chapter 16.
    """
    return paired_bootstrap_over_seeds(task, metric, targets, model[None], baseline[None], songs, seed=seed)


def paired_bootstrap_over_seeds(
    task: Task,
    metric: str,
    targets: np.ndarray,
    model: np.ndarray,
    baseline: np.ndarray,
    songs: np.ndarray,
    *,
    seed: int,
) -> Difference | None:
    """Return the paired bootstrap interval of a difference that is averaged over seeds.

    Both sides are measured on the same resampled songs. Each seed is measured on the examples that both sides scored.

    Args:
        task: The task.
        metric: Name of the metric.
        targets: Targets, `(examples, …)`.
        model: Scores of the model that the metric is computed from, `(seeds, examples, …)`, NaN where missing.
        baseline: Scores of the baseline, of the same shape.
        songs: Song of each example, `(examples,)`.
        seed: Seed of the resampling.

    Returns:
        The difference, or None where the metric is undefined for a seed or on too many resamples.
    """
    sign = 1.0 if task.larger_is_better(metric) else -1.0
    scored = is_scored(model, task) & is_scored(baseline, task)

    def mean_difference(rows: np.ndarray) -> float | None:
        differences = []
        for model_scores, baseline_scores, mask in zip(model, baseline, scored, strict=True):
            shared = rows[mask[rows]]
            values = [
                task.metric(metric, targets[shared], scores[shared]) for scores in (model_scores, baseline_scores)
            ]
            if len(shared) == 0 or values[0] is None or values[1] is None:
                return None
            differences.append(values[0] - values[1])
        return sign * float(np.mean(differences))

    value = mean_difference(np.arange(len(targets)))
    interval = percentile_interval([mean_difference(rows) for rows in resample(songs, seed=seed)])
    return None if value is None or interval is None else Difference(value, *interval)


def resample(songs: np.ndarray, *, seed: int) -> Iterator[np.ndarray]:
    """Draw songs with replacement, as many as there are.

    Args:
        songs: Song of each example, `(examples,)`.
        seed: Seed of the draws.

    Yields:
        Indices of the examples of all drawn songs, int64; 200 to 1000 times, depending on the number of examples.
    """
    codes, names = pd.factorize(songs)
    order = np.argsort(codes, kind="stable")
    counts = np.bincount(codes)
    first = np.cumsum(counts) - counts
    rng = np.random.default_rng(seed)
    for _ in range(int(np.clip(RESAMPLED_ROWS // max(1, len(songs)), MIN_RESAMPLES, MAX_RESAMPLES))):
        drawn = rng.integers(0, len(names), len(names))
        sizes = counts[drawn]
        # 0, 1, … within each drawn song, counted from its first example
        offsets = np.arange(sizes.sum()) - np.repeat(np.cumsum(sizes) - sizes, sizes)
        yield order[np.repeat(first[drawn], sizes) + offsets]


def percentile_interval(values: list[float | None]) -> list[float] | None:
    """Return the middle 95% of the values of a metric on resamples.

    Args:
        values: Value on each resample, None where undefined.

    Returns:
        Low and high end; None where more than a fifth of the values are undefined.
    """
    defined = [value for value in values if value is not None]
    if len(defined) < MIN_DEFINED_FRACTION * len(values):
        return None
    tail = (1 - CONFIDENCE_LEVEL) / 2
    low, high = np.quantile(defined, [tail, 1 - tail])
    return [float(low), float(high)]


def best_baseline(task: Task, metric: str, baselines: Mapping[str, Metrics]) -> str | None:
    """Return the name of the baseline that is best on a metric.

    Args:
        task: The task.
        metric: Name of the metric.
        baselines: Metrics by name of the baseline.

    Returns:
        The name, or None where no baseline defines the metric.
    """
    sign = 1.0 if task.larger_is_better(metric) else -1.0
    defined = {name: value for name, values in baselines.items() if (value := values.get(metric)) is not None}
    return max(defined, key=lambda name: sign * defined[name]) if defined else None


def verdict(
    metric: str, name: str | None, baseline: float | None, model: float | None, difference: Difference | None,
    n_songs: int,
) -> str:  # fmt: skip
    """Return a sentence on whether the model is better than the best baseline.

    Args:
        metric: Name of the headline metric.
        name: Name of the best baseline, if any.
        baseline: Its value.
        model: The model's value on the same songs.
        difference: The paired difference between the two.
        n_songs: Number of songs that both were measured on.

    Returns:
        The sentence, with both values and the interval of their difference.
    """
    if name is None or difference is None or model is None or baseline is None:
        return f"No verdict: {metric} cannot be compared with a baseline on these songs."
    interval = format_difference(difference.value, difference.low, difference.high)
    values = f"{metric} {' against '.join(format_numbers([model, baseline]))}"
    if difference.low == difference.high == 0:
        return f"The model is level with the best baseline, {name}: {values}, on every sample of the {n_songs} songs."
    if difference.low > 0:
        return f"The model beats the best baseline, {name}: {values} over {n_songs} songs, {interval}."
    if difference.high < 0:
        advice = " Words alone do better: this task does not need a GPU." if name in READS_WORDS else ""
        return f"The model loses to the best baseline, {name}: {values} over {n_songs} songs, {interval}.{advice}"
    relation = "ahead of" if difference.value > 0 else "behind" if difference.value < 0 else "level with"
    return (
        f"The model is {relation} the best baseline, {name} ({values}), but {n_songs} songs are too few to decide:"
        f" {interval}."
    )
