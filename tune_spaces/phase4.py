"""Phase 4: a number, from text."""

from __future__ import annotations

from typing import Any

from tune_spaces import common


def space(trial: Any) -> None:
    """Suggest encoder, loss and solver; and head and optimizer where the classifier is trained in steps.

    Args:
        trial: Optuna trial, which suggests the values.
    """
    common.encoder(trial)
    if trial.suggest_categorical("training.solver", ["auto", "adamw"]) == "adamw":
        common.head(trial)
        common.optimizer(trial)
    else:
        common.words(trial)
    loss = trial.suggest_categorical("training.loss", ["auto", "huber", "mse", "mae", "zero_inflated"])
    if loss in ("auto", "huber", "zero_inflated"):
        trial.suggest_float("training.huber_delta", 0.3, 3.0, log=True)
