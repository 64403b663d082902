"""Lengths in headers of audio files, compared with the size of the file, and headers with the right length.

Files that were streamed, or whose writer was stopped, have a length of 0, an "unknown" one, or one that is wrong. This
module corrects the containers whose lengths libsndfile trusts.

Reference:
    RIFF/WAVE (IBM and Microsoft 1991), RF64 (EBU Tech 3306), AIFF-C (Apple 1991), the Sun/NeXT audio format,
FLAC (RFC 9639, section 8.2), Ogg (RFC 3533, section 6).
"""

from __future__ import annotations

import io
import mmap
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from typing_extensions import override

UNKNOWN = 0x7FFF0000  # streams of unknown length write sizes from here on (as sox and ffmpeg do)
TAGS = (b"ID3", b"TAG", b"APETAGEX", b"LYRICS")  # that taggers append to any file
SLACK = 4096  # bytes after the sound that need not be samples, although the header does not count them


@dataclass(frozen=True)
class Header:
    """What to read in place of a file, and what its own header claims.

    Attributes:
        kind: "RIFF", "AIFF", "AU", "CAF", "FLAC", "OGG", "MPEG", or "" for anything else.
        pieces: Parts of the file, and bytes in place of others; None if it can be read as it is.
        is_cut: The header claims more than the file has.
    """

    kind: str = ""
    pieces: tuple[bytes | range, ...] | None = None
    is_cut: bool = False


class SplicedFile(io.RawIOBase):
    """A read-only file made of ranges of another and of bytes in place of the rest.

    Args:
        base: The other file. It is closed with this one.
        pieces: Ranges of its bytes, or bytes.
    """

    def __init__(self, base: BinaryIO, pieces: Sequence[bytes | range]) -> None:
        super().__init__()
        self.base, self.pieces, self.position = base, [piece for piece in pieces if len(piece)], 0
        self.size = sum(map(len, self.pieces))

    @override
    def readable(self) -> bool:
        return True

    @override
    def seekable(self) -> bool:
        return True

    @override
    def tell(self) -> int:
        return self.position

    @override
    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        origin = {io.SEEK_SET: 0, io.SEEK_CUR: self.position, io.SEEK_END: self.size}[whence]
        self.position = max(0, origin + offset)
        return self.position

    @override
    def readinto(self, buffer: bytearray | memoryview) -> int:  # type: ignore[override]
        start = 0
        for piece in self.pieces:
            inside = self.position - start
            if inside < len(piece):
                part = piece[inside : inside + len(buffer)]
                if isinstance(part, range):
                    self.base.seek(part.start)
                    data = self.base.read(len(part))
                else:
                    data = part
                buffer[: len(data)] = data
                self.position += len(data)
                return len(data)
            start += len(piece)
        return 0

    @override
    def close(self) -> None:
        self.base.close()
        super().close()


class _Bytes(io.BytesIO):
    """Bytes as a file. A broken header asks for places before its beginning, at which an exception would be printed."""

    @override
    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        origin = {io.SEEK_SET: 0, io.SEEK_CUR: self.tell(), io.SEEK_END: self.getbuffer().nbytes}[whence]
        return super().seek(max(0, origin + offset))


def open_bytes(source: Path | bytes, pieces: Sequence[bytes | range] | None = None) -> BinaryIO:
    """Open a file, possibly with some of its bytes replaced.

    Args:
        source: Path of the file, or its content.
        pieces: Ranges of its bytes, and bytes in place of others; None for the file as it is.

    Returns:
        A file that can be read and sought in.
    """
    if isinstance(source, bytes) and pieces is None:
        return _Bytes(source)
    base: BinaryIO = io.BytesIO(source) if isinstance(source, bytes) else source.open("rb")
    if pieces is None:
        pieces = (range(base.seek(0, io.SEEK_END)),)
    return io.BufferedReader(SplicedFile(base, pieces), 2**16)


