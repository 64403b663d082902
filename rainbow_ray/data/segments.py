"""Timelines: a row a segment and stem becomes an example a segment, and a song's segments follow each other in time.

Nothing is dropped that belongs to a song: a segment without a label, or without a length, stays as what its neighbours
see, is masked, and counted.
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

from rainbow_ray.data.examples import SLOT_SUFFIX, count_reasons, text_key
from rainbow_ray.data.manifest import UNDECODABLE
from rainbow_ray.data.normalize import NOT_UTF8
from rainbow_ray.data.raw_labels import LABEL_MISSING, fill_missing

TIMES = ("start", "end")
SAME_TIME = 0.005  # seconds: stems of one segment may differ by as much
POSITION = "position"  # column: the segment's place in its song
N_SEGMENTS = "n_segments"  # column: how many the song has
RELATIVE_TIMES = ("relative_start", "relative_end")  # columns: the same times as shares of the song
NOT_KEPT = (
    "dropped",
    "label",
    "unlabelled",
    UNDECODABLE,
    POSITION,
    *TIMES,
)  # columns of rows that segments do not have
NO_LENGTH = "segment of zero, negative or unknown length"
STEMS_DISAGREE = "segment whose stems carry different labels"
NO_LABELS = "segments of songs without any label that can be used"
FURTHER_STEMS = "further stems of a segment"


@dataclass(frozen=True)
class SegmentExamples:
    """An example a segment. `table` is sorted by song and time; `label` is raw.

    `masked[i]` is why segment i teaches nothing, None where it does. `dropped` counts rows by reason.
    """

    table: pa.Table
    label: pa.ChunkedArray
    masked: np.ndarray
    dropped: dict[str, int]
    notes: tuple[str, ...]

    @property
    def song(self) -> np.ndarray:
        """The songs' numbers, `(segments,)`."""
        return np.asarray(pd.factorize(self.table["song"].to_pandas())[0])

    def keep(self, rows: np.ndarray) -> SegmentExamples:
        """Only some segments, of whole songs; `rows` is bool."""
        mask = pa.array(rows)
        return dataclasses.replace(
            self, table=self.table.filter(mask), label=self.label.filter(mask), masked=self.masked[rows]
        )


def merge_stems(rows: pa.Table, join: Sequence[str] = (), null_class: str | None = None) -> SegmentExamples:
    """Rows of segments (with `start`, `end`, seconds, and `place` as the table has it) to one example a segment.

    Rows that agree in song, place and times are stems of one segment: the first stands for them, with the windows of
    all in the columns `join`. Segments are put in the order of time; where a time is not known, of their place.
    `null_class` is what those are that no stem has a label of.
    """
    dropped = count_reasons(rows["dropped"])
    good = np.flatnonzero(rows["dropped"].is_null().to_numpy())
    chosen = rows.take(pa.array(good))
    facts = pd.DataFrame({name: chosen[name].to_pandas() for name in ("song", POSITION, *TIMES)})
    facts[POSITION] = facts[POSITION].astype("float64")
    facts["label"] = pd.factorize(chosen["label"].combine_chunks().dictionary_encode().indices.to_pandas())[0] if (
        len(chosen)
    ) else []  # fmt: skip
    facts.loc[chosen["unlabelled"].is_valid().to_numpy(), "label"] = -1
    stem_of = _stems(facts)
    labelled = facts["label"].to_numpy() >= 0
    has_text = pc.not_equal(chosen["text"], "").fill_null(False).to_numpy()
    # the words are those of a stem that has them, and the label that of one that has it
    first, speaks = _first_of(stem_of, ~labelled, ~has_text), _first_of(stem_of, ~labelled)
    kinds = facts["label"].where(labelled).groupby(stem_of).nunique().to_numpy()
    if len(good) > len(first):
        dropped[FURTHER_STEMS] = len(good) - len(first)
    segments = facts.iloc[first].reset_index(drop=True)
    times = _times(segments)
    by_time = np.lexsort((segments[POSITION].to_numpy(), times["start"].to_numpy(), segments["song"].to_numpy()))
    table = chosen.take(pa.array(first[by_time]))
    table = table.drop_columns([name for name in NOT_KEPT if name in table.column_names])
    table = _with_windows(table, chosen, join, stem_of, by_time)
    times, segments = times.iloc[by_time].reset_index(drop=True), segments.iloc[by_time].reset_index(drop=True)
    speaks = speaks[by_time]
    masked = chosen["unlabelled"].take(pa.array(speaks)).to_numpy(zero_copy_only=False).astype(object)
    label = chosen["label"].take(pa.array(speaks))
    if null_class is not None:  # only now: a stem without a label says nothing against one that has it
        label, masked[masked == LABEL_MISSING] = fill_missing(label, null_class), None
    masked[(kinds > 1)[by_time]] = STEMS_DISAGREE
    masked[~times["known"].to_numpy()] = NO_LENGTH
    table = _with_places(table, segments["song"], times)
    return SegmentExamples(table, label, masked, dropped, (*_notes(segments), *_undecodable(chosen, stem_of)))


