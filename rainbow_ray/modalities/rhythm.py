"""Descriptors of rhythm from the times of onsets, of notes or of sound. All but one do not depend on the tempo.

Reference:
    Gouyon & Dixon 2005, "A review of automatic rhythm description systems" (inter-onset intervals, tatum, and
    periodicity by autocorrelation).
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

# ratios of successive inter-onset intervals at which histograms have bins: simple and dotted rhythms, and triplets
RATIOS = np.log2([1 / 4, 1 / 3, 1 / 2, 2 / 3, 4 / 5, 1, 5 / 4, 3 / 2, 2, 3, 4])
RATIO_LAGS = range(1, 9)  # in onsets
GRID_LAGS = range(1, 25)  # in tatums: two bars of 12/8
MAX_TATUMS = 8  # of an inter-onset interval; a longer one counts as this long
MIN_INTERVAL = 0.03  # seconds: a shorter one separates notes of one chord
MAX_GRID = 4096  # tatums of the grid that is examined: minutes of music
# divisions of a short interval that may be the tatum, and the cost of a finer one, which fits anything better
DIVISIONS = np.array([1, 1 / 2, 1 / 3, 3 / 4, 2 / 3, 1 / 4])
DIVISION_PENALTY = 0.03

RHYTHM_WIDTH = 2 * len(RATIOS) + len(RATIO_LAGS) + len(GRID_LAGS) + MAX_TATUMS + 1 + 2


def describe_rhythm(onsets: np.ndarray) -> np.ndarray:
    """Return descriptors of a rhythm.

    They are histograms of the ratios of successive inter-onset intervals and of the intervals relative to their median,
    the autocorrelation of the ratios, the autocorrelation of the intervals on the grid of the tatum, which shows the
    metre, a histogram of the intervals in tatums, how well the grid fits, and the tatum.

    Args:
        onsets: Times in seconds, `(onsets,)`, ascending.

    Returns:
        `(RHYTHM_WIDTH,)`; zeros for fewer than three onsets.
    """
    onsets = onsets[chord_starts(onsets)]
    if len(onsets) < 3:
        return np.zeros(RHYTHM_WIDTH)
    intervals = np.diff(onsets)
    logs = np.log2(intervals)
    ratios = np.diff(logs)
    tatum, error = find_tatum(intervals)
    lengths = np.minimum(intervals / tatum, MAX_TATUMS)
    grid = on_grid(onsets[:-1], lengths, tatum)
    return np.concatenate(
        [
            soft_histogram(ratios, RATIOS),
            soft_histogram(logs - np.median(logs), RATIOS),
            autocorrelation(ratios, RATIO_LAGS),
            autocorrelation(grid, GRID_LAGS),
            soft_histogram(lengths, np.arange(MAX_TATUMS + 1)),
            [error, np.log2(tatum)],
        ]
    )


def chord_starts(onsets: np.ndarray) -> np.ndarray:
    """Return the first onset of each chord: of those within `MIN_INTERVAL` of it.

    Args:
        onsets: Times in seconds, `(onsets,)`, ascending.

    Returns:
        Indices, int64, `(chords,)`.
    """
    starts: list[int] = []
    first = -np.inf
    for index, onset in enumerate(onsets.tolist()):
        if onset - first > MIN_INTERVAL:
            starts.append(index)
            first = onset
    return np.array(starts, dtype=np.int64)


def find_tatum(intervals: np.ndarray) -> tuple[float, float]:
    """Return the time of which all inter-onset intervals are about multiples.

    Args:
        intervals: Inter-onset intervals in seconds, `(intervals,)`, at least one, positive.

    Returns:
        The tatum in seconds, and the mean distance of the intervals from multiples of it, in tatums.
    """
    candidates = np.percentile(intervals, 10) * DIVISIONS
    multiples = intervals / candidates[:, None]
    errors = np.abs(multiples - np.round(multiples)).mean(axis=1)
    best = int(np.argmin(errors + DIVISION_PENALTY * np.log2(1 / DIVISIONS + 1)))
    return float(candidates[best]), float(errors[best])


def on_grid(onsets: np.ndarray, values: np.ndarray, tatum: float) -> np.ndarray:
    """Return values at the positions of their onsets on the grid of a tatum.

    Args:
        onsets: Times in seconds, `(onsets,)`, ascending.
        values: A value for each onset, `(onsets,)`.
        tatum: Distance of the grid's positions in seconds.

    Returns:
        `(positions,)`, 0 where no note begins; positions from `MAX_GRID` on are left out.
    """
    positions = np.round((onsets - onsets[0]) / tatum).astype(np.int64)
    is_kept = positions < MAX_GRID
    grid = np.zeros(int(positions[is_kept].max(initial=0)) + 1)
    grid[positions[is_kept]] = values[is_kept]
    return grid


def autocorrelation(values: np.ndarray, lags: Sequence[int]) -> np.ndarray:
    """Return the autocorrelation of a series.

    Args:
        values: The series, `(n,)`.
        lags: Lags in steps of the series.

    Returns:
        `(lags,)`, from -1 to 1; 0 for lags at which fewer than four pairs are left, and for a constant series.
    """
    centered = values - (values.mean() if len(values) else 0.0)
    variance = float(np.mean(centered**2)) if len(values) else 0.0
    if variance < 1e-12:
        return np.zeros(len(lags))
    return np.array(
        [np.mean(centered[:-lag] * centered[lag:]) / variance if len(values) > lag + 3 else 0.0 for lag in lags]
    ).clip(-1, 1)


def soft_histogram(values: np.ndarray, centers: np.ndarray) -> np.ndarray:
    """Return a histogram in which a value between two centers counts for both, in proportion to its distance.

    Small changes of a value then change the histogram little, unlike bins with edges.

    Args:
        values: The values, `(n,)`; those beyond the centers count for the first or the last one.
        centers: Centers of the bins, `(bins,)`, ascending.

    Returns:
        Fractions, `(bins,)`; 0 without values.
    """
    if not len(values):
        return np.zeros(len(centers))
    inside = np.clip(values, centers[0], centers[-1])
    left = np.clip(np.searchsorted(centers, inside, side="right") - 1, 0, len(centers) - 2)
    fraction = (inside - centers[left]) / (centers[left + 1] - centers[left])
    counts = np.bincount(left, 1 - fraction, len(centers)) + np.bincount(left + 1, fraction, len(centers))
    return np.asarray(counts / len(values))
