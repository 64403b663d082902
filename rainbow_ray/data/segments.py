"""Examples that are segments of songs: stems of a segment are merged, and the segments of a song are ordered by time.

No segment of a song is dropped: one without a label or without a duration stays as context of its neighbors; it is
masked, and counted.
"""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

from rainbow_ray.data.examples import SLOT_SUFFIX, count_reasons, placeholder_text, text_key
from rainbow_ray.data.normalize_rows import UNDECODABLE
from rainbow_ray.data.raw_labels import LABEL_MISSING, fill_missing
from rainbow_ray.data.text_cells import NOT_UTF8

TIMES = ("start", "end")  # columns: seconds from the start of the song
TIME_TOLERANCE = 0.005  # seconds that the times of two stems of one segment may differ by
POSITION = "position"  # column: position of the segment in its song, from 0
N_SEGMENTS = "n_segments"  # column: number of segments of the song
RELATIVE_TIMES = ("relative_start", "relative_end")  # columns: the times as fractions of the song
ROW_COLUMNS = ("dropped", "label", "unlabelled", UNDECODABLE, POSITION, *TIMES)  # of rows, which segments do not have
NO_LENGTH = "segment of zero, negative or unknown length"
STEMS_DISAGREE = "segment whose stems carry different labels"
NO_LABELS = "segments of songs without any label that can be used"
FURTHER_STEMS = "further stems of a segment"


@dataclass(frozen=True)
class SegmentExamples:
    """Segments of songs, one row each, sorted by song and time.

    Attributes:
        table: Columns of the segments.
        label: Raw labels, `(segments,)`.
        masked: Reason why a segment has no target, or None where it has one; object `(segments,)`.
        dropped: Number of dropped rows by reason.
        notes: Messages about the table.
    """

    table: pa.Table
    label: pa.ChunkedArray
    masked: np.ndarray
    dropped: dict[str, int]
    notes: tuple[str, ...]

    @property
    def song(self) -> np.ndarray:
        """Song of each segment, numbered from 0, int `(segments,)`."""
        return np.asarray(pd.factorize(self.table["song"].to_pandas())[0])

    def keep(self, mask: np.ndarray) -> SegmentExamples:
        """Keep the segments of some songs.

        Args:
            mask: Segments to keep, bool `(segments,)`; all or none of each song.

        Returns:
            These segments; `dropped` and `notes` are unchanged.
        """
        rows = pa.array(mask)
        return dataclasses.replace(
            self, table=self.table.filter(rows), label=self.label.filter(rows), masked=self.masked[mask]
        )


@dataclass(frozen=True)
class _StemGroups:
    """Rows grouped by the segment that they are stems of.

    Attributes:
        segment: Segment of each row, numbered from 0, int `(rows,)`.
        representative: Row that text and other columns are taken from, int `(segments,)`.
        label_row: Row that the label is taken from, int `(segments,)`.
        disagrees: Mask of the segments whose stems carry different labels, bool `(segments,)`.
    """

    segment: np.ndarray
    representative: np.ndarray
    label_row: np.ndarray
    disagrees: np.ndarray


def merge_stems(rows: pa.Table, join: Sequence[str] = (), null_class: str | None = None) -> SegmentExamples:
    """Merge the rows of each segment, one per stem, into one example.

    Rows that agree in song, position and times are stems of one segment. The first of them represents it, preferring
    rows with text and with a label; the windows of all stems are joined. Segments are sorted by time, and by position
    where a time is unknown.

    Args:
        rows: Normalized rows with `start` and `end` in seconds, and `position`.
        join: Columns of window names.
        null_class: Class of the segments without a label on any stem; None leaves them unlabeled.

    Returns:
        The segments.
    """
    usable = rows.take(pa.array(np.flatnonzero(rows["dropped"].is_null().to_numpy())))
    keys = _stem_keys(usable)
    groups = _group_stems(usable, keys)
    segments = keys.iloc[groups.representative].reset_index(drop=True)
    times = _fill_times(segments)
    order = np.lexsort((segments[POSITION].to_numpy(), times["start"].to_numpy(), segments["song"].to_numpy()))
    segments, times = (frame.iloc[order].reset_index(drop=True) for frame in (segments, times))

    table = usable.take(pa.array(groups.representative[order]))
    table = table.drop_columns([name for name in ROW_COLUMNS if name in table.column_names])
    table = _join_windows(table, usable, join, groups.segment, order)
    table = _add_positions(table, segments["song"], times)
    label, masked = _label_segments(usable, groups, order, null_class)
    masked[~times["is_known"].to_numpy()] = NO_LENGTH
    dropped = count_reasons(rows["dropped"])
    if len(usable) > len(order):
        dropped[FURTHER_STEMS] = len(usable) - len(order)
    notes = (*_notes(segments), *_undecodable(usable, groups.segment))
    return SegmentExamples(table, label, masked, dropped, notes)


