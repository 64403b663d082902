"""Inputs of a loaded model: texts, DataFrames and Arrow tables."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence, Set
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
import pandas as pd
import pyarrow as pa

from rainbow_ray.data.text_cells import text_column
from rainbow_ray.utils.errors import InputError, did_you_mean

Table: TypeAlias = "pd.DataFrame | pa.Table"


@dataclass(frozen=True)
class Texts:
    """Texts to score.

    Attributes:
        texts: Stripped strings, `(rows,)`; empty where a row has no text.
        undecodable: Whether the text is not UTF-8, `(rows,)`, bool.
        index: Index of the rows.
    """

    texts: list[str]
    undecodable: np.ndarray
    index: pd.Index

    def slice(self, start: int, stop: int) -> Texts:
        """Return some rows.

        Args:
            start: First row.
            stop: One past the last row.

        Returns:
            The rows with their index.
        """
        return Texts(self.texts[start:stop], self.undecodable[start:stop], self.index[start:stop])


def column_names(table: Table) -> list[str]:
    """Return the names of the columns of a table.

    Args:
        table: A DataFrame or an Arrow table.

    Returns:
        Names as strings, in order.
    """
    return list(map(str, table.columns)) if isinstance(table, pd.DataFrame) else list(table.column_names)


def get_column(table: Table, name: str) -> pd.Series | pa.ChunkedArray:
    """Return a column of a table.

    Args:
        table: A DataFrame or an Arrow table.
        name: Name of an existing column.

    Returns:
        The column, `(rows,)`.

    Raises:
        InputError: Several columns have this name.
    """
    if column_names(table).count(name) > 1:
        raise InputError(f"the table has several columns {name!r}: rename all but one")
    return table[name]


def slice_rows(table: Table, start: int, stop: int) -> Table:
    """Return some rows of a table.

    Args:
        table: A DataFrame or an Arrow table.
        start: First row.
        stop: One past the last row.

    Returns:
        A table of the same type.
    """
    return table.iloc[start:stop] if isinstance(table, pd.DataFrame) else table.slice(start, stop - start)


def read_texts(songs: Any, columns: Sequence[str], *, reads_text: bool) -> Texts:
    """Read texts.

    Args:
        songs: A table, a Series, a text, or a list of texts.
        columns: Text columns of a table; their texts are joined by a blank line.
        reads_text: Whether the model reads text; one that does not needs a table.

    Returns:
        One text per row.

    Raises:
        InputError: A column is missing, a cell holds a list or another container, or `songs` has another type.
    """
    if isinstance(songs, pd.DataFrame | pa.Table):
        return _table_texts(songs, columns)
    if not reads_text:
        raise InputError("this model does not read text: pass a table with its columns of audio or MIDI")
    if isinstance(songs, str | bytes) or songs is None:
        songs = [songs]
    if not isinstance(songs, Iterable) or isinstance(songs, Mapping | Set):
        raise InputError(f"a {type(songs).__name__} contains no texts: pass a text, a list of texts, or a DataFrame")
    series = songs if isinstance(songs, pd.Series) else pd.Series(list(songs), dtype=object)
    cleaned = text_column(series, str(series.name) if series.name is not None else "text")
    return Texts(cleaned.texts.to_pylist(), cleaned.undecodable, series.index)


def _table_texts(table: Table, columns: Sequence[str]) -> Texts:
    """Return texts of the columns of a table."""
    names = column_names(table)
    missing = [name for name in columns if name not in names]
    if missing:
        raise InputError(f"the table has no column {name!r}{did_you_mean(name, names)}" for name in missing)
    cleaned = [text_column(get_column(table, name), name) for name in columns]
    index = table.index if isinstance(table, pd.DataFrame) else pd.RangeIndex(len(table))
    is_undecodable = np.zeros(len(table), dtype=bool)
    for column in cleaned:
        is_undecodable |= column.undecodable
    rows = zip(*(column.texts.to_pylist() for column in cleaned), strict=True) if columns else [()] * len(table)
    return Texts(["\n\n".join(filter(None, row)) for row in rows], is_undecodable, index)