def _undecodable(rows: pa.Table, stem_of: np.ndarray) -> tuple[str, ...]:
    """A note on segments in whose text some bytes are not UTF-8."""
    if UNDECODABLE not in rows.column_names or not pc.any(rows[UNDECODABLE]).as_py():
        return ()
    number = len(np.unique(stem_of[rows[UNDECODABLE].to_numpy()]))
    return (f"{number} segments have {NOT_UTF8}: what cannot be decoded is left out; save the table as UTF-8",)


def _stems(facts: pd.DataFrame) -> np.ndarray:
    """Of which segment each row is: those that agree in song and place, and nearly in their times.

    Where nothing tells a row's place, it is a segment of its own.
    """
    of = facts.groupby(["song", POSITION], sort=False, dropna=False).ngroup().to_numpy()
    for name in TIMES:
        at = facts[name].to_numpy(dtype=np.float64)
        order = np.lexsort((at, of))
        before, after = at[order][:-1], at[order][1:]
        same = (after == before) | (after <= before + SAME_TIME) | (np.isnan(before) & np.isnan(after))
        begins = np.append(True, (np.diff(of[order]) != 0) | ~same)[: len(of)]
        of = of.copy()
        of[order] = np.cumsum(begins) - 1
    lost = facts[POSITION].isna() & facts[list(TIMES)].isna().any(axis=1)
    return np.asarray(pd.factorize(np.where(lost.to_numpy(), len(of) + np.arange(len(of)), of))[0])


def _first_of(stem_of: np.ndarray, *worse: np.ndarray) -> np.ndarray:
    """The row that stands for each segment: the first of those that are least `worse`, what counts most last."""
    order = np.lexsort((np.arange(len(stem_of)), *worse, stem_of))
    return np.asarray(order[np.unique(stem_of[order], return_index=True)[1]])


def count_masked(masked: np.ndarray) -> dict[str, int]:
    """How many segments are masked, by reason, most frequent first."""
    return dict(Counter(reason for reason in masked.tolist() if reason is not None).most_common())


def _times(segments: pd.DataFrame) -> pd.DataFrame:
    """Start and end of each segment, and whether its length is known; unknown ones lie where those before them end."""
    start, end = segments["start"].to_numpy(dtype=np.float64), segments["end"].to_numpy(dtype=np.float64)
    known = np.isfinite(start) & np.isfinite(end) & (end > start) & (start >= 0)
    begins = np.isfinite(start) & (start >= 0)
    placed = pd.DataFrame({"song": segments["song"], POSITION: segments[POSITION]})
    placed["start"] = np.where(begins, start, np.nan)
    placed["reach"] = np.where(known, end, placed["start"])
    placed = placed.sort_values(["song", POSITION], kind="stable")
    reach = placed.groupby("song")["reach"].cummax()
    before = reach.groupby(placed["song"]).ffill().fillna(0.0)
    placed["start"] = placed["start"].fillna(before)
    placed = placed.sort_index()
    made_end = np.where(known, end, placed["start"].to_numpy())
    return pd.DataFrame({"start": placed["start"].to_numpy(), "end": made_end, "known": known})


def _with_places(table: pa.Table, songs: pd.Series, times: pd.DataFrame) -> pa.Table:
    """With ids, places and times; `text_key` is the whole song's, since songs share lines without being one."""
    grouped = songs.groupby(songs, sort=False)
    place, size = grouped.cumcount().to_numpy(), grouped.transform("size").to_numpy()
    whole = np.maximum(times["end"].groupby(songs.to_numpy()).transform("max").to_numpy(), 1e-9)
    # of one width whatever table they are in: a split that is kept finds them again, and their order is that of time
    ids = [f"{song}#{at:06d}" for song, at in zip(songs, place.tolist(), strict=True)]
    texts = pd.Series(table["text"].to_pandas()).groupby(songs.to_numpy(), sort=False)
    keys = {song: text_key(" ".join(filter(None, lines)) or f"no text of song {song}") for song, lines in texts}
    columns = {
        "example_id": pa.array(ids, pa.string()),
        "start": pa.array(times["start"], pa.float32()),
        "end": pa.array(times["end"], pa.float32()),
        POSITION: pa.array(place, pa.int32()),
        N_SEGMENTS: pa.array(size, pa.int32()),
        RELATIVE_TIMES[0]: pa.array((times["start"] / whole).clip(0, 1), pa.float32()),
        RELATIVE_TIMES[1]: pa.array((times["end"] / whole).clip(0, 1), pa.float32()),
        "text_key": pa.array([keys[song] for song in songs], pa.uint64()),
    }
    for name, values in columns.items():
        table = table.append_column(name, values)
    return table


