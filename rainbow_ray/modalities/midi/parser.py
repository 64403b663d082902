"""Reader of Standard MIDI Files: the notes of a file with times in seconds, or the reason why it cannot be read.

The reader parses every event of every track, so that it always knows where the next event begins. Bytes that it cannot
parse are an error: it skips none and guesses nothing. Three points decide whether the notes are those of the file:

* **Sysex events and escapes.** `F0 <length> <data>` and `F7 <length> <data>` (a further packet of a sysex, or bytes to
  send as they are) have the same form. Their data is opaque, also where it looks like notes, and both take part in the
  delta times.
* **Running status.** The specification ends it at sysex and meta events, and yet files go on with it. A data byte where
  a status is expected has only one reading: it belongs to the last channel message's status.
* **Tempo map.** Tempo events of all tracks apply to all tracks.

Libraries were considered. symusic 0.6 loses the notes after a sysex and misplaces those after an `F7` packet. mido 1.3
takes running status after a sysex for another sysex, refuses escapes with status bytes, loses the delta times of meta
events of unknown types, and takes about ten times as long as this reader.

Reference:
    The MIDI Association, RP-001: Standard MIDI Files 1.0 (1996); RP-029: Bundling SMF and DLS data in an RMID file.
"""

from __future__ import annotations

import struct
from collections import defaultdict, deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from operator import itemgetter

import numpy as np

from rainbow_ray.modalities.media_source import MediaError

DEFAULT_TEMPO = 500_000  # microseconds a quarter note, until the first tempo event

NOTE_OFF, NOTE_ON, PROGRAM_CHANGE = 0x80, 0x90, 0xC0
SYSEX, ESCAPE, META = 0xF0, 0xF7, 0xFF
END_OF_TRACK, SET_TEMPO = 0x2F, 0x51
# How many data bytes follow a status. System messages (F1 to FE) belong into escapes; some files have them as events.
DATA_BYTES = {
    **{status: 1 if status & 0xF0 in (0xC0, 0xD0) else 2 for status in range(0x80, 0xF0)},
    **{0xF1: 1, 0xF2: 2, 0xF3: 1, 0xF6: 0, 0xF8: 0, 0xFA: 0, 0xFB: 0, 0xFC: 0, 0xFE: 0},
}
MAX_QUANTITY_BYTES = 4  # of a variable-length quantity

NOT_MIDI = "not readable as MIDI"
CUT_OFF = "cut off: the file ends before its MIDI data does"
DAMAGED = "damaged MIDI data"

Message = tuple[int, int, bytes]  # tick, status, data: of a meta event its type and its data
ChannelEvent = tuple[int, int, int, bytes]  # tick, track, status, data


@dataclass(frozen=True)
class MidiNotes:
    """The notes of a file, in the order in which they end.

    Attributes:
        onset: Seconds from the beginning of the file, float64, `(notes,)`.
        duration: Seconds, float64, `(notes,)`.
        pitch: 0 to 127, `(notes,)`.
        velocity: 1 to 127, `(notes,)`.
        channel: 0 to 15, `(notes,)`.
        program: 0 to 127, `(notes,)`: the channel's program when the note begins.
        n_unended: How many further notes begin and never end; they are left out.
    """

    onset: np.ndarray
    duration: np.ndarray
    pitch: np.ndarray
    velocity: np.ndarray
    channel: np.ndarray
    program: np.ndarray
    n_unended: int = 0


def read_notes(data: bytes) -> MidiNotes:
    """Return the notes of a Standard MIDI File, or of one in a RIFF container (RMID).

    A note ends with the first note-off, or note-on of velocity 0, of its track, channel and pitch; where equal notes
    overlap, the one that began first ends first. Its program is the last that its own track set on its channel or, if
    the track set none so far, that any track did.

    Args:
        data: The content of the file.

    Returns:
        The notes, possibly none.

    Raises:
        MediaError: The file is not MIDI, damaged or cut off, or its times cannot be given in seconds.

    Reference:
        RP-001, "Chunks", "MTrk events" and "Meta-events".
    """
    division, tracks = _read_chunks(_unwrap(data))
    events: list[ChannelEvent] = []
    tempos: list[tuple[int, int]] = []
    for number, track in enumerate(tracks):
        for tick, status, content in _read_track(track):
            if status < SYSEX:
                events.append((tick, number, status, content))
            elif status == META and content[0] == SET_TEMPO:
                if len(content) < 4:
                    raise MediaError(DAMAGED, f"a tempo of {len(content) - 1} bytes at tick {tick}")
                tempos.append((tick, int.from_bytes(content[1:4], "big")))
    events.sort(key=itemgetter(0))  # stable: at one time, in the order of the tracks
    ticks, values, n_unended = _pair_notes(events)
    begin, end = _seconds(ticks, tempos, division).T
    pitch, velocity, channel, program = values.T
    return MidiNotes(begin, end - begin, pitch, velocity, channel, program, n_unended)