def _stem_keys(rows: pa.Table) -> pd.DataFrame:
    """Song, position, times and label of each row; the label as an integer, -1 where it is missing or unusable."""
    keys = pd.DataFrame({name: rows[name].to_pandas() for name in ("song", POSITION, *TIMES)})
    keys[POSITION] = keys[POSITION].astype("float64")
    labels = rows["label"].combine_chunks().dictionary_encode()
    keys["label"] = pd.factorize(labels.indices.to_pandas())[0] if len(rows) else []
    keys.loc[rows["unlabelled"].is_valid().to_numpy(), "label"] = -1
    return keys


def _group_stems(rows: pa.Table, keys: pd.DataFrame) -> _StemGroups:
    """Group the rows by segment, and choose the rows that represent each segment."""
    segment = _match_stems(keys)
    has_label = keys["label"].to_numpy() >= 0
    has_text = pc.not_equal(rows["text"], "").fill_null(False).to_numpy()
    n_labels = keys["label"].where(has_label).groupby(segment).nunique().to_numpy()
    return _StemGroups(
        segment,
        representative=_first_of(segment, ~has_label, ~has_text),
        label_row=_first_of(segment, ~has_label),
        disagrees=n_labels > 1,
    )


def _match_stems(keys: pd.DataFrame) -> np.ndarray:
    """Number the segment of each row: rows agree in song and position, and nearly in their times.

    A row without a position and a time is a segment of its own.
    """
    group = keys.groupby(["song", POSITION], sort=False, dropna=False).ngroup().to_numpy()
    for name in TIMES:
        times = keys[name].to_numpy(dtype=np.float64)
        order = np.lexsort((times, group))
        previous, current = times[order][:-1], times[order][1:]
        is_same = (
            (current == previous) | (current <= previous + TIME_TOLERANCE) | (np.isnan(previous) & np.isnan(current))
        )
        is_first = np.append(True, (np.diff(group[order]) != 0) | ~is_same)[: len(group)]
        group = group.copy()
        group[order] = np.cumsum(is_first) - 1
    is_unplaced = (keys[POSITION].isna() & keys[list(TIMES)].isna().any(axis=1)).to_numpy()
    return np.asarray(pd.factorize(np.where(is_unplaced, len(group) + np.arange(len(group)), group))[0])


def _first_of(segment: np.ndarray, *penalties: np.ndarray) -> np.ndarray:
    """Return the first row of each segment among those with the least penalties; the last penalty counts most."""
    order = np.lexsort((np.arange(len(segment)), *penalties, segment))
    return np.asarray(order[np.unique(segment[order], return_index=True)[1]])


def _label_segments(
    rows: pa.Table, groups: _StemGroups, order: np.ndarray, null_class: str | None
) -> tuple[pa.ChunkedArray, np.ndarray]:
    """Return the raw label of each segment, in `order`, and the reason why its label cannot be used."""
    label_rows = pa.array(groups.label_row[order])
    label = rows["label"].take(label_rows)
    masked = rows["unlabelled"].take(label_rows).to_numpy(zero_copy_only=False).astype(object)
    if null_class is not None:  # after merging: a stem without a label does not contradict one that has a label
        label, masked[masked == LABEL_MISSING] = fill_missing(label, null_class), None
    masked[groups.disagrees[order]] = STEMS_DISAGREE
    return label, masked


def _undecodable(rows: pa.Table, segment: np.ndarray) -> tuple[str, ...]:
    """Return a note on segments whose text is not valid UTF-8."""
    if UNDECODABLE not in rows.column_names or not pc.any(rows[UNDECODABLE]).as_py():
        return ()
    n = len(np.unique(segment[rows[UNDECODABLE].to_numpy()]))
    return (f"{n} segments have {NOT_UTF8}: what cannot be decoded is left out; save the table as UTF-8",)


