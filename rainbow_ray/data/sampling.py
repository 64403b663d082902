"""Over- and undersampling, by song: which examples an epoch trains on; and what must not be stacked on it.

Weights and losses that balance classes are the problems' own, computed from what is left after sampling.
"""

from __future__ import annotations

from collections.abc import Collection

import numpy as np

from rainbow_ray.config.schema import TrainingConfig

NO_WEIGHTS = {"pos_weight": (None, 1.0), "class_weights": ("none",)}
EVEN_WEIGHTS = ("auto", "balanced")  # computed from what is left after sampling, which is even
EVENING_LOSSES = ("class_balanced", "logit_adjusted")


def resample_indices(strata: np.ndarray, how: str, *, seed: int, epoch: int) -> np.ndarray:
    """Indices into `strata`, `(examples,)`, for one epoch.

    `oversample` repeats the rarer classes until all are as frequent as the most frequent one (each example at least
    once); `undersample` draws from the more frequent ones anew each epoch.
    """
    everything = np.arange(len(strata))
    if how == "none":
        return everything
    rng = np.random.default_rng([seed, epoch, 1])
    members = [everything[strata == stratum] for stratum in np.unique(strata)]
    if how == "undersample":
        size = min(len(m) for m in members)
        return np.sort(np.concatenate([rng.choice(m, size, replace=False) for m in members]))
    size = max(len(m) for m in members)
    whole = [np.repeat(m, size // len(m)) for m in members]
    rest = [rng.choice(m, size % len(m), replace=False) for m in members]
    return np.sort(np.concatenate([*whole, *rest]))


def conflicting_imbalance_settings(training: TrainingConfig, user_keys: Collection[str]) -> list[str]:
    """What the user set that evens classes out once more after a sampler, or has nothing left to even out."""
    if training.sampling == "none":
        return []
    sampler, found = f"training.sampling={training.sampling}", []
    for name, nothing in NO_WEIGHTS.items():
        key, value = f"training.{name}", getattr(training, name)
        if key not in user_keys or value in nothing:
            continue
        if value in EVEN_WEIGHTS:
            found.append(f"{key}={value}: little or nothing is left to balance after {sampler}")
        else:
            found.append(f"{key} acts on top of {sampler}, which evens classes out already: rare songs count twice"
                         " over; set only one of them")  # fmt: skip
    if training.loss in EVENING_LOSSES:
        found.append(f"training.loss={training.loss} sees classes as {sampler} makes them, alike, and adjusts next to"
                     " nothing; set only one of them")  # fmt: skip
    return found
