"""Signs that a fit learned nothing, each with the key to try next."""

from __future__ import annotations

from typing import Any

import numpy as np

from rainbow_ray.config.schema import TrainingConfig

FLAT = 0.98  # a training loss that stays above this share of its first value has not moved


def training_warnings(
    config: TrainingConfig, facts: list[dict[str, Any]], decisions: list[Any], imbalance_advice: str
) -> list[str]:
    """`facts` of each fit, `decisions` over all scored songs, `imbalance_advice` of the task."""
    found = []
    if len(decisions) > 1 and len(set(decisions)) == 1:
        tries = f" {imbalance_advice}, training.sampling=oversample or" if imbalance_advice else ""
        found.append(
            f"Collapse: every song is predicted {decisions[0]}. Try{tries}"
            f" training.head_learning_rate={3 * config.head_learning_rate:g}."
        )
    first = float(np.mean([fact["losses"][0] for fact in facts]))
    last = float(np.mean([fact["losses"][-1] for fact in facts]))
    if all(len(fact["losses"]) > 1 for fact in facts) and last > FLAT * first:
        found.append(
            f"The training loss hardly moved ({first:.4f} to {last:.4f}): nothing was learned. Try"
            f" training.head_learning_rate={3 * config.head_learning_rate:g} or more training.epochs."
        )
    early = [fact for fact in facts if fact["best_step"] <= fact["warmup_steps"] and fact["warmup_steps"] > 0]
    if config.early_stopping.enabled and len(early) > len(facts) / 2:
        found.append(
            f"{len(early)} of {len(facts)} fits were best before the warm-up ended. Try training.warmup_ratio=0"
            f" or training.early_stopping.patience={2 * config.early_stopping.patience}."
        )
    return found
