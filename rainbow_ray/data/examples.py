"""From plain rows to examples: one a song (or a row), with everything that was left out counted by its reason."""

from __future__ import annotations

import functools
import hashlib
import itertools
import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

from rainbow_ray.data.manifest import UNDECODABLE

LABELS_DISAGREE = "labels of one song disagree"
SAME_SONG = "further rows of a song"
SAME_NUMBER = 1e-12  # relative difference of labels that are one number
NOT_KEPT = ("dropped", "label", UNDECODABLE)  # columns of rows that examples do not have
SLOTS = "_slot"  # ends the column that says of which of a song's rows each window is


@dataclass(frozen=True)
class Examples:
    """Examples that lie in memory, sorted by their id.

    `table` has a row an example: `example_id, song, text, held_out` and the columns that modalities prepared (lists of
    token ids, of word buckets). `targets`, `(examples, …)`, is float32, float64 of numbers. `weights` is float32 and
    multiplies the loss.
    """

    table: pa.Table
    targets: np.ndarray
    weights: np.ndarray

    def __len__(self) -> int:
        return len(self.targets)

    def take(self, indices: np.ndarray) -> Examples:
        return Examples(self.table.take(pa.array(indices)), self.targets[indices], self.weights[indices])

    def strings(self, column: str) -> np.ndarray:
        """A text column as an object array, `(examples,)`."""
        return np.asarray(self.table[column].to_numpy(zero_copy_only=False))

    def ragged(self, column: str) -> list[np.ndarray]:
        """A list column as one integer array an example (views, no copies)."""
        lists = self.table[column].combine_chunks()
        if isinstance(lists, pa.ChunkedArray):
            lists = lists.chunk(0) if lists.num_chunks else pa.array([], lists.type)
        offsets, values = lists.offsets.to_numpy(), lists.values.to_numpy(zero_copy_only=False)
        return [values[start:stop] for start, stop in itertools.pairwise(offsets)]

    @property
    def ids(self) -> np.ndarray:
        return self.strings("example_id")

    @property
    def songs(self) -> np.ndarray:
        return self.strings("song")

    @property
    def texts(self) -> np.ndarray:
        return self.strings("text")

    @functools.cached_property
    def text_keys(self) -> np.ndarray:
        """What equal texts have in common, `(examples,)`: uint64 hashes."""
        if "text_key" in self.table.column_names:
            return np.asarray(self.table["text_key"].to_numpy())
        pairs = zip(self.texts, self.songs, strict=True)
        return np.array([text_key(text or placeholder_text(song)) for text, song in pairs], dtype=np.uint64)

    def codes(self, column: str, rows: np.ndarray | None = None) -> np.ndarray:
        """A text column (or some rows of it) as numbers, the same for the same text; -1 where there is none.

        No strings are made.
        """
        return _codes(self.table[column] if rows is None else self.table[column].take(pa.array(rows)))

    @property
    def text_hashes(self) -> np.ndarray:
        """uint64 hashes of the texts as they are."""
        if "text_hash" in self.table.column_names:
            return np.asarray(self.table["text_hash"].to_numpy())
        return pd.util.hash_array(self.texts)

    @property
    def characters(self) -> np.ndarray:
        if "characters" in self.table.column_names:
            return np.asarray(self.table["characters"].to_numpy())
        return np.array([len(text) for text in self.texts])

    @functools.cached_property
    def hash(self) -> str:
        """Identifies the data: ids, texts and targets, whatever the order of the rows."""
        column, step = self.table["example_id"], 65_536  # strings are dear in Python: some at a time
        ids = np.concatenate(
            [pd.util.hash_array(column.slice(start, step).to_numpy()) for start in range(0, len(column), step)]
        )
        # what float32 holds exactly has the hash that it had when all targets were float32
        narrow = self.targets.astype(np.float32)
        targets = narrow if np.array_equal(narrow, self.targets, equal_nan=True) else self.targets
        columns = {f"target {i}": part for i, part in enumerate(targets.T)} if targets.ndim > 1 else {}
        frame = pd.DataFrame({"id": ids, "text": self.text_hashes, **(columns or {"target": targets})})
        for slots in (name for name in self.table.column_names if name.endswith(SLOTS)):
            windows = self.table[slots.removesuffix(SLOTS)].to_pylist()
            frame[slots] = pd.util.hash_array(np.array([" ".join(row) for row in windows], dtype=object))
        rows = pd.util.hash_pandas_object(frame, index=False).to_numpy()
        return hashlib.sha256(np.sort(rows).tobytes()).hexdigest()[:16]


