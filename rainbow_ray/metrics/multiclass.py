"""Metrics of classification with several exclusive classes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from rainbow_ray.metrics.classification import MIN_PROBABILITY, expected_calibration_error, ratio

TOP_K = 3

MulticlassMetric = Callable[[np.ndarray, np.ndarray], float]


def confusion_matrix(reference: np.ndarray, predicted: np.ndarray, n_classes: int) -> np.ndarray:
    """Return the confusion matrix.

    Args:
        reference: Class indices, `(examples,)`.
        predicted: Class indices, `(examples,)`.
        n_classes: Number of classes.

    Returns:
        Counts, `(n_classes, n_classes)`: examples of class i (row) that are predicted as class j (column).
    """
    return np.bincount(reference * n_classes + predicted, minlength=n_classes * n_classes).reshape(n_classes, n_classes)


def class_report(
    classes: Sequence[str], hits: np.ndarray, predicted: np.ndarray, support: np.ndarray
) -> dict[str, dict[str, Any]]:
    """Return precision, recall and F1 of each class.

    Args:
        classes: Names of the classes.
        hits: Correct predictions of each class, `(classes,)`.
        predicted: Predictions of each class, `(classes,)`.
        support: Examples of each class, `(classes,)`.

    Returns:
        `precision`, `recall`, `f1` and `support` by class name.
    """
    return {
        name: {"precision": ratio(hits[i], predicted[i]), "recall": ratio(hits[i], support[i]),
               "f1": ratio(2 * hits[i], predicted[i] + support[i]), "support": int(support[i])}
        for i, name in enumerate(classes)
    }  # fmt: skip


def accuracy(reference: np.ndarray, scores: np.ndarray) -> float:
    """Return the fraction of examples whose most probable class is the reference.

    Args:
        reference: Class indices, `(examples,)`.
        scores: Probabilities, `(examples, classes)`.

    Returns:
        The accuracy, which equals the micro F1 score.
    """
    return float(np.mean(scores.argmax(-1) == reference))


def balanced_accuracy(reference: np.ndarray, scores: np.ndarray) -> float:
    """Return the mean recall of the classes that occur.

    Args:
        reference: Class indices, `(examples,)`.
        scores: Probabilities, `(examples, classes)`.

    Returns:
        The balanced accuracy.
    """
    table = _confusion(reference, scores)
    support = table.sum(1)
    return float(np.mean(np.diag(table)[support > 0] / support[support > 0]))


def macro_f1(reference: np.ndarray, scores: np.ndarray) -> float:
    """Return the mean F1 score of the classes that occur.

    Args:
        reference: Class indices, `(examples,)`.
        scores: Probabilities, `(examples, classes)`.

    Returns:
        The macro F1 score.
    """
    return float(np.mean(_f1_by_class(_confusion(reference, scores))))


def weighted_f1(reference: np.ndarray, scores: np.ndarray) -> float:
    """Return the mean F1 score of the classes that occur, weighted by their examples.

    Args:
        reference: Class indices, `(examples,)`.
        scores: Probabilities, `(examples, classes)`.

    Returns:
        The weighted F1 score.
    """
    table = _confusion(reference, scores)
    support = table.sum(1)
    return float(_f1_by_class(table) @ support[support > 0] / support.sum())


def matthews_correlation(reference: np.ndarray, scores: np.ndarray) -> float:
    """Return the Matthews correlation coefficient of several classes.

    R_K = (n Σ_k C_kk - Σ_k t_k p_k) / √((n² - Σ_k p_k²)(n² - Σ_k t_k²)), with t and p the row and column sums of the
    confusion matrix C.

    Args:
        reference: Class indices, `(examples,)`.
        scores: Probabilities, `(examples, classes)`.

    Returns:
        The coefficient, at most 1.

    Reference:
        Gorodkin 2004, "Comparing two K-category assignments by a K-category correlation coefficient".
    """
    table = _confusion(reference, scores).astype(np.float64)
    n, hits, support, predicted = table.sum(), np.trace(table), table.sum(1), table.sum(0)
    spread = (n**2 - predicted @ predicted) * (n**2 - support @ support)
    return ratio(hits * n - support @ predicted, float(spread) ** 0.5)


def top_k_accuracy(reference: np.ndarray, scores: np.ndarray) -> float:
    """Return the fraction of examples whose class is among the three most probable.

    Args:
        reference: Class indices, `(examples,)`.
        scores: Probabilities, `(examples, classes)`. Of ties, classes that come first rank higher.

    Returns:
        The top-3 accuracy.
    """
    best = np.argsort(-scores, axis=1, kind="stable")[:, :TOP_K]
    return float(np.mean((best == reference[:, None]).any(1)))


def log_loss(reference: np.ndarray, scores: np.ndarray) -> float:
    """Return the log loss, the mean of -log p of the reference class, with p clipped to at least 1e-7.

    Args:
        reference: Class indices, `(examples,)`.
        scores: Probabilities, `(examples, classes)`; rows are normalized to sum to 1.

    Returns:
        The loss, in nats.
    """
    p = scores[np.arange(len(reference)), reference] / scores.sum(1)
    return float(-np.mean(np.log(np.clip(p, MIN_PROBABILITY, 1.0))))


def top_label_calibration_error(reference: np.ndarray, scores: np.ndarray) -> float:
    """Return the expected calibration error of the most probable class.

    Args:
        reference: Class indices, `(examples,)`.
        scores: Probabilities, `(examples, classes)`.

    Returns:
        The error, in [0, 1].

    Reference:
        Guo et al. 2017, equation 3.
    """
    return expected_calibration_error(scores.max(-1), scores.argmax(-1) == reference)


def _confusion(reference: np.ndarray, scores: np.ndarray) -> np.ndarray:
    return confusion_matrix(reference, scores.argmax(-1), scores.shape[1])


def _f1_by_class(table: np.ndarray) -> np.ndarray:
    """F1 of each class that occurs: of one that does not, it is undefined."""
    sizes = table.sum(0) + table.sum(1)
    return np.asarray((2 * np.diag(table) / np.maximum(sizes, 1))[table.sum(1) > 0])


MULTICLASS_METRICS: dict[str, MulticlassMetric] = {
    "accuracy": accuracy,
    "balanced_accuracy": balanced_accuracy,
    "macro_f1": macro_f1,
    "micro_f1": accuracy,  # with one class and one prediction for each example, both are the same
    "weighted_f1": weighted_f1,
    "mcc": matthews_correlation,
    "top_3": top_k_accuracy,
    "log_loss": log_loss,
    "ece": top_label_calibration_error,
}
NEEDS_SEVERAL_CLASSES = frozenset({"balanced_accuracy", "macro_f1", "weighted_f1", "mcc"})
