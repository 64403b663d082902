"""Warnings about fits that learned nothing, each with the config key to try next."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from rainbow_ray.config.schema import TrainingConfig

MIN_LOSS_RATIO = 0.98  # a training loss that ends above this fraction of its first value has not decreased


def training_warnings(
    config: TrainingConfig, facts: Sequence[dict[str, Any]], predictions: Sequence[Any], imbalance_advice: str
) -> list[str]:
    """Return warnings about constant predictions, a flat loss and fits that were best during the warm-up.

    Args:
        config: The training section of the config.
        facts: Facts of each fit: `losses` by epoch, `best_step`, `warmup_steps`.
        predictions: Decoded out-of-fold predictions.
        imbalance_advice: Config setting of the task that helps against imbalanced labels, or "".

    Returns:
        Messages, each with settings to try.
    """
    messages = []
    if len(predictions) > 1 and len(set(predictions)) == 1:
        advice = f" {imbalance_advice}, training.sampling=oversample or" if imbalance_advice else ""
        setting = f"training.head_learning_rate={3 * config.head_learning_rate:g}"
        if any(fact.get("penalty") is not None for fact in facts):  # solved without a learning rate
            setting = "training.solver=adamw"
        messages.append(f"Collapse: every song is predicted {predictions[0]}. Try{advice} {setting}.")
    first = float(np.mean([fact["losses"][0] for fact in facts]))
    last = float(np.mean([fact["losses"][-1] for fact in facts]))
    if all(len(fact["losses"]) > 1 for fact in facts) and last > MIN_LOSS_RATIO * first:
        messages.append(
            f"The training loss hardly decreased ({first:.4f} to {last:.4f}): nothing was learned. Try"
            f" training.head_learning_rate={3 * config.head_learning_rate:g} or more training.epochs."
        )
    early = [fact for fact in facts if fact["best_step"] <= fact["warmup_steps"] and fact["warmup_steps"] > 0]
    if config.early_stopping.enabled and len(early) > len(facts) / 2:
        messages.append(
            f"{len(early)} of {len(facts)} fits were best before the warm-up ended. Try training.warmup_ratio=0"
            f" or training.early_stopping.patience={2 * config.early_stopping.patience}."
        )
    return messages
