"""Audio files opened by libsndfile, with a length that holds: what a header claims is checked against what can be read.

A file whose last samples can be read where its header says they are is sought in, as any other. One where they cannot
(streams of unknown length, cut-off and damaged files) is read once from its beginning to its end, which tells its
length, and its windows are read from the beginning too.
"""

from __future__ import annotations

import contextlib
import functools
import io
import mmap
import os
import struct
import tempfile
import threading
from collections.abc import Callable, Generator, Iterator, Sequence
from pathlib import Path
from typing import Any, BinaryIO, Protocol

import numpy as np

from rainbow_ray.modalities.audio_headers import (
    Header,
    describe_foreign,
    open_bytes,
    read_header,
    unknown_flac_length,
)
from rainbow_ray.modalities.media_source import BAD_RATE, RATES, Trouble, explain
from rainbow_ray.modalities.mpeg_frames import find_stream, skip_tags

CUT_OFF = "cut off: its header promises more sound"
UNREADABLE = "not readable as audio"
SLACK = 0.1  # seconds by which a length may be wrong: encoders pad their first and last frames
LEVEL_SECONDS = 0.1  # of sound that have one level
LONGEST = 24 * 3600.0  # seconds
FLAC_TAIL = 2**17  # bytes behind the last sample that are no further ones: what is read ahead, and tags

_STDERR = threading.Lock()


class AudioFile(Protocol):
    """Samples of some channels, which can be read from any place."""

    rate: int
    frames: int

    def read(self, first: int, count: int) -> np.ndarray:
        """Return samples `(<= count, channels)`, float32, fewer only at the end. Raises `Trouble`."""


class Samples:
    """Samples that are in memory already: `(frames, channels)` in [-1, 1]."""

    def __init__(self, samples: np.ndarray, rate: int) -> None:
        self.samples, self.rate, self.frames = samples, rate, len(samples)

    def read(self, first: int, count: int) -> np.ndarray:
        return self.samples[first : first + count]


class SeekableFile:
    """A file whose header holds."""

    def __init__(self, file: Any, frames: int, *, is_mpeg: bool) -> None:
        self.file, self.rate, self.frames, self.is_mpeg = file, file.samplerate, frames, is_mpeg

    def read(self, first: int, count: int) -> np.ndarray:
        try:
            with hold_back_stderr(self.is_mpeg):
                self.file.seek(first)
                samples: np.ndarray = self.file.read(min(count, self.frames - first), dtype="float32", always_2d=True)
        except _errors() as error:
            raise Trouble(CUT_OFF, explain(error)) from error
        return samples


class SequentialFile:
    """A file whose header does not hold: each window is read from its beginning on.

    Attributes:
        levels: Level of each `LEVEL_SECONDS` of it (see `levels_of`).
    """

    def __init__(self, reopen: Callable[[], Any], *, is_mpeg: bool) -> None:
        self.reopen, self.is_mpeg = reopen, is_mpeg
        self.rate, self.frames, levels = 0, 0, []
        with hold_back_stderr(is_mpeg), contextlib.closing(self._blocks()) as blocks:
            for block, rate in blocks:
                self.rate, self.frames = rate, self.frames + len(block)
                levels.append(levels_of(block, rate))
                if self.frames > LONGEST * rate:
                    raise Trouble("longer than a day")
        self.levels = np.concatenate(levels) if levels else np.zeros(0)

    def read(self, first: int, count: int) -> np.ndarray:
        parts, start = [np.zeros((0, 1), np.float32)], 0
        with hold_back_stderr(self.is_mpeg), contextlib.closing(self._blocks()) as blocks:
            for block, _ in blocks:
                part = block[max(0, first - start) : max(0, first + count - start)]
                start += len(block)
                if len(part):
                    parts.append(part)
                if start >= first + count:
                    break
        return np.concatenate(parts[1:]) if len(parts) > 1 else parts[0]

    def _blocks(self) -> Generator[tuple[np.ndarray, int]]:
        """Blocks of samples and their rate, from the beginning to where no more can be read."""
        with contextlib.suppress(*_errors()), self.reopen() as file:
            # where a decoder fails, all that it read in the same call is lost
            size = level_frames(file.samplerate)
            while len(block := file.read(size, dtype="float32", always_2d=True)):
                yield block, file.samplerate


def level_frames(rate: int) -> int:
    """Return the number of samples that have one level."""
    return max(1, round(LEVEL_SECONDS * rate))


def levels_of(samples: np.ndarray, rate: int) -> np.ndarray:
    """Return how loud each `LEVEL_SECONDS` of some samples is.

    A level is the standard deviation, of the loudest channel: a constant is no sound, and channels of opposite sign do
    not cancel.

    Args:
        samples: `(frames, channels)`.
        rate: Hz.

    Returns:
        `(ceil(frames / level_frames(rate)),)`; NaN where a sample is none.
    """
    size = level_frames(rate)
    whole = len(samples) // size * size
    blocks = samples[:whole].reshape(-1, size, samples.shape[1])
    with np.errstate(all="ignore"):
        levels = blocks.std(axis=1, dtype=np.float32).max(axis=1)
        if whole == len(samples):
            return levels
        return np.append(levels, samples[whole:].std(axis=0, dtype=np.float32).max())


