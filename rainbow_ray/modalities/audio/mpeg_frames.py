"""Frames of MP3 streams, counted by their headers, and the info frame that tells a decoder their number.

The length of an MP3 file is not in its format. Encoders write it into a first frame without sound (`Xing`, `Info` or
`VBRI`); streams, recordings and cut or joined files lack that frame, or have one with a wrong number. A decoder then
estimates the length from the size of the first frame, and ends or seeks there.

Reference:
    ISO/IEC 11172-3 and 13818-3 (frame headers, layer III); the Xing and LAME info tag.
"""

from __future__ import annotations

import mmap
from dataclasses import dataclass

Data = bytes | mmap.mmap
Kind = tuple[int, int, bool]

KBIT = {
    True: (0, 32, 40, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320),  # MPEG 1
    False: (0, 8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160),  # MPEG 2 and 2.5
}
RATES = {3: (44100, 48000, 32000), 2: (22050, 24000, 16000), 0: (11025, 12000, 8000)}  # by the version's two bits
CHAIN = 4  # consecutive frame headers that are not a coincidence
SEARCHED = 2**16  # bytes in which the beginning or the continuation of a stream is searched


@dataclass(frozen=True)
class FrameHeader:
    """Header of a frame.

    Attributes:
        kind: Version, rate index, and whether it is mono; all frames of a stream have the same.
        size: Bytes of the frame.
        samples: Samples of each channel.
        rate: Hz.
        side: Bytes of side information.
    """

    kind: Kind  # version, rate, and whether it is mono, which stay the same in a stream
    size: int
    samples: int
    rate: int
    side: int


@dataclass(frozen=True)
class Mp3Stream:
    """The frames with sound of a file.

    Attributes:
        ranges: Their bytes, in order; more than one range if other bytes lie between them.
        count: Number of frames.
        samples: Samples of each channel.
        rate: Hz.
        claimed: Number of frames in the file's own info frame; None without one.
        info: An info frame with `count`, for decoders.
        goes_on: Whether frames with another rate or number of channels follow, as in joined files; they are left out.
    """

    ranges: tuple[range, ...]
    count: int
    samples: int
    rate: int
    claimed: int | None
    info: bytes
    goes_on: bool


def parse_header(data: Data, at: int) -> FrameHeader | None:
    """Parse the header of a layer III frame.

    Args:
        data: The whole file.
        at: Offset of the header.

    Returns:
        The header; None if there is none, or one without a fixed bit rate.

    Reference:
        ISO/IEC 11172-3, section 2.4.1.3.
    """
    if at + 4 > len(data) or data[at] != 0xFF or data[at + 1] & 0xE6 != 0xE2:
        return None
    version, bits = data[at + 1] >> 3 & 3, data[at + 2]
    if version == 1 or bits >> 4 in (0, 15) or bits >> 2 & 3 == 3:
        return None
    is_first = version == 3
    rate = RATES[version][bits >> 2 & 3]
    size = (144 if is_first else 72) * KBIT[is_first][bits >> 4] * 1000 // rate + (bits >> 1 & 1)
    is_mono = data[at + 3] >> 6 == 3
    side = (17 if is_mono else 32) if is_first else (9 if is_mono else 17)
    return FrameHeader((version, bits >> 2 & 3, is_mono), size, 1152 if is_first else 576, rate, side)


def find_stream(data: Data) -> Mp3Stream | None:
    """Find the frames of a file.

    Args:
        data: The whole file.

    Returns:
        Its frames; None if it is no MP3 file, or its frames have no fixed size.
    """
    at = _find_chain(data, skip_tags(data, 0), None)
    first = parse_header(data, at) if at is not None else None
    if at is None or first is None:
        return None
    ranges: list[range] = []
    count, claimed, info, goes_on = 0, None, None, False
    while at is not None:
        begin = at
        while (header := parse_header(data, at)) and header.kind == first.kind and at + header.size <= len(data):
            is_info, frames = _read_info_frame(data, at, header)
            if is_info:  # has no sound
                if info is None and count == 0:
                    claimed, info = frames, data[at : at + header.size]
                ranges += [range(begin, at)] if at > begin else []
                begin = at + header.size
            else:
                count += 1
            at += header.size
        ranges += [range(begin, at)] if at > begin else []
        end = skip_tags(data, at)
        at = _find_chain(data, end, first.kind)
        goes_on = goes_on or _has_other(data, range(end, len(data) if at is None else at))
    size = sum(map(len, ranges))
    info = _patched(info, first, count, size) or _info_frame(data, ranges, first, count, size)
    return Mp3Stream(tuple(ranges), count, count * first.samples, first.rate, claimed, info, goes_on) if count else None


