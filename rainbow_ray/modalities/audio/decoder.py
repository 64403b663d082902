"""Audio files opened by libsndfile, with their readable length instead of the length in their header.

If the last samples can be read at the position that the header implies, windows are read by seeking. Otherwise (streams
of unknown length, truncated or damaged files) the file is read once from start to end, which gives its length, and each
window is read from the start as well.
"""

from __future__ import annotations

import contextlib
import functools
import io
import mmap
import struct
from collections.abc import Callable, Generator, Iterator, Sequence
from pathlib import Path
from typing import Any, BinaryIO, Protocol

import numpy as np
from typing_extensions import override

from rainbow_ray.modalities.audio.decoder_messages import hold_back_decoder_messages
from rainbow_ray.modalities.audio.headers import (
    Header,
    describe_foreign,
    ogg_links,
    open_bytes,
    read_header,
    unknown_flac_length,
)
from rainbow_ray.modalities.audio.levels import level_frames, levels_of
from rainbow_ray.modalities.audio.mpeg_frames import find_stream, skip_tags
from rainbow_ray.modalities.media_source import BAD_RATE, RATES, MediaError, explain

CUT_OFF = "cut off: its header declares more sound"
UNREADABLE = "not readable as audio"
SLACK = 0.1  # seconds by which a length may be wrong: encoders pad their first and last frames
MAX_SECONDS = 24 * 3600.0  # a longer file is treated as damaged
# samples of MPEG that are decoded before the first one that is read: frames use up to 511 bytes of earlier frames
PREROLL = 64 * 1152
READ_AHEAD = 2**13  # bytes that libFLAC reads in one call
FLAC_FRAMES = (b"\xff\xf8", b"\xff\xf9")  # sync codes of a frame


class AudioFile(Protocol):
    """Samples of some channels that can be read from any position."""

    rate: int
    frames: int

    def read(self, first: int, count: int) -> np.ndarray:
        """Return samples.

        Args:
            first: Index of the first sample.
            count: Number of samples.

        Returns:
            `(count, channels)` float32; fewer only at the end.

        Raises:
            MediaError: They cannot be read.
        """

    def peek(self, first: int, count: int) -> np.ndarray:
        """Return samples as `read`, without an effect on later calls of `read`.

        The last bit of decoded MP3 depends on what was read before.

        Args:
            first: Index of the first sample.
            count: Number of samples.

        Returns:
            As `read`.
        """


class Samples(AudioFile):
    """Samples in memory.

    Args:
        samples: `(frames, channels)` in [-1, 1].
        rate: Hz.
    """

    def __init__(self, samples: np.ndarray, rate: int) -> None:
        self.samples, self.rate, self.frames = samples, rate, len(samples)

    @override
    def read(self, first: int, count: int) -> np.ndarray:
        return self.samples[first : first + count]

    peek = read


class SeekableFile(AudioFile):
    """A file whose header is right, so that it is read from any position.

    Args:
        opened: A `soundfile.SoundFile`.
        reopen: Opens the same file once more.
    """

    def __init__(self, opened: Any, reopen: Callable[[], Any]) -> None:
        self.opened, self.reopen, self.is_mpeg = opened, reopen, _is_mpeg(opened)
        self.rate, self.frames = opened.samplerate, opened.frames

    @functools.cached_property
    def file(self) -> Any:
        """The file that windows are read from; MPEG is opened again, because its decoder keeps a state."""
        return self.reopen() if self.is_mpeg else self.opened

    @override
    def read(self, first: int, count: int) -> np.ndarray:
        with hold_back_decoder_messages(self.is_mpeg):
            return self._read(self.file, first, count)

    @override
    def peek(self, first: int, count: int) -> np.ndarray:
        with hold_back_decoder_messages(self.is_mpeg):
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


