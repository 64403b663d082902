"""Audio and MIDI in tables of a caller: paths of files, contents of files, or arrays of samples.

A column of a manifest has one type. A table that is passed to a loaded model may mix them: `pathlib.Path`, `bytearray`,
numpy arrays, dictionaries of Hugging Face `datasets`, paths next to bytes. `parse_media_value` converts each cell to
what `MediaReader` reads, or gives the reason why it cannot; `prepare_with_media` reads them.
"""

from __future__ import annotations

import array
import io
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa

from rainbow_ray.data.arrow_types import decode_storage, is_string_type
from rainbow_ray.data.sample_rates import parse_sample_rate
from rainbow_ray.inference.input_tables import Table, column_names, get_column
from rainbow_ray.modalities.audio.modality import RATE_COLUMN
from rainbow_ray.modalities.audio.reader import mix_down
from rainbow_ray.modalities.media_source import TROUBLE
from rainbow_ray.modalities.rows import prepare
from rainbow_ray.modalities.spec import InputSpec, get_modality

MAX_CHANNELS = 8  # the shorter dimension of a 2-d array of samples is the channels, up to this number
FULL_SCALE = {"int8": 2.0**7, "int16": 2.0**15, "int32": 2.0**31}  # largest magnitude of integer samples
BYTE_FORMATS = ("B", "b", "c")  # formats of a memoryview that holds a file

NAME_NOT_UTF8 = "a file name that is not UTF-8"
NOT_MEDIA = "neither a file name, nor a file's bytes, nor samples"
NO_RATE = f"samples without a sample rate (column {RATE_COLUMN})"
NOT_SAMPLES = "an array that holds no audio samples"
NOT_A_FILE = "an array or list in place of a MIDI file"


@dataclass(frozen=True)
class MediaValue:
    """One cell of a column of audio or MIDI.

    Attributes:
        value: Path of a file, content of a file, or (with `rate`) float32 samples as bytes; None where the cell is
            empty or cannot be used.
        rate: Sample rate in Hz of samples; None for files.
        problem: Why the cell cannot be used; None for a usable or an empty one.
        detail: Further facts on this cell.
    """

    value: str | bytes | None = None
    rate: int | None = None
    problem: str | None = None
    detail: str = ""


def parse_media_value(cell: Any, modality: str, rate: Any = None, *, bytes_are_samples: bool = False) -> MediaValue:
    """Convert a cell to a path, the content of a file, or samples.

    Args:
        cell: A path (`str`, `os.PathLike`), the content of a file (any buffer, or an array of uint8), samples (an array
            or a list of numbers, mono or with a dimension of channels), a dictionary with `path`, `bytes` or `array`
            and `sampling_rate`, or nothing (None, NaN, NA, a blank path, no samples).
        modality: `audio` or `midi`.
        rate: Cell of the column of sample rates, of any type.
        bytes_are_samples: Whether bytes with a rate are float32 samples, as in `audio_waveform`.

    Returns:
        The value, or the reason why there is none.
    """
    cell = _unwrap(cell)
    if _is_missing(cell):
        return MediaValue()
    if isinstance(cell, Mapping):
        return _parse_mapping(cell, modality, rate)
    if isinstance(cell, os.PathLike):
        cell = os.fspath(cell)
        cell = os.fsdecode(cell) if isinstance(cell, bytes) else cell
    if isinstance(cell, str):
        if not _is_utf8(cell):
            return MediaValue(problem=NAME_NOT_UTF8)
        return MediaValue(str(cell)) if cell.strip() else MediaValue()
    if isinstance(cell, bytes):
        return MediaValue(bytes(cell), parse_sample_rate(rate) if bytes_are_samples else None)
    if isinstance(cell, list | tuple) or (hasattr(cell, "__array__") and not isinstance(cell, np.generic)):
        return _parse_array(cell, modality, rate)
    return MediaValue(problem=NOT_MEDIA, detail=type(cell).__name__)