def _with_windows(
    table: pa.Table, rows: pa.Table, join: Sequence[str], stem_of: np.ndarray, by_time: np.ndarray
) -> pa.Table:
    """The windows of all stems of each segment, and of which stem each is."""
    for name in join:
        found: dict[int, list[list[str]]] = {}
        for segment, windows in zip(stem_of.tolist(), rows[name].to_pylist(), strict=True):
            found.setdefault(segment, []).append(windows)
        whole = [found[segment] for segment in by_time.tolist()]
        lists = pa.array([[w for stem in stems for w in stem] for stems in whole], pa.list_(pa.string()))
        slots = pa.array([[i for i, stem in enumerate(stems) for _ in stem] for stems in whole], pa.list_(pa.int16()))
        table = table.set_column(table.column_names.index(name), name, lists).append_column(
            f"{name}{SLOT_SUFFIX}", slots
        )
    return table


def _notes(segments: pd.DataFrame) -> tuple[str, ...]:
    notes = []
    named = segments[segments[POSITION].notna()]
    twice = int(named.duplicated(["song", POSITION]).sum())
    if twice:
        notes.append(f"{twice} segments share their index with another of the song: told apart by their times")
    falls = (segments[POSITION].diff() < 0) & (segments["song"] == segments["song"].shift())
    if falls.any():
        notes.append(f"{int(falls.sum())} segments are not in the order of their index: put in the order of time")
    alone = int((segments["song"].value_counts() == 1).sum())
    if alone:
        notes.append(f"{alone} songs have one segment: they have no neighbours")
    return tuple(notes)


@dataclass(frozen=True)
class SequenceIndex:
    """Which examples are read together: those of a song, or of windows of a longer one.

    `place[i]` is example i's place in its song, of `size[i]`; a song's examples follow each other.
    """

    place: np.ndarray
    size: np.ndarray
    max_length: int
    overlap: float

    @classmethod
    def from_table(cls, table: pa.Table, max_length: int, overlap: float) -> SequenceIndex:
        return cls(table[POSITION].to_numpy(), table[N_SEGMENTS].to_numpy(), max_length, overlap)

    def group_by_song(self, indices: np.ndarray) -> list[np.ndarray]:
        """The songs among `indices`, whole ones, in the order of the source."""
        every = np.unique(indices)
        if len(every) == 0:
            return []
        return np.split(every, np.flatnonzero((np.diff(every) != 1) | (self.place[every[1:]] == 0)) + 1)

    def training_sequences(self, song: np.ndarray, *, shift: int = 0) -> list[np.ndarray]:
        """Pieces of a song that are trained on: each of its segments once, cut elsewhere for another `shift`."""
        if len(song) <= self.max_length:
            return [song]
        return [
            piece for piece in np.split(song, range(shift % self.max_length, len(song), self.max_length)) if len(piece)
        ]

    def scoring_sequences(self, song: np.ndarray) -> list[np.ndarray]:
        """Overlapping pieces of a song, each as long as can be."""
        if len(song) <= self.max_length:
            return [song]
        return [song[start : start + self.max_length] for start in self._starts(len(song))]

    def center_mask(self, sequence: np.ndarray) -> np.ndarray:
        """Which of a scored window's segments it has the say on: they lie farther from its edges than from others'."""
        size, begins = int(self.size[sequence[0]]), int(self.place[sequence[0]])
        if len(sequence) >= size or size <= self.max_length:
            return np.ones(len(sequence), dtype=bool)
        starts = self._starts(size)
        at = starts.index(begins)
        low = 0 if at == 0 else (starts[at] + starts[at - 1] + self.max_length) // 2
        high = size if at == len(starts) - 1 else (starts[at + 1] + starts[at] + self.max_length) // 2
        place = self.place[sequence]
        return np.asarray((place >= low) & (place < high))

    def _starts(self, size: int) -> list[int]:
        stride = max(1, round(self.max_length * (1 - self.overlap)))
        last = size - self.max_length
        return [*range(0, last, stride), last]
