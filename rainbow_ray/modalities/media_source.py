"""A stem's file of audio or MIDI, on disk or in the table; whether it is still the same; and why it cannot be used."""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from rainbow_ray.utils.errors import first_line
from rainbow_ray.utils.hashing import hash_parts

IN_TABLE = "in the table"
TROUBLE = "_trouble"  # ends a column's name: why a file is treated as missing
NOTE = "_note"  # the same: what is to be told of a file that is used
LENGTHS = "_lengths"  # ends the column with the length of each window: samples, or notes
# ends the reason of a MIDI file that rests where its stem's audio is read, or the other way round
BESIDE_OTHER = ", in the seconds that are read of its stem's other file"
IN_SEGMENT = ", in the seconds of its segment"  # ends the reason of a stem that rests during a segment
BAD_RATE = "a sample rate that no sound has"
NO_FILE = "no such file"
LEAVES_ROOT = "a path that leaves the media root"
RATES = (1_000, 768_000)  # Hz


class MediaError(Exception):
    """Why a file cannot be used: a reason that many files share, and what is particular to this one."""

    def __init__(self, reason: str, detail: str = "") -> None:
        super().__init__(reason)
        self.reason, self.detail = reason, detail


class EmptyWindow(MediaError):
    """A window of a readable file in which nothing sounds: silence, or no notes."""


def explain(error: Exception) -> str:
    """A library's error, for the detail of a trouble."""
    return first_line(error)[:120]


def check_rate(rate: Any) -> int | None:
    """Check a sample rate that a table has beside samples.

    Args:
        rate: Hz as the table's reader has parsed it; None or NaN where there is none, which means that the bytes are an
            encoded file.

    Returns:
        The rate in Hz, or None.

    Raises:
        Trouble: It is no number, or outside `RATES`.
    """
    is_number = isinstance(rate, int | float | np.number) and not isinstance(rate, bool)
    if rate is None or (is_number and rate != rate):
        return None
    if not is_number or not RATES[0] <= rate <= RATES[1]:
        raise MediaError(BAD_RATE, f"{str(rate)[:40]} Hz: from {RATES[0]} to {RATES[1]} are read")
    return int(rate)


@dataclass(frozen=True)
class MediaSource:
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
    def of(cls, value: str | bytes, root: Path, rate: Any) -> MediaSource:
        """Make a source of a path under `root`, or of bytes. Raises `MediaError` for a rate that is none."""
        if isinstance(value, bytes):
            rate = check_rate(rate)
            return cls(f"bytes {hash_parts(value, rate)}", None, value, rate)
        return cls(value, root / value, None, None)

    @property
    def shown(self) -> str:
        """Its name, for people: on one line."""
        return " ".join(self.name.splitlines()) if self.path is not None else IN_TABLE

    @functools.cached_property
    def stat(self) -> list[int] | None:
        """Size, times and number of the file, which change whenever it is written; None where there is none."""
        if self.path is None:
            return [len(self.data or b"")]
        try:
            stat = self.path.stat()
            if self.path.is_file():
                self.path.open("rb").close()
        except (OSError, ValueError):  # a name that no file can have, or one that must not be read
            return None
        return [stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns, stat.st_ino]

    @functools.cached_property
    def mark(self) -> list[int | str] | None:
        """What tells whether a file is still the same: `stat`, and a hash of its content; None where there is none.

        Times and sizes alone do not tell: they are alike in unpacked archives, images and mounted buckets.
        """
        if self.stat is None or self.path is None:
            return None if self.stat is None else [*self.stat]
        return [*self.stat, _digest(self.path) if self.path.is_file() else ""]

    def is_still(self, look: Mapping[str, Any], *, cache_without_files: bool) -> bool:
        """Whether a look is of the file as it is now, or (with `cache_without_files`) of one that is not here.

        The content is hashed only where `stat` differs, as it does for the same file on another machine.
        """
        if self.stat is None:
            was_missing = "mark" in look and look["mark"] is None
            return was_missing or (cache_without_files and bool(look.get("windows")))
        before = look.get("mark")
        if not isinstance(before, list) or before[:1] != self.stat[:1]:
            return False
        return before[: len(self.stat)] == self.stat or (self.mark is not None and before[-1] == self.mark[-1])

    def is_elsewhere(self, look: Mapping[str, Any]) -> bool:
        """Whether a look that is still good was of a file of other times, or in another place."""
        return self.stat is not None and look.get("mark", [])[: len(self.stat)] != self.stat

    def content(self) -> Path | bytes:
        """Return the path or the bytes. Raises `MediaError` where there is nothing to read."""
        if self.data is not None:
            if not self.data:
                raise MediaError("empty (0 bytes)")
            return self.data
        assert self.path is not None
        if ".." in Path(self.name).parts:
            raise MediaError(LEAVES_ROOT)
        try:
            is_there = self.path.exists()
        except (OSError, ValueError):
            is_there = False
        if not is_there:
            raise MediaError(NO_FILE)
        if not self.path.is_file():
            raise MediaError("not a file")
        if self.stat is None:
            raise MediaError("a file that must not be read (permissions)")
        if self.stat[0] == 0:
            raise MediaError("empty (0 bytes)")
        return self.path


def _digest(path: Path) -> str:
    """A hash of a file's content."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, functools.partial(hashlib.blake2b, digest_size=16)).hexdigest()