def media_cells(column: pd.Series | pa.Array | pa.ChunkedArray) -> list[Any]:
    """Return the cells of a column as Python objects.

    Args:
        column: A column of any type, `(rows,)`.

    Returns:
        Cells; strings that are not UTF-8 have surrogate escapes, and lists of numbers become arrays.
    """
    if isinstance(column, pd.Series):
        return column.astype(object).tolist()
    plain = decode_storage(column)
    if not is_string_type(plain.type):  # numpy arrays of samples take less memory than lists
        is_list = pa.types.is_list(plain.type) or pa.types.is_large_list(plain.type)
        cells: list[Any] = plain.to_pandas().tolist() if is_list else plain.to_pylist()
        return cells
    names = plain.cast(pa.binary_view() if pa.types.is_string_view(plain.type) else pa.large_binary())
    return [None if name is None else name.decode("utf-8", "surrogateescape") for name in names.to_pylist()]


def read_media_values(
    table: Table | None, columns: Mapping[str, Sequence[str | None]], modalities: Sequence[str], rows: int
) -> dict[str, list[MediaValue]]:
    """Parse the columns of media of a table.

    Args:
        table: A table; None for texts alone.
        columns: For each modality, its column and its column of sample rates (or None).
        modalities: Modalities of the model other than text.
        rows: Rows of the table.

    Returns:
        Parsed cells of each modality, `(rows,)`; empty ones where the table has no such column.
    """
    names = [] if table is None else column_names(table)
    values = {}
    for modality in modalities:
        column, rate = columns[modality]
        if table is None or column not in names:
            values[modality] = [MediaValue()] * rows
            continue
        default_rate = get_modality(modality).rate_column
        rate_column = rate if rate in names else default_rate if default_rate in names else None
        rates = [None] * rows if rate_column is None else media_cells(get_column(table, rate_column))
        values[modality] = [
            parse_media_value(cell, modality, hertz, bytes_are_samples=rate is not None)
            for cell, hertz in zip(media_cells(get_column(table, str(column))), rates, strict=True)
        ]
    return values


def prepare_with_media(rows: pa.Table, values: Mapping[str, Sequence[MediaValue]], input_spec: InputSpec) -> pa.Table:
    """Add the inputs of the encoders to rows.

    Args:
        rows: Plain rows with `text` and `song`.
        values: Parsed cells of each modality, `(rows,)`.
        input_spec: Inputs that the model reads.

    Returns:
        The rows, in their order, as `modalities.rows.prepare` returns them. The columns of problems also name cells
        that hold no media.
    """
    holds_bytes = {name: np.array([isinstance(cell.value, bytes) for cell in cells], dtype=bool)
                   for name, cells in values.items()}  # fmt: skip
    # an Arrow column has one type, so rows whose cells have the same types are read together
    groups = np.zeros(len(rows), dtype=np.int64)
    for bit, name in enumerate(values):
        groups += holds_bytes[name].astype(np.int64) << bit
    parts, order = [], []
    for group in np.unique(groups) if len(rows) else [0]:
        indices = np.flatnonzero(groups == group)
        part = rows.take(pa.array(indices))
        for bit, (name, cells) in enumerate(values.items()):
            value_type = pa.large_binary() if group >> bit & 1 else pa.string()
            part = part.append_column(f"raw_{name}", pa.array([cells[i].value for i in indices.tolist()], value_type))
            part = part.append_column(
                f"raw_{name}_rate", pa.array([cells[i].rate for i in indices.tolist()], pa.int64())
            )
        parts.append(prepare(part, input_spec=input_spec))
        order.append(indices)
    table = pa.concat_tables(parts, promote_options="permissive")
    if len(parts) > 1:
        table = table.take(pa.array(np.argsort(np.concatenate(order))))
    return _with_problems(table, values)


