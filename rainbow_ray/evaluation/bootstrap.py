"""Out-of-fold predictions to numbers with intervals over songs, and the comparison with the baselines.

The song is what is drawn: a song's rows stand or fall together, in the interval as in the split.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np
import pandas as pd

from rainbow_ray.tasks.base import Metrics, Task
from rainbow_ray.tasks.scores import is_scored
from rainbow_ray.utils.number_format import format_difference, format_numbers

LEVEL = 0.95
RESAMPLES = (200, 1000)  # fewer where there are many songs, whose intervals need less
WORK = 2_000_000  # about this many rows are drawn for one interval
MIN_DEFINED = 0.8  # of the resamples must define a metric, or it has no interval
READS_WORDS = ("text length", "TF-IDF + linear", "words + stumps")


@dataclass(frozen=True)
class Difference:
    """Model less baseline on the same songs, `larger` meaning better for the model, with a 95% interval."""

    value: float
    low: float
    high: float

    def moved_to(self, value: float) -> Difference:
        """The same width around another value."""
        return Difference(value, value + self.low - self.value, value + self.high - self.value)


@dataclass(frozen=True)
class ScoredPredictions:
    """Scores `(examples, …)`, and the same with yes from a half on, whatever threshold was chosen for them."""

    scores: np.ndarray
    thresholded: np.ndarray

    def take(self, rows: np.ndarray) -> ScoredPredictions:
        return ScoredPredictions(self.scores[rows], self.thresholded[rows])

    def read_by(self, task: Task, metric: str) -> np.ndarray:
        """Which of the two a metric looks at."""
        return self.thresholded if metric in task.threshold_metrics else self.scores


def measure(task: Task, targets: np.ndarray, scored: ScoredPredictions) -> tuple[Metrics, dict[str, str]]:
    """All metrics, and why each null is."""
    values, undefined = task.metrics(targets, scored.scores)
    return values | {name: task.metric(name, targets, scored.thresholded) for name in task.threshold_metrics}, undefined


def bootstrap_ci(
    task: Task, targets: np.ndarray, scored: ScoredPredictions, songs: np.ndarray, *, seed: int
) -> dict[str, list[float] | None]:
    """95% percentile bootstrap over songs for each metric; null where too many resamples do not define it."""
    values: dict[str, list[float | None]] = {name: [] for name in task.metric_names}
    for rows in resample(songs, seed=seed):  # one draw at a time: of many songs, all draws are much memory
        for name, found in values.items():
            found.append(task.metric(name, targets[rows], scored.read_by(task, name)[rows]))
    return {name: percentiles(found) for name, found in values.items()}


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
    """`paired_bootstrap_over_seeds` of one seed: scores `(examples, …)`."""
    return paired_bootstrap_over_seeds(task, metric, targets, model[None], baseline[None], songs, seed=seed)


def paired_bootstrap_over_seeds(
    task: Task,
    metric: str,
    targets: np.ndarray,
    ours: np.ndarray,
    theirs: np.ndarray,
    songs: np.ndarray,
    *,
    seed: int,
) -> Difference | None:
    """Paired bootstrap of the mean over seeds, scores `(seeds, examples, …)`: both sides on the same drawn songs.

    Each seed is measured on the examples that both sides scored (the others are NaN). None where the metric is not
    defined.
    """
    sign = 1.0 if task.larger_is_better(metric) else -1.0
    known = is_scored(ours, task) & is_scored(theirs, task)

    def gain(rows: np.ndarray) -> float | None:
        gains = []
        for one, other, scored in zip(ours, theirs, known, strict=True):
            some = rows[scored[rows]]
            values = [task.metric(metric, targets[some], scores[some]) for scores in (one, other)]
            if len(some) == 0 or values[0] is None or values[1] is None:
                return None
            gains.append(values[0] - values[1])
        return sign * float(np.mean(gains))

    value = gain(np.arange(len(targets)))
    interval = percentiles([gain(rows) for rows in resample(songs, seed=seed)])
    return None if value is None or interval is None else Difference(value, *interval)


def resample(songs: np.ndarray, *, seed: int) -> Iterable[np.ndarray]:
    """Row indices of songs drawn with replacement, the same draws for the same seed."""
    codes, names = pd.factorize(songs)
    order = np.argsort(codes, kind="stable")
    counts = np.bincount(codes)
    first = np.cumsum(counts) - counts
    rng = np.random.default_rng(seed)
    for _ in range(int(np.clip(WORK // max(1, len(songs)), *RESAMPLES))):
        drawn = rng.integers(0, len(names), len(names))
        sizes = counts[drawn]
        # 0, 1, … inside each drawn song, counted on from its first row
        inside = np.arange(sizes.sum()) - np.repeat(np.cumsum(sizes) - sizes, sizes)
        yield order[np.repeat(first[drawn], sizes) + inside]


def best_baseline(task: Task, metric: str, baselines: Mapping[str, Metrics]) -> str | None:
    """The name of the baseline that is best on the metric."""
    sign = 1.0 if task.larger_is_better(metric) else -1.0
    defined = {name: value for name, values in baselines.items() if (value := values.get(metric)) is not None}
    return max(defined, key=lambda name: sign * defined[name]) if defined else None


def verdict(metric: str, best: str | None, baseline: float | None, model: float | None, gap: Difference | None,
            songs: int) -> str:  # fmt: skip
    """What the numbers honestly say, in a sentence."""
    if best is None or gap is None or model is None or baseline is None:
        return f"No verdict: {metric} cannot be compared with a baseline on these songs."
    span = format_difference(gap.value, gap.low, gap.high)
    numbers = f"{metric} {' against '.join(format_numbers([model, baseline]))}"
    if gap.low > 0:
        return f"The model beats the best baseline, {best}: {numbers} over {songs} songs, {span}."
    if gap.high < 0:
        plainly = " Words alone do better: do not pay for a GPU on this." if best in READS_WORDS else ""
        return f"The model loses to the best baseline, {best}: {numbers} over {songs} songs, {span}.{plainly}"
    lead = "ahead of" if gap.value > 0 else "behind" if gap.value < 0 else "level with"
    return f"The model is {lead} the best baseline, {best} ({numbers}), but {songs} songs are too few to tell: {span}."


def percentiles(values: list[float | None]) -> list[float] | None:
    """The middle 95% of some values; None where too many of them are not defined."""
    defined = [value for value in values if value is not None]
    if len(defined) < MIN_DEFINED * len(values):
        return None
    tail = (1 - LEVEL) / 2
    low, high = np.quantile(defined, [tail, 1 - tail])
    return [float(low), float(high)]