def read_header(file: BinaryIO) -> Header:
    """Compare what the header of a file claims with the file.

    Args:
        file: An open file.

    Returns:
        Its kind, and what to read in its place.
    """
    size = file.seek(0, io.SEEK_END)
    head = _at(file, 0, 40)
    magic, form = head[:4], head[8:12]
    if magic in (b"RIFF", b"RIFX", b"RF64", b"BW64") and form == b"WAVE":
        return _chunks("RIFF", file, size, ">" if magic == b"RIFX" else "<", b"data", is_64=magic in (b"RF64", b"BW64"))
    if magic == b"FORM" and form in (b"AIFF", b"AIFC"):
        return _chunks("AIFF", file, size, ">", b"SSND")
    if magic in (b".snd", b"dns."):
        return _au(head, size, ">" if magic == b".snd" else "<")
    if magic == b"caff":
        return _caf(file, size)
    if magic == b"fLaC":
        return Header("FLAC")
    if magic == b"OggS":
        return Header("OGG")
    is_mpeg = magic[:3] == b"ID3" or (magic[:1] == b"\xff" and len(magic) > 1 and magic[1] & 0xE6 in (0xE2, 0xE4, 0xE6))
    return Header("MPEG" if is_mpeg else "")


def unknown_flac_length(file: BinaryIO) -> tuple[bytes | range, ...]:
    """Return a FLAC file with an unknown number of samples, so that decoders read it to its end.

    Args:
        file: An open FLAC file.

    Returns:
        Its pieces.

    Reference:
        RFC 9639, section 8.2.
    """
    size = file.seek(0, io.SEEK_END)
    return range(21), bytes([_at(file, 21, 1)[0] & 0xF0, 0, 0, 0, 0]), range(26, size)


@dataclass(frozen=True)
class LengthField:
    """Where, and how, a header states the number of bytes of sound that follow.

    Attributes:
        place: Offset of the field in the file.
        layout: Its type, as `struct` writes it.
        chunk: Name and length of a chunk that may follow the sound, as `struct` writes them.
        counted: Bytes before the sound that the length includes.
    """

    place: int
    layout: str
    chunk: str
    counted: int = 0

    def pieces(self, length: int, size: int) -> tuple[bytes | range, ...]:
        """Return a file with another length in its header.

        Args:
            length: Bytes of sound.
            size: Size of the file.

        Returns:
            Its pieces.
        """
        width = struct.calcsize(self.layout)
        largest = 2 ** (8 * width - (1 if self.layout[1].islower() else 0)) - 1
        written = struct.pack(self.layout, min(length + self.counted, largest))
        return range(self.place), written, range(self.place + width, size)


def _chunks(kind: str, file: BinaryIO, size: int, order: str, wanted: bytes, *, is_64: bool = False) -> Header:
    """The header of a file of chunks, of which one has the sound."""
    at, field_64, length_64 = 12, None, 0
    while at + 8 <= size:
        name, length = struct.unpack(f"{order}4sI", _at(file, at, 8))
        if name == b"ds64" and is_64:
            field_64 = LengthField(at + 16, "<Q", "<4sI")
            length_64 = struct.unpack("<Q", _at(file, at + 16, 8))[0]
        if name == wanted:
            if field_64 is not None and length == 0xFFFFFFFF:
                return _check_length(kind, file, size, at + 8, length_64, field_64)
            return _check_length(kind, file, size, at + 8, length, LengthField(at + 4, f"{order}I", f"{order}4sI"))
        at += 8 + length + (length & 1)
    return Header(kind)


