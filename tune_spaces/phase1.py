"""Phase 1: a binary label, from text."""

from __future__ import annotations

from typing import Any

from tune_spaces import common


def space(trial: Any) -> None:
    """Suggest encoder, head, optimizer and loss.

    Args:
        trial: Optuna trial, which suggests the values.
    """
    common.encoder(trial)
    common.head(trial)
    common.optimizer(trial)
    loss = trial.suggest_categorical("training.loss", ["bce", "focal", "asymmetric"])
    if loss == "focal":
        trial.suggest_float("training.focal_gamma", 0.5, 4.0)
    if loss == "asymmetric":
        trial.suggest_float("training.asymmetric_gamma_negative", 1.0, 6.0)
        trial.suggest_float("training.asymmetric_margin", 0.0, 0.2)
    else:
        trial.suggest_float("training.label_smoothing", 0.0, 0.2)
