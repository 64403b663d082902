"""Levels of sound: how loud each tenth of a second is."""

from __future__ import annotations

import numpy as np

LEVEL_SECONDS = 0.1  # that have one level


def level_frames(rate: int) -> int:
    """Return the number of samples that have one level.

    Args:
        rate: Hz.

    Returns:
        At least 1.
    """
    return max(1, round(LEVEL_SECONDS * rate))


def levels_of(samples: np.ndarray, rate: int) -> np.ndarray:
    """Return the level of each `LEVEL_SECONDS` of some samples.

    A level is the standard deviation of the loudest channel: a constant is silent, and channels of opposite sign do not
    cancel.

    Args:
        samples: `(frames, channels)`.
        rate: Hz.

    Returns:
        `(ceil(frames / level_frames(rate)),)`; NaN where a sample is NaN.
    """
    size = level_frames(rate)
    n_complete = len(samples) // size * size
    parts = [loudness(samples[:n_complete].T.reshape(samples.shape[1], -1, size))]
    if n_complete < len(samples):
        parts.append(loudness(samples[n_complete:].T[:, None]))
    levels: np.ndarray = np.concatenate(parts, axis=1).max(axis=0)
    return levels


def loudness(blocks: np.ndarray) -> np.ndarray:
    """Return the standard deviation along the last axis, several times as fast as `numpy.std` on float32.

    Args:
        blocks: `(…, samples)`.

    Returns:
        `(…,)`.
    """
    with np.errstate(all="ignore"):
        blocks = np.ascontiguousarray(blocks)
        centered = blocks - blocks.mean(axis=-1, keepdims=True)
        deviation: np.ndarray = np.sqrt(np.einsum("...i,...i->...", centered, centered) / max(1, blocks.shape[-1]))
        return deviation
