"""What calibration does to scores, and where yes begins; `calibrate.py` learns it. Needs numpy alone."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

TINY = 1e-6


@dataclass(frozen=True)
class Calibration:
    """What scores become, and from which on an answer is yes. The default changes nothing.

    `knots` has the steps of an isotonic function for each column of the scores: (scores, probabilities).
    """

    temperature: float = 1.0
    exclusive: bool = False  # scores of classes that sum to 1
    knots: tuple[tuple[tuple[float, ...], tuple[float, ...]], ...] = ()
    thresholds: tuple[float, ...] = ()

    def probabilities(self, scores: np.ndarray) -> np.ndarray:
        """Scores `(examples,)` or `(examples, classes)` as calibrated ones of the same shape."""
        if self.knots:
            columns = scores[:, None] if scores.ndim == 1 else scores
            made = np.stack([np.interp(columns[:, i], x, y) for i, (x, y) in enumerate(self.knots)], axis=1)
            made = made / made.sum(axis=1, keepdims=True) if self.exclusive else made
            return made.reshape(scores.shape).astype(np.float32)
        return scores if self.temperature == 1.0 else tempered(scores, self.temperature, exclusive=self.exclusive)

    def thresholded(self, scores: np.ndarray) -> np.ndarray:
        """Calibrated scores with the threshold moved to a half: 1 for yes and 0 for no."""
        if not self.thresholds:
            return scores
        limits = np.array(self.thresholds if scores.ndim > 1 else self.thresholds[0])
        return (scores > limits).astype(np.float32)

    def to_json(self) -> dict[str, Any]:
        return dataclasses.asdict(self)

    @classmethod
    def from_json(cls, document: Mapping[str, Any]) -> Calibration:
        """Raises `ValueError` for what was never learned from scores."""
        knots = tuple((tuple(map(float, x)), tuple(map(float, y))) for x, y in document.get("knots", ()))
        thresholds = tuple(map(float, document.get("thresholds", ())))
        temperature = float(document.get("temperature", 1.0))
        rising = all(len(x) == len(y) > 0 and list(x) == sorted(x) for x, y in knots)
        finite = np.isfinite([temperature, *thresholds, *(v for pair in knots for row in pair for v in row)]).all()
        if not (temperature > 0 and rising and finite):
            raise ValueError("a calibration that cannot be one")
        return cls(temperature, bool(document.get("exclusive")), knots, thresholds)

    def check(self, scores: int) -> None:
        """Raise `ValueError` unless it is one of so many scores."""
        if len(self.knots) not in (0, scores) or len(self.thresholds) not in (0, scores):
            raise ValueError(f"a calibration of another number of scores than {scores}")
        if self.exclusive and scores == 1:
            raise ValueError("a calibration of several classes, of one score")


def tempered(scores: np.ndarray, temperature: float, *, exclusive: bool) -> np.ndarray:
    """Guo et al. 2017, eq. 9: logits divided by a temperature; of classes they are known up to a constant, the log."""
    p = np.clip(scores.astype(np.float64), TINY, 1 - TINY)
    if exclusive:
        logits = np.log(p) / temperature
        made = np.exp(logits - logits.max(axis=1, keepdims=True))
        return np.asarray(made / made.sum(axis=1, keepdims=True), dtype=np.float32)
    return np.asarray(1 / (1 + ((1 - p) / p) ** (1 / temperature)), dtype=np.float32)
