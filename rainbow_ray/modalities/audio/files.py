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
from typing import IO, Any, BinaryIO, Protocol

import numpy as np

from rainbow_ray.modalities.audio.headers import (
    Header,
    describe_foreign,
    ogg_links,
    open_bytes,
    read_header,
    unknown_flac_length,
)
from rainbow_ray.modalities.audio.mpeg_frames import find_stream, skip_tags
from rainbow_ray.modalities.media_source import BAD_RATE, RATES, MediaError, explain

CUT_OFF = "cut off: its header promises more sound"
UNREADABLE = "not readable as audio"
SLACK = 0.1  # seconds by which a length may be wrong: encoders pad their first and last frames
LEVEL_SECONDS = 0.1  # of sound that have one level
LONGEST = 24 * 3600.0  # seconds
PREROLL = (
    64 * 1152
)  # samples of MPEG decoded before a place: frames take bits from those before them (255 or 511 bytes)
READ_AHEAD = 2**13  # bytes that libFLAC reads at once
FLAC_FRAMES = (b"\xff\xf8", b"\xff\xf9")  # which begin a frame

_STDERR = threading.RLock()


class AudioFile(Protocol):
    """Samples of some channels, which can be read from any place."""

    rate: int
    frames: int

    def read(self, first: int, count: int) -> np.ndarray:
        """Return samples `(<= count, channels)`, float32, fewer only at the end. Raises `MediaError`."""

    def peek(self, first: int, count: int) -> np.ndarray:
        """As `read`, without an effect on what is read later: the last bit of MP3 depends on what was read before."""


class Samples:
    """Samples that are in memory already: `(frames, channels)` in [-1, 1]."""

    def __init__(self, samples: np.ndarray, rate: int) -> None:
        self.samples, self.rate, self.frames = samples, rate, len(samples)

    def read(self, first: int, count: int) -> np.ndarray:
        return self.samples[first : first + count]

    peek = read


class SeekableFile:
    """A file whose header holds."""

    def __init__(self, opened: Any, reopen: Callable[[], Any]) -> None:
        self.opened, self.reopen, self.is_mpeg = opened, reopen, _is_mpeg(opened)
        self.rate, self.frames = opened.samplerate, opened.frames

    @functools.cached_property
    def file(self) -> Any:
        """What windows are read from."""
        return self.reopen() if self.is_mpeg else self.opened

    def read(self, first: int, count: int) -> np.ndarray:
        with hold_back_stderr(self.is_mpeg):
            return self._read(self.file, first, count)

    def peek(self, first: int, count: int) -> np.ndarray:
        with hold_back_stderr(self.is_mpeg):
            return self._read(self.opened, first, count)

    def _read(self, file: Any, first: int, count: int) -> np.ndarray:
        count = max(0, min(count, self.frames - first))
        preroll = min(first, PREROLL) if self.is_mpeg and count else 0
        try:
            file.seek(first - preroll)
            samples: np.ndarray = file.read(preroll + count, dtype="float32", always_2d=True)
        except _errors() as error:
            raise MediaError(CUT_OFF, _detail(error)) from error
        return samples[preroll:].copy() if preroll else samples


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
                    raise MediaError("longer than a day")
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

    peek = read

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
    parts = [loudness(samples[:whole].T.reshape(samples.shape[1], -1, size))]
    if whole < len(samples):
        parts.append(loudness(samples[whole:].T[:, None]))
    levels: np.ndarray = np.concatenate(parts, axis=1).max(axis=0)
    return levels


def loudness(blocks: np.ndarray) -> np.ndarray:
    """Return the standard deviation along the last axis, which is several times as fast as `numpy.std` on float32."""
    with np.errstate(all="ignore"):
        blocks = np.ascontiguousarray(blocks)
        centred = blocks - blocks.mean(axis=-1, keepdims=True)
        deviation: np.ndarray = np.sqrt(np.einsum("...i,...i->...", centred, centred) / max(1, blocks.shape[-1]))
        return deviation


