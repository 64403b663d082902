"""Audio headers whose declared length differs from the size of the file, and their correction.

The header of a streamed file, or of a file whose writer was stopped, declares a length of 0, an "unknown" length or a
wrong one. This module corrects the containers whose lengths libsndfile trusts.

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
    """The container of a file, and the corrected file to read.

    Attributes:
        kind: "RIFF", "AIFF", "AU", "CAF", "FLAC", "OGG", "MPEG", or "" for anything else.
        pieces: Ranges of the file, and bytes that replace the others; None if the file is read as it is.
        is_cut: Whether the header declares more sound than the file contains.
    """

    kind: str = ""
    pieces: tuple[bytes | range, ...] | None = None
    is_cut: bool = False


class SplicedFile(io.RawIOBase):
    """A read-only file made of ranges of another file and of replacement bytes.

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
    """Bytes as a file that clips negative positions: libsndfile seeks to them for a broken header, and would print."""

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
    """Compare the length in the header of a file with the size of the file.

    Args:
        file: An open file.

    Returns:
        The container, and the corrected file if its header is wrong.
    """
    size = file.seek(0, io.SEEK_END)
    head = _read_at(file, 0, 40)
    magic, form = head[:4], head[8:12]
    if magic in (b"RIFF", b"RIFX", b"RF64", b"BW64") and form == b"WAVE":
        return _read_chunks(
            "RIFF", file, size, ">" if magic == b"RIFX" else "<", b"data", is_64=magic in (b"RF64", b"BW64")
        )
    if magic == b"FORM" and form in (b"AIFF", b"AIFC"):
        return _read_chunks("AIFF", file, size, ">", b"SSND")
    if magic in (b".snd", b"dns."):
        return _read_au(head, size, ">" if magic == b".snd" else "<")
    if magic == b"caff":
        return _read_caf(file, size)
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
    return range(21), bytes([_read_at(file, 21, 1)[0] & 0xF0, 0, 0, 0, 0]), range(26, size)


@dataclass(frozen=True)
class LengthField:
    """The header field with the number of bytes of sound.

    Attributes:
        offset: Offset of the field in the file.
        layout: Format of the field for `struct`.
        chunk: Format for `struct` of the name and length of a chunk that may follow the sound.
        n_included: Number of bytes before the sound that the length includes.
    """

    offset: int
    layout: str
    chunk: str
    n_included: int = 0

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
        packed_length = struct.pack(self.layout, min(length + self.n_included, largest))
        return range(self.offset), packed_length, range(self.offset + width, size)


def _read_chunks(
    kind: str, file: BinaryIO, size: int, order: str, sound_chunk: bytes, *, is_64: bool = False
) -> Header:
    """Return the header of a file of chunks, one of which contains the sound."""
    offset, field_64, length_64 = 12, None, 0
    while offset + 8 <= size:
        name, length = struct.unpack(f"{order}4sI", _read_at(file, offset, 8))
        if name == b"ds64" and is_64:
            field_64 = LengthField(offset + 16, "<Q", "<4sI")
            length_64 = struct.unpack("<Q", _read_at(file, offset + 16, 8))[0]
        if name == sound_chunk:
            if field_64 is not None and length == 0xFFFFFFFF:
                return _check_length(kind, file, size, offset + 8, length_64, field_64)
            field = LengthField(offset + 4, f"{order}I", f"{order}4sI")
            return _check_length(kind, file, size, offset + 8, length, field)
        offset += 8 + length + (length & 1)
    return Header(kind)


