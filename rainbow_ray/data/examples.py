"""Training examples, built from normalized rows: one per song or one per row. Dropped rows are counted by reason."""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

from rainbow_ray.data.list_column import ListColumn
from rainbow_ray.data.normalize_rows import UNDECODABLE

LABELS_DISAGREE = "labels of one song disagree"
SAME_SONG = "further rows of a song"
LABEL_TOLERANCE = 1e-12  # relative difference up to which two numeric labels of a song are equal
ROW_COLUMNS = ("dropped", "label", UNDECODABLE)  # columns of normalized rows that examples do not have
SLOT_SUFFIX = "_slot"  # suffix of the column with the source of each window: the index of the row within the song
HASH_CHUNK = 65_536  # ids that are hashed at a time, because Python strings take much memory


@dataclass(frozen=True)
class Examples:
    """Examples in memory.

    Attributes:
        table: A row per example: `example_id`, `song`, `text`, `held_out`, and the columns of each modality (lists of
            token ids, hashed words or window names).
        targets: Targets of the task, float32 `(examples, …)`; float64 for regression.
        weights: Factors of the loss, float32 `(examples,)`.
    """

    table: pa.Table
    targets: np.ndarray
    weights: np.ndarray

    def __len__(self) -> int:
        return len(self.targets)

    def take(self, indices: np.ndarray) -> Examples:
        """Select examples.

        Args:
            indices: Examples, int64 `(n,)`.

        Returns:
            These examples, in the order of `indices`.
        """
        return Examples(self.table.take(pa.array(indices)), self.targets[indices], self.weights[indices])

    def strings(self, column: str) -> np.ndarray:
        """Return a text column.

        Args:
            column: Name of the column.

        Returns:
            Strings, object `(examples,)`.
        """
        return np.asarray(self.table[column].to_numpy(zero_copy_only=False))

    def lists(self, column: str) -> ListColumn:
        """Return a list column, which is kept for the next batch.

        Args:
            column: Name of the column.

        Returns:
            The column.
        """
        if column not in self._lists:
            self._lists[column] = ListColumn.from_arrow(self.table[column])
        return self._lists[column]

    def values(self, column: str) -> np.ndarray:
        """Return a column of numbers or truth values, which is kept for the next batch.

        Args:
            column: Name of the column.

        Returns:
            `(examples,)`.
        """
        if column not in self._arrays:
            self._arrays[column] = self.table[column].to_numpy()
        return self._arrays[column]

    @functools.cached_property
    def _lists(self) -> dict[str, ListColumn]:
        return {}

    @functools.cached_property
    def _arrays(self) -> dict[str, np.ndarray]:
        return {}

    def __getstate__(self) -> dict[str, Any]:
        """Leave out what is kept: copies of columns would be sent to other processes beside the table."""
        return {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}

    @property
    def ids(self) -> np.ndarray:
        """Example ids, object `(examples,)`."""
        return self.strings("example_id")

    @property
    def songs(self) -> np.ndarray:
        """Song ids, object `(examples,)`."""
        return self.strings("song")

    @property
    def texts(self) -> np.ndarray:
        """Texts, object `(examples,)`."""
        return self.strings("text")

    @functools.cached_property
    def text_keys(self) -> np.ndarray:
        """Hashes of the normalized texts (see `text_key`), uint64 `(examples,)`."""
        if "text_key" in self.table.column_names:
            return np.asarray(self.table["text_key"].to_numpy())
        pairs = zip(self.texts, self.songs, strict=True)
        return np.array([text_key(text or placeholder_text(song)) for text, song in pairs], dtype=np.uint64)

    def codes(self, column: str, rows: np.ndarray | None = None) -> np.ndarray:
        """Return a text column as integers, without creating Python strings.

        Args:
            column: Name of the column.
            rows: Rows to return, int64 `(n,)`; None for all.

        Returns:
            Integers that are equal for equal texts, `(n,)`; -1 for null.
        """
        return _encode(self.table[column] if rows is None else self.table[column].take(pa.array(rows)))

    @property
    def text_hashes(self) -> np.ndarray:
        """Hashes of the exact texts, uint64 `(examples,)`."""
        if "text_hash" in self.table.column_names:
            return np.asarray(self.table["text_hash"].to_numpy())
        return pd.util.hash_array(self.texts)

    @property
    def characters(self) -> np.ndarray:
        """Number of characters of each text, int `(examples,)`."""
        if "characters" in self.table.column_names:
            return np.asarray(self.table["characters"].to_numpy())
        return np.array([len(text) for text in self.texts])

    @functools.cached_property
    def hash(self) -> str:
        """Hash of ids, texts, targets and windows, independent of the order of rows; 16 hexadecimal digits."""
        column = self.table["example_id"]
        starts = range(0, len(column), HASH_CHUNK)
        ids = np.concatenate([pd.util.hash_array(column.slice(start, HASH_CHUNK).to_numpy()) for start in starts])
        # targets that float32 holds exactly keep the hash of earlier versions, in which all targets were float32
        narrow = self.targets.astype(np.float32)
        targets = narrow if np.array_equal(narrow, self.targets, equal_nan=True) else self.targets
        columns = {f"target {i}": part for i, part in enumerate(targets.T)} if targets.ndim > 1 else {}
        frame = pd.DataFrame({"id": ids, "text": self.text_hashes, **(columns or {"target": targets})})
        for slots in (name for name in self.table.column_names if name.endswith(SLOT_SUFFIX)):
            windows = self.table[slots.removesuffix(SLOT_SUFFIX)].to_pylist()
            frame[slots] = pd.util.hash_array(np.array([" ".join(row) for row in windows], dtype=object))
        rows = pd.util.hash_pandas_object(frame, index=False).to_numpy()
        return hashlib.sha256(np.sort(rows).tobytes()).hexdigest()[:16]


