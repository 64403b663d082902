"""Over- and undersampling, by example (in phase 1 a song): which examples an epoch trains on."""

from __future__ import annotations

import numpy as np

SAMPLINGS = ("none", "oversample", "undersample")


def sample(strata: np.ndarray, how: str, *, seed: int, epoch: int) -> np.ndarray:
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
