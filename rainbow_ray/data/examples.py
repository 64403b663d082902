"""From plain rows to examples: one a song (or a row), with everything that was left out counted by its reason."""

from __future__ import annotations

import functools
import hashlib
import itertools
import unicodedata
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

LABELS_DISAGREE = "labels of one song disagree"
SAME_SONG = "further rows of a song"


@dataclass(frozen=True)
class Examples:
    """Examples that lie in memory, sorted by their id.

    `table` has a row an example: `example_id, song, text, held_out` and the columns that modalities prepared (lists of
    token ids, of word buckets). `targets` is float32, `(examples,)`. `weights` is float32 and multiplies the loss.
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
        return self.table[column].to_numpy(zero_copy_only=False)

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
        """What equal texts have in common, `(examples,)`: hashes."""
        if "text_key" in self.table.column_names:
            return self.strings("text_key")
        return np.array([text_key(text) for text in self.texts], dtype=object)

    @property
    def text_hashes(self) -> np.ndarray:
        """uint64 hashes of the texts as they are."""
        if "text_hash" in self.table.column_names:
            return self.table["text_hash"].to_numpy()
        return pd.util.hash_array(self.texts)

    @property
    def characters(self) -> np.ndarray:
        if "characters" in self.table.column_names:
            return self.table["characters"].to_numpy()
        return np.array([len(text) for text in self.texts])

    def hash(self) -> str:
        """Identifies the data: ids, texts and targets, whatever the order of the rows."""
        frame = pd.DataFrame({"id": self.ids, "text": self.text_hashes, "target": self.targets})
        rows = pd.util.hash_pandas_object(frame, index=False).to_numpy()
        return hashlib.sha256(np.sort(rows).tobytes()).hexdigest()[:16]


def one_row_an_example(
    rows: pa.Table, targets: np.ndarray, *, by_row: bool, sort_by: str = "example_id"
) -> tuple[pa.Table, np.ndarray, dict[str, int]]:
    """Keep the rows that become examples: the first good row of each song, or, `by_row`, each good row.

    `targets` are the parsed labels of the good rows (those without a reason in `dropped`), in their order. Returns
    the table with `example_id` added, sorted by it or by `sort_by`, its targets, and how many rows were left out for
    which reason. A song whose rows carry different labels is left out whole: nothing says which one is right.
    """
    frame = pd.DataFrame({"song": rows["song"].to_pandas(), "dropped": rows["dropped"].to_pandas()})
    dropped = count(frame["dropped"].dropna().tolist())
    good = frame[frame["dropped"].isna()].assign(target=targets)
    if not by_row:
        disagree = good.groupby("song")["target"].transform("nunique") > 1
        first = ~good.duplicated("song")
        _add(dropped, LABELS_DISAGREE, int(disagree.sum()))
        _add(dropped, SAME_SONG, int((~disagree & ~first).sum()))
        good = good[first & ~disagree]
    ids = [f"{song}#{row}" for song, row in zip(good["song"], good.index, strict=True)] if by_row else good["song"]
    good = good.assign(example_id=list(ids))
    table = rows.take(pa.array(good.index.to_numpy())).drop_columns(["dropped", "label"])
    table = table.append_column("example_id", pa.array(good["example_id"].tolist(), pa.string()))
    order = pc.sort_indices(table[sort_by])  # whatever order they came in
    return table.take(order), good["target"].to_numpy(np.float32, copy=True)[order.to_numpy()], dropped


def text_key(text: str) -> str:
    """Equal for texts that differ only in case, punctuation and white space."""
    folded = unicodedata.normalize("NFKC", text).casefold()
    # marks and symbols stay: they tell words apart in many scripts, and emoji from each other
    kept = "".join(" " if unicodedata.category(c)[0] in "PZC" else c for c in folded)
    plain = " ".join(kept.split())
    return hashlib.sha256(plain.encode()).hexdigest()[:16]


def good_labels(rows: pa.Table) -> pa.ChunkedArray:
    """Labels of the rows that nothing speaks against."""
    return rows.filter(pc.is_null(rows["dropped"]))["label"]


def count(reasons: list[str]) -> dict[str, int]:
    """How often each reason occurs, most frequent first."""
    return {str(reason): int(n) for reason, n in pd.Series(reasons, dtype=object).value_counts().items()}


def profile(examples: Examples, rows: int, dropped: Mapping[str, int]) -> dict[str, Any]:
    """What `data.json` says of the data."""
    characters = examples.characters
    return {
        "rows": rows,
        "examples": len(examples),
        "songs": pc.count_distinct(examples.table["song"]).as_py(),
        "dropped": dict(dropped),
        "characters": {
            "min": int(characters.min()),
            "median": float(np.median(characters)),
            "max": int(characters.max()),
        },
        "data_hash": examples.hash(),
    }


def _add(counts: dict[str, int], reason: str, n: int) -> None:
    if n:
        counts[reason] = counts.get(reason, 0) + n