class SequentialFile(AudioFile):
    """A file whose header is wrong: each window is read from the beginning of the file on.

    Args:
        reopen: Opens the file.
        is_mpeg: Whether libmpg123 decodes it.

    Attributes:
        levels: Level of each `LEVEL_SECONDS` of it (see `levels_of`).
    """

    def __init__(self, reopen: Callable[[], Any], *, is_mpeg: bool) -> None:
        self.reopen, self.is_mpeg = reopen, is_mpeg
        self.rate, self.frames, levels = 0, 0, []
        with hold_back_decoder_messages(is_mpeg), contextlib.closing(self._blocks()) as blocks:
            for block, rate in blocks:
                self.rate, self.frames = rate, self.frames + len(block)
                levels.append(levels_of(block, rate))
                if self.frames > MAX_SECONDS * rate:
                    raise MediaError("longer than a day")
        self.levels = np.concatenate(levels) if levels else np.zeros(0)

    @override
    def read(self, first: int, count: int) -> np.ndarray:
        parts, start = [np.zeros((0, 1), np.float32)], 0
        with hold_back_decoder_messages(self.is_mpeg), contextlib.closing(self._blocks()) as blocks:
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
        """Yield blocks of samples and their rate, from the start of the file to the first block that cannot be read."""
        with contextlib.suppress(*_errors()), self.reopen() as file:
            # a decoder that fails loses everything that it read in the same call, so blocks are small
            size = level_frames(file.samplerate)
            while len(block := file.read(size, dtype="float32", always_2d=True)):
                yield block, file.samplerate


class JoinedFile(AudioFile):
    """Concatenated audio, such as the streams of a chained Ogg file.

    Args:
        files: At least one file; all have the same rate and number of channels.
    """

    def __init__(self, files: Sequence[AudioFile]) -> None:
        self.files, self.rate = files, files[0].rate
        self.starts = np.cumsum([0, *(file.frames for file in files)])
        self.frames = int(self.starts[-1])

    @override
    def read(self, first: int, count: int) -> np.ndarray:
        parts = []
        for file, start in zip(self.files, self.starts.tolist(), strict=False):
            begin, end = max(first, start) - start, min(first + count, start + file.frames) - start
            if begin < end:
                parts.append(file.read(begin, end - begin))
        return np.concatenate(parts) if parts else np.zeros((0, 1), np.float32)

    peek = read


def open_audio(source: Path | bytes) -> tuple[AudioFile, bool]:
    """Open an audio file.

    Args:
        source: Its path, or its content.

    Returns:
        The file; and whether its header claims more than can be read, or data follow that cannot be read.

    Raises:
        MediaError: It is no audio, has no samples, or a sample rate that cannot be right.
    """
    try:
        with open_bytes(source) as raw:
            header, head = read_header(raw), _first_bytes(raw)
        if header.kind == "OGG":
            with _contents(source) as data:
                links, is_whole = ogg_links(data)
            opened, is_cut = _open_streams(source, links) if len(links) > 1 else _open_checked(source, header)
            return opened, is_cut or not is_whole
        return _open_checked(source, header)
    except _errors() as error:
        foreign = describe_foreign(head) if isinstance(error, _errors()[0]) else None
        raise MediaError(f"{UNREADABLE}: {foreign}" if foreign else UNREADABLE, _detail(error)) from error