def _with_problems(rows: pa.Table, values: Mapping[str, Sequence[MediaValue]]) -> pa.Table:
    """Return rows whose columns of problems also name cells that could not be parsed."""
    songs = rows["song"].to_pylist()
    for name, cells in values.items():
        if not any(cell.problem for cell in cells):
            continue
        column = f"{name}{TROUBLE}"
        problems = [
            problem if cell.problem is None else f"{cell.problem}\nof song {song}\n{cell.detail}"
            for cell, problem, song in zip(cells, rows[column].to_pylist(), songs, strict=True)
        ]
        rows = rows.set_column(rows.column_names.index(column), column, pa.array(problems, pa.string()))
    return rows


def _unwrap(cell: Any) -> Any:
    """Return the value inside scalars and buffers of numpy and pyarrow; buffers become bytes."""
    if isinstance(cell, pa.Scalar):
        cell = cell.as_py()
    if isinstance(cell, np.ndarray) and cell.ndim == 0:
        cell = cell.item()
    if isinstance(cell, array.array) or (isinstance(cell, memoryview) and cell.format not in BYTE_FORMATS):
        return np.asarray(cell)
    if isinstance(cell, bytearray | memoryview | pa.Buffer):
        return bytes(cell)
    if isinstance(cell, np.void):
        return cell.tobytes()
    if isinstance(cell, io.BytesIO):
        return cell.getvalue()
    if isinstance(cell, np.ndarray) and cell.dtype == np.uint8 and cell.ndim == 1:
        return cell.tobytes()  # as np.fromfile reads a file
    return cell


def _is_missing(cell: Any) -> bool:
    """Return whether a cell is None, NA, NaT or NaN."""
    if cell is None or cell is pd.NA or cell is pd.NaT:
        return True
    return isinstance(cell, float | np.generic) and bool(cell != cell)


def _is_utf8(name: str) -> bool:
    """Return whether a string has no unpaired surrogates."""
    try:
        name.encode()
    except UnicodeEncodeError:
        return False
    return True


def _parse_mapping(cell: Mapping[Any, Any], modality: str, rate: Any) -> MediaValue:
    """Parse a cell of Hugging Face `datasets`: `path` and `bytes`, or `array` and `sampling_rate`."""
    own_rate = _unwrap(cell.get("sampling_rate"))
    values = [value for key in ("array", "bytes", "path")  # next to bytes, the path is only a name
              if not _is_missing(value := _unwrap(cell.get(key)))]  # fmt: skip
    for value in values:
        if not isinstance(value, Mapping):
            return parse_media_value(value, modality, rate if _is_missing(own_rate) else own_rate)
    if values or not cell.keys() & {"array", "bytes", "path"}:
        return MediaValue(problem=NOT_MEDIA, detail="dict in a dict" if values else "dict")
    return MediaValue()


def _parse_array(cell: Any, modality: str, rate: Any) -> MediaValue:
    """Parse samples, mixing several channels down to one."""
    if get_modality(modality).rate_column is None:
        return MediaValue(problem=NOT_A_FILE)
    try:
        samples = np.asarray(cell)
    except (TypeError, ValueError, RuntimeError) as error:  # ragged lists, a tensor on a GPU
        return MediaValue(problem=NOT_SAMPLES, detail=str(error)[:120])
    if samples.size == 0:  # an empty list is a missing value, like a blank path
        return MediaValue()
    scale = FULL_SCALE.get(samples.dtype.name)
    if samples.dtype.kind != "f" and scale is None:
        return MediaValue(problem=NOT_SAMPLES, detail=f"{samples.dtype} in place of floats or int16")
    if samples.ndim == 2 and min(samples.shape) <= MAX_CHANNELS < max(samples.shape):
        with np.errstate(all="ignore"):  # as below
            channels = (samples if np.argmin(samples.shape) else samples.T) / np.float64(scale or 1.0)
            samples, scale = mix_down(channels.astype(np.float32)), None
    if samples.ndim != 1:
        return MediaValue(problem=NOT_SAMPLES, detail=f"of shape {samples.shape}")
    hertz = parse_sample_rate(rate)
    if hertz is None:
        return MediaValue(problem=NO_RATE)
    with np.errstate(over="ignore"):  # values beyond float32 become infinite, which the reader rejects
        return MediaValue((samples / (scale or 1.0)).astype("<f4").tobytes(), hertz)
