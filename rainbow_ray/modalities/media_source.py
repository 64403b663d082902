"""Cells of a table that name or hold a file of audio or MIDI: one reading of them, for training and for prediction."""

from __future__ import annotations

import functools
import hashlib
import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from rainbow_ray.errors import first_line
from rainbow_ray.modalities.store import hash_of

IN_TABLE = "in the table"
BAD_RATE = "a sample rate that no sound has"
NO_FILE = "no such file"
LEAVES_ROOT = "a path that leaves the media root"
NO_SOURCE = "neither a path, nor a file's bytes, nor samples"
RATES = (1_000, 768_000)  # Hz
SAMPLED = 16  # parts of a file that its mark is made of
PART = 2**16  # bytes of one

SCALES = {  # integer samples to [-1, 1]: what is subtracted, and what they are divided by
    "int16": (0.0, 2.0**15),
    "int32": (0.0, 2.0**31),
    "uint8": (128.0, 2.0**7),
    "int8": (0.0, 2.0**7),
}


class Trouble(Exception):
    """Why a file cannot be used: a reason that many files share, and what is particular to this one."""

    def __init__(self, reason: str, detail: str = "") -> None:
        super().__init__(reason)
        self.reason, self.detail = reason, detail


class EmptyWindow(Trouble):
    """A window of a readable file in which nothing sounds: silence, or no notes."""


def explain(error: Exception) -> str:
    """A library's error, for the detail of a trouble."""
    return first_line(error)[:120]


def is_missing(value: Any) -> bool:
    """Whether a cell holds nothing: null, NaN, NaT, or a blank string."""
    if value is None or (isinstance(value, str) and not value.strip()):
        return True
    if isinstance(value, str | bytes) or np.ndim(value) > 0 or isinstance(value, Mapping):
        return False
    try:
        return bool(value != value)  # NaN and NaT
    except (TypeError, ValueError):  # pandas.NA has no truth
        return True


def parse_sample_rate(value: Any) -> int | None:
    """Read a sample rate.

    Args:
        value: A number, or a string with one, in Hz.

    Returns:
        The rate in Hz; None where there is none (null, NaN, a blank string), which means that the bytes beside it are
        an encoded file.

    Raises:
        Trouble: It is no number, or outside `RATES`.
    """
    if isinstance(value, bytes):
        value = value.decode("utf-8", "replace")
    if is_missing(value):
        return None
    rate = math.nan
    if isinstance(value, str | int | float | Decimal | np.number) and not isinstance(value, bool | np.bool_):
        try:
            rate = float(value)
        except (ValueError, OverflowError, TypeError):
            rate = math.nan
        if math.isnan(rate) and isinstance(value, str) and value.strip().lower() in ("nan", "none", "null", "<na>"):
            return None
    if not RATES[0] <= rate <= RATES[1]:
        raise Trouble(BAD_RATE, f"{_short(value)}: Hz from {RATES[0]} to {RATES[1]} are read")
    return round(rate)


def read_cell(value: Any, rate: Any = None) -> tuple[str | bytes, int | None] | None:
    """Read a cell of a media column.

    Args:
        value: A path (`str`, `pathlib.Path`), the bytes of a file (`bytes`, `bytearray`, `memoryview`, `numpy.bytes_`,
            an array of uint8), float32 samples as bytes (with a rate), or an array or list of samples of one channel
            (with a rate): floats in [-1, 1], or integers of 8, 16 or 32 bits.
        rate: Sample rate of the samples, as `parse_sample_rate` takes it.

    Returns:
        The path and None, or bytes and their rate (None: an encoded file); None for a cell without a value.

    Raises:
        Trouble: It is nothing of that.
    """
    if is_missing(value):
        return None
    if isinstance(value, str):
        return str(value), None
    if isinstance(value, os.PathLike):
        return os.fsdecode(value), None
    if isinstance(value, bytes | bytearray | memoryview | np.void):
        return bytes(value), parse_sample_rate(rate)
    if isinstance(value, Mapping) or not (np.ndim(value) or hasattr(value, "__array__")):
        raise Trouble(NO_SOURCE, type(value).__name__)
    return _read_array(value, parse_sample_rate(rate))


def _read_array(value: Any, rate: int | None) -> tuple[bytes, int | None]:
    """Samples as float32 bytes; an array of uint8 without a rate is a file's bytes."""
    try:
        array = np.squeeze(np.asarray(value))
    except (TypeError, ValueError) as error:  # a ragged list
        raise Trouble(NO_SOURCE, explain(error)) from error
    if array.dtype == np.uint8 and array.ndim <= 1 and rate is None:
        return array.tobytes(), None
    if array.dtype.kind not in "fiu":
        raise Trouble(NO_SOURCE, f"an array of {array.dtype}")
    if rate is None:
        raise Trouble("samples without a sample rate", f"{array.size} samples")
    if array.ndim > 1:
        raise Trouble("samples of several channels: one is read, so give their mean", f"shape {array.shape}")
    if array.dtype.kind == "f":
        return np.atleast_1d(array).astype("<f4").tobytes(), rate
    if array.dtype.name not in SCALES:
        raise Trouble("samples whose full scale is not known: give float32 in [-1, 1], or int16", f"{array.dtype}")
    zero, scale = SCALES[array.dtype.name]
    return ((np.atleast_1d(array) - zero) / scale).astype("<f4").tobytes(), rate


