"""Columns of a manifest that segments are derived from, with their types checked and their values normalized."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from rainbow_ray.data.arrow_types import is_bytes_type, is_string_type
from rainbow_ray.data.encodings import UndecodableError, decode_text
from rainbow_ray.data.song_structure import END_FIELDS, NAME_FIELDS, START_FIELDS, SectionFields
from rainbow_ray.data.text_cells import id_column as exact_ids
from rainbow_ray.data.time_units import read_times
from rainbow_ray.data.times import time_type_problem
from rainbow_ray.utils.errors import InputError

STRUCTURE, LRC, LYRICS, RUNNING_TIME = "song_structure", "lrc_file", "lrc_lyrics", "total_running_time"

# expected content of columns, for messages
STRUCTURE_TYPES = "text such as 'Verse: words, [00:10.000]-[00:20.000] | …', or a list of structs with name, start, end"
LRC_TYPES = "paths of LRC files as text, or the files' bytes"
LYRICS_TYPES = "LRC as text, a list of its lines, or its bytes"
ID_TYPES = "text or numbers"


@dataclass(frozen=True)
class TimelineColumns:
    """Values that segments are derived from; each list has one item per row of the manifest.

    Attributes:
        songs: Ids of the songs, as exact text.
        structures: Song structure as text or as a list of sections; None where it is missing.
        files: Path of an LRC file, or its bytes; None where it is missing.
        lyrics: Text that may be LRC; None where it is missing.
        running: Running times in seconds, float64 `(rows,)`, NaN where unknown.
        notes: Messages about values that are not used.
    """

    songs: list[Any]
    structures: list[str | list[SectionFields] | None]
    files: list[str | bytes | None]
    lyrics: list[str | None]
    running: np.ndarray
    notes: list[str]


def read_timeline_columns(table: pa.Table, id_column: str, label: str) -> TimelineColumns:
    """Read the columns of a manifest that segments are derived from.

    Args:
        table: Manifest.
        id_column: Column of the song ids.
        label: Name of the manifest in messages.

    Returns:
        Their values; missing columns give missing values.

    Raises:
        InputError: Columns have unusable types, or hold unusable times; all of them are named.
    """
    problems: list[str] = []

    def read(name: str, expected: str, convert: Callable[[pa.ChunkedArray], list[Any] | None]) -> list[Any]:
        missing: list[Any] = [None] * len(table)
        if name not in table.column_names:
            return missing
        column = _without_dictionary(table[name])
        if _is_all_missing(column):
            return missing
        values = convert(column)
        if values is None:
            problems.append(f"{label}: column {name!r} holds {table.schema.field(name).type}; expected: {expected}")
            return missing
        return values

    songs = read(id_column, ID_TYPES, lambda column: _ids(column, id_column))
    structures = read(STRUCTURE, STRUCTURE_TYPES, _structures)
    files = read(LRC, LRC_TYPES, _texts_or_bytes)
    lyrics = read(LYRICS, LYRICS_TYPES, _lyrics)
    try:
        running, notes = _running_times(table, label)
    except InputError as error:
        problems += error.problems
    if problems:
        raise InputError(problems)
    texts, lyrics_notes = _decode_lyrics(lyrics)
    return TimelineColumns(songs, structures, files, texts, running, [*notes, *lyrics_notes])


def _running_times(table: pa.Table, label: str) -> tuple[np.ndarray, list[str]]:
    """Return running times in seconds, and notes; raise `InputError` where the column cannot be used."""
    if RUNNING_TIME not in table.column_names:
        return np.full(len(table), np.nan), []
    type_problem = time_type_problem(table.schema.field(RUNNING_TIME).type)
    if type_problem is not None:
        raise InputError(f"{label}: column {RUNNING_TIME!r} {type_problem}")
    try:
        column, note = read_times(table, RUNNING_TIME)
    except InputError as error:
        raise InputError([f"{label}: {problem}" for problem in error.problems]) from error
    return column.seconds, [note] if note else []


def _decode_lyrics(lyrics: list[Any]) -> tuple[list[str | None], list[str]]:
    """Decode lyrics that are bytes, and return notes on those that cannot be decoded."""
    texts: list[str | None] = []
    reasons: list[str] = []
    for value in lyrics:
        try:
            texts.append(decode_text(value) if isinstance(value, bytes) else value)
        except UndecodableError as error:
            texts.append(None)
            reasons.append(error.reason)
    counts = Counter(reasons)
    return texts, [f"column {LYRICS!r}: {n} values are not used: {reason}" for reason, n in counts.most_common()]


def _without_dictionary(column: pa.ChunkedArray) -> pa.ChunkedArray:
    """Cast a dictionary-encoded column to the type of its values."""
    return column.cast(column.type.value_type) if pa.types.is_dictionary(column.type) else column


def _is_all_missing(column: pa.ChunkedArray) -> bool:
    """Return whether all values are null or NaN; pandas writes an empty column of text as NaN."""
    if pa.types.is_floating(column.type):
        return pc.all(pc.is_null(column, nan_is_null=True)).as_py() in (True, None)
    return bool(column.null_count == len(column))


def _is_list(data_type: pa.DataType) -> bool:
    """Return whether a type is one of Arrow's list types."""
    return bool(
        pa.types.is_list(data_type) or pa.types.is_large_list(data_type) or pa.types.is_fixed_size_list(data_type)
    )


def _ids(column: pa.ChunkedArray, name: str) -> list[Any] | None:
    """Return song ids as exact text, equal for all rows of a song; None for a type that holds no ids."""
    return None if pa.types.is_nested(column.type) else list(exact_ids(column, name).to_pylist())


def _values(column: pa.ChunkedArray) -> list[Any]:
    """Return Python values; all as bytes where some text is not valid UTF-8, so that its encoding can be detected."""
    try:
        return list(column.to_pylist())
    except UnicodeDecodeError:
        return list(column.cast(pa.large_binary()).to_pylist())


def _texts_or_bytes(column: pa.ChunkedArray) -> list[Any] | None:
    """Return text or bytes; None for other types."""
    return _values(column) if is_string_type(column.type) or is_bytes_type(column.type) else None


def _lyrics(column: pa.ChunkedArray) -> list[Any] | None:
    """Return lyrics as text or bytes, joining lists of lines; None for other types."""
    if _is_list(column.type) and is_string_type(column.type.value_type):
        return [None if lines is None else "\n".join(line or "" for line in lines) for lines in column.to_pylist()]
    return _texts_or_bytes(column)


def _structures(column: pa.ChunkedArray) -> list[Any] | None:
    """Return structures as text or lists of sections; None for other types."""
    data_type = column.type
    if is_string_type(data_type):
        values = _values(column)
        return [value.decode("utf-8", "replace") if isinstance(value, bytes) else value for value in values]
    if not _is_list(data_type):
        return None
    if is_string_type(data_type.value_type):
        rows = column.to_pylist()
        return [None if sections is None else " | ".join(section or "" for section in sections) for sections in rows]
    if not pa.types.is_struct(data_type.value_type):
        return None
    names = {field.name for field in data_type.value_type}
    has_all = all(names & set(fields) for fields in (NAME_FIELDS, START_FIELDS, END_FIELDS))
    return list(column.to_pylist()) if has_all else None