def _unwrap(data: bytes) -> bytes:
    """Return the MIDI file inside a RIFF container of type RMID; any other data as it is."""
    if data[:4] != b"RIFF" or data[8:12] != b"RMID":
        return data
    position = 12
    while position + 8 <= len(data):
        kind, size = struct.unpack_from("<4sI", data, position)
        position += 8
        if kind == b"data":
            if position + size > len(data):
                raise MediaError(CUT_OFF, "in its RIFF container")
            return data[position : position + size]
        position += size + size % 2
    raise MediaError(NOT_MIDI, "a RIFF container without MIDI data")


@dataclass(frozen=True)
class _Track:
    """A track chunk. Where it `needs_end`, its length is too small unless an end-of-track event comes last."""

    number: int
    content: bytes
    needs_end: bool


def _read_chunks(data: bytes) -> tuple[int, list[_Track]]:
    """Return the ticks per quarter note, and the track chunks. Chunks of other types and trailing data are skipped."""
    if data[:4] != b"MThd":
        raise MediaError(NOT_MIDI, "it does not begin with MThd")
    if len(data) < 14:
        raise MediaError(CUT_OFF, "in its header")
    size, file_format, n_tracks, division = struct.unpack_from(">IHHH", data, 4)
    _check_header(size, file_format, n_tracks, division)
    position = 8 + size
    tracks: list[_Track] = []
    while len(tracks) < n_tracks:
        if position + 8 > len(data):
            raise MediaError(CUT_OFF, f"{len(tracks)} tracks of the {n_tracks} in its header")
        kind, size = struct.unpack_from(">4sI", data, position)
        begin, position = position + 8, position + 8 + size
        if position > len(data):
            raise MediaError(
                CUT_OFF, f"track {len(tracks) + 1} of {n_tracks}: {size} bytes, {len(data) - begin} are there"
            )
        if kind == b"MTrk":
            needs_end = not _is_chunk_type(data[position : position + 4]) and bool(data[position:].strip(b"\0"))
            tracks.append(_Track(len(tracks) + 1, data[begin:position], needs_end))
        elif not _is_chunk_type(kind):
            raise MediaError(DAMAGED, f"no chunk begins at byte {begin - 8}")
    if data.startswith(b"MTrk", position):
        raise MediaError(DAMAGED, f"more tracks than the {n_tracks} in its header")
    return division, tracks


def _is_chunk_type(kind: bytes) -> bool:
    return len(kind) == 4 and kind.isascii() and kind.decode().isprintable()


def _check_header(size: int, file_format: int, n_tracks: int, division: int) -> None:
    if size < 6 or file_format > 2:
        raise MediaError(NOT_MIDI, f"a header of {size} bytes, format {file_format}")
    if file_format == 2 and n_tracks > 1:
        raise MediaError("MIDI of format 2: its tracks are pieces of their own", f"{n_tracks} tracks")
    if division & 0x8000:
        raise MediaError("SMPTE times, not ticks a quarter")
    if division == 0:
        raise MediaError("undefined times (a division of 0)")


def _read_track(track: _Track) -> Iterator[Message]:
    """All events of a track with their ticks. Raises `MediaError` where its bytes are no sequence of events."""
    data = track.content
    position = tick = running_status = 0
    has_end = False
    try:
        while position < len(data) and not has_end:
            delta, position = _read_quantity(data, position)
            tick += delta
            status, content, position = _read_event(data, position, running_status)
            if status < SYSEX:
                running_status = status
            has_end = status == META and content[0] == END_OF_TRACK
            yield tick, status, content
    except IndexError:
        raise MediaError(DAMAGED, f"track {track.number} ends inside an event") from None
    except ValueError as error:
        raise MediaError(DAMAGED, f"track {track.number}, byte {position}: {error}") from None
    if data[position:].strip(b"\0"):
        raise MediaError(DAMAGED, f"track {track.number} has {len(data) - position} bytes after its end")
    if track.needs_end and not has_end:
        raise MediaError(DAMAGED, f"track {track.number} goes on after the length that it gives")


