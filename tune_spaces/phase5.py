"""Phase 5: a label for each segment of a song."""

from __future__ import annotations

from typing import Any

from tune_spaces import common


def space(trial: Any) -> None:
    """Suggest temporal layers, encoder, head, optimizer, and the losses of neighboring segments.

    Args:
        trial: Optuna trial, which suggests the values.
    """
    weak(trial)
    trial.suggest_float("training.tmse_weight", 0.0, 0.5)
    trial.suggest_float("training.boundary_loss_weight", 0.0, 0.5)


def weak(trial: Any) -> None:
    """Suggest the same where only songs have labels, without the losses of neighboring segments.

    Args:
        trial: Optuna trial, which suggests the values.
    """
    common.encoder(trial)
    common.head(trial)
    common.optimizer(trial)
    kind = trial.suggest_categorical("model.temporal.kind", ["transformer", "tcn", "none"])
    if kind != "none":
        trial.suggest_categorical("model.temporal.hidden_size", [16, 32, 64])
        trial.suggest_int("model.temporal.num_layers", 1, 3)
        trial.suggest_float("model.temporal.input_dropout", 0.2, 0.9)
        trial.suggest_float("model.temporal.context_dropout", 0.0, 0.7)
        trial.suggest_float("model.temporal.learning_rate", 2e-4, 5e-3, log=True)
        trial.suggest_float("model.temporal.weight_decay", 1e-2, 5.0, log=True)


def classes(trial: Any) -> None:
    """Suggest also the losses of classes: `--space tune_spaces.phase5:classes`, not for binary or numeric labels.

    Args:
        trial: Optuna trial, which suggests the values.
    """
    space(trial)
    if trial.suggest_categorical("training.loss", ["cross_entropy", "focal"]) == "focal":
        trial.suggest_float("training.focal_gamma", 0.5, 4.0)
    trial.suggest_float("training.label_smoothing", 0.0, 0.2)
