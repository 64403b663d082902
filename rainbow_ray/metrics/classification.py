"""Metrics of binary classification, and what metrics of several classes share.

Definitions are those of scikit-learn, which the tests compare with. scikit-learn's own functions spend milliseconds on
input validation, and a bootstrap over songs calls each metric a thousand times.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

THRESHOLD = 0.5
ECE_BINS = 10
MIN_PROBABILITY = 1e-7

BinaryMetric = Callable[[np.ndarray, np.ndarray], float]


def ratio(numerator: float, denominator: float) -> float:
    """Return a ratio, and 0 where the denominator is 0.

    Args:
        numerator: Any number.
        denominator: Any number.

    Returns:
        `numerator / denominator`, or 0.0.
    """
    return float(numerator / denominator) if denominator else 0.0


def expected_calibration_error(confidence: np.ndarray, correct: np.ndarray) -> float:
    """Return the expected calibration error over ten bins of equal width.

    ECE = Σ_b |Σ_{i in b} (correct_i - confidence_i)| / n.

    Args:
        confidence: Predicted probabilities in [0, 1], `(examples,)`.
        correct: Whether the event happened, bool, `(examples,)`.

    Returns:
        The error, in [0, 1].

    Reference:
        Naeini et al. 2015, section 3; Guo et al. 2017, equation 3.
    """
    bins = np.minimum((confidence * ECE_BINS).astype(int), ECE_BINS - 1)
    gaps = np.bincount(bins, weights=correct - confidence, minlength=ECE_BINS)
    return float(np.abs(gaps).sum() / len(correct))


def binary_confusion(reference: np.ndarray, scores: np.ndarray) -> tuple[int, int, int, int]:
    """Return the counts of the confusion matrix at a threshold of 0.5.

    Args:
        reference: Labels, bool, `(examples,)`.
        scores: Probabilities of True, `(examples,)`.

    Returns:
        True positives, false positives, false negatives and true negatives.
    """
    predicted = scores > THRESHOLD
    hits = int(np.count_nonzero(predicted & reference))
    n_positive, n_predicted = int(np.count_nonzero(reference)), int(np.count_nonzero(predicted))
    return hits, n_predicted - hits, n_positive - hits, len(reference) - n_predicted - n_positive + hits


def accuracy(reference: np.ndarray, scores: np.ndarray) -> float:
    """Return the fraction of correct predictions, (TP + TN) / n.

    Args:
        reference: Labels, bool, `(examples,)`.
        scores: Probabilities of True, `(examples,)`.

    Returns:
        The accuracy.
    """
    return float(np.mean((scores > THRESHOLD) == reference))


def balanced_accuracy(reference: np.ndarray, scores: np.ndarray) -> float:
    """Return the mean recall of both classes, (TP / (TP + FN) + TN / (TN + FP)) / 2.

    Args:
        reference: Labels of both classes, bool, `(examples,)`.
        scores: Probabilities of True, `(examples,)`.

    Returns:
        The balanced accuracy.

    Reference:
        Brodersen et al. 2010, "The balanced accuracy and its posterior distribution".
    """
    tp, fp, fn, tn = binary_confusion(reference, scores)
    return (tp / (tp + fn) + tn / (tn + fp)) / 2


def precision(reference: np.ndarray, scores: np.ndarray) -> float:
    """Return the precision of True, TP / (TP + FP), 0 where True is never predicted.

    Args:
        reference: Labels, bool, `(examples,)`.
        scores: Probabilities of True, `(examples,)`.

    Returns:
        The precision.
    """
    tp, fp, _, _ = binary_confusion(reference, scores)
    return ratio(tp, tp + fp)


def recall(reference: np.ndarray, scores: np.ndarray) -> float:
    """Return the recall of True, TP / (TP + FN).

    Args:
        reference: Labels, bool, `(examples,)`.
        scores: Probabilities of True, `(examples,)`.

    Returns:
        The recall.
    """
    tp, _, fn, _ = binary_confusion(reference, scores)
    return ratio(tp, tp + fn)


def f1(reference: np.ndarray, scores: np.ndarray) -> float:
    """Return the F1 score of True, 2 TP / (2 TP + FP + FN).

    Args:
        reference: Labels, bool, `(examples,)`.
        scores: Probabilities of True, `(examples,)`.

    Returns:
        The F1 score.
    """
    tp, fp, fn, _ = binary_confusion(reference, scores)
    return ratio(2 * tp, 2 * tp + fp + fn)


def macro_f1(reference: np.ndarray, scores: np.ndarray) -> float:
    """Return the mean F1 score of True and False.

    Args:
        reference: Labels, bool, `(examples,)`.
        scores: Probabilities of True, `(examples,)`.

    Returns:
        The macro F1 score.
    """
    tp, fp, fn, tn = binary_confusion(reference, scores)
    return (ratio(2 * tp, 2 * tp + fp + fn) + ratio(2 * tn, 2 * tn + fp + fn)) / 2


def matthews_correlation(reference: np.ndarray, scores: np.ndarray) -> float:
    """Return the Matthews correlation coefficient.

    MCC = (TP TN - FP FN) / √((TP + FP)(TP + FN)(TN + FP)(TN + FN)), 0 where the denominator is 0.

    Args:
        reference: Labels, bool, `(examples,)`.
        scores: Probabilities of True, `(examples,)`.

    Returns:
        The coefficient, in [-1, 1].

    Reference:
        Matthews 1975, "Comparison of the predicted and observed secondary structure of T4 phage lysozyme".
    """
    tp, fp, fn, tn = binary_confusion(reference, scores)
    return ratio(tp * tn - fp * fn, float((tp + fp) * (tp + fn) * (tn + fp) * (tn + fn)) ** 0.5)


def roc_auc(reference: np.ndarray, scores: np.ndarray) -> float:
    """Return the area under the ROC curve.

    AUC = (R - n₊(n₊ + 1)/2) / (n₊ n₋), with R the sum of the positives' ranks. Ties count one half.

    Args:
        reference: Labels of both classes, bool, `(examples,)`.
        scores: Scores, `(examples,)`, larger for True.

    Returns:
        The area, in [0, 1].

    Reference:
        Hanley & McNeil 1982; Mann & Whitney 1947.
    """
    from scipy.stats import rankdata

    n_positive = int(np.count_nonzero(reference))
    rank_sum = float(rankdata(scores)[reference].sum())
    return (rank_sum - n_positive * (n_positive + 1) / 2) / (n_positive * (len(reference) - n_positive))


def average_precision(reference: np.ndarray, scores: np.ndarray) -> float:
    """Return the average precision of True.

    AP = Σ_k (R_k - R_{k-1}) P_k over distinct scores from the highest to the lowest.

    Args:
        reference: Labels, bool, `(examples,)`, with at least one True.
        scores: Scores, `(examples,)`, larger for True.

    Returns:
        The average precision.

    Reference:
        scikit-learn, `sklearn.metrics.average_precision_score`.
    """
    order = np.argsort(-scores, kind="stable")
    hits = np.cumsum(reference[order])
    last_of_tie = np.append(np.flatnonzero(np.diff(scores[order])), len(scores) - 1)
    precisions = hits[last_of_tie] / (last_of_tie + 1)
    return float(np.sum(np.diff(hits[last_of_tie], prepend=0) * precisions) / hits[-1])


def average_precision_rarer(reference: np.ndarray, scores: np.ndarray) -> float:
    """Return the average precision of the rarer class.

    Args:
        reference: Labels of both classes, bool, `(examples,)`.
        scores: Probabilities of True, `(examples,)`.

    Returns:
        `average_precision` of True, or of False where True is the more frequent class.
    """
    if reference.mean() <= 0.5:
        return average_precision(reference, scores)
    return average_precision(~reference, -scores)


def brier_score(reference: np.ndarray, scores: np.ndarray) -> float:
    """Return the Brier score, the mean of (p - y)².

    Args:
        reference: Labels, bool, `(examples,)`.
        scores: Probabilities of True, `(examples,)`.

    Returns:
        The score, in [0, 1].

    Reference:
        Brier 1950, "Verification of forecasts expressed in terms of probability".
    """
    return float(np.mean((scores - reference) ** 2))


def log_loss(reference: np.ndarray, scores: np.ndarray) -> float:
    """Return the log loss, the mean of -(y log p + (1 - y) log(1 - p)), with p clipped to [1e-7, 1 - 1e-7].

    Args:
        reference: Labels, bool, `(examples,)`.
        scores: Probabilities of True, `(examples,)`.

    Returns:
        The loss, in nats.
    """
    p = np.clip(scores, MIN_PROBABILITY, 1 - MIN_PROBABILITY)
    return float(-np.mean(np.where(reference, np.log(p), np.log(1 - p))))


def binary_calibration_error(reference: np.ndarray, scores: np.ndarray) -> float:
    """Return the expected calibration error of the probability of True.

    Args:
        reference: Labels, bool, `(examples,)`.
        scores: Probabilities of True, `(examples,)`.

    Returns:
        The error, in [0, 1].

    Reference:
        Naeini et al. 2015, section 3.
    """
    return expected_calibration_error(scores, reference)


BINARY_METRICS: dict[str, BinaryMetric] = {
    "accuracy": accuracy,
    "balanced_accuracy": balanced_accuracy,
    "precision": precision,
    "recall": recall,
    "f1": f1,
    "macro_f1": macro_f1,
    "mcc": matthews_correlation,
    "roc_auc": roc_auc,
    "average_precision": average_precision,
    "average_precision_rarer": average_precision_rarer,
    "brier": brier_score,
    "log_loss": log_loss,
    "ece": binary_calibration_error,
}
NEEDS_BOTH_CLASSES = frozenset({"balanced_accuracy", "recall", "f1", "macro_f1", "mcc", "roc_auc", "average_precision",
                                "average_precision_rarer"})  # fmt: skip
# of classification metrics of all tasks
SMALLER_IS_BETTER = frozenset({"loss", "brier", "log_loss", "ece", "hamming_loss"})
