"""A stem's file of audio or MIDI, on disk or in the table: whether it changed, and why it cannot be used."""

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
TROUBLE = "_trouble"  # suffix of the column with the reason why a file is treated as missing
NOTE = "_note"  # suffix of the column with a remark on a file that is used
LENGTHS = "_lengths"  # suffix of the column with the length of each window: samples, or notes
# suffix of the reason of a MIDI file that is silent where its stem's audio is read, or the other way round
BESIDE_OTHER = ", in the seconds that are read of its stem's other file"
IN_SEGMENT = ", in the seconds of its segment"  # suffix of the reason of a stem that is silent during a segment
BAD_RATE = "a sample rate that no sound has"
NO_FILE = "no such file"
LEAVES_ROOT = "a path that leaves the media root"
RATES = (1_000, 768_000)  # Hz: the lowest and the highest rate that is accepted
MAX_DETAIL = 120  # characters of a library's message


class MediaError(Exception):
    """A media file cannot be used.

    Args:
        reason: The reason, in words that many files share, so that they can be counted.
        detail: What is particular to this file.
    """

    def __init__(self, reason: str, detail: str = "") -> None:
        super().__init__(reason)
        self.reason, self.detail = reason, detail


class EmptyWindow(MediaError):
    """A window of a readable file is silent, or has no notes."""


def explain(error: Exception) -> str:
    """Return a library's error as the detail of a `MediaError`.

    Args:
        error: The error.

    Returns:
        The first line of its message, cut at `MAX_DETAIL` characters.
    """
    return first_line(error)[:MAX_DETAIL]


def check_rate(rate: Any) -> int | None:
    """Check the sample rate of samples in a table.

    Args:
        rate: Hz; None or NaN means that the bytes are an encoded file.

    Returns:
        The rate in Hz, or None.

    Raises:
        MediaError: It is no number, or outside `RATES`.
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
        name: Path as the manifest has it, or a hash of the bytes.
        path: Path of the file; None for bytes.
        data: The bytes; None for a path.
        rate: Sample rate in Hz, of bytes that are samples.
    """

    name: str
    path: Path | None
    data: bytes | None
    rate: int | None

    @classmethod
    def of(cls, value: str | bytes, root: Path, rate: Any) -> MediaSource:
        """Return the source of a cell.

        Args:
            value: A path, or the content of a file.
            root: Folder that relative paths start from.
            rate: Sample rate of the cell, of any type.

        Returns:
            The source; a path is not opened.

        Raises:
            MediaError: The sample rate cannot be used.
        """
        if isinstance(value, bytes):
            rate = check_rate(rate)
            return cls(f"bytes {hash_parts(value, rate)}", None, value, rate)
        return cls(value, root / value, None, None)

    @property
    def display_name(self) -> str:
        """Its name in messages, on one line."""
        return " ".join(self.name.splitlines()) if self.path is not None else IN_TABLE

    @functools.cached_property
    def stat(self) -> list[int] | None:
        """Size, times and inode of the file, which change whenever it is written; None if it cannot be opened."""
        if self.path is None:
            return [len(self.data or b"")]
        try:
            stat = self.path.stat()
            if self.path.is_file():
                self.path.open("rb").close()
        except (OSError, ValueError):  # a name that no file can have, or a file without permission
            return None
        return [stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns, stat.st_ino]

    @functools.cached_property
    def mark(self) -> list[int | str] | None:
        """The identity of the file's content: `stat` and a hash; None if it cannot be opened.

        Sizes and times do not suffice: they may be equal in unpacked archives, images and mounted buckets.
        """
        if self.stat is None or self.path is None:
            return None if self.stat is None else [*self.stat]
        return [*self.stat, _digest(self.path) if self.path.is_file() else ""]

    def is_still(self, entry: Mapping[str, Any], *, cache_without_files: bool) -> bool:
        """Return whether an index entry is of the file as it is now.

        The content is hashed only if `stat` differs, as for the same file on another machine.

        Args:
            entry: Index entry of the file.
            cache_without_files: Whether the windows of a file that does not exist here may be used.

        Returns:
            Whether the entry may be used.
        """
        if self.stat is None:
            was_missing = "mark" in entry and entry["mark"] is None
            return was_missing or (cache_without_files and bool(entry.get("windows")))
        saved_mark = entry.get("mark")
        if not isinstance(saved_mark, list) or saved_mark[:1] != self.stat[:1]:
            return False
        return saved_mark[: len(self.stat)] == self.stat or (self.mark is not None and saved_mark[-1] == self.mark[-1])

    def is_elsewhere(self, entry: Mapping[str, Any]) -> bool:
        """Return whether an index entry that may be used is of a copy of the file with another `stat`.

        Args:
            entry: Index entry of the file.

        Returns:
            Whether the mark of the entry is outdated.
        """
        return self.stat is not None and entry.get("mark", [])[: len(self.stat)] != self.stat

    def content(self) -> Path | bytes:
        """Return what to open.

        Returns:
            The path of the file, or its bytes.

        Raises:
            MediaError: There is no file, it is empty, or it must not be read.
        """
        if self.data is not None:
            if not self.data:
                raise MediaError("empty (0 bytes)")
            return self.data
        assert self.path is not None
        if ".." in Path(self.name).parts:
            raise MediaError(LEAVES_ROOT)
        try:
            exists = self.path.exists()
        except (OSError, ValueError):
            exists = False
        if not exists:
            raise MediaError(NO_FILE)
        if not self.path.is_file():
            raise MediaError("not a file")
        if self.stat is None:
            raise MediaError("a file that must not be read (permissions)")
        if self.stat[0] == 0:
            raise MediaError("empty (0 bytes)")
        return self.path


def _digest(path: Path) -> str:
    """Return a hash of a file's content."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, functools.partial(hashlib.blake2b, digest_size=16)).hexdigest()