def _read_quantity(data: bytes, position: int) -> tuple[int, int]:
    """Return a variable-length quantity, and the position after it."""
    value = data[position]
    if value < 0x80:  # nearly all
        return value, position + 1
    value &= 0x7F
    for index in range(position + 1, position + MAX_QUANTITY_BYTES):
        byte = data[index]
        value = value << 7 | byte & 0x7F
        if byte < 0x80:
            return value, index + 1
    raise ValueError(f"a number of more than {MAX_QUANTITY_BYTES} bytes")


def _read_event(data: bytes, position: int, running_status: int) -> tuple[int, bytes, int]:
    """Return the status, the data and the end position of an event. The data of a meta event start with its type.

    Raises:
        IndexError: The data ends before the event does.
        ValueError: It is no event.
    """
    status = data[position]
    if status >= 0x80:
        position += 1
    elif running_status:
        status = running_status
    else:
        raise ValueError("running status before any status")
    length = DATA_BYTES.get(status)
    if length is None:
        return _read_long_event(data, position, status)
    end = position + length
    if end > len(data):
        raise IndexError
    content = data[position:end]
    if not content.isascii():
        raise ValueError(f"data bytes {content.hex(' ')} after status {status:02X}: above 7F")
    return status, content, end


def _read_long_event(data: bytes, position: int, status: int) -> tuple[int, bytes, int]:
    """Read an event with a length field, as `_read_event`: sysex, escapes and meta events."""
    if status not in (SYSEX, ESCAPE, META):
        raise ValueError(f"a status of {status:02X}, which is not defined")
    kind = b""
    if status == META:
        kind = bytes((data[position],))
        position += 1
    length, position = _read_quantity(data, position)
    end = position + length
    if end > len(data):
        raise IndexError
    return status, kind + data[position:end], end


def _pair_notes(events: Iterable[ChannelEvent]) -> tuple[np.ndarray, np.ndarray, int]:
    """Return start and end ticks `(notes, 2)`; pitch, velocity, channel, program `(notes, 4)`; number of unended notes.

    Args:
        events: Channel messages of all tracks, by time.
    """
    programs: dict[tuple[int, int] | int, int] = {}  # by track and channel, and by channel
    sounding: defaultdict[tuple[int, int, int], deque[tuple[int, int, int]]] = defaultdict(deque)
    ticks, values = [], []
    for tick, track, status, content in events:
        kind, channel = status & 0xF0, status & 0x0F
        if kind == PROGRAM_CHANGE:
            programs[channel] = programs[track, channel] = content[0]
        elif kind == NOTE_ON and content[1] > 0:
            program = programs.get((track, channel), programs.get(channel, 0))
            sounding[track, channel, content[0]].append((tick, content[1], program))
        elif kind in (NOTE_ON, NOTE_OFF) and sounding[track, channel, content[0]]:
            begin, velocity, program = sounding[track, channel, content[0]].popleft()
            ticks.append((begin, tick))
            values.append((content[0], velocity, channel, program))
    n_unended = sum(map(len, sounding.values()))
    return np.array(ticks, np.int64).reshape(-1, 2), np.array(values, np.int64).reshape(-1, 4), n_unended


def _seconds(ticks: np.ndarray, tempos: list[tuple[int, int]], division: int) -> np.ndarray:
    """Convert ticks to seconds, float64, with a tempo map of `(tick, microseconds per quarter note)`."""
    changes = np.array([(0, DEFAULT_TEMPO), *sorted(tempos, key=itemgetter(0))], np.int64)
    start, tempo = changes.T
    last = ticks.max(initial=0)
    segment_end = np.append(start[1:], last).clip(max=last)
    if ((tempo == 0) & (segment_end > start)).any():
        raise MediaError("a tempo of 0: its notes would all sound at once")
    per_tick = tempo / (1e6 * division)
    elapsed = np.append(0.0, np.cumsum(np.diff(start) * per_tick[:-1]))
    index = np.searchsorted(start, ticks, side="right") - 1
    return np.asarray(elapsed[index] + (ticks - start[index]) * per_tick[index])