def _check_length(kind: str, file: BinaryIO, size: int, begin: int, claimed: int, field: LengthField) -> Header:
    """Compare the declared length of the sound with the number of bytes from `begin` to the end of the file."""
    available = size - begin
    if claimed > available:
        # libsndfile reads to the end where the length has 32 bits
        pieces = field.pieces(available, size) if struct.calcsize(field.layout) == 8 else None
        return Header(kind, pieces, is_cut=claimed < UNKNOWN and claimed - available > SLACK)
    is_longer = available - claimed > min(SLACK, available // 2)
    has_more_sound = is_longer and not _is_padding(file, begin + claimed, size, field.chunk)
    return Header(kind, field.pieces(available, size) if has_more_sound else None)


def _is_padding(file: BinaryIO, offset: int, size: int, layout: str) -> bool:
    """Return whether the bytes after the sound are chunks, tags or reserved space, and not samples."""
    start = _read_at(file, offset, 2**16)
    if start.startswith(TAGS) or not start.strip(b"\0"):
        return True
    width = struct.calcsize(layout)
    offset += offset & 1 if width == 8 else 0
    while offset + width <= size:
        name, length = struct.unpack(layout, _read_at(file, offset, width))
        if not all(32 <= byte < 127 for byte in name) or not 0 <= length <= size - offset - width:
            return False
        offset += width + length + (length & 1 if width == 8 else 0)
    return True


def _read_au(head: bytes, size: int, order: str) -> Header:
    begin, claimed = struct.unpack(f"{order}II", head[4:12])
    available = size - begin
    if claimed > available:
        return Header("AU", is_cut=claimed < UNKNOWN and claimed - available > SLACK)
    if available - claimed > min(SLACK, available // 2):
        return Header("AU", (range(8), b"\xff" * 4, range(12, size)))
    return Header("AU")


def _read_caf(file: BinaryIO, size: int) -> Header:
    offset = 8
    while offset + 12 <= size:
        name, length = struct.unpack(">4sq", _read_at(file, offset, 12))
        if name == b"data":
            field = LengthField(offset + 4, ">q", ">4sq", n_included=4)  # the edit count before the samples
            return _check_length("CAF", file, size, offset + 16, max(length - 4, 0) if length >= 0 else 2**63, field)
        if length < 0:
            break
        offset += 12 + length
    return Header("CAF")


def ogg_links(data: bytes | mmap.mmap) -> tuple[list[range], bool]:
    """Find the streams of a chained Ogg file, as in recordings of radio and in concatenated files.

    Args:
        data: The whole file.

    Returns:
        The bytes of each stream (libsndfile reads only the first); and whether all streams are complete: each has its
        last page, and there are no foreign bytes within a stream or instead of its first page.

    Reference:
        RFC 3533, section 6.
    """
    links: list[range] = []
    start, offset, was_start, is_whole = 0, 0, True, True
    unended: set[bytes] = set()  # serial numbers of the streams without their last page so far
    while (page := data.find(b"OggS", offset)) >= 0 and page + 27 <= len(data):
        flags, serial, segments = data[page + 5], data[page + 14 : page + 18], data[page + 26]
        is_start = bool(flags & 2)
        if page > offset:
            is_whole = is_whole and not unended
            if not unended and not is_start:  # the next stream cannot be read without its first pages, which are lost
                return [*links, range(start, offset)], False
        if is_start and not was_start:
            links.append(range(start, offset))
            is_whole = is_whole and not unended
            start, unended = page, set()
        was_start = is_start
        offset = page + 27 + segments + sum(data[page + 27 : page + 27 + segments])
        if flags & 4 and offset <= len(data):
            unended = unended - {serial}
        elif is_start:
            unended = unended | {serial}
    return [*links, range(start, len(data))], is_whole and not unended


def _read_at(file: BinaryIO, offset: int, count: int) -> bytes:
    file.seek(offset)
    return file.read(count)


FOREIGN = (  # magic bytes, their offset, and the name of the format
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
    """Describe the format of a file that libsndfile cannot read, with advice.

    Args:
        head: Its first bytes, at least 64 of them.

    Returns:
        A clause for a message; None if the format is not recognized.
    """
    name = next((name for magic, offset, name in FOREIGN if head[offset:].startswith(magic)), None)
    if name is None and head[:1] == b"\xff" and len(head) > 1 and head[1] & 0xF6 == 0xF0:
        name = "AAC"
    if name is not None:
        return f"it is {name}; convert it to FLAC, WAV, MP3 or OGG, e.g. ffmpeg -i FILE FILE.flac"
    start = head.lstrip(b"\xef\xbb\xbf \r\n\t").lower()
    return next((f"it is {name}" for magic, name in NO_AUDIO if start.startswith(magic.lower())), None)
