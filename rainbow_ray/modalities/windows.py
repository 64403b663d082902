"""Which windows of a stem's file are read, and the protocols of an opened file and of a reader of rows."""

from __future__ import annotations

import math
import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from rainbow_ray.config.choices import MAX_WINDOWS

if TYPE_CHECKING:
    import pyarrow as pa

    from rainbow_ray.modalities.array_cache import ArrayCache

POSITIONS = ("start", "middle")
WINDOW_RATE = 16_000  # Hz, of windows of samples, unless the encoder reads another rate

# (modality or key of its descriptors, key of a window) to the array that is read
FindWindow = Callable[[str, str], np.ndarray]
DrawView = Callable[[], "int | None"]  # seed that draws one window per stem; None: all windows are read


class Recording(Protocol):
    """An opened file of a modality, from which windows are read."""

    @property
    def duration(self) -> float:
        """Length of the file in seconds."""

    def sounding(self, seconds: float) -> tuple[float, float]:
        """Return the start and end, in seconds, of the part of the file from which windows are taken.

        It is the longest part that is not silent. Pauses up to half a window, inside it or at either end of the file,
        belong to it, so that an ordinary file gives `(0, duration)`.

        Args:
            seconds: Length of a window.

        Returns:
            `(start, end)` with `0 <= start <= end <= duration`; `(0, duration)` for a file that is silent throughout.
        """

    def read(self, start: float, seconds: float, max_seconds: float | None = None) -> np.ndarray:
        """Return a window.

        Args:
            start: Start of the window in seconds.
            seconds: Length of the window.
            max_seconds: Read only the first `max_seconds` of its sound; None: all of it.

        Returns:
            An array with time along the first axis.

        Raises:
            EmptyWindow: The window is silent.
            MediaError: It cannot be read.
        """


@dataclass(frozen=True)
class Windows:
    """Which windows of a stem are read.

    Attributes:
        seconds: Length of a window.
        position: Where the first window lies: one of `POSITIONS`.
        views: Number of windows per stem; `all` for windows one after the other, at most `MAX_WINDOWS`.
        seed: Seeds the positions of the windows after the first.
        sample_rate: Sample rate in Hz of windows that are samples.
    """

    seconds: float
    position: str = "middle"
    views: int | str = 1
    seed: int = 0
    sample_rate: int = field(default=WINDOW_RATE, repr=False)  # part of a cache's key only where it is another one

    def to_json(self) -> dict[str, Any]:
        """Return the fields as JSON values.

        Returns:
            Values by name.
        """
        return {
            "seconds": self.seconds,
            "position": self.position,
            "windows_per_stem": self.views,
            "seed": self.seed,
            "sample_rate": self.sample_rate,
        }

    @classmethod
    def from_json(cls, document: Mapping[str, Any]) -> Windows:
        """Return windows from JSON values, in which earlier versions did not write the sample rate.

        Args:
            document: What `to_json` returned.

        Returns:
            The windows.
        """
        return cls(
            document["seconds"], document["position"], document["windows_per_stem"], document["seed"],
            document.get("sample_rate", WINDOW_RATE),
        )  # fmt: skip

    def leaves_gaps(self, duration: float) -> bool:
        """Return whether windows that should cover a file do not, because it is too long.

        Args:
            duration: Length of the whole file in seconds.

        Returns:
            Whether parts of it lie in no window.
        """
        return isinstance(self.views, str) and duration > MAX_WINDOWS * self.seconds

    def starts(self, duration: float, name: str, sounding: tuple[float, float] | None = None) -> list[float]:
        """Return the seconds at which the windows of a stem begin.

        Args:
            duration: Length of the whole file in seconds.
            name: Name of the stem. Windows after the first are drawn, and are the same for the same name.
            sounding: Start and end of the part that is not silent (see `Recording.sounding`); None means all of it.

        Returns:
            `views` starts. The first window lies in the middle, or at the start, of the part that is not silent. With
            `all`, windows of the whole file, of which the last one ends where the file does; those in pauses are
            silent.
        """
        begin, end = sounding or (0.0, duration)
        latest = max(0.0, duration - self.seconds)
        if isinstance(self.views, str):
            count = min(max(1, math.ceil(duration / self.seconds - 1e-6)), MAX_WINDOWS)
            return [round(float(start), 3) for start in np.linspace(0.0, latest, count)]
        rng = np.random.default_rng([self.seed, zlib.crc32(name.encode("utf-8", "replace"))])
        first = begin if self.position == "start" else (begin + end - self.seconds) / 2
        lowest = min(begin, latest)
        drawn = rng.uniform(lowest, max(lowest, end - self.seconds), self.views - 1)
        return [round(float(start), 3) for start in (min(max(0.0, first), latest), *drawn)]


@dataclass(frozen=True)
class Span:
    """The interval of a segment in its stem's file.

    Attributes:
        start: Start in seconds.
        end: End in seconds.
    """

    start: float
    end: float

    def window(self, seconds: float) -> tuple[float, float]:
        """Return the window of the segment: the middle of a segment that is longer than a window.

        Args:
            seconds: Length of a window.

        Returns:
            The start of the window, and how many of its seconds belong to the segment.
        """
        length = self.end - self.start
        return round(self.start + max(0.0, (length - seconds) / 2), 3), min(length, seconds)


class WindowReader(Protocol):
    """The object that reads windows of media files (`modalities.media.MediaReader`)."""

    @property
    def root(self) -> Path:
        """Folder that relative paths of media start from."""

    @property
    def windows(self) -> Windows:
        """Which windows are read."""

    @property
    def folder(self) -> Path | None:
        """Folder of the cache of windows; None for a cache in memory."""

    @property
    def store(self) -> ArrayCache:
        """Cache of windows and of frozen features."""

    def __call__(self, rows: pa.Table) -> pa.Table:
        """Return rows with the keys of their windows in place of their files."""
