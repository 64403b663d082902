"""Application of calibration and thresholds to scores. Needs numpy only; `calibration/fit.py` fits them."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

MIN_PROBABILITY = 1e-6


@dataclass(frozen=True)
class Calibration:
    """A fitted calibration with thresholds. The default changes nothing.

    Attributes:
        temperature: Divisor of logits.
        exclusive: Whether scores are those of exclusive classes, which sum to 1.
        knots: For each column of the scores, the breakpoints of an isotonic function: scores and probabilities.
        thresholds: For each column of the scores, the threshold above which a prediction is positive; empty for 0.5.
    """

    temperature: float = 1.0
    exclusive: bool = False
    knots: tuple[tuple[tuple[float, ...], tuple[float, ...]], ...] = ()
    thresholds: tuple[float, ...] = ()

    def probabilities(self, scores: np.ndarray) -> np.ndarray:
        """Calibrate scores.

        Args:
            scores: Scores, `(examples,)` or `(examples, classes)`.

        Returns:
            Probabilities of the same shape.
        """
        if self.knots:
            columns = scores[:, None] if scores.ndim == 1 else scores
            calibrated = np.stack([np.interp(columns[:, i], x, y) for i, (x, y) in enumerate(self.knots)], axis=1)
            calibrated = calibrated / calibrated.sum(axis=1, keepdims=True) if self.exclusive else calibrated
            return calibrated.reshape(scores.shape).astype(np.float32)
        if self.temperature == 1.0:
            return scores
        return scale_temperature(scores, self.temperature, exclusive=self.exclusive)

    def thresholded(self, scores: np.ndarray) -> np.ndarray:
        """Apply the thresholds.

        Args:
            scores: Calibrated scores, `(examples,)` or `(examples, classes)`.

        Returns:
            1 for positive and 0 for negative predictions, of the same shape; the scores themselves without thresholds.
        """
        if not self.thresholds:
            return scores
        limits = np.array(self.thresholds if scores.ndim > 1 else self.thresholds[0])
        return (scores > limits).astype(np.float32)

    def to_json(self) -> dict[str, Any]:
        """Return the calibration as JSON values.

        Returns:
            The fields by name.
        """
        return dataclasses.asdict(self)

    @classmethod
    def from_json(cls, document: Mapping[str, Any]) -> Calibration:
        """Return a calibration from JSON values.

        Args:
            document: What `to_json` returned.

        Returns:
            The calibration.

        Raises:
            ValueError: The values cannot be those of a fitted calibration.
        """
        knots = tuple((tuple(map(float, x)), tuple(map(float, y))) for x, y in document.get("knots", ()))
        thresholds = tuple(map(float, document.get("thresholds", ())))
        temperature = float(document.get("temperature", 1.0))
        is_increasing = all(len(x) == len(y) > 0 and list(x) == sorted(x) for x, y in knots)
        values = [temperature, *thresholds, *(value for pair in knots for row in pair for value in row)]
        if not (temperature > 0 and is_increasing and np.isfinite(values).all()):
            raise ValueError("the calibration is invalid: its values are not finite, or its knots do not increase")
        return cls(temperature, bool(document.get("exclusive")), knots, thresholds)

    def check(self, n_scores: int) -> None:
        """Check that the calibration fits scores.

        Args:
            n_scores: Number of columns of the scores.

        Raises:
            ValueError: The calibration is one of another number of columns.
        """
        if len(self.knots) not in (0, n_scores) or len(self.thresholds) not in (0, n_scores):
            raise ValueError(f"the calibration has another number of scores than the model, {n_scores}")
        if self.exclusive and n_scores == 1:
            raise ValueError("the calibration is one of several classes, and the model has one score")


def scale_temperature(scores: np.ndarray, temperature: float, *, exclusive: bool) -> np.ndarray:
    """Divide the logits of scores by a temperature.

    p' = σ(logit(p) / T); of exclusive classes, p' = softmax(log(p) / T).

    Args:
        scores: Probabilities, `(examples,)` or `(examples, classes)`.
        temperature: T, a positive number.
        exclusive: Whether the scores are those of exclusive classes.

    Returns:
        Probabilities, float32, of the same shape.

    Reference:
        Guo et al. 2017, "On calibration of modern neural networks", equation 9.
    """
    p = np.clip(scores.astype(np.float64), MIN_PROBABILITY, 1 - MIN_PROBABILITY)
    if exclusive:
        logits = np.log(p) / temperature
        exponentials = np.exp(logits - logits.max(axis=1, keepdims=True))
        return np.asarray(exponentials / exponentials.sum(axis=1, keepdims=True), dtype=np.float32)
    return np.asarray(1 / (1 + ((1 - p) / p) ** (1 / temperature)), dtype=np.float32)