def skip_tags(data: Data, at: int) -> int:
    """Skip ID3v2 tags.

    Args:
        data: The whole file.
        at: Offset at which a tag may begin.

    Returns:
        The offset after all tags.
    """
    while data[at : at + 3] == b"ID3" and at + 10 <= len(data):
        size = 0
        for byte in data[at + 6 : at + 10]:
            size = size << 7 | byte & 127
        at += 10 + size + (10 if data[at + 5] & 16 else 0)
    return at


def _has_other(data: Data, gap: range) -> bool:
    """Whether consecutive frames of any kind lie in what follows, or interrupts, a stream."""
    at = _find_chain(data, gap.start, None) if gap else None
    if at is None or at >= gap.stop:
        return False
    header = parse_header(data, at)
    return header is not None and parse_header(data, at + header.size) is not None


def _find_chain(data: Data, at: int, kind: Kind | None) -> int | None:
    """The next offset at which consecutive frames of a kind begin; also that of a single last frame."""
    end = min(len(data), at + SEARCHED)
    while (at := data.find(b"\xff", at, end)) >= 0:
        place, header = at, parse_header(data, at)
        wanted = kind or (header.kind if header else None)
        for step in range(CHAIN):
            if header is None or header.kind != wanted or place + header.size > len(data):
                break
            place, header = place + header.size, parse_header(data, place + header.size)
            if step == CHAIN - 1 or place == len(data):
                return at
        at += 1
    return None


def _read_info_frame(data: Data, at: int, header: FrameHeader) -> tuple[bool, int | None]:
    """Whether a frame is an info frame, and the number of frames in it."""
    tag = at + 4 + header.side
    if data[tag : tag + 4] in (b"Xing", b"Info"):
        has_count = data[tag + 7] & 1
        return True, int.from_bytes(data[tag + 8 : tag + 12], "big") if has_count else None
    if data[at + 36 : at + 40] == b"VBRI":
        return True, int.from_bytes(data[at + 50 : at + 54], "big")
    return False, None


def _patched(info: bytes | None, first: FrameHeader, count: int, size: int) -> bytes | None:
    """The file's own Xing frame with the right number of frames; it keeps the delay of the encoder."""
    tag = 4 + first.side
    if info is None or info[tag : tag + 4] not in (b"Xing", b"Info") or not info[tag + 7] & 1:
        return None
    patched = bytearray(info)
    patched[tag + 8 : tag + 12] = count.to_bytes(4, "big")
    if info[tag + 7] & 2:
        patched[tag + 12 : tag + 16] = min(size + len(info), 2**32 - 1).to_bytes(4, "big")
    return bytes(patched)


def _info_frame(data: Data, ranges: list[range], first: FrameHeader, count: int, size: int) -> bytes:
    """An info frame at 64 kbit/s, which is large enough at every sample rate."""
    if not ranges:
        return b""
    header = bytearray(data[ranges[0].start : ranges[0].start + 4])
    header[1] |= 1  # no checksum
    index = KBIT[first.kind[0] == 3].index(64)
    header[2] = index << 4 | header[2] & 0x0C
    parsed = parse_header(bytes(header), 0)
    assert parsed is not None
    frame = bytearray(parsed.size)
    frame[:4] = header
    tag = 4 + first.side
    info = b"Xing" + (3).to_bytes(4, "big") + count.to_bytes(4, "big")
    frame[tag : tag + 16] = info + min(size + len(frame), 2**32 - 1).to_bytes(4, "big")
    return bytes(frame)
