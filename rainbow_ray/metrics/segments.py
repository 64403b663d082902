"""Stretches of a song: neighbouring segments of one label; and how well predicted ones fit true ones.

Time is glued before anything is measured: overlapping segments are cut at their midpoint, and what has no label, or
lies between segments, is taken out. So neither hits nor misses are counted where nothing is known. A stretch ends at a
gap of more than `GAP_TOLERANCE` seconds between segments, whatever the labels on both sides; time that a segment
without a label covers is no gap. Such an end is given by the segments, so it counts as a boundary only where the label
changes.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

OVERLAPS = (0.10, 0.25, 0.50)  # of segmental F1 (Lea et al. 2017)
WINDOWS = (0.5, 3.0)  # seconds, of boundary hits (Turnbull et al. 2007; MIREX)
GAP_TOLERANCE = 0.5  # seconds between segments that are still contiguous: the finer window of boundary hits

ABOUT_TIME = ("time_accuracy", "edit", *(f"f1_at_{round(100 * share)}" for share in OVERLAPS),
              *(f"boundary_{window:g}s".replace(".", "_") for window in WINDOWS))  # fmt: skip


@dataclass(frozen=True)
class LabeledIntervals:
    """`labels[i]` holds from `starts[i]` to `ends[i]`, seconds; each begins where the last one ends."""

    labels: np.ndarray
    starts: np.ndarray
    ends: np.ndarray

    @property
    def boundaries(self) -> np.ndarray:
        """Where one label gives way to another: neither the beginning, nor the end, nor a gap, which are given."""
        return np.asarray(self.starts[1:][self.labels[1:] != self.labels[:-1]])


@dataclass(frozen=True)
class Fit:
    """How well a song's predicted stretches fit its true ones.

    `found[k]` is true positives, false positives and false negatives at `OVERLAPS[k]`; `hits[k]` the F-measure of
    boundaries within `WINDOWS[k]`, None where the song has none and none was predicted.
    """

    seconds: float
    seconds_right: float
    edit: float
    found: tuple[tuple[int, int, int], ...]
    hits: tuple[float | None, ...]


def durations(starts: np.ndarray, ends: np.ndarray) -> np.ndarray:
    """Seconds of each segment, overlaps of neighbours cut at their midpoint: `(segments,)`, in order of time.

    One without a length takes nothing from its neighbours.
    """
    starts, ends = starts.astype(np.float64), ends.astype(np.float64)
    long = ends > starts
    starts, ends = starts[long], ends[long]
    if (np.diff(ends) < 0).any():
        starts, ends = _cut_nested(starts, ends)
    else:
        over = np.flatnonzero(ends[:-1] > starts[1:])
        starts[over + 1] = ends[over] = (ends[over] + starts[over + 1]) / 2
    seconds = np.zeros(len(long))
    seconds[long] = ends - starts
    return seconds


def _cut_nested(starts: np.ndarray, ends: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The same where segments lie inside others: what they share ends where the first of both does.

    A piece is cut against what is left of those before it; one that ended before that begins is left without time.
    """
    starts, ends, last = starts.copy(), ends.copy(), 0
    for i in range(1, len(starts)):
        if ends[last] > starts[i]:
            middle = (max(starts[last], starts[i]) + min(ends[last], ends[i])) / 2
            if middle < starts[last] or middle > ends[i]:
                starts[i] = ends[i] = ends[last]
                continue
            ends[last] = starts[i] = middle
        last = i
    return starts, ends


def contiguous_pieces(starts: np.ndarray, ends: np.ndarray) -> np.ndarray:
    """Number the pieces of a song that gaps of more than `GAP_TOLERANCE` seconds separate.

    Args:
        starts: Seconds, `(segments,)`, in the order of time.
        ends: Seconds, `(segments,)`; a segment that does not end after its start bridges no gap and makes none.

    Returns:
        The number of each segment's piece, int32, `(segments,)`, rising from 0.
    """
    starts, ends = starts.astype(np.float64), ends.astype(np.float64)
    reach = np.maximum.accumulate(np.where(ends > starts, ends, -np.inf))
    before = np.concatenate([[-np.inf], reach[:-1]])[: len(starts)]
    opens = (ends > starts) & np.isfinite(before) & (starts > before + GAP_TOLERANCE)
    return np.cumsum(opens).astype(np.int32)


def merge(labels: np.ndarray, seconds: np.ndarray, pieces: np.ndarray | None = None) -> LabeledIntervals:
    """Merge equal neighbours that no gap separates.

    Args:
        labels: Integers, `(segments,)`.
        seconds: Length of each segment, `(segments,)`; those without one are passed over.
        pieces: As `contiguous_pieces` has them, `(segments,)`; None where there are no gaps.
    """
    pieces = np.zeros(len(labels), dtype=np.int32) if pieces is None else pieces
    labels, pieces, seconds = labels[seconds > 0], pieces[seconds > 0], seconds[seconds > 0]
    ends = np.cumsum(seconds)
    changes = np.flatnonzero((np.diff(labels) != 0) | (np.diff(pieces) != 0))
    last = np.append(changes, len(labels) - 1) if len(labels) else np.array([], dtype=np.int64)
    stops = ends[last]
    return LabeledIntervals(labels[last], np.concatenate([[0.0], stops[:-1]])[: len(last)], stops)