def open_audio(source: Path | bytes) -> tuple[AudioFile, bool]:
    """Open a file, or its bytes.

    Args:
        source: Its path, or what is in it.

    Returns:
        The file, and whether its header claims more than can be read.

    Raises:
        Trouble: It is no audio, or has no samples, or a rate that no sound has.
    """
    try:
        with open_bytes(source) as file:
            header, head = read_header(file), _head(file)
    except (OSError, ValueError, struct.error) as error:
        raise Trouble(UNREADABLE, explain(error)) from error
    try:
        file, header, claimed = _open_with_length(source, header)
    except _errors() as error:
        foreign = describe_foreign(head)
        raise Trouble(f"{UNREADABLE}: {foreign}" if foreign else UNREADABLE, explain(error)) from error
    if not RATES[0] <= file.samplerate <= RATES[1]:
        raise Trouble(BAD_RATE, f"{file.samplerate} Hz")
    if file.frames <= 0:
        raise Trouble("no samples")
    is_mpeg = header.kind == "MPEG"
    pieces = header.pieces
    if header.kind == "FLAC" and _goes_on(source, file.frames):
        with open_bytes(source) as raw:
            pieces = unknown_flac_length(raw)
    elif _tail_is_there(file, is_mpeg=is_mpeg):
        is_cut = header.is_cut or (claimed - file.frames) / file.samplerate > SLACK
        return SeekableFile(file, file.frames, is_mpeg=is_mpeg), is_cut
    found = SequentialFile(functools.partial(_open, source, pieces, is_sequential=True), is_mpeg=is_mpeg)
    if found.frames == 0:
        raise Trouble(UNREADABLE, "no sample can be decoded")
    is_unknown = pieces is not header.pieces or file.frames > LONGEST * file.samplerate
    return found, header.is_cut or (not is_unknown and (claimed - found.frames) / found.rate > SLACK)


def _open_with_length(source: Path | bytes, header: Header) -> tuple[Any, Header, int]:
    """Open a file; MP3 with the length that its frames have. Also gives how many samples its header claims."""
    with hold_back_stderr(header.kind == "MPEG"):
        try:
            file = _open(source, header.pieces)
        except _errors():
            if header.kind not in ("MPEG", ""):
                raise
            file = None
    if file is not None and file.format not in ("MP3", "MPEG"):
        return file, header, file.frames
    with _whole(source) as data:
        stream = find_stream(data)
    if stream is None:
        return (file or _open(source, header.pieces)), Header("MPEG"), 0 if file is None else file.frames
    claimed = stream.samples if stream.claimed is None else stream.claimed * (stream.samples // stream.count)
    slack = SLACK * stream.rate + 2 * (stream.samples // stream.count)
    if file is None or len(stream.ranges) > 1 or abs(file.frames - stream.samples) > slack:
        header = Header("MPEG", (stream.info, *stream.ranges))
        with hold_back_stderr():
            file = _open(source, header.pieces)
    return file, Header("MPEG", header.pieces, claimed - stream.samples > slack), file.frames


def _open(source: Path | bytes, pieces: Sequence[bytes | range] | None, *, is_sequential: bool = False) -> Any:
    import soundfile

    class Sequential(soundfile.SoundFile):  # type: ignore[misc]
        """Does not seek after each read, which fails at the end of a file whose length is not known."""

        def seekable(self) -> bool:
            return False

    kind = Sequential if is_sequential else soundfile.SoundFile
    return kind(source if isinstance(source, Path) and pieces is None else open_bytes(source, pieces))


def _tail_is_there(file: Any, *, is_mpeg: bool) -> bool:
    """Whether the last samples can be read where a header says that they are."""
    if file.frames > LONGEST * file.samplerate:
        return False
    count = min(file.frames, file.samplerate)
    try:
        with hold_back_stderr(is_mpeg):
            file.seek(file.frames - count)
            tail = file.read(count, dtype="float32", always_2d=True)
    except _errors():
        return False
    return count - len(tail) <= SLACK * file.samplerate


def _goes_on(source: Path | bytes, frames: int) -> bool:
    """Whether a FLAC file has more behind the last sample that its header claims."""
    import soundfile

    with open_bytes(source) as raw:
        size = raw.seek(0, io.SEEK_END)
        raw.seek(0)
        try:
            with soundfile.SoundFile(raw) as file:
                file.seek(frames - 1)
                file.read(1, dtype="float32", always_2d=True)
                return size - raw.tell() > FLAC_TAIL and size - raw.tell() > 2 * file.samplerate * size / frames
        except _errors():
            return False


@contextlib.contextmanager
def _whole(source: Path | bytes) -> Iterator[bytes | mmap.mmap]:
    if isinstance(source, bytes):
        yield source
        return
    with source.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as mapped:
        yield mapped


@contextlib.contextmanager
def hold_back_stderr(is_needed: bool = True) -> Iterator[None]:
    """Hold back what libmpg123 prints: it names no file, and what matters of it is a `Trouble`."""
    if not is_needed:
        yield
        return
    with _STDERR, tempfile.TemporaryFile() as held:
        try:
            own = os.dup(2)
        except OSError:  # there is no standard error
            yield
            return
        os.dup2(held.fileno(), 2)
        try:
            yield
        finally:
            os.dup2(own, 2)
            os.close(own)
            held.seek(0)
            other = [line for line in held if not _is_of_decoder(line)]
            if other:  # of another thread
                with contextlib.suppress(OSError):
                    os.write(2, b"".join(other))


def _is_of_decoder(line: bytes) -> bool:
    return not line.strip() or b"mpg123" in line or line.startswith((b"Warning: ", b"Note: ", b"error: "))


def _errors() -> tuple[type[Exception], ...]:
    import soundfile

    return soundfile.LibsndfileError, RuntimeError, ValueError, TypeError, OSError


def _head(file: BinaryIO) -> bytes:
    """The first bytes of a file behind its ID3 tag."""
    file.seek(0)
    file.seek(skip_tags(file.read(10), 0))
    return file.read(512)
