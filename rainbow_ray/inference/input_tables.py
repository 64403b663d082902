"""Tables that are given to a loaded model: DataFrames and Arrow tables, read alike."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence, Set
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
import pandas as pd
import pyarrow as pa

from rainbow_ray.data.normalize import text_column
from rainbow_ray.utils.errors import InputError, did_you_mean

Table: TypeAlias = "pd.DataFrame | pa.Table"


@dataclass(frozen=True)
class Texts:
    """Texts to score.

    Attributes:
        texts: Stripped strings, `(rows,)`, empty where there is none.
        undecodable: Rows with text that is not UTF-8, `(rows,)`, bool.
        index: Labels of the rows.
    """

    texts: list[str]
    undecodable: np.ndarray
    index: pd.Index

    def slice(self, start: int, stop: int) -> Texts:
        """Return the rows from `start` to `stop`."""
        return Texts(self.texts[start:stop], self.undecodable[start:stop], self.index[start:stop])


def names_of(table: Table) -> list[str]:
    """Return the names of a table's columns."""
    return list(map(str, table.columns)) if isinstance(table, pd.DataFrame) else list(table.column_names)


def column_of(table: Table, name: str) -> pd.Series | pa.ChunkedArray:
    """Return a column. Raises `InputError` where there are several of that name."""
    if names_of(table).count(name) > 1:
        raise InputError(f"the table has several columns {name!r}: rename all but one")
    return table[name]


def slice_of(table: Table, start: int, stop: int) -> Table:
    """Return the rows from `start` to `stop`."""
    return table.iloc[start:stop] if isinstance(table, pd.DataFrame) else table.slice(start, stop - start)


def read_texts(songs: Any, columns: Sequence[str], *, reads_text: bool) -> Texts:
    """Return the texts of a table, or of whatever else holds texts.

    Args:
        songs: A table, a Series, a text, or a list of texts.
        columns: Text columns of a table, joined by a blank line.
        reads_text: Whether the model reads text; one that does not needs a table.

    Raises:
        InputError: A column is missing, a cell holds a list or another container, or `songs` are no texts.
    """
    if isinstance(songs, pd.DataFrame | pa.Table):
        return _of_table(songs, columns)
    if not reads_text:
        raise InputError("this model does not read text: give it a table with its columns of audio or MIDI")
    if isinstance(songs, str | bytes) or songs is None:
        songs = [songs]
    if not isinstance(songs, Iterable) or isinstance(songs, Mapping | Set):
        raise InputError(f"a {type(songs).__name__} holds no texts: give a text, a list of texts, or a DataFrame")
    series = songs if isinstance(songs, pd.Series) else pd.Series(list(songs), dtype=object)
    cleaned = text_column(series, str(series.name) if series.name is not None else "text")
    return Texts(cleaned.texts.to_pylist(), cleaned.undecodable, series.index)


def _of_table(table: Table, columns: Sequence[str]) -> Texts:
    names = names_of(table)
    missing = [name for name in columns if name not in names]
    if missing:
        raise InputError(f"the table has no column {name!r}{did_you_mean(name, names)}" for name in missing)
    cleaned = [text_column(column_of(table, name), name) for name in columns]
    index = table.index if isinstance(table, pd.DataFrame) else pd.RangeIndex(len(table))
    undecodable = np.zeros(len(table), dtype=bool)
    for column in cleaned:
        undecodable |= column.undecodable
    rows = zip(*(column.texts.to_pylist() for column in cleaned), strict=True) if columns else [()] * len(table)
    return Texts(["\n\n".join(filter(None, row)) for row in rows], undecodable, index)
