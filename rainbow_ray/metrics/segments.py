"""Metrics of labeled segments of a song: time, segmental scores and boundaries.

Time is concatenated before anything is measured: overlapping segments are cut at their midpoint, and time without a
label, or between segments, is removed. Hence nothing is counted where no reference exists. An interval ends at a gap of
more than `GAP_TOLERANCE` seconds between segments, whatever the labels on both sides; time that a segment without a
label covers is no gap. Such an end is given by the segments, so it is a boundary only where the label changes.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

OVERLAPS = (0.10, 0.25, 0.50)  # of segmental F1 (Lea et al. 2017)
BOUNDARY_TOLERANCES = (0.5, 3.0)  # seconds, of boundary detection (Turnbull et al. 2007; MIREX)
GAP_TOLERANCE = 0.5  # maximum gap between contiguous segments in seconds: the finer tolerance of boundaries
CACHED_SONGS = 65_536


@dataclass(frozen=True)
class LabeledIntervals:
    """Intervals of one song, each of which begins where the one before it ends.

    Attributes:
        labels: Label of each interval, integers, `(intervals,)`.
        starts: Seconds, `(intervals,)`.
        ends: Seconds, `(intervals,)`.
    """

    labels: np.ndarray
    starts: np.ndarray
    ends: np.ndarray

    @property
    def boundaries(self) -> np.ndarray:
        """Times at which the label changes, in seconds; the song's start and end and gaps are not among them."""
        return np.asarray(self.starts[1:][self.labels[1:] != self.labels[:-1]])


@dataclass(frozen=True)
class SongScores:
    """Agreement of the estimated labels of one song with the reference.

    Attributes:
        seconds: Seconds with a reference label.
        seconds_correct: Seconds with the correct label.
        edit: Segmental edit score.
        matches: True positives, false positives and false negatives at each of `OVERLAPS`.
        boundaries: F-measure of boundaries at each of `BOUNDARY_TOLERANCES`, None where there are no boundaries.
    """

    seconds: float
    seconds_correct: float
    edit: float
    matches: tuple[tuple[int, int, int], ...]
    boundaries: tuple[float | None, ...]


def durations(starts: np.ndarray, ends: np.ndarray) -> np.ndarray:
    """Return the duration of each segment of one song, with overlaps cut at their midpoint.

    Args:
        starts: Seconds, `(segments,)`, in the order of time.
        ends: Seconds, `(segments,)`.

    Returns:
        Seconds, float64, `(segments,)`. A segment that does not end after its start has 0 and does not shorten its
        neighbors.
    """
    starts, ends = starts.astype(np.float64), ends.astype(np.float64)
    is_positive = ends > starts
    starts, ends = starts[is_positive], ends[is_positive]
    if (np.diff(ends) < 0).any():
        starts, ends = _cut_nested(starts, ends)
    else:
        overlaps = np.flatnonzero(ends[:-1] > starts[1:])
        starts[overlaps + 1] = ends[overlaps] = (ends[overlaps] + starts[overlaps + 1]) / 2
    seconds = np.zeros(len(is_positive))
    seconds[is_positive] = ends - starts
    return seconds