def count_masked(masked: np.ndarray) -> dict[str, int]:
    """Count masked segments by reason.

    Args:
        masked: Reason of each segment, or None, object `(segments,)`.

    Returns:
        Counts by reason, most frequent first.
    """
    return dict(Counter(reason for reason in masked.tolist() if reason is not None).most_common())


def _fill_times(segments: pd.DataFrame) -> pd.DataFrame:
    """Return `start`, `end` and `is_known` (whether the duration is) of each segment.

    A segment with an unknown start begins where all segments before it have ended; one with an unknown duration ends
    where it begins.
    """
    start, end = segments["start"].to_numpy(dtype=np.float64), segments["end"].to_numpy(dtype=np.float64)
    has_start = np.isfinite(start) & (start >= 0)
    is_known = has_start & np.isfinite(end) & (end > start)
    filled = pd.DataFrame({"song": segments["song"], POSITION: segments[POSITION]})
    filled["start"] = np.where(has_start, start, np.nan)
    filled["last_end"] = np.where(is_known, end, filled["start"])
    filled = filled.sort_values(["song", POSITION], kind="stable")
    last_end = filled.groupby("song")["last_end"].cummax()
    filled["start"] = filled["start"].fillna(last_end.groupby(filled["song"]).ffill().fillna(0.0))
    filled = filled.sort_index()
    filled_start = filled["start"].to_numpy()
    return pd.DataFrame({"start": filled_start, "end": np.where(is_known, end, filled_start), "is_known": is_known})


def _add_positions(table: pa.Table, songs: pd.Series, times: pd.DataFrame) -> pa.Table:
    """Append ids, positions and times of sorted segments, and `text_key` of the whole song.

    Songs may share single lines without being the same song, so a split compares the texts of whole songs.
    """
    grouped = songs.groupby(songs, sort=False)
    position, n_segments = grouped.cumcount().to_numpy(), grouped.transform("size").to_numpy()
    duration = np.maximum(times["end"].groupby(songs.to_numpy()).transform("max").to_numpy(), 1e-9)
    # of fixed width, so that ids sort by time, and a saved split finds them again
    ids = [f"{song}#{i:06d}" for song, i in zip(songs, position.tolist(), strict=True)]
    texts = pd.Series(table["text"].to_pandas()).groupby(songs.to_numpy(), sort=False)
    keys = {song: text_key(" ".join(filter(None, lines)) or placeholder_text(str(song))) for song, lines in texts}
    columns = {
        "example_id": pa.array(ids, pa.string()),
        "start": pa.array(times["start"], pa.float32()),
        "end": pa.array(times["end"], pa.float32()),
        POSITION: pa.array(position, pa.int32()),
        N_SEGMENTS: pa.array(n_segments, pa.int32()),
        RELATIVE_TIMES[0]: pa.array((times["start"] / duration).clip(0, 1), pa.float32()),
        RELATIVE_TIMES[1]: pa.array((times["end"] / duration).clip(0, 1), pa.float32()),
        "text_key": pa.array([keys[song] for song in songs], pa.uint64()),
    }
    for name, values in columns.items():
        table = table.append_column(name, values)
    return table


def _join_windows(
    table: pa.Table, rows: pa.Table, join: Sequence[str], segment: np.ndarray, order: np.ndarray
) -> pa.Table:
    """Set the windows of all stems of each segment, and append the stem of each window."""
    for name in join:
        by_segment: dict[int, list[list[str]]] = {}
        for number, windows in zip(segment.tolist(), rows[name].to_pylist(), strict=True):
            by_segment.setdefault(number, []).append(windows)
        segments = [by_segment[number] for number in order.tolist()]
        lists = pa.array([[w for windows in stems for w in windows] for stems in segments], pa.list_(pa.string()))
        slots = [[i for i, windows in enumerate(stems) for _ in windows] for stems in segments]
        table = table.set_column(table.column_names.index(name), name, lists)
        table = table.append_column(f"{name}{SLOT_SUFFIX}", pa.array(slots, pa.list_(pa.int16())))
    return table


