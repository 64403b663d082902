"""Over- and undersampling of classes by song, and warnings about settings that balance classes twice.

Class weights and losses that balance classes belong to the tasks, which compute them from what sampling leaves.
"""

from __future__ import annotations

from collections.abc import Collection

import numpy as np

from rainbow_ray.config.schema import TrainingConfig

NEUTRAL_WEIGHTS = {"pos_weight": (None, 1.0), "class_weights": ("none",)}
DATA_WEIGHTS = ("auto", "balanced")  # computed from the sampled classes, which are balanced
BALANCING_LOSSES = ("class_balanced", "logit_adjusted")


def resample_indices(strata: np.ndarray, method: str, *, seed: int, epoch: int) -> np.ndarray:
    """Draw the examples of an epoch.

    Args:
        strata: Class of each example, int `(examples,)`.
        method: `"none"`; `"oversample"`, which repeats examples of rarer classes until all classes are as frequent as
            the most frequent one (each example at least once); or `"undersample"`, which draws from the more frequent
            classes as many examples as the rarest class has.
        seed: Seed of the draw.
        epoch: Epoch, from 0; each has its own draw.

    Returns:
        Indices into `strata`, in ascending order.
    """
    indices = np.arange(len(strata))
    if method == "none":
        return indices
    rng = np.random.default_rng([seed, epoch, 1])
    members = [indices[strata == stratum] for stratum in np.unique(strata)]
    if method == "undersample":
        size = min(len(m) for m in members)
        return np.sort(np.concatenate([rng.choice(m, size, replace=False) for m in members]))
    size = max(len(m) for m in members)
    repeated = [np.repeat(m, size // len(m)) for m in members]
    remainder = [rng.choice(m, size % len(m), replace=False) for m in members]
    return np.sort(np.concatenate([*repeated, *remainder]))


def conflicting_imbalance_settings(training: TrainingConfig, user_keys: Collection[str]) -> list[str]:
    """Return warnings about settings that balance classes again after sampling.

    Args:
        training: Training section of the config.
        user_keys: Dotted keys that the user set; weights are reported only where they are among them.

    Returns:
        One message per setting; none without sampling.
    """
    if training.sampling == "none":
        return []
    sampler, messages = f"training.sampling={training.sampling}", []
    for name, neutral in NEUTRAL_WEIGHTS.items():
        key, value = f"training.{name}", getattr(training, name)
        if key not in user_keys or value in neutral:
            continue
        if value in DATA_WEIGHTS:
            messages.append(f"{key}={value} has little or no effect: {sampler} already balances the classes")
        else:
            messages.append(f"{key} is applied on top of {sampler}, which already balances the classes, so rare classes"
                            " are weighted twice; set only one of the two")  # fmt: skip
    if training.loss in BALANCING_LOSSES:
        messages.append(f"training.loss={training.loss} has almost no effect: it adjusts for class frequencies, which"
                        f" {sampler} makes equal; set only one of the two")  # fmt: skip
    return messages
