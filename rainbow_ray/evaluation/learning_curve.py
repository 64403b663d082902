"""What more songs would bring: a power law through the errors of models that were trained on parts of the songs.

Reference:
    Hestness et al. 2017, "Deep learning scaling is predictable, empirically", section 2; Viering & Loog 2022, "The
    shape of learning curves: a review", section 4.1.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from typing import Any

import numpy as np

from rainbow_ray.baselines.learning_curve import FRACTIONS, CurveScores
from rainbow_ray.evaluation.bootstrap import resample
from rainbow_ray.tasks.base import Task
from rainbow_ray.utils.number_format import format_difference, rounded_alike

N_RESAMPLES = 100
MIN_ERROR = 1e-3  # of metrics up to 1; the logarithm of no error is not finite
MIN_RELATIVE_ERROR = 1e-6  # of errors in units of the target, of their maximum
LEVEL = 95
SONGS_STEP, STEP_FRACTION = 10, 0.5  # the gain is predicted for half as many songs again, in steps of 10


@dataclass(frozen=True)
class LearningCurve:
    """A learning curve with its power law, error = a·n^(−b).

    Attributes:
        metric: Name of the headline metric.
        n_songs: Numbers of training songs, `(fractions,)`.
        values: Mean of the metric over draws, `(fractions,)`.
        exponent: b, with its 95% interval.
        n_more: Number of further songs for which the gain is predicted.
        change: Change of the metric with that many more songs, with its 95% interval; of an error, negative is better.
        models: What was trained, in words.
    """

    metric: str
    n_songs: list[float]
    values: list[float]
    exponent: tuple[float, float, float]
    n_more: int
    change: tuple[float, float, float]
    models: str = "simple models"

    @property
    def sentence(self) -> str:
        """What that many more songs would bring."""
        shown = format_difference(*self.change)
        fractions, metric = ", ".join(f"{part:.0%}" for part in FRACTIONS), self.metric.replace("_", " ")
        source = f"by the power law of {self.models} on {fractions} of the songs"
        return f"{self.n_more} more songs: {metric} {shown}, {source}."

    def to_json(self) -> dict[str, Any]:
        """Return the curve as JSON values.

        Returns:
            The fields by name, and the sentence.
        """
        return {**vars(self), "exponent": list(self.exponent), "change": list(self.change), "sentence": self.sentence}


def fit_learning_curve(
    task: Task, metric: str, targets: np.ndarray, curve: CurveScores, *, seed: int, models: str = "simple models"
) -> LearningCurve | None:
    """Fit a power law to the errors of a learning curve; intervals are from a bootstrap over songs.

    Args:
        task: The task.
        metric: Name of the headline metric.
        targets: Targets of the examples, `(examples, …)`.
        curve: Scores by number of training songs.
        seed: Seed of the bootstrap.
        models: What was trained, in words.

    Returns:
        The curve; None where the metric is undefined.
    """
    flat = curve.scores.reshape(*curve.scores.shape[:3], -1)
    scored = np.flatnonzero(~np.isnan(flat).any(axis=(0, 1, 3)))
    sign = 1 if task.larger_is_better(metric) else -1

    def values_of(rows: np.ndarray) -> np.ndarray | None:
        """The metric by draw and fraction, `(draws, fractions)`."""
        values = [
            [task.metric(metric, targets[rows], scores[rows].astype(task.score_dtype)) for scores in draw]
            for draw in curve.scores
        ]
        array = np.array(values, dtype=np.float64)  # None becomes NaN
        return None if np.isnan(array).any() else array

    values = values_of(scored)
    if values is None or len(scored) == 0:
        return None
    n_total = int(curve.songs.max()) + 1
    n_more = max(SONGS_STEP, round(STEP_FRACTION * n_total / SONGS_STEP) * SONGS_STEP)
    estimates = [_power_law(curve.n_songs, _errors(values, sign), n_total, n_more)]
    for rows in itertools.islice(resample(curve.songs[scored], seed=seed), N_RESAMPLES):
        resampled = values_of(scored[rows])
        if resampled is not None:
            estimates.append(_power_law(curve.n_songs, _errors(resampled, sign), n_total, n_more))
    (exponent, gain), *others = estimates
    low, high = np.percentile(others, [(100 - LEVEL) / 2, (100 + LEVEL) / 2], axis=0) if others else (estimates[0],) * 2
    ends = sorted(sign * value for value in (float(low[1]), float(high[1])))
    change = rounded_alike([sign * gain, *ends])
    return LearningCurve(
        metric, curve.n_songs.tolist(), rounded_alike(values.mean(axis=0).tolist()),
        (round(exponent, 4), round(float(low[0]), 4), round(float(high[0]), 4)), n_more,
        (change[0], change[1], change[2]), models,
    )  # fmt: skip


def _errors(values: np.ndarray, sign: int) -> np.ndarray:
    """Errors of a metric: its distance from 1 where larger is better, itself where smaller is."""
    if sign > 0:
        return np.asarray(np.maximum(1 - values, MIN_ERROR))
    return np.asarray(np.maximum(values, (MIN_RELATIVE_ERROR * values.max()) or MIN_ERROR))


def _power_law(n_songs: np.ndarray, errors: np.ndarray, n_total: int, n_more: int) -> tuple[float, float]:
    """Return the exponent b of the least-squares line through log errors, and the decrease with more songs."""
    x = np.tile(np.log(n_songs), len(errors))
    slope, intercept = np.polyfit(x, np.log(errors).ravel(), 1)
    now, then = np.exp(intercept + slope * np.log([n_total, n_total + n_more]))
    return float(-slope), float(now - then)