def _notes(segments: pd.DataFrame) -> tuple[str, ...]:
    """Return notes on positions that repeat or contradict the times, and on songs of one segment."""
    notes = []
    with_position = segments[segments[POSITION].notna()]
    n_repeated = int(with_position.duplicated(["song", POSITION]).sum())
    if n_repeated:
        notes.append(f"{n_repeated} segments have the index of another segment of their song; they are distinguished"
                     " by their times")  # fmt: skip
    is_earlier = (segments[POSITION].diff() < 0) & (segments["song"] == segments["song"].shift())
    if is_earlier.any():
        notes.append(f"{int(is_earlier.sum())} segments are not in the order of their index; they are sorted by time")
    n_single = int((segments["song"].value_counts() == 1).sum())
    if n_single:
        notes.append(f"{n_single} songs have one segment, without neighbors as context")
    return tuple(notes)


@dataclass(frozen=True)
class SequenceIndex:
    """Sequences of segments that a model reads together: whole songs, or parts of long ones.

    Attributes:
        position: Position of each example in its song, from 0, int `(examples,)`; the segments of a song are adjacent.
        song_length: Number of segments of the song of each example, int `(examples,)`.
        max_length: Segments per sequence, at most.
        overlap: Fraction of a sequence that overlaps the next one in scoring, in [0, 1).
    """

    position: np.ndarray
    song_length: np.ndarray
    max_length: int
    overlap: float

    @classmethod
    def from_table(cls, table: pa.Table, max_length: int, overlap: float) -> SequenceIndex:
        """Return the index of a table of segments.

        Args:
            table: Table with the columns `position` and `n_segments`.
            max_length: Segments per sequence, at most.
            overlap: Fraction of a sequence that overlaps the next one in scoring, in [0, 1).

        Returns:
            The index.
        """
        return cls(table[POSITION].to_numpy(), table[N_SEGMENTS].to_numpy(), max_length, overlap)

    def group_by_song(self, indices: np.ndarray) -> list[np.ndarray]:
        """Group examples by song.

        Args:
            indices: Examples of whole songs, int64 `(n,)`, in any order, possibly repeated.

        Returns:
            Indices of each song, in the order of the dataset, without repetition.
        """
        distinct = np.unique(indices)
        if len(distinct) == 0:
            return []
        is_first = (np.diff(distinct) != 1) | (self.position[distinct[1:]] == 0)
        return np.split(distinct, np.flatnonzero(is_first) + 1)

    def training_sequences(self, song: np.ndarray, *, shift: int = 0) -> list[np.ndarray]:
        """Divide a song into the sequences of an epoch.

        Args:
            song: Indices of all segments of a song.
            shift: Length of the first sequence, modulo `max_length`; varied by epoch, so that songs are divided at
                other places.

        Returns:
            Sequences of at most `max_length` segments, which hold each segment once.
        """
        if len(song) <= self.max_length:
            return [song]
        starts = range(shift % self.max_length, len(song), self.max_length)
        return [sequence for sequence in np.split(song, starts) if len(sequence)]

    def scoring_sequences(self, song: np.ndarray) -> list[np.ndarray]:
        """Divide a song into overlapping sequences.

        Args:
            song: Indices of all segments of a song.

        Returns:
            The song itself, or overlapping sequences of exactly `max_length` segments.
        """
        if len(song) <= self.max_length:
            return [song]
        return [song[start : start + self.max_length] for start in self._starts(len(song))]

    def center_mask(self, sequence: np.ndarray) -> np.ndarray:
        """Return the segments whose scores are taken from a sequence.

        Args:
            sequence: Indices of a sequence from `scoring_sequences`.

        Returns:
            Mask, bool `(len(sequence),)`, of the segments that are farther from the edges of this sequence than of any
            overlapping one. The masks of all sequences of a song cover each segment once.
        """
        song_length, first = int(self.song_length[sequence[0]]), int(self.position[sequence[0]])
        if len(sequence) >= song_length or song_length <= self.max_length:
            return np.ones(len(sequence), dtype=bool)
        starts = self._starts(song_length)
        i = starts.index(first)
        low = 0 if i == 0 else (starts[i] + starts[i - 1] + self.max_length) // 2
        high = song_length if i == len(starts) - 1 else (starts[i + 1] + starts[i] + self.max_length) // 2
        position = self.position[sequence]
        return np.asarray((position >= low) & (position < high))

    def _starts(self, song_length: int) -> list[int]:
        """Return the positions at which the scoring sequences of a song begin."""
        stride = max(1, round(self.max_length * (1 - self.overlap)))
        last = song_length - self.max_length
        return [*range(0, last, stride), last]
