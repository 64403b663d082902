"""From scores of a song's segments, in order of time, to scores that heed their neighbours."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

TINY = 1e-7
HALF = 0.5  # from where on a song is yes


def median(scores: np.ndarray, width: int) -> np.ndarray:
    """The median of each score over `width` neighbours: `(segments,)`, or `(segments, classes)` that sum to 1 again."""
    from scipy.ndimage import median_filter

    size = (width,) if scores.ndim == 1 else (width, 1)
    made = np.asarray(median_filter(scores, size=size, mode="nearest"))
    return made if scores.ndim == 1 else made / np.maximum(made.sum(axis=1, keepdims=True), TINY)


def viterbi(scores: np.ndarray, transitions: np.ndarray) -> np.ndarray:
    """The likeliest way through the classes (Viterbi 1967), as scores of 0 and 1.

    `transitions` are log P(next | class), `(classes, classes)`; of yes and no, `scores` are of yes, `(segments,)`.
    """
    said = np.log(np.maximum(np.stack([1 - scores, scores], axis=1) if scores.ndim == 1 else scores, TINY))
    best, came_from = said[0], np.zeros(said.shape, dtype=np.int64)
    for i in range(1, len(said)):
        ways = best[:, None] + transitions
        came_from[i] = ways.argmax(axis=0)
        best = ways.max(axis=0) + said[i]
    way = [int(best.argmax())]
    for i in range(len(said) - 1, 0, -1):
        way.append(int(came_from[i][way[-1]]))
    decided = np.eye(said.shape[1], dtype=np.float32)[way[::-1]]
    return decided[:, 1] if scores.ndim == 1 else decided


def relative(shares: np.ndarray, songs: Sequence[slice]) -> np.ndarray:
    """What weak segments say of yes, `(segments,)`: in a song that is yes, beside the one with the largest part in it.

    Shares of many segments are all small; which of them are yes is told by each other.
    """
    made = shares.copy()
    for rows in songs:
        if shares[rows].sum() > HALF:
            made[rows] = shares[rows] / max(float(shares[rows].max()), TINY)
    return made
