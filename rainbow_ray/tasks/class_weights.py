"""Weights of classes in a loss."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from rainbow_ray.config.schema import TrainingConfig
from rainbow_ray.data.text_cells import label_name
from rainbow_ray.utils.errors import did_you_mean


def class_weights(
    classes: Sequence[str], counts: np.ndarray, config: TrainingConfig, tiny: Sequence[str] = ()
) -> np.ndarray:
    """Return the weight of each class in the loss.

    `balanced` weights are n / (K n_k), 1 on average over the training set; a class without examples has 0. `auto` is
    `none` if there are small classes, and `balanced` otherwise.

    Args:
        classes: Names of the classes.
        counts: Examples of each class in the training set, `(classes,)`.
        config: The training section of the config.
        tiny: Names of small classes.

    Returns:
        Weights, float32, `(classes,)`.
    """
    requested = config.class_weights
    if isinstance(requested, list):
        return np.array(requested, dtype=np.float32)
    if isinstance(requested, dict):
        weight_by_name = {label_name(name): weight for name, weight in requested.items()}
        return np.array([weight_by_name.get(name, 1.0) for name in classes], dtype=np.float32)
    if requested == "none" or (requested == "auto" and tiny):
        return np.ones(len(classes), dtype=np.float32)
    present = counts > 0
    weights = np.where(present, counts.sum() / (max(1, present.sum()) * np.maximum(counts, 1)), 0.0)
    return weights.astype(np.float32)


def check_weights(classes: Sequence[str], requested: Any) -> list[str]:
    """Return problems with `training.class_weights` once the classes are known.

    Args:
        classes: Names of the classes.
        requested: Value of the key.

    Returns:
        Messages.
    """
    listed = ", ".join(classes)
    if isinstance(requested, list) and len(requested) != len(classes):
        return [f"training.class_weights: {len(requested)} weights for {len(classes)} classes ({listed})"]
    if isinstance(requested, dict):
        return [f"training.class_weights: no class {name!r}{did_you_mean(name, classes)}; there are: {listed}"
                for name in requested if label_name(name) not in classes]  # fmt: skip
    return []


def effective_weights(counts: np.ndarray, beta: float) -> np.ndarray:
    """Return class-balanced weights, 1 on average over the examples.

    w_k ∝ (1 - β) / (1 - β^n_k); a class without examples has 0.

    Args:
        counts: Examples n of each class, `(classes,)`.
        beta: β, in [0, 1).

    Returns:
        Weights, float32, `(classes,)`.

    Reference:
        Cui et al. 2019, "Class-balanced loss based on effective number of samples", equation 8.
    """
    present = counts > 0
    weights = np.where(present, (1 - beta) / (1 - beta ** np.maximum(counts, 1)), 0.0)
    return np.asarray(weights * counts.sum() / max(1e-12, float((weights * counts).sum())), dtype=np.float32)