def append_cells(rows: pa.Table, modality: str, values: Sequence[Any], rates: Sequence[Any] | None = None) -> pa.Table:
    """Append the cells of a media column to rows, as `MediaReader` takes them: paths and bytes may stand in one column.

    Args:
        rows: One row a stem.
        modality: "audio" or "midi".
        values: A cell of each row, of any kind that `read_cell` takes.
        rates: A sample rate of each row; None means that there are none.

    Returns:
        Rows with `raw_<modality>` (bytes, or a path as bytes), `raw_<modality>_rate`, `raw_<modality>_path` (whether it
        is a path) and `raw_<modality>_trouble` (why a cell is none of them).
    """
    cells: list[bytes | None] = []
    found_rates: list[str | None] = []
    are_paths: list[bool] = []
    troubles: list[str | None] = []
    for i, value in enumerate(values):
        cell, trouble = None, None
        try:
            cell = read_cell(value, rates[i] if rates is not None else None)
        except Trouble as error:
            trouble = f"{error.reason}\n{IN_TABLE}\n{error.detail}"
        content, rate = cell if cell is not None else (None, None)
        are_paths.append(isinstance(content, str))
        cells.append(os.fsencode(content) if isinstance(content, str) else content)
        found_rates.append(None if rate is None else str(rate))
        troubles.append(trouble)
    columns = {
        f"raw_{modality}": pa.array(cells, pa.large_binary()),
        f"raw_{modality}_rate": pa.array(found_rates, pa.string()),
        f"raw_{modality}_path": pa.array(are_paths, pa.bool_()),
        f"raw_{modality}_trouble": pa.array(troubles, pa.string()),
    }
    for name, column in columns.items():
        rows = rows.append_column(name, column)
    return rows


@dataclass(frozen=True)
class Source:
    """A stem's file of one modality: a path, or its bytes (encoded, or samples with a rate).

    Attributes:
        name: What stands in the manifest, or a hash of the bytes.
        path: Where the file is; None for bytes.
        data: Its bytes; None for a path.
        rate: Sample rate in Hz, of bytes that are samples.
    """

    name: str
    path: Path | None
    data: bytes | None
    rate: int | None

    @classmethod
    def of(cls, value: str | bytes, root: Path, rate: Any) -> Source:
        """Make a source of a path under `root`, or of bytes. Raises `Trouble` for a rate that is none."""
        if isinstance(value, bytes):
            rate = parse_sample_rate(rate)
            return cls(f"bytes {hash_of(value, rate)}", None, value, rate)
        return cls(value, root / value, None, None)

    @property
    def shown(self) -> str:
        """Its name, for people: on one line."""
        return " ".join(self.name.splitlines()) if self.path is not None else IN_TABLE

    @functools.cached_property
    def mark(self) -> list[int | str] | None:
        """What tells whether a file is still the same; None where there is none.

        Size, times and number of the file, and a hash of its content: times and sizes are alike in unpacked archives,
        images and mounted buckets. Of files of more than `SAMPLED * PART` bytes (1 MiB), parts are hashed that lie
        evenly from the beginning to the end: reading all of a long WAV file takes several times as long as reading a
        window of it.
        """
        if self.path is None:
            return [len(self.data or b"")]
        try:
            stat = self.path.stat()
            digest = _digest(self.path, stat.st_size) if self.path.is_file() else ""
        except (OSError, ValueError):  # a name that no file can have, or one that must not be read
            return None
        return [stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns, stat.st_ino, digest]

    def is_still(self, look: Mapping[str, Any], *, stands_in: bool) -> bool:
        """Whether a look is of the file as it is now, or (with `stands_in`) of one that is not here."""
        if self.mark is None:
            was_missing = "mark" in look and look["mark"] is None
            return was_missing or (stands_in and bool(look.get("windows")))
        return look.get("mark") == self.mark

    def content(self) -> Path | bytes:
        """Return the path or the bytes. Raises `Trouble` where there is nothing to read."""
        if self.data is not None:
            if not self.data:
                raise Trouble("empty (0 bytes)")
            return self.data
        assert self.path is not None
        if ".." in Path(self.name).parts:
            raise Trouble(LEAVES_ROOT)
        try:
            is_there = self.path.exists()
        except (OSError, ValueError):
            is_there = False
        if not is_there:
            raise Trouble(NO_FILE)
        if not self.path.is_file():
            raise Trouble("not a file")
        if self.mark is None:
            raise Trouble("a file that must not be read (permissions)")
        if self.mark[0] == 0:
            raise Trouble("empty (0 bytes)")
        return self.path


def _digest(path: Path, size: int) -> str:
    """A hash of a file's content, or of `SAMPLED` parts of it that lie evenly between its beginning and its end."""
    digest = hashlib.blake2b(digest_size=16)
    with path.open("rb") as file:
        if size <= SAMPLED * PART:
            digest.update(file.read())
        else:
            for i in range(SAMPLED):
                file.seek((size - PART) * i // (SAMPLED - 1))
                digest.update(file.read(PART))
    return digest.hexdigest()


def _short(value: Any) -> str:
    shown = repr(value)
    return shown if len(shown) <= 40 else f"{shown[:37]}..."
