"""Phase 2: one of several classes, or several of them (`data.multi_label`), from text."""

from __future__ import annotations

from typing import Any

from tune_spaces import common


def space(trial: Any) -> None:
    """Suggest encoder, head, optimizer, loss, and the treatment of rare classes.

    Args:
        trial: Optuna trial, which suggests the values.
    """
    common.encoder(trial)
    common.head(trial)
    common.optimizer(trial)
    loss = trial.suggest_categorical("training.loss", ["cross_entropy", "focal", "class_balanced", "logit_adjusted"])
    if loss == "focal":
        trial.suggest_float("training.focal_gamma", 0.5, 4.0)
    if loss == "class_balanced":
        trial.suggest_categorical("training.class_balanced_beta", [0.9, 0.99, 0.999])
    if loss == "logit_adjusted":
        trial.suggest_float("training.logit_adjustment", 0.25, 2.0)
    if loss in ("cross_entropy", "focal"):
        trial.suggest_categorical("training.class_weights", ["auto", "none"])
    trial.suggest_float("training.label_smoothing", 0.0, 0.2)


def multi_label(trial: Any) -> None:
    """Suggest the same for `data.multi_label=true`: `--space tune_spaces.phase2:multi_label`.

    Args:
        trial: Optuna trial, which suggests the values.
    """
    common.encoder(trial)
    common.head(trial)
    common.optimizer(trial)
    loss = trial.suggest_categorical("training.loss", ["bce", "focal", "class_balanced", "logit_adjusted"])
    if loss == "focal":
        trial.suggest_float("training.focal_gamma", 0.5, 4.0)
    if loss in ("bce", "focal"):
        trial.suggest_categorical("training.class_weights", ["auto", "none"])
    trial.suggest_float("training.label_smoothing", 0.0, 0.2)
