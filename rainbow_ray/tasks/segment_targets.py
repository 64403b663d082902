"""Targets of segments: label, start, end (seconds), place in the song, and the number of the song, `(segments, 5)`."""

from __future__ import annotations

import numpy as np

LABEL, START, END, PLACE, SONG = range(5)  # the columns of a target


def song_slices(targets: np.ndarray) -> list[slice]:
    """The rows of each song; one that is drawn twice in a row counts as two."""
    if len(targets) == 0:
        return []
    begins = (np.diff(targets[:, SONG]) != 0) | (np.diff(targets[:, PLACE]) <= 0)
    edges = np.concatenate([[0], np.flatnonzero(begins) + 1, [len(targets)]])
    return [slice(a, b) for a, b in zip(edges[:-1].tolist(), edges[1:].tolist(), strict=True)]
