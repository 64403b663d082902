"""Decoding of a song's scores with those of neighboring segments."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

MIN_PROBABILITY = 1e-7
THRESHOLD = 0.5  # score from which on a song is positive


def median(scores: np.ndarray, width: int) -> np.ndarray:
    """Return the median of each score over neighboring segments.

    Args:
        scores: Scores of one song, `(segments,)`, or `(segments, classes)` that sum to 1.
        width: Odd number of segments of the filter; at the ends, the nearest segment is repeated.

    Returns:
        Scores of the same shape; those of classes are normalized to sum to 1.
    """
    from scipy.ndimage import median_filter

    size = (width,) if scores.ndim == 1 else (width, 1)
    filtered = np.asarray(median_filter(scores, size=size, mode="nearest"))
    return filtered if scores.ndim == 1 else filtered / np.maximum(filtered.sum(axis=1, keepdims=True), MIN_PROBABILITY)


def viterbi(scores: np.ndarray, transitions: np.ndarray) -> np.ndarray:
    """Return the most probable sequence of classes of a song.

    It maximizes Σ_i log p_i(c_i) + Σ_i log P(c_{i+1} | c_i).

    Args:
        scores: Probabilities of one song, `(segments, classes)`, or `(segments,)` of the positive class.
        transitions: log P(next | class), `(classes, classes)`.

    Returns:
        Scores of 0 and 1, of the same shape.

    Reference:
        Viterbi 1967, "Error bounds for convolutional codes and an asymptotically optimum decoding algorithm".
    """
    probabilities = np.stack([1 - scores, scores], axis=1) if scores.ndim == 1 else scores
    log_probs = np.log(np.maximum(probabilities, MIN_PROBABILITY))
    best, previous = log_probs[0], np.zeros(log_probs.shape, dtype=np.int64)
    for i in range(1, len(log_probs)):
        candidates = best[:, None] + transitions
        previous[i] = candidates.argmax(axis=0)
        best = candidates.max(axis=0) + log_probs[i]
    path = [int(best.argmax())]
    for i in range(len(log_probs) - 1, 0, -1):
        path.append(int(previous[i][path[-1]]))
    decoded = np.eye(log_probs.shape[1], dtype=np.float32)[path[::-1]]
    return decoded[:, 1] if scores.ndim == 1 else decoded


def normalize_by_song(scores: np.ndarray, songs: Sequence[slice]) -> np.ndarray:
    """Divide the scores of each positive song by the largest of them.

    The scores of a song's segments sum to the song's score, so that those of many segments are all small; which of
    them are positive is decided by comparison with the largest.

    Args:
        scores: Fractions of the songs' scores, `(segments,)`.
        songs: Rows of each song. Songs whose scores sum to at most one half stay as they are.

    Returns:
        Scores, `(segments,)`.
    """
    normalized = scores.copy()
    for rows in songs:
        if scores[rows].sum() > THRESHOLD:
            normalized[rows] = scores[rows] / max(float(scores[rows].max()), MIN_PROBABILITY)
    return normalized
