"""MP3 streams: counts of their frames from the frame headers, and an info frame that gives decoders the right count.

The MP3 format has no field for the length of a file. Encoders write it into a first frame without sound (`Xing`,
`Info` or `VBRI`). Streams, recordings and cut or concatenated files have no such frame, or one with a wrong count: a
decoder then estimates the length from the size of the first frame, and stops or seeks at a wrong position.

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
MIN_CHAIN_FRAMES = 4  # consecutive frame headers that are not a coincidence
MAX_SEARCH_BYTES = 2**16  # searched for the start or the continuation of a stream


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

    kind: Kind
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
        has_other_frames: Whether frames with another rate or number of channels follow, as in concatenated files; they
            are left out.
    """

    ranges: tuple[range, ...]
    count: int
    samples: int
    rate: int
    claimed: int | None
    info: bytes
    has_other_frames: bool


def parse_header(data: Data, offset: int) -> FrameHeader | None:
    """Parse the header of a layer III frame.

    Args:
        data: The whole file.
        offset: Offset of the header.

    Returns:
        The header; None if there is none, or one without a fixed bit rate.

    Reference:
        ISO/IEC 11172-3, section 2.4.1.3.
    """
    if offset + 4 > len(data) or data[offset] != 0xFF or data[offset + 1] & 0xE6 != 0xE2:
        return None
    version, bits = data[offset + 1] >> 3 & 3, data[offset + 2]
    if version == 1 or bits >> 4 in (0, 15) or bits >> 2 & 3 == 3:
        return None
    is_first = version == 3
    rate = RATES[version][bits >> 2 & 3]
    size = (144 if is_first else 72) * KBIT[is_first][bits >> 4] * 1000 // rate + (bits >> 1 & 1)
    is_mono = data[offset + 3] >> 6 == 3
    side = (17 if is_mono else 32) if is_first else (9 if is_mono else 17)
    return FrameHeader((version, bits >> 2 & 3, is_mono), size, 1152 if is_first else 576, rate, side)


def find_stream(data: Data) -> Mp3Stream | None:
    """Find the frames of a file.

    Args:
        data: The whole file.

    Returns:
        Its frames; None if it is no MP3 file, or its frames have no fixed size.
    """
    offset = _find_chain(data, skip_tags(data, 0), None)
    first = parse_header(data, offset) if offset is not None else None
    if offset is None or first is None:
        return None
    ranges: list[range] = []
    count, claimed, info, has_other_frames = 0, None, None, False
    while offset is not None:
        begin = offset
        while (
            (header := parse_header(data, offset)) and header.kind == first.kind and offset + header.size <= len(data)
        ):
            is_info, frames = _read_info_frame(data, offset, header)
            if is_info:  # an info frame has no sound
                if info is None and count == 0:
                    claimed, info = frames, data[offset : offset + header.size]
                ranges += [range(begin, offset)] if offset > begin else []
                begin = offset + header.size
            else:
                count += 1
            offset += header.size
        ranges += [range(begin, offset)] if offset > begin else []
        end = skip_tags(data, offset)
        offset = _find_chain(data, end, first.kind)
        has_other_frames = has_other_frames or _has_other(data, range(end, len(data) if offset is None else offset))
    size = sum(map(len, ranges))
    info = _correct_info_frame(info, first, count, size) or _make_info_frame(data, ranges, first, count, size)
    if count == 0:
        return None
    return Mp3Stream(tuple(ranges), count, count * first.samples, first.rate, claimed, info, has_other_frames)


def skip_tags(data: Data, offset: int) -> int:
    """Skip ID3v2 tags.

    Args:
        data: The whole file.
        offset: Offset at which a tag may begin.

    Returns:
        The offset after all tags.
    """
    while data[offset : offset + 3] == b"ID3" and offset + 10 <= len(data):
        size = 0
        for byte in data[offset + 6 : offset + 10]:
            size = size << 7 | byte & 127
        offset += 10 + size + (10 if data[offset + 5] & 16 else 0)
    return offset


def _has_other(data: Data, gap: range) -> bool:
    """Return whether a gap in a stream, or the bytes after it, contain consecutive frames of any kind."""
    offset = _find_chain(data, gap.start, None) if gap else None
    if offset is None or offset >= gap.stop:
        return False
    header = parse_header(data, offset)
    return header is not None and parse_header(data, offset + header.size) is not None


def _find_chain(data: Data, offset: int, kind: Kind | None) -> int | None:
    """Return the next offset at which consecutive frames of a kind start; a single frame counts at the end only."""
    end = min(len(data), offset + MAX_SEARCH_BYTES)
    while (offset := data.find(b"\xff", offset, end)) >= 0:
        end_of_frames, header = offset, parse_header(data, offset)
        required_kind = kind or (header.kind if header else None)
        for step in range(MIN_CHAIN_FRAMES):
            if header is None or header.kind != required_kind or end_of_frames + header.size > len(data):
                break
            end_of_frames, header = end_of_frames + header.size, parse_header(data, end_of_frames + header.size)
            if step == MIN_CHAIN_FRAMES - 1 or end_of_frames == len(data):
                return offset
        offset += 1
    return None


def _read_info_frame(data: Data, offset: int, header: FrameHeader) -> tuple[bool, int | None]:
    """Return whether a frame is an info frame, and the number of frames that it claims."""
    tag = offset + 4 + header.side
    if data[tag : tag + 4] in (b"Xing", b"Info"):
        has_count = data[tag + 7] & 1
        return True, int.from_bytes(data[tag + 8 : tag + 12], "big") if has_count else None
    if data[offset + 36 : offset + 40] == b"VBRI":
        return True, int.from_bytes(data[offset + 50 : offset + 54], "big")
    return False, None


def _correct_info_frame(info: bytes | None, first: FrameHeader, count: int, size: int) -> bytes | None:
    """Return the Xing frame of the file with the right number of frames, keeping the encoder delay."""
    tag = 4 + first.side
    if info is None or info[tag : tag + 4] not in (b"Xing", b"Info") or not info[tag + 7] & 1:
        return None
    patched = bytearray(info)
    patched[tag + 8 : tag + 12] = count.to_bytes(4, "big")
    if info[tag + 7] & 2:
        patched[tag + 12 : tag + 16] = min(size + len(info), 2**32 - 1).to_bytes(4, "big")
    return bytes(patched)


def _make_info_frame(data: Data, ranges: list[range], first: FrameHeader, count: int, size: int) -> bytes:
    """Return an info frame at 64 kbit/s, which is large enough at every sample rate."""
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