def build_examples(
    rows: pa.Table, targets: np.ndarray, *, by_row: bool, sort_by: str = "example_id", join: Sequence[str] = (),
    agree: bool = False,
) -> tuple[pa.Table, np.ndarray, dict[str, int]]:  # fmt: skip
    """Keep the rows that become examples: the first good row of each song, or, `by_row`, each good row.

    Of the columns `join`, lists of windows, an example has those of all its rows, and `<column>_slot` says of which
    each is. With `agree`, rows of a song whose labels differ are left out also `by_row`.

    `targets` are the parsed labels of the good rows (those without a reason in `dropped`), in their order. Returns
    the table with `example_id` added, sorted by it or by `sort_by`, its targets, and how many rows were left out for
    which reason. A song whose rows carry different labels is left out whole: nothing says which one is right.
    """
    dropped = count(rows["dropped"])
    good = np.flatnonzero(rows["dropped"].is_null().to_numpy())
    joined: dict[str, tuple[pa.Array, pa.Array]] = {}
    if not by_row or agree:
        _, first, song = np.unique(_codes(rows["song"])[good], return_index=True, return_inverse=True)
        # numbers that were computed twice may differ in their last digits
        other = ~np.isclose(targets, targets[first][song], rtol=SAME_NUMBER, atol=0.0)
        disagree = np.bincount(song, weights=other if other.ndim == 1 else other.any(axis=1))[song] > 0
        further = np.ones(len(good), dtype=bool)
        further[first] = False
        further &= not by_row
        _add(dropped, LABELS_DISAGREE, int(disagree.sum()))
        _add(dropped, SAME_SONG, int((~disagree & further).sum()))
        kept_rows = ~disagree & ~further
        if not by_row:
            joined = {name: _join_rows(rows[name], good, song, song[kept_rows]) for name in join}
        good, targets = good[kept_rows], targets[kept_rows]
    kept = pa.array(good)
    table = rows.drop_columns([name for name in NOT_KEPT if name in rows.column_names]).take(kept)
    for name in join:
        lists, slots = joined.get(name) or _alone(table[name])
        table = table.set_column(table.column_names.index(name), name, lists).append_column(f"{name}{SLOTS}", slots)
    ids = table["song"].cast(pa.string())
    if by_row:
        ids = pc.binary_join_element_wise(ids, kept.cast(pa.string()), "#")
    table = table.append_column("example_id", ids)
    order = pc.sort_indices(table[sort_by]).to_numpy()  # whatever order they came in
    if (order[1:] > order[:-1]).all():
        return table, targets, dropped
    return table.take(pa.array(order)), targets[order], dropped


def _join_rows(
    lists: pa.ChunkedArray, rows: np.ndarray, song: np.ndarray, kept_song: np.ndarray
) -> tuple[pa.Array, pa.Array]:
    """The lists of all `rows` of each song one after the other, for some songs; and which row each is of."""
    values = lists.take(pa.array(rows)).to_pylist()
    by_song: dict[int, list[list[Any]]] = {}
    for code, found in zip(song.tolist(), values, strict=True):
        by_song.setdefault(code, []).append(found)
    whole = [by_song[code] for code in kept_song.tolist()]
    slots = [[i for i, row in enumerate(found) for _ in row] for found in whole]
    return (
        pa.array([[item for row in found for item in row] for found in whole], lists.type),
        pa.array(slots, pa.list_(pa.int16())),
    )


def _alone(lists: pa.ChunkedArray) -> tuple[pa.ChunkedArray, pa.Array]:
    """An example of one row: all that it has is of its first."""
    return lists, pa.array([[0] * len(row) for row in lists.to_pylist()], pa.list_(pa.int16()))


def first_per_song(table: pa.Table) -> tuple[np.ndarray, np.ndarray]:
    """The first row of each song, and which song each row is of, as a number."""
    _, first, of = np.unique(_codes(table["song"]), return_index=True, return_inverse=True)
    return first, of


def song_weights(songs: np.ndarray) -> np.ndarray:
    """1 / (examples of the song), float32: each song counts once. `songs` are numbers, `(examples,)`."""
    return np.asarray(1.0 / np.bincount(songs)[songs], dtype=np.float32)


def mark_dropped(rows: pa.Table, reasons: np.ndarray) -> pa.Table:
    """The rows with further ones dropped: `reasons` has a string or None for each row that was good so far."""
    dropped = rows["dropped"].to_numpy(zero_copy_only=False)
    dropped[rows["dropped"].is_null().to_numpy()] = reasons
    return rows.set_column(rows.column_names.index("dropped"), "dropped", pa.array(dropped, pa.string()))


def placeholder_text(song: str) -> str:
    """What stands for a text that is missing: songs without one have nothing in common."""
    return f"no text of song {song}"


def text_key(text: str) -> int:
    """Equal for texts that differ only in case, punctuation and white space: 64 bits."""
    folded = unicodedata.normalize("NFKC", text).casefold()
    # marks and symbols stay: they tell words apart in many scripts, and emoji from each other
    kept = "".join(" " if unicodedata.category(c)[0] in "PZC" else c for c in folded)
    plain = " ".join(kept.split())
    return int.from_bytes(hashlib.sha256(plain.encode()).digest()[:8], "big")


def usable_labels(rows: pa.Table) -> pa.ChunkedArray:
    """Labels of the rows that nothing speaks against."""
    return rows.filter(pc.is_null(rows["dropped"]))["label"]


def count(reasons: pa.ChunkedArray) -> dict[str, int]:
    """How often each reason occurs, most frequent first; nulls are none."""
    counts = {str(entry["values"]): entry["counts"] for entry in reasons.drop_null().value_counts().to_pylist()}
    return dict(sorted(counts.items(), key=lambda item: -item[1]))


def profile(examples: Examples, songs: int, rows: int, dropped: Mapping[str, int]) -> dict[str, Any]:
    """What `data.json` says of the data."""
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


def _codes(column: pa.ChunkedArray) -> np.ndarray:
    encoded = column.combine_chunks().dictionary_encode()
    if isinstance(encoded, pa.ChunkedArray):
        encoded = encoded.combine_chunks()
    return np.asarray(encoded.indices.fill_null(-1))


def _add(counts: dict[str, int], reason: str, n: int) -> None:
    if n:
        counts[reason] = counts.get(reason, 0) + n