def _open_streams(source: Path | bytes, links: Sequence[range]) -> tuple[AudioFile, bool]:
    """Open the streams of an Ogg file, up to one of another format; also whether one is cut off or left out."""
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
    """Open a file, and check whether its last samples can be read; raises `MediaError`, and what libsndfile raises."""
    file, header, is_checked = _open_with_length(source, header)
    if not RATES[0] <= file.samplerate <= RATES[1]:
        raise MediaError(BAD_RATE, f"{file.samplerate} Hz")
    if file.frames <= 0:
        raise MediaError("no samples")
    is_mpeg, pieces = _is_mpeg(file), header.pieces
    if file.format == "FLAC" and header.kind == "FLAC" and _has_more_frames(source, file.frames):
        with open_bytes(source) as raw:
            pieces = unknown_flac_length(raw)
    elif is_checked or _can_read_tail(file):
        return SeekableFile(file, functools.partial(_open, source, pieces)), header.is_cut
    sequential = SequentialFile(functools.partial(_open, source, pieces, is_sequential=True), is_mpeg=is_mpeg)
    if sequential.frames == 0:
        raise MediaError(UNREADABLE, "no sample can be decoded")
    is_known = pieces is header.pieces and not is_mpeg and file.frames <= MAX_SECONDS * file.samplerate
    return sequential, header.is_cut or (is_known and file.frames - sequential.frames > SLACK * file.samplerate)


def _open_with_length(source: Path | bytes, header: Header) -> tuple[Any, Header, bool]:
    """Open a file, MP3 with the length of its frames if its own is wrong; also whether its end was read already."""
    file = None
    try:
        file = _open(source, header.pieces)
    except _errors():
        if header.kind not in ("MPEG", ""):
            raise
    if file is not None and (file.format not in ("MP3", "MPEG") or header.pieces is not None):
        return file, header, False
    with _contents(source) as data:
        stream = find_stream(data)
    if stream is None:
        return _open(source, None) if file is None else file, header, False
    slack = SLACK * stream.rate + 2 * stream.samples // stream.count
    is_cut = stream.has_other_frames or (
        stream.claimed is not None and (stream.claimed - stream.count) * stream.samples / stream.count > slack
    )
    is_right = file is not None and len(stream.ranges) == 1 and abs(file.frames - stream.samples) <= slack
    if file is not None and is_right and _can_read_tail(file):
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
    with hold_back_decoder_messages():
        return kind(source if isinstance(source, Path) and pieces is None else open_bytes(source, pieces))


def _is_mpeg(file: Any) -> bool:
    return str(file.subtype).startswith("MPEG")


def _can_read_tail(file: Any) -> bool:
    """Return whether the last samples can be read at the position that the header implies."""
    if file.frames > MAX_SECONDS * file.samplerate:
        return False
    count = min(file.frames, file.samplerate)
    try:
        with hold_back_decoder_messages(_is_mpeg(file)):
            file.seek(file.frames - count)
            tail = file.read(count, dtype="float32", always_2d=True)
    except _errors():
        return False
    return bool(count - len(tail) <= SLACK * file.samplerate)


def _has_more_frames(source: Path | bytes, frames: int) -> bool:
    """Return whether a FLAC file has further frames after the last sample that its header declares."""
    import soundfile

    with open_bytes(source) as raw:
        try:
            with soundfile.SoundFile(raw) as file:
                file.seek(frames - 1)
                file.read(1, dtype="float32", always_2d=True)
                read_position = raw.tell()
        except _errors():
            return False
        n_unread = raw.seek(0, io.SEEK_END) - read_position
        if n_unread <= READ_AHEAD:
            return False
        raw.seek(read_position)
        return any(raw.read(2**16).count(sync) > 1 for sync in FLAC_FRAMES)


@contextlib.contextmanager
def _contents(source: Path | bytes) -> Iterator[bytes | mmap.mmap]:
    if isinstance(source, bytes):
        yield source
        return
    with source.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as mapped:
        yield mapped


def _detail(error: Exception) -> str:
    """Return the message of a library's error, without the name of the object that was opened."""
    return str(getattr(error, "error_string", "")) or explain(error)


def _errors() -> tuple[type[Exception], ...]:
    import soundfile

    return soundfile.LibsndfileError, RuntimeError, ValueError, TypeError, OSError, struct.error


def _first_bytes(file: BinaryIO) -> bytes:
    """Return the first bytes of a file after its ID3 tag."""
    file.seek(0)
    file.seek(skip_tags(file.read(10), 0))
    return file.read(512)