def _cut_nested(starts: np.ndarray, ends: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Cut overlapping segments, some of which are nested: an overlap ends where the first of both segments ends.

    Each segment is cut by the remaining part of the segments before it; a segment that ends before that part starts has
    no time left.
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
        The number of each segment's piece, int32, `(segments,)`, increasing from 0.
    """
    starts, ends = starts.astype(np.float64), ends.astype(np.float64)
    reach = np.maximum.accumulate(np.where(ends > starts, ends, -np.inf))
    last_end = np.concatenate([[-np.inf], reach[:-1]])[: len(starts)]
    opens = (ends > starts) & np.isfinite(last_end) & (starts > last_end + GAP_TOLERANCE)
    return np.cumsum(opens).astype(np.int32)


def merge(labels: np.ndarray, seconds: np.ndarray, pieces: np.ndarray | None = None) -> LabeledIntervals:
    """Merge neighboring segments of one label that no gap separates.

    Args:
        labels: Integers, `(segments,)`.
        seconds: Duration of each segment, `(segments,)`; segments of no duration are ignored.
        pieces: Numbers that `contiguous_pieces` returns, `(segments,)`; None where there are no gaps.

    Returns:
        The intervals, in concatenated time.
    """
    pieces = np.zeros(len(labels), dtype=np.int32) if pieces is None else pieces
    labels, pieces, seconds = labels[seconds > 0], pieces[seconds > 0], seconds[seconds > 0]
    ends = np.cumsum(seconds)
    changes = np.flatnonzero((np.diff(labels) != 0) | (np.diff(pieces) != 0))
    last = np.append(changes, len(labels) - 1) if len(labels) else np.array([], dtype=np.int64)
    stops = ends[last]
    return LabeledIntervals(labels[last], np.concatenate([[0.0], stops[:-1]])[: len(last)], stops)


def edit_score(reference: Sequence[int] | np.ndarray, estimated: Sequence[int] | np.ndarray) -> float:
    """Return the segmental edit score, 1 - Levenshtein(reference, estimated) / max(n_reference, n_estimated).

    Args:
        reference: Labels of the reference intervals, `(intervals,)`.
        estimated: Labels of the estimated intervals, `(intervals,)`.

    Returns:
        The score, in [0, 1].

    Reference:
        Lea et al. 2016, "Segmental spatiotemporal CNNs for fine-grained action segmentation", section 4.
    """
    row = np.arange(len(estimated) + 1)
    for i, label in enumerate(reference, start=1):
        candidates = np.concatenate([[i], row[:-1] + (np.asarray(estimated) != label)])
        candidates[1:] = np.minimum(candidates[1:], row[1:] + 1)
        # an insertion costs 1 for each place: a running minimum of (value - place)
        row = np.minimum.accumulate(candidates - np.arange(len(candidates))) + np.arange(len(candidates))
    return 1.0 - float(row[-1]) / max(len(reference), len(estimated), 1)


def count_matches(reference: LabeledIntervals, estimated: LabeledIntervals, overlap: float) -> tuple[int, int, int]:
    """Count matches of intervals with a minimum intersection over union.

    An estimated interval is matched to the reference interval of its label with which its intersection over union is
    largest. A reference interval is matched once.

    Args:
        reference: Reference intervals.
        estimated: Estimated intervals.
        overlap: Minimum intersection over union.

    Returns:
        True positives, false positives and false negatives.

    Reference:
        Lea et al. 2017, "Temporal convolutional networks for action segmentation and detection", section 4.1.
    """
    is_matched = np.zeros(len(reference.labels), dtype=bool)
    hits = 0
    for label, start, end in zip(estimated.labels, estimated.starts, estimated.ends, strict=True):
        intersection = np.minimum(reference.ends, end) - np.maximum(reference.starts, start)
        union = np.maximum(reference.ends, end) - np.minimum(reference.starts, start)
        iou = np.where(reference.labels == label, intersection / np.maximum(union, 1e-12), -1.0)
        best = int(np.argmax(iou))
        if iou[best] >= overlap and not is_matched[best]:
            is_matched[best] = True
            hits += 1
    return hits, len(estimated.labels) - hits, len(reference.labels) - hits


def boundary_f_measure(reference: np.ndarray, estimated: np.ndarray, tolerance: float) -> float | None:
    """Return the F-measure of boundaries, each of which is matched at most once.

    Args:
        reference: Reference boundaries, seconds, `(boundaries,)`.
        estimated: Estimated boundaries, seconds, `(boundaries,)`.
        tolerance: Maximum distance of matched boundaries, seconds.

    Returns:
        2 n_matched / (n_reference + n_estimated), or None where there are no boundaries.

    Reference:
        `mir_eval.segment.detection` with `trim=True`; Turnbull et al. 2007.
    """
    if len(reference) == 0 and len(estimated) == 0:
        return None
    hits = i = j = 0
    while i < len(reference) and j < len(estimated):  # on a line, matching the first two that fit is optimal
        if abs(reference[i] - estimated[j]) <= tolerance:
            hits, i, j = hits + 1, i + 1, j + 1
        elif reference[i] < estimated[j]:
            i += 1
        else:
            j += 1
    return 2 * hits / (len(reference) + len(estimated))


def score_song(
    reference: np.ndarray, estimated: np.ndarray, seconds: np.ndarray, pieces: np.ndarray | None = None
) -> SongScores:
    """Compare the labels of one song's labeled segments.

    Args:
        reference: Integer labels, `(segments,)`, in the order of time.
        estimated: Integer labels, `(segments,)`.
        seconds: Duration of each segment, `(segments,)`.
        pieces: Numbers that `contiguous_pieces` returns, `(segments,)`; None where the song has no gaps.

    Returns:
        The song's scores.
    """
    pieces = np.zeros(len(reference), dtype=np.int32) if pieces is None else pieces
    return _score_song(reference.astype(np.int32).tobytes(), estimated.astype(np.int32).tobytes(),
                       seconds.astype(np.float64).tobytes(), pieces.astype(np.int32).tobytes())  # fmt: skip


@functools.lru_cache(maxsize=CACHED_SONGS)
def _score_song(reference: bytes, estimated: bytes, seconds: bytes, pieces: bytes) -> SongScores:
    """Cached, because a bootstrap draws each song a thousand times."""
    reference_labels, estimated_labels = np.frombuffer(reference, np.int32), np.frombuffer(estimated, np.int32)
    lengths, numbers = np.frombuffer(seconds, np.float64), np.frombuffer(pieces, np.int32)
    reference_intervals = merge(reference_labels, lengths, numbers)
    estimated_intervals = merge(estimated_labels, lengths, numbers)
    return SongScores(
        float(lengths.sum()),
        float(lengths[reference_labels == estimated_labels].sum()),
        edit_score(reference_intervals.labels, estimated_intervals.labels),
        tuple(count_matches(reference_intervals, estimated_intervals, overlap) for overlap in OVERLAPS),
        tuple(boundary_f_measure(reference_intervals.boundaries, estimated_intervals.boundaries, tolerance)
              for tolerance in BOUNDARY_TOLERANCES),
    )  # fmt: skip


def time_accuracy(songs: Sequence[SongScores]) -> float | None:
    """Return the fraction of time with the correct label, pooled over songs.

    Args:
        songs: Scores of each song.

    Returns:
        The fraction, or None without any time.
    """
    return _ratio(sum(song.seconds_correct for song in songs), sum(song.seconds for song in songs))


def mean_edit_score(songs: Sequence[SongScores]) -> float | None:
    """Return the mean segmental edit score of songs.

    Args:
        songs: Scores of each song.

    Returns:
        The mean of `edit_score`.
    """
    return _mean([song.edit for song in songs])


def segmental_f1(songs: Sequence[SongScores], level: int) -> float | None:
    """Return the segmental F1 score, 2 TP / (2 TP + FP + FN), pooled over songs.

    Args:
        songs: Scores of each song.
        level: Index into `OVERLAPS`.

    Returns:
        The F1 score, or None without any interval.

    Reference:
        Lea et al. 2017, section 4.1.
    """
    hits, false_positives, false_negatives = np.array([song.matches[level] for song in songs]).sum(axis=0).tolist()
    return _ratio(2 * hits, 2 * hits + false_positives + false_negatives)


def mean_boundary_f_measure(songs: Sequence[SongScores], level: int) -> float | None:
    """Return the mean F-measure of boundaries over the songs that have any.

    Args:
        songs: Scores of each song.
        level: Index into `BOUNDARY_TOLERANCES`.

    Returns:
        The mean of `boundary_f_measure`, or None without any boundary.
    """
    return _mean([song.boundaries[level] for song in songs])


_TIME_METRICS: dict[str, Callable[[Sequence[SongScores]], float | None]] = {
    "time_accuracy": time_accuracy,
    "edit": mean_edit_score,
    **{f"f1_at_{round(100 * overlap)}": functools.partial(segmental_f1, level=level)
       for level, overlap in enumerate(OVERLAPS)},
    **{f"boundary_{tolerance:g}s".replace(".", "_"): functools.partial(mean_boundary_f_measure, level=level)
       for level, tolerance in enumerate(BOUNDARY_TOLERANCES)},
}  # fmt: skip
TIME_METRICS = tuple(_TIME_METRICS)


def time_metric(name: str, songs: Sequence[SongScores]) -> float | None:
    """Return a metric over songs.

    Args:
        name: One of `TIME_METRICS`.
        songs: Scores of each song.

    Returns:
        The value, or None where the metric is undefined.
    """
    return _TIME_METRICS[name](songs) if songs else None


def _mean(values: Sequence[float | None]) -> float | None:
    defined = [value for value in values if value is not None]
    return float(np.mean(defined)) if defined else None


def _ratio(numerator: float, denominator: float) -> float | None:
    return numerator / denominator if denominator else None
