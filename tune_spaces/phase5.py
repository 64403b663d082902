"""Phase 5: a label for each segment of a song."""

from __future__ import annotations

from typing import Any

from tune_spaces import common


def space(trial: Any) -> None:
    """How segments see each other, the encoder, the head, the optimiser, the losses."""
    weak(trial)
    trial.suggest_float("training.tmse_weight", 0.0, 0.5)
    trial.suggest_float("training.boundary_loss_weight", 0.0, 0.5)


def weak(trial: Any) -> None:
    """The same where only songs have labels, which have no neighbours to be held together: without those losses."""
    common.encoder(trial)
    common.head(trial)
    common.optimiser(trial)
    kind = trial.suggest_categorical("model.temporal.kind", ["transformer", "tcn", "none"])
    if kind != "none":
        trial.suggest_categorical("model.temporal.hidden_size", [16, 32, 64])
        trial.suggest_int("model.temporal.num_layers", 1, 3)
        trial.suggest_float("model.temporal.input_dropout", 0.2, 0.9)
        trial.suggest_float("model.temporal.context_dropout", 0.0, 0.7)
        trial.suggest_float("model.temporal.learning_rate", 2e-4, 5e-3, log=True)
        trial.suggest_float("model.temporal.weight_decay", 1e-2, 5.0, log=True)


def classes(trial: Any) -> None:
    """The same, with the losses of classes: `--space tune_spaces.phase5:classes`, not for numbers or yes and no."""
    space(trial)
    if trial.suggest_categorical("training.loss", ["cross_entropy", "focal"]) == "focal":
        trial.suggest_float("training.focal_gamma", 0.5, 4.0)
    trial.suggest_float("training.label_smoothing", 0.0, 0.2)
