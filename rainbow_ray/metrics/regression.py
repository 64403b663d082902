"""Metrics of predicted numbers."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

RegressionMetric = Callable[[np.ndarray, np.ndarray], float]


def standard_deviation(values: np.ndarray) -> float:
    """Return the standard deviation of numbers whose squares may leave the range of float64.

    Args:
        values: Numbers of any magnitude, `(examples,)`.

    Returns:
        The standard deviation, computed in units of the largest absolute value.
    """
    unit = float(np.abs(values).max()) or 1.0
    return float((values / unit).std()) * unit


def mean_absolute_error(reference: np.ndarray, estimated: np.ndarray) -> float:
    """Return the mean of |y - ŷ|.

    Args:
        reference: Numbers, `(examples,)`.
        estimated: Predictions, `(examples,)`.

    Returns:
        The error, in the target's unit.
    """
    return float(np.mean(np.abs(reference - estimated)))


def root_mean_squared_error(reference: np.ndarray, estimated: np.ndarray) -> float:
    """Return the square root of the mean of (y - ŷ)².

    Args:
        reference: Numbers, `(examples,)`.
        estimated: Predictions, `(examples,)`.

    Returns:
        The error, in the target's unit.
    """
    return float(np.sqrt(np.mean((reference - estimated) ** 2)))


def r2(reference: np.ndarray, estimated: np.ndarray) -> float:
    """Return the coefficient of determination, 1 - Σ(y - ŷ)² / Σ(y - ȳ)².

    Args:
        reference: Numbers that are not all equal, `(examples,)`.
        estimated: Predictions, `(examples,)`.

    Returns:
        The coefficient, at most 1.
    """
    return float(1 - np.sum((reference - estimated) ** 2) / np.sum((reference - reference.mean()) ** 2))


def pearson(reference: np.ndarray, estimated: np.ndarray) -> float:
    """Return Pearson's correlation coefficient.

    Args:
        reference: Numbers that are not all equal, `(examples,)`.
        estimated: Predictions that are not all equal, `(examples,)`.

    Returns:
        The coefficient, in [-1, 1].
    """
    return float(np.corrcoef(reference, estimated)[0, 1])


def spearman(reference: np.ndarray, estimated: np.ndarray) -> float:
    """Return Spearman's rank correlation coefficient, with mean ranks for ties.

    Args:
        reference: Numbers that are not all equal, `(examples,)`.
        estimated: Predictions that are not all equal, `(examples,)`.

    Returns:
        The coefficient, in [-1, 1].
    """
    from scipy.stats import rankdata

    return pearson(rankdata(reference), rankdata(estimated))


REGRESSION_METRICS: dict[str, RegressionMetric] = {
    "mae": mean_absolute_error,
    "rmse": root_mean_squared_error,
    "r2": r2,
    "pearson": pearson,
    "spearman": spearman,
}
NEEDS_SPREAD = frozenset({"r2", "pearson", "spearman"})
CORRELATIONS = frozenset({"pearson", "spearman"})
SMALLER_IS_BETTER = frozenset({"loss", "mae", "rmse"})
ABSOLUTE_METRICS = frozenset({"mae", "time_mae"})  # medians minimize them
IN_TARGET_UNITS = frozenset({"mae", "rmse"})
