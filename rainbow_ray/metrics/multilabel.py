"""Metrics of classification with any number of classes for each example."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from rainbow_ray.metrics import classification
from rainbow_ray.metrics.classification import THRESHOLD, ratio

# reference, scores, mask of the classes that have both positive and negative examples
MultilabelMetric = Callable[[np.ndarray, np.ndarray, np.ndarray], float]


def subset_accuracy(reference: np.ndarray, scores: np.ndarray, defined: np.ndarray) -> float:
    """Return the fraction of examples whose classes are all predicted correctly.

    Args:
        reference: Indicators, bool, `(examples, classes)`.
        scores: Probabilities, `(examples, classes)`.
        defined: Mask of the classes that have both kinds of examples, `(classes,)`; not used.

    Returns:
        The subset accuracy.
    """
    return float(np.mean((reference == (scores > THRESHOLD)).all(axis=1)))


def hamming_loss(reference: np.ndarray, scores: np.ndarray, defined: np.ndarray) -> float:
    """Return the fraction of pairs of example and class that are predicted wrongly.

    Args:
        reference: Indicators, bool, `(examples, classes)`.
        scores: Probabilities, `(examples, classes)`.
        defined: Mask of the classes that have both kinds of examples, `(classes,)`; not used.

    Returns:
        The loss, in [0, 1].
    """
    return float(np.mean(reference != (scores > THRESHOLD)))


def macro_f1(reference: np.ndarray, scores: np.ndarray, defined: np.ndarray) -> float:
    """Return the mean F1 score of the classes that have both positive and negative examples.

    Args:
        reference: Indicators, bool, `(examples, classes)`.
        scores: Probabilities, `(examples, classes)`.
        defined: Mask of the classes that have both kinds of examples, `(classes,)`.

    Returns:
        The macro F1 score.
    """
    predicted = scores > THRESHOLD
    hits, sizes = (reference & predicted).sum(0), reference.sum(0) + predicted.sum(0)
    return float(np.mean((2 * hits / np.maximum(sizes, 1))[defined]))


def micro_f1(reference: np.ndarray, scores: np.ndarray, defined: np.ndarray) -> float:
    """Return the F1 score over all pairs of example and class.

    Args:
        reference: Indicators, bool, `(examples, classes)`.
        scores: Probabilities, `(examples, classes)`.
        defined: Mask of the classes that have both kinds of examples, `(classes,)`; not used.

    Returns:
        The micro F1 score.
    """
    predicted = scores > THRESHOLD
    return ratio(2 * int((reference & predicted).sum()), int(reference.sum() + predicted.sum()))


def weighted_f1(reference: np.ndarray, scores: np.ndarray, defined: np.ndarray) -> float:
    """Return the mean F1 score of all classes, weighted by their positive examples.

    Args:
        reference: Indicators, bool, `(examples, classes)`.
        scores: Probabilities, `(examples, classes)`.
        defined: Mask of the classes that have both kinds of examples, `(classes,)`; not used.

    Returns:
        The weighted F1 score.
    """
    predicted = scores > THRESHOLD
    hits, sizes = (reference & predicted).sum(0), reference.sum(0) + predicted.sum(0)
    support = reference.sum(0)
    return ratio(float((2 * hits / np.maximum(sizes, 1)) @ support), float(support.sum()))


def macro_average_precision(reference: np.ndarray, scores: np.ndarray, defined: np.ndarray) -> float:
    """Return the mean average precision of the classes that have both positive and negative examples.

    Args:
        reference: Indicators, bool, `(examples, classes)`.
        scores: Probabilities, `(examples, classes)`.
        defined: Mask of the classes that have both kinds of examples, `(classes,)`.

    Returns:
        The mean of `classification.average_precision`.
    """
    return float(
        np.mean([classification.average_precision(reference[:, i], scores[:, i]) for i in np.flatnonzero(defined)])
    )


def log_loss(reference: np.ndarray, scores: np.ndarray, defined: np.ndarray) -> float:
    """Return the binary log loss over all pairs of example and class.

    Args:
        reference: Indicators, bool, `(examples, classes)`.
        scores: Probabilities, `(examples, classes)`.
        defined: Mask of the classes that have both kinds of examples, `(classes,)`; not used.

    Returns:
        The loss, in nats.
    """
    return classification.log_loss(reference.ravel(), scores.ravel())


def calibration_error(reference: np.ndarray, scores: np.ndarray, defined: np.ndarray) -> float:
    """Return the expected calibration error over all pairs of example and class.

    Args:
        reference: Indicators, bool, `(examples, classes)`.
        scores: Probabilities, `(examples, classes)`.
        defined: Mask of the classes that have both kinds of examples, `(classes,)`; not used.

    Returns:
        The error, in [0, 1].

    Reference:
        Naeini et al. 2015, section 3.
    """
    return classification.expected_calibration_error(scores.ravel(), reference.ravel())


MULTILABEL_METRICS: dict[str, MultilabelMetric] = {
    "subset_accuracy": subset_accuracy,
    "hamming_loss": hamming_loss,
    "macro_f1": macro_f1,
    "micro_f1": micro_f1,
    "weighted_f1": weighted_f1,
    "macro_average_precision": macro_average_precision,
    "log_loss": log_loss,
    "ece": calibration_error,
}