def edit_score(truth: Sequence[int] | np.ndarray, said: Sequence[int] | np.ndarray) -> float:
    """1 - Levenshtein distance of the labels / the longer of both (Lea et al. 2016, "segmental edit score")."""
    row = np.arange(len(said) + 1)
    for i, label in enumerate(truth, start=1):
        other = np.concatenate([[i], row[:-1] + (np.asarray(said) != label)])
        other[1:] = np.minimum(other[1:], row[1:] + 1)
        # what is inserted on the left costs 1 a place: a running minimum of (value - place)
        row = np.minimum.accumulate(other - np.arange(len(other))) + np.arange(len(other))
    return 1.0 - float(row[-1]) / max(len(truth), len(said), 1)


def count_found(truth: LabeledIntervals, said: LabeledIntervals, overlap: float) -> tuple[int, int, int]:
    """True positives, false positives, false negatives at an overlap (Lea et al. 2017, section 4.1).

    A predicted stretch takes the true one of its label that it has the largest intersection over union with; a true one
    is found once.
    """
    used = np.zeros(len(truth.labels), dtype=bool)
    hits = 0
    for label, start, end in zip(said.labels, said.starts, said.ends, strict=True):
        common = np.minimum(truth.ends, end) - np.maximum(truth.starts, start)
        union = np.maximum(truth.ends, end) - np.minimum(truth.starts, start)
        shares = np.where(truth.labels == label, common / np.maximum(union, 1e-12), -1.0)
        best = int(np.argmax(shares))
        if shares[best] >= overlap and not used[best]:
            used[best] = True
            hits += 1
    return hits, len(said.labels) - hits, len(truth.labels) - hits


def hit_rate(truth: np.ndarray, said: np.ndarray, window: float) -> float | None:
    """F-measure of boundaries, seconds, that lie at most `window` apart, each matched once.

    As `mir_eval.segment.detection` with `trim=True`. None where there are neither.
    """
    if len(truth) == 0 and len(said) == 0:
        return None
    hits = i = j = 0
    while i < len(truth) and j < len(said):  # of points on a line, the first two that fit belong together
        if abs(truth[i] - said[j]) <= window:
            hits, i, j = hits + 1, i + 1, j + 1
        elif truth[i] < said[j]:
            i += 1
        else:
            j += 1
    return 2 * hits / (len(truth) + len(said))


def fit_of(truth: np.ndarray, said: np.ndarray, seconds: np.ndarray, pieces: np.ndarray | None = None) -> Fit:
    """Of one song: integer labels, lengths and contiguous pieces of its labelled segments, in order of time.

    Each is `(segments,)`; without `pieces` the song has no gaps.
    """
    pieces = np.zeros(len(truth), dtype=np.int32) if pieces is None else pieces
    return _fit(truth.astype(np.int32).tobytes(), said.astype(np.int32).tobytes(),
                seconds.astype(np.float64).tobytes(), pieces.astype(np.int32).tobytes())  # fmt: skip


@functools.lru_cache(maxsize=65_536)
def _fit(truth: bytes, said: bytes, seconds: bytes, pieces: bytes) -> Fit:
    """Remembered, since an interval draws each song a thousand times."""
    labels, guesses = np.frombuffer(truth, np.int32), np.frombuffer(said, np.int32)
    lengths, parts = np.frombuffer(seconds, np.float64), np.frombuffer(pieces, np.int32)
    true, guessed = merge(labels, lengths, parts), merge(guesses, lengths, parts)
    return Fit(
        float(lengths.sum()),
        float(lengths[labels == guesses].sum()),
        edit_score(true.labels, guessed.labels),
        tuple(count_found(true, guessed, overlap) for overlap in OVERLAPS),
        tuple(hit_rate(true.boundaries, guessed.boundaries, window) for window in WINDOWS),
    )


def about_time(name: str, fits: list[Fit]) -> float | None:
    """A metric over songs: time and stretches are pooled, edit scores and boundaries averaged."""
    own: dict[str, Callable[[], float | None]] = {
        "time_accuracy": lambda: _ratio(sum(fit.seconds_right for fit in fits), sum(fit.seconds for fit in fits)),
        "edit": lambda: _mean([fit.edit for fit in fits]),
    }
    for k in range(len(OVERLAPS)):
        own[ABOUT_TIME[2 + k]] = lambda k=k: _f1(np.array([fit.found[k] for fit in fits]).sum(axis=0))  # type: ignore[misc]
    for k in range(len(WINDOWS)):
        own[ABOUT_TIME[2 + len(OVERLAPS) + k]] = lambda k=k: _mean([fit.hits[k] for fit in fits])  # type: ignore[misc]
    return own[name]() if fits else None


def _mean(values: list[float | None]) -> float | None:
    defined = [value for value in values if value is not None]
    return float(np.mean(defined)) if defined else None


def _ratio(part: float, whole: float) -> float | None:
    return part / whole if whole else None


def _f1(counts: np.ndarray) -> float | None:
    hits, wrong, missed = counts.tolist()
    return _ratio(2 * hits, 2 * hits + wrong + missed)
