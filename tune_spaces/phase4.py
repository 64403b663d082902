"""Phase 4: a number, from text."""

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
    loss = trial.suggest_categorical("training.loss", ["auto", "mse", "mae", "huber", "zero_inflated"])
    if loss in ("auto", "huber", "zero_inflated"):
        trial.suggest_float("training.huber_delta", 0.3, 3.0, log=True)