class JoinedFile:
    """Files that follow each other in one, such as the streams of an Ogg file."""

    def __init__(self, files: Sequence[AudioFile]) -> None:
        self.files, self.rate = files, files[0].rate
        self.starts = np.cumsum([0, *(file.frames for file in files)])
        self.frames = int(self.starts[-1])

    def read(self, first: int, count: int) -> np.ndarray:
        parts = []
        for file, start in zip(self.files, self.starts.tolist(), strict=False):
            begin, end = max(first, start) - start, min(first + count, start + file.frames) - start
            if begin < end:
                parts.append(file.read(begin, end - begin))
        return np.concatenate(parts) if parts else np.zeros((0, 1), np.float32)

    peek = read


def open_audio(source: Path | bytes) -> tuple[AudioFile, bool]:
    """Open a file, or its bytes.

    Args:
        source: Its path, or what is in it.

    Returns:
        The file, and whether its header claims more than can be read, or it goes on with what cannot be read.

    Raises:
        Trouble: It is no audio, or has no samples, or a rate that no sound has.
    """
    try:
        with open_bytes(source) as raw:
            header, head = read_header(raw), _head(raw)
        if header.kind == "OGG":
            with _whole(source) as data:
                links, is_whole = ogg_links(data)
            opened, is_cut = _open_links(source, links) if len(links) > 1 else _open_checked(source, header)
            return opened, is_cut or not is_whole
        return _open_checked(source, header)
    except _errors() as error:
        foreign = describe_foreign(head) if isinstance(error, _errors()[0]) else None
        raise MediaError(f"{UNREADABLE}: {foreign}" if foreign else UNREADABLE, _detail(error)) from error


def _open_links(source: Path | bytes, links: Sequence[range]) -> tuple[AudioFile, bool]:
    """Open the streams of an Ogg file, up to the first that cannot go on from those before it.

    Also tells whether any of them is cut off, or not read.
    """
    files: list[AudioFile] = []
    failures: tuple[type[Exception], ...] = (MediaError, *_errors())
    is_cut = False
    for link in links:
        try:
            file, link_is_cut = _open_checked(source, Header("OGG", (link,)))
        except failures:
            if not files:
                raise
            is_cut = True
            break
        channels = file.read(0, 1).shape[1]
        if files and (file.rate, channels) != (files[0].rate, files[0].read(0, 1).shape[1]):
            is_cut = True
            break
        files.append(file)
        is_cut = is_cut or link_is_cut
    return (JoinedFile(files) if len(files) > 1 else files[0]), is_cut


def _open_checked(source: Path | bytes, header: Header) -> tuple[AudioFile, bool]:
    """Open a file, and see whether its last samples can be read. Raises `MediaError`, and what libsndfile raises."""
    file, header, is_checked = _open_with_length(source, header)
    if not RATES[0] <= file.samplerate <= RATES[1]:
        raise MediaError(BAD_RATE, f"{file.samplerate} Hz")
    if file.frames <= 0:
        raise MediaError("no samples")
    is_mpeg, pieces = _is_mpeg(file), header.pieces
    if file.format == "FLAC" and header.kind == "FLAC" and _goes_on(source, file.frames):
        with open_bytes(source) as raw:
            pieces = unknown_flac_length(raw)
    elif is_checked or _tail_is_there(file):
        return SeekableFile(file, functools.partial(_open, source, pieces)), header.is_cut
    sequential = SequentialFile(functools.partial(_open, source, pieces, is_sequential=True), is_mpeg=is_mpeg)
    if sequential.frames == 0:
        raise MediaError(UNREADABLE, "no sample can be decoded")
    is_known = pieces is header.pieces and not is_mpeg and file.frames <= LONGEST * file.samplerate
    return sequential, header.is_cut or (is_known and file.frames - sequential.frames > SLACK * file.samplerate)