@dataclass(frozen=True)
class _Selection:
    """The rows that become examples.

    Attributes:
        is_kept: Mask over the usable rows, `(usable,)`, bool.
        song: Song of each usable row, as an integer.
        dropped: Number of further rows that are dropped, by reason.
    """

    is_kept: np.ndarray
    song: np.ndarray
    dropped: dict[str, int]


def build_examples(
    rows: pa.Table, targets: np.ndarray, *, by_row: bool, sort_by: str = "example_id", join: Sequence[str] = (),
    agree: bool = False,
) -> tuple[pa.Table, np.ndarray, dict[str, int]]:  # fmt: skip
    """Keep the rows that become examples: the first usable row of each song, or each usable row.

    Songs whose rows have different labels are dropped, because it is unknown which label is right.

    Args:
        rows: Normalized rows with the columns of each modality.
        targets: Parsed labels of the usable rows (those with a null `dropped`), `(usable, …)`.
        by_row: Whether each row becomes an example.
        sort_by: Column that examples are sorted by.
        join: Columns of window names. An example of a song has the windows of all rows of the song, and
            `<column>_slot` holds the row of each.
        agree: Whether songs with different labels are dropped also where `by_row`.

    Returns:
        The table of examples with `example_id` added, their targets, and the number of dropped rows by reason.
    """
    dropped = count_reasons(rows["dropped"])
    usable = np.flatnonzero(rows["dropped"].is_null().to_numpy())
    joined: dict[str, tuple[pa.Array, pa.Array]] = {}
    if not by_row or agree:
        selection = _select(_encode(rows["song"])[usable], targets, by_row=by_row)
        is_selected, song = selection.is_kept, selection.song
        for reason, n in selection.dropped.items():
            dropped[reason] = dropped.get(reason, 0) + n
        if not by_row:
            joined = {name: _join_windows(rows[name], usable, song, song[is_selected]) for name in join}
        usable, targets = usable[is_selected], targets[is_selected]
    indices = pa.array(usable)
    table = rows.drop_columns([name for name in ROW_COLUMNS if name in rows.column_names]).take(indices)
    for name in join:
        lists, slots = joined.get(name) or _single_row_windows(table[name])
        column = table.column_names.index(name)
        table = table.set_column(column, name, lists).append_column(f"{name}{SLOT_SUFFIX}", slots)
    ids = table["song"].cast(pa.string())
    if by_row:
        ids = pc.binary_join_element_wise(ids, indices.cast(pa.string()), "#")
    table = table.append_column("example_id", ids)
    order = pc.sort_indices(table[sort_by]).to_numpy()  # makes the result independent of the order of rows
    if (order[1:] > order[:-1]).all():
        return table, targets, dropped
    return table.take(pa.array(order)), targets[order], dropped


def _select(songs: np.ndarray, targets: np.ndarray, *, by_row: bool) -> _Selection:
    """Select the first row of each song (each row, if `by_row`) of the songs whose labels agree."""
    _, first, song = np.unique(songs, return_index=True, return_inverse=True)
    # labels that were computed separately may differ in their last digits
    differs = ~np.isclose(targets, targets[first][song], rtol=LABEL_TOLERANCE, atol=0.0)
    disagrees = np.bincount(song, weights=differs if differs.ndim == 1 else differs.any(axis=1))[song] > 0
    is_further = np.ones(len(songs), dtype=bool)
    is_further[first] = False
    is_further &= not by_row
    counts = {LABELS_DISAGREE: int(disagrees.sum()), SAME_SONG: int((~disagrees & is_further).sum())}
    return _Selection(~disagrees & ~is_further, song, {reason: n for reason, n in counts.items() if n})


