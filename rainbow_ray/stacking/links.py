"""Link functions of linear models: from linear predictors to scores and back."""

from __future__ import annotations

from typing import get_args

import numpy as np

from rainbow_ray.tasks.target_types import Link

LINKS = get_args(Link)
LINKS_OF_CLASSES = ("sigmoids", "softmax")  # their scores have a column for each class
MIN_PROBABILITY = 1e-3  # a member that is certain and wrong would outweigh all others
MIN_FRACTION = 0.1  # of the probability of each of many exclusive classes, if all were equal


def apply_link(predictor: np.ndarray, link: Link) -> np.ndarray:
    """Convert linear predictors to scores.

    Args:
        predictor: Linear predictors, `(examples, outputs)`.
        link: The link function.

    Returns:
        Scores of the same shape.
    """
    if link == "identity":
        return predictor
    if link == "softmax":
        exponentials = np.exp(predictor - predictor.max(axis=1, keepdims=True))
        return np.asarray(exponentials / exponentials.sum(axis=1, keepdims=True))
    return np.asarray(0.5 * (1 + np.tanh(0.5 * predictor)))  # does not overflow


def invert_link(scores: np.ndarray, link: Link) -> np.ndarray:
    """Convert scores to linear predictors, after limiting probabilities.

    Args:
        scores: Scores, `(examples,)` or `(examples, outputs)`.
        link: The link function.

    Returns:
        Linear predictors, float64, `(examples, outputs)`; those of exclusive classes have a mean of 0.
    """
    columns = scores.astype(np.float64)
    columns = columns[:, None] if columns.ndim == 1 else columns
    if link == "identity":
        return columns
    if link == "softmax":
        logits = np.log(np.maximum(columns, min(MIN_PROBABILITY, MIN_FRACTION / columns.shape[1])))
        return np.asarray(logits - logits.mean(axis=1, keepdims=True))
    p = np.clip(columns, MIN_PROBABILITY, 1 - MIN_PROBABILITY)
    return np.asarray(np.log(p / (1 - p)))