def _open_with_length(source: Path | bytes, header: Header) -> tuple[Any, Header, bool]:
    """Open a file; MP3 with the length that its frames have, where its own, or a decoder's guess, is wrong.

    Also tells whether its last samples have been read already.
    """
    file = None
    try:
        file = _open(source, header.pieces)
    except _errors():
        if header.kind not in ("MPEG", ""):
            raise
    if file is not None and (file.format not in ("MP3", "MPEG") or header.pieces is not None):
        return file, header, False
    with _whole(source) as data:
        stream = find_stream(data)
    if stream is None:
        return _open(source, None) if file is None else file, header, False
    slack = SLACK * stream.rate + 2 * stream.samples // stream.count
    is_cut = stream.goes_on or (
        stream.claimed is not None and (stream.claimed - stream.count) * stream.samples / stream.count > slack
    )
    is_right = file is not None and len(stream.ranges) == 1 and abs(file.frames - stream.samples) <= slack
    if file is not None and is_right and _tail_is_there(file):
        return file, Header("MPEG", None, is_cut), True
    header = Header("MPEG", (stream.info, *stream.ranges), is_cut)
    return _open(source, header.pieces), header, False


def _open(source: Path | bytes, pieces: Sequence[bytes | range] | None, *, is_sequential: bool = False) -> Any:
    import soundfile

    class Sequential(soundfile.SoundFile):  # type: ignore[misc]
        """Does not seek after each read, which fails at the end of a file whose length is not known."""

        def seekable(self) -> bool:
            return False

    kind = Sequential if is_sequential else soundfile.SoundFile
    with hold_back_stderr():
        return kind(source if isinstance(source, Path) and pieces is None else open_bytes(source, pieces))


def _is_mpeg(file: Any) -> bool:
    return str(file.subtype).startswith("MPEG")


def _tail_is_there(file: Any) -> bool:
    """Whether the last samples can be read where a header says that they are."""
    if file.frames > LONGEST * file.samplerate:
        return False
    count = min(file.frames, file.samplerate)
    try:
        with hold_back_stderr(_is_mpeg(file)):
            file.seek(file.frames - count)
            tail = file.read(count, dtype="float32", always_2d=True)
    except _errors():
        return False
    return bool(count - len(tail) <= SLACK * file.samplerate)


def _goes_on(source: Path | bytes, frames: int) -> bool:
    """Whether a FLAC file has more frames behind the last sample that its header claims."""
    import soundfile

    with open_bytes(source) as raw:
        try:
            with soundfile.SoundFile(raw) as file:
                file.seek(frames - 1)
                file.read(1, dtype="float32", always_2d=True)
                read = raw.tell()
        except _errors():
            return False
        behind = raw.seek(0, io.SEEK_END) - read
        if behind <= READ_AHEAD:
            return False
        raw.seek(read)
        return any(raw.read(2**16).count(sync) > 1 for sync in FLAC_FRAMES)


@contextlib.contextmanager
def _whole(source: Path | bytes) -> Iterator[bytes | mmap.mmap]:
    if isinstance(source, bytes):
        yield source
        return
    with source.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as mapped:
        yield mapped


@contextlib.contextmanager
def hold_back_stderr(is_needed: bool = True) -> Iterator[None]:
    """Hold back what libmpg123 prints: it names no file, and what matters of it is a `MediaError`."""
    if not is_needed:
        yield
        return
    with _STDERR, contextlib.ExitStack() as stack:
        with contextlib.suppress(OSError):  # there is no standard error, or no room for what is held back
            held = stack.enter_context(tempfile.TemporaryFile())
            own = os.dup(2)
            stack.callback(os.close, own)
            os.dup2(held.fileno(), 2)
            stack.callback(_pass_on, held, own)
        yield


def _pass_on(held: IO[bytes], own: int) -> None:
    """Give standard error back, and what other threads wrote meanwhile."""
    os.dup2(own, 2)
    held.seek(0)
    lines = [line for line in held if not _is_of_decoder(line)]
    with contextlib.suppress(OSError):
        os.write(2, b"".join(lines))


def _is_of_decoder(line: bytes) -> bool:
    return not line.strip() or b"mpg123" in line or line.startswith((b"Warning: ", b"Note: ", b"error: "))


def _detail(error: Exception) -> str:
    """What a library says, without the name of the object that it was given."""
    return str(getattr(error, "error_string", "")) or explain(error)


def _errors() -> tuple[type[Exception], ...]:
    import soundfile

    return soundfile.LibsndfileError, RuntimeError, ValueError, TypeError, OSError, struct.error


def _head(file: BinaryIO) -> bytes:
    """The first bytes of a file behind its ID3 tag."""
    file.seek(0)
    file.seek(skip_tags(file.read(10), 0))
    return file.read(512)
