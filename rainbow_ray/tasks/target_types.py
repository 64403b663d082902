"""Types of targets, and how predictions of each are decoded from calibrated scores.

A new task has one of these types, as `Task.target_type`. An ONNX bundle names the type, not the task, since it is read
where only numpy is installed; so this module needs nothing else.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

THRESHOLD = 0.5

TargetType = Literal["binary", "multiclass", "multilabel", "regression"]
# `sigmoid` gives one score, `sigmoids` one for each class, `softmax` those of exclusive classes
Link = Literal["identity", "sigmoid", "sigmoids", "softmax"]
# (scores `(examples, scores)`, classes, a function that applies thresholds to scores) to a prediction per example
DecodeScores = Callable[[np.ndarray, Sequence[str], Callable[[np.ndarray], np.ndarray]], list[Any]]


@dataclass(frozen=True)
class TargetFormat:
    """Scores and predictions of one type of target.

    Attributes:
        decode: Returns a prediction per example, as `Task.decode_predictions` does.
        link: Link function from linear predictors to scores.
        has_one_score: Whether the only score is named `score`; otherwise there is a `score_<class>` for each class.
        score_dtype: Dtype of scores, as `Task.score_dtype`.
    """

    decode: DecodeScores
    link: Link
    has_one_score: bool = False
    score_dtype: type[np.floating[Any]] = np.float32


def _decode_binary(
    scores: np.ndarray, classes: Sequence[str], apply_thresholds: Callable[[np.ndarray], np.ndarray]
) -> list[bool]:
    return [bool(value) for value in apply_thresholds(scores[:, 0]) > THRESHOLD]


def _decode_multiclass(
    scores: np.ndarray, classes: Sequence[str], apply_thresholds: Callable[[np.ndarray], np.ndarray]
) -> list[str]:
    return [classes[i] for i in scores.argmax(axis=1)]


def _decode_multilabel(
    scores: np.ndarray, classes: Sequence[str], apply_thresholds: Callable[[np.ndarray], np.ndarray]
) -> list[tuple[str, ...]]:
    return [tuple(classes[i] for i in np.flatnonzero(row).tolist()) for row in apply_thresholds(scores) > THRESHOLD]


def _decode_regression(
    scores: np.ndarray, classes: Sequence[str], apply_thresholds: Callable[[np.ndarray], np.ndarray]
) -> list[float]:
    return [float(row[0]) for row in scores]


TARGET_FORMATS: Mapping[TargetType, TargetFormat] = {
    "binary": TargetFormat(_decode_binary, "sigmoid", has_one_score=True),
    "multiclass": TargetFormat(_decode_multiclass, "softmax"),
    "multilabel": TargetFormat(_decode_multilabel, "sigmoids"),
    "regression": TargetFormat(_decode_regression, "identity", has_one_score=True, score_dtype=np.float64),
}
