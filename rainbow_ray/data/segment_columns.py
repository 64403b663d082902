"""Columns of a manifest that timelines are made of: checked for their type and brought to one form before use."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from rainbow_ray.data.arrow_types import is_bytes_type, is_string_type
from rainbow_ray.data.encodings import UndecodableError, decode_text
from rainbow_ray.data.normalize import id_column as exact_ids
from rainbow_ray.data.time_units import read_times
from rainbow_ray.data.times import parse_seconds, time_type_problem
from rainbow_ray.utils.errors import InputError

STRUCTURE, LRC, LYRICS, RUNNING_TIME = "song_structure", "lrc_file", "lrc_lyrics", "total_running_time"

STRUCTURE_FORM = "text such as 'Verse: words, [00:10.000]-[00:20.000] | …', or a list of structs with name, start, end"
LRC_FORM = "paths of LRC files as text, or the files' bytes"
LYRICS_FORM = "LRC as text, a list of its lines, or its bytes"
ID_FORM = "text or numbers"

# names that fields of a part have
NAME_FIELDS = ("name", "section", "label", "type", "title")
START_FIELDS = ("start", "start_seconds", "start_time", "begin")
END_FIELDS = ("end", "end_seconds", "end_time", "stop")
TEXT_FIELDS = ("text", "description", "note", "lyrics")

Part = Mapping[str, Any]


@dataclass(frozen=True)
class TimelineColumns:
    """What each row of a manifest says of its song's timeline, a list of one value a row.

    Attributes:
        songs: The song's id as it came.
        structures: Text, or a list of parts with name, start and end; None where there is none.
        files: Path of an LRC file, or its bytes; None where there is none.
        lyrics: Text that may be LRC; None where there is none.
        running: Running time in seconds, NaN where unknown.
        notes: What was passed over.
    """

    songs: list[Any]
    structures: list[str | list[Part] | None]
    files: list[str | bytes | None]
    lyrics: list[str | None]
    running: np.ndarray
    notes: list[str]


def read_timeline_columns(table: pa.Table, id_column: str, where: str) -> TimelineColumns:
    """Read the columns of a manifest that timelines are made of.

    Args:
        table: The manifest.
        id_column: Column of the songs' ids.
        where: What messages call the manifest.

    Raises:
        InputError: A column is of a type that says no times; all such columns are named.
    """
    problems: list[str] = []
    notes: list[str] = []

    def read(name: str, expected: str, convert: Callable[[pa.ChunkedArray], list[Any] | None]) -> list[Any]:
        nothing: list[Any] = [None] * len(table)
        if name not in table.column_names:
            return nothing
        column = _without_dictionary(table[name])
        if _is_all_missing(column):
            return nothing
        values = convert(column)
        if values is None:
            problems.append(f"{where}: column {name!r} holds {table.schema.field(name).type}; expected: {expected}")
            return nothing
        return values

    songs = read(id_column, ID_FORM, lambda column: _ids(column, id_column))
    structures = read(STRUCTURE, STRUCTURE_FORM, _structures)
    files = read(LRC, LRC_FORM, _texts_or_bytes)
    lyrics = read(LYRICS, LYRICS_FORM, _lyrics)
    running = np.full(len(table), np.nan)
    if RUNNING_TIME in table.column_names:
        wrong = time_type_problem(table.schema.field(RUNNING_TIME).type)
        if wrong is not None:
            problems.append(f"{where}: column {RUNNING_TIME!r} {wrong}")
        else:
            try:
                column, note = read_times(table, RUNNING_TIME)
                running, notes = column.seconds, [note] if note else []
            except InputError as error:
                problems += [f"{where}: {problem}" for problem in error.problems]
    if problems:
        raise InputError(problems)
    texts, undecoded = _decoded(lyrics)
    return TimelineColumns(songs, structures, files, texts, running, [*notes, *undecoded])


def parse_json_parts(text: str) -> list[Part] | None:
    """The parts of a structure that is written as a JSON list of objects; None where the text is no such list."""
    if not text.lstrip().startswith("["):
        return None
    try:
        parts = json.loads(text)
    except (ValueError, RecursionError):  # no JSON, or a number of thousands of digits
        return None
    is_list = isinstance(parts, list) and bool(parts) and all(isinstance(part, dict) for part in parts)
    return parts if is_list else None


def first_field(part: Part, names: tuple[str, ...]) -> Any:
    """The first of a part's fields that is there, None where none is."""
    return next((part[name] for name in names if part.get(name) is not None), None)


def part_times(part: Part) -> tuple[float, float]:
    """Start and end of a part, seconds.

    Raises:
        UnreadableTimeError: One of both is no time.
    """
    return parse_seconds(first_field(part, START_FIELDS)), parse_seconds(first_field(part, END_FIELDS))


def _decoded(lyrics: list[Any]) -> tuple[list[str | None], list[str]]:
    """Lyrics as text, and notes on bytes that are none."""
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
    return column.cast(column.type.value_type) if pa.types.is_dictionary(column.type) else column


def _is_all_missing(column: pa.ChunkedArray) -> bool:
    """Whether no row has a value: nulls, or NaN, which is how pandas writes a column without any text."""
    if pa.types.is_floating(column.type):
        return pc.all(pc.is_null(column, nan_is_null=True)).as_py() in (True, None)
    return bool(column.null_count == len(column))


def _is_list(kind: pa.DataType) -> bool:
    return bool(pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind))


def _ids(column: pa.ChunkedArray, name: str) -> list[Any] | None:
    """The exact text of songs' ids, by which all rows of a song are found; None for a column that holds none."""
    return None if pa.types.is_nested(column.type) else list(exact_ids(column, name).to_pylist())


def _values(column: pa.ChunkedArray) -> list[Any]:
    """Python values; text that is not UTF-8 as bytes, whose encoding is looked for."""
    try:
        return list(column.to_pylist())
    except UnicodeDecodeError:
        return list(column.cast(pa.large_binary()).to_pylist())


def _texts_or_bytes(column: pa.ChunkedArray) -> list[Any] | None:
    return _values(column) if is_string_type(column.type) or is_bytes_type(column.type) else None


def _lyrics(column: pa.ChunkedArray) -> list[Any] | None:
    if _is_list(column.type) and is_string_type(column.type.value_type):
        return [None if lines is None else "\n".join(line or "" for line in lines) for lines in column.to_pylist()]
    return _texts_or_bytes(column)


def _structures(column: pa.ChunkedArray) -> list[Any] | None:
    kind = column.type
    if is_string_type(kind):
        values = _values(column)
        return [value.decode("utf-8", "replace") if isinstance(value, bytes) else value for value in values]
    if not _is_list(kind):
        return None
    if is_string_type(kind.value_type):
        return [None if parts is None else " | ".join(part or "" for part in parts) for parts in column.to_pylist()]
    if not pa.types.is_struct(kind.value_type):
        return None
    names = {field.name for field in kind.value_type}
    has_all = all(names & set(fields) for fields in (NAME_FIELDS, START_FIELDS, END_FIELDS))
    return list(column.to_pylist()) if has_all else None