def _join_windows(
    lists: pa.ChunkedArray, rows: np.ndarray, song: np.ndarray, selected_songs: np.ndarray
) -> tuple[pa.Array, pa.Array]:
    """Concatenate the lists of all `rows` of each kept song; return them, and the row of the song of each item."""
    by_song: dict[int, list[list[Any]]] = {}
    for code, windows in zip(song.tolist(), lists.take(pa.array(rows)).to_pylist(), strict=True):
        by_song.setdefault(code, []).append(windows)
    songs = [by_song[code] for code in selected_songs.tolist()]
    slots = [[i for i, windows in enumerate(song_rows) for _ in windows] for song_rows in songs]
    return (
        pa.array([[name for windows in song_rows for name in windows] for song_rows in songs], lists.type),
        pa.array(slots, pa.list_(pa.int16())),
    )


def _single_row_windows(lists: pa.ChunkedArray) -> tuple[pa.ChunkedArray, pa.Array]:
    """Return the lists of examples of one row each, and slot 0 for each of their items."""
    return lists, pa.array([[0] * len(windows) for windows in lists.to_pylist()], pa.list_(pa.int16()))


def first_per_song(table: pa.Table) -> tuple[np.ndarray, np.ndarray]:
    """Return the first row of each song, and the song of each row.

    Args:
        table: Table with a column `song`.

    Returns:
        Row numbers `(songs,)`, and indices into them `(rows,)`.
    """
    _, first, song = np.unique(_encode(table["song"]), return_index=True, return_inverse=True)
    return first, song


def song_weights(songs: np.ndarray) -> np.ndarray:
    """Return weights by which each song counts once.

    Args:
        songs: Song of each example as an integer, `(examples,)`.

    Returns:
        One over the number of examples of the song, float32 `(examples,)`.
    """
    return np.asarray(1.0 / np.bincount(songs)[songs], dtype=np.float32)


def mark_dropped(rows: pa.Table, reasons: np.ndarray) -> pa.Table:
    """Drop further rows.

    Args:
        rows: Normalized rows.
        reasons: Reason, or None, for each row that is usable so far, object `(usable,)`.

    Returns:
        The rows with `reasons` in their column `dropped`.
    """
    dropped = rows["dropped"].to_numpy(zero_copy_only=False)
    dropped[rows["dropped"].is_null().to_numpy()] = reasons
    return rows.set_column(rows.column_names.index("dropped"), "dropped", pa.array(dropped, pa.string()))


def placeholder_text(song: str) -> str:
    """Return the text that is hashed for a song without text, so that such songs are not joined to one group.

    Args:
        song: Id of the song.

    Returns:
        A text that no other song has.
    """
    return f"no text of song {song}"


def text_key(text: str) -> int:
    """Hash a text, ignoring case, punctuation and white space.

    Args:
        text: Text to hash.

    Returns:
        Unsigned 64-bit integer, equal for texts that differ only in these (after Unicode NFKC normalization).
    """
    folded = unicodedata.normalize("NFKC", text).casefold()
    # marks and symbols are kept: they distinguish words in many scripts, and emoji from each other
    spaced = "".join(" " if unicodedata.category(character)[0] in "PZC" else character for character in folded)
    normalized = " ".join(spaced.split())
    return int.from_bytes(hashlib.sha256(normalized.encode()).digest()[:8], "big")


def usable_labels(rows: pa.Table) -> pa.ChunkedArray:
    """Return the labels of the rows that are not dropped.

    Args:
        rows: Normalized rows.

    Returns:
        Raw labels of the usable rows.
    """
    return rows.filter(pc.is_null(rows["dropped"]))["label"]


def count_reasons(reasons: pa.ChunkedArray) -> dict[str, int]:
    """Count how often each reason occurs.

    Args:
        reasons: Strings; nulls are not counted.

    Returns:
        Counts by reason, most frequent first.
    """
    counts = {str(entry["values"]): entry["counts"] for entry in reasons.drop_null().value_counts().to_pylist()}
    return dict(sorted(counts.items(), key=lambda item: -item[1]))


def profile_examples(examples: Examples, songs: int, rows: int, dropped: Mapping[str, int]) -> dict[str, Any]:
    """Describe a dataset for `data.json`.

    Args:
        examples: All examples.
        songs: Number of songs.
        rows: Number of rows of the manifest.
        dropped: Number of dropped rows by reason.

    Returns:
        Counts, lengths of texts in characters, and the hash of the data.
    """
    characters = examples.characters
    return {
        "rows": rows,
        "examples": len(examples),
        "songs": songs,
        "dropped": dict(dropped),
        "characters": {
            "min": int(characters.min()),
            "median": float(np.median(characters)),
            "max": int(characters.max()),
        },
        "data_hash": examples.hash,
    }


def _encode(column: pa.ChunkedArray) -> np.ndarray:
    """Encode a text column as integers, null as -1."""
    encoded = column.combine_chunks().dictionary_encode()
    if isinstance(encoded, pa.ChunkedArray):
        encoded = encoded.combine_chunks()
    return np.asarray(encoded.indices.fill_null(-1))
