"""Phase 2: one of several classes (or, with `data.multi_label`, several of them), from text."""

from __future__ import annotations

from typing import Any

from tune_spaces import common


def space(trial: Any) -> None:
    """The encoder, the head, the optimiser, the loss with what belongs to it, and what is done for rare classes."""
    common.encoder(trial)
    common.head(trial)
    common.optimiser(trial)
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
    """The same for `data.multi_label=true`: `--space tune_spaces.phase2:multi_label`."""
    common.encoder(trial)
    common.head(trial)
    common.optimiser(trial)
    loss = trial.suggest_categorical("training.loss", ["bce", "focal", "class_balanced", "logit_adjusted"])
    if loss == "focal":
        trial.suggest_float("training.focal_gamma", 0.5, 4.0)
    if loss in ("bce", "focal"):
        trial.suggest_categorical("training.class_weights", ["auto", "none"])
    trial.suggest_float("training.label_smoothing", 0.0, 0.2)