def _check_length(kind: str, file: BinaryIO, size: int, begin: int, claimed: int, field: LengthField) -> Header:
    """Compare the length of the sound, which begins somewhere, with what the file holds of it."""
    held = size - begin
    if claimed > held:
        # libsndfile reads to the end where the length has 32 bits
        pieces = field.pieces(held, size) if struct.calcsize(field.layout) == 8 else None
        return Header(kind, pieces, is_cut=claimed < UNKNOWN and claimed - held > SLACK)
    goes_on = held - claimed > min(SLACK, held // 2) and not _is_padding(file, begin + claimed, size, field.chunk)
    return Header(kind, field.pieces(held, size) if goes_on else None)


def _is_padding(file: BinaryIO, at: int, size: int, layout: str) -> bool:
    """Whether what follows the sound is chunks, tags, or room that was kept for more, and not samples."""
    start = _at(file, at, 2**16)
    if start.startswith(TAGS) or not start.strip(b"\0"):
        return True
    width = struct.calcsize(layout)
    at += at & 1 if width == 8 else 0
    while at + width <= size:
        name, length = struct.unpack(layout, _at(file, at, width))
        if not all(32 <= byte < 127 for byte in name) or not 0 <= length <= size - at - width:
            return False
        at += width + length + (length & 1 if width == 8 else 0)
    return True


def _au(head: bytes, size: int, order: str) -> Header:
    begin, claimed = struct.unpack(f"{order}II", head[4:12])
    held = size - begin
    if claimed > held:
        return Header("AU", is_cut=claimed < UNKNOWN and claimed - held > SLACK)
    if held - claimed > min(SLACK, held // 2):
        return Header("AU", (range(8), b"\xff" * 4, range(12, size)))
    return Header("AU")


def _caf(file: BinaryIO, size: int) -> Header:
    at = 8
    while at + 12 <= size:
        name, length = struct.unpack(">4sq", _at(file, at, 12))
        if name == b"data":
            field = LengthField(at + 4, ">q", ">4sq", counted=4)  # which tell how often it was edited
            return _check_length("CAF", file, size, at + 16, max(length - 4, 0) if length >= 0 else 2**63, field)
        if length < 0:
            break
        at += 12 + length
    return Header("CAF")


def ogg_links(data: bytes | mmap.mmap) -> tuple[list[range], bool]:
    """Find the streams that follow each other in one Ogg file, as in recordings of radio and joined files.

    Args:
        data: The whole file.

    Returns:
        The bytes of each stream (libsndfile reads only the first); and whether all are complete: each has its last
        page, and no foreign bytes lie within a stream or in place of its first page.

    Reference:
        RFC 3533, section 6.
    """
    links: list[range] = []
    start, at, was_start, is_whole = 0, 0, True, True
    unended: set[bytes] = set()  # serial numbers of the streams whose last page has not come
    while (page := data.find(b"OggS", at)) >= 0 and page + 27 <= len(data):
        flags, serial, segments = data[page + 5], data[page + 14 : page + 18], data[page + 26]
        is_start = bool(flags & 2)
        if page > at:
            is_whole = is_whole and not unended
            if not unended and not is_start:  # the first pages of the next are lost, without which it is not read
                return [*links, range(start, at)], False
        if is_start and not was_start:
            links.append(range(start, at))
            is_whole = is_whole and not unended
            start, unended = page, set()
        was_start = is_start
        at = page + 27 + segments + sum(data[page + 27 : page + 27 + segments])
        unended = unended - {serial} if flags & 4 and at <= len(data) else unended | {serial} if is_start else unended
    return [*links, range(start, len(data))], is_whole and not unended


def _at(file: BinaryIO, place: int, count: int) -> bytes:
    file.seek(place)
    return file.read(count)


FOREIGN = (  # first bytes, where they lie, and what has them
    (b"ftyp", 4, "M4A or MP4 (AAC or ALAC)"),
    (b"\x30\x26\xb2\x75\x8e\x66\xcf\x11", 0, "WMA"),
    (b"ADIF", 0, "AAC"),
    (b"\x1a\x45\xdf\xa3", 0, "Matroska or WebM"),
    (b"#!AMR", 0, "AMR"),
    (b"MAC ", 0, "Monkey's Audio"),
    (b"wvpk", 0, "WavPack"),
    (b"MPCK", 0, "Musepack"),
    (b"MP+", 0, "Musepack"),
    (b"TTA1", 0, "TTA"),
    (b"DSD ", 0, "DSD"),
    (b"FRM8", 0, "DSD"),
    (b".RMF", 0, "RealAudio"),
    (b"FLV", 0, "Flash video"),
)
NO_AUDIO = (
    (b"version https://git-lfs", "a pointer of Git LFS, whose file was not fetched (git lfs pull)"),
    (b"MThd", "MIDI"),
    (b"PK\x03\x04", "a ZIP archive"),
    (b"\x1f\x8b", "a gzip archive"),
    (b"%PDF", "a PDF document"),
    (b"<!doctype html", "a web page, in place of what it links to"),
    (b"<html", "a web page, in place of what it links to"),
)


def describe_foreign(head: bytes) -> str | None:
    """Describe a file that libsndfile does not read, and what to do.

    Args:
        head: Its first bytes, at least 64 of them.

    Returns:
        A clause for a message; None if the format is not recognized.
    """
    name = next((name for magic, at, name in FOREIGN if head[at:].startswith(magic)), None)
    if name is None and head[:1] == b"\xff" and len(head) > 1 and head[1] & 0xF6 == 0xF0:
        name = "AAC"
    if name is not None:
        return f"it is {name}; convert it to FLAC, WAV, MP3 or OGG, e.g. ffmpeg -i FILE FILE.flac"
    start = head.lstrip(b"\xef\xbb\xbf \r\n\t").lower()
    return next((f"it is {name}" for magic, name in NO_AUDIO if start.startswith(magic.lower())), None)
