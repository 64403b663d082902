"""Adversarial MIDI files for tests, and the notes that mido reads from a file."""

from __future__ import annotations

import io
import struct
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from fractions import Fraction
from random import Random

import mido

Note = tuple[float, float, int, int, int, int]  # onset and duration in seconds, pitch, velocity, channel, program
END = (0, b"\xff\x2f\x00")


def quantity(value: int, width: int = 1) -> bytes:
    """A variable-length quantity, of at least `width` bytes."""
    groups = [value & 0x7F]
    while value := value >> 7:
        groups.append(value & 0x7F)
    groups += [0] * (width - len(groups))
    return bytes([*(group | 0x80 for group in groups[:0:-1]), groups[0]])


def chunk(kind: bytes, content: bytes) -> bytes:
    return kind + struct.pack(">I", len(content)) + content


def track(*events: tuple[int, bytes], end: bool = True) -> bytes:
    """A track chunk of `(delta, event)`."""
    return chunk(b"MTrk", b"".join(quantity(delta) + event for delta, event in (*events, *([END] if end else []))))


def midi_file(*tracks: bytes, kind: int = 1, division: int = 480, n_tracks: int | None = None) -> bytes:
    """A file of track chunks."""
    count = len(tracks) if n_tracks is None else n_tracks
    return chunk(b"MThd", struct.pack(">HHH", kind, count, division)) + b"".join(tracks)


def rmid(data: bytes) -> bytes:
    """A file in a RIFF container, after another chunk of odd length."""
    content = b"RMID" + b"DISP" + struct.pack("<I", 3) + b"abc\0" + b"data" + struct.pack("<I", len(data)) + data
    return b"RIFF" + struct.pack("<I", len(content)) + content


def on(pitch: int, velocity: int = 80, channel: int = 0) -> bytes:
    return bytes((0x90 | channel, pitch, velocity))


def off(pitch: int, channel: int = 0) -> bytes:
    return bytes((0x80 | channel, pitch, 0))


def sysex(content: bytes, status: int = 0xF0) -> bytes:
    """Return a sysex event (F0), or a continuation packet or an escape (F7)."""
    return bytes((status,)) + quantity(len(content)) + content


def meta(kind: int, content: bytes) -> bytes:
    return bytes((0xFF, kind)) + quantity(len(content)) + content


def tempo(microseconds: int) -> bytes:
    return meta(0x51, microseconds.to_bytes(3, "big"))


@dataclass(frozen=True)
class Event:
    """A note-on, note-off, program change (its number as `pitch`) or tempo (microseconds as `pitch`)."""

    tick: int
    track: int
    kind: str
    channel: int
    pitch: int
    velocity: int = 0


def pair(events: Iterable[Event], division: int) -> list[Note]:
    """Return the notes of events, with times by exact arithmetic."""
    seconds, last, microseconds = Fraction(0), 0, 500_000
    programs: dict[object, int] = {}
    sounding = defaultdict(list)
    notes: list[Note] = []
    for event in sorted(events, key=lambda event: event.tick):
        seconds += Fraction((event.tick - last) * microseconds, 1_000_000 * division)
        last = event.tick
        key = event.track, event.channel, event.pitch
        if event.kind == "tempo":
            microseconds = event.pitch
        elif event.kind == "program":
            programs[event.channel] = programs[event.track, event.channel] = event.pitch
        elif event.kind == "on" and event.velocity:
            program = programs.get((event.track, event.channel), programs.get(event.channel, 0))
            sounding[key].append((seconds, event.velocity, program))
        elif sounding[key]:
            begin, velocity, program = sounding[key].pop(0)
            notes.append((float(begin), float(seconds - begin), event.pitch, velocity, event.channel, program))
    return notes


def notes_of_mido(data: bytes) -> list[Note]:
    """Return the notes of a file from the messages that mido reads.

    Raises:
        ValueError, OSError, EOFError, LookupError: mido does not read it, or loses delta times in it, as version 1.3
            does before meta events of unknown types.
    """
    file = mido.MidiFile(file=io.BytesIO(data))
    if file.type == 2 or file.ticks_per_beat <= 0:
        raise ValueError(f"format {file.type}, division {file.ticks_per_beat}")
    kinds = {"note_on": "on", "note_off": "off", "program_change": "program", "set_tempo": "tempo"}
    events = []
    for number, messages in enumerate(file.tracks):
        tick = 0
        for message in messages:
            tick += message.time
            if message.type == "unknown_meta":
                raise ValueError("the delta time of an unknown meta event")
            if message.type in kinds:
                fields = vars(message)
                value = fields.get("note", fields.get("program", fields.get("tempo")))
                kind, channel = kinds[message.type], fields.get("channel", 0)
                events.append(Event(tick, number, kind, channel, value, fields.get("velocity", 0)))
    return pair(events, file.ticks_per_beat)


class StreamWriter:
    """Writer of event streams that are hard to read, and of the notes that they contain.

    Args:
        seed: Seed of all random choices.
        for_mido: Write only what mido 1.3 reads correctly: no running status after a sysex, no status bytes in
            escapes, no meta events of unknown types (it loses their delta times), no chunks of other types, no RIFF.
    """

    def __init__(self, seed: int, *, for_mido: bool) -> None:
        self.random = Random(seed)
        self.for_mido = for_mido
        self.division = self.random.choice((1, 24, 96, 480, 960, 32767))
        self.events: list[Event] = []
        self.data = self._file()

    @property
    def notes(self) -> list[Note]:
        return pair(self.events, self.division)

    def _file(self) -> bytes:
        random = self.random
        n_tracks = random.choice((1, 1, 2, 3, 5))
        tracks: list[bytes] = []
        for number in range(n_tracks):
            if not self.for_mido and random.random() < 0.2:
                tracks.append(chunk(random.choice((b"XFIH", b"OTS ")), random.randbytes(random.randrange(40))))
            tracks.append(self._track(number))
        kind = random.choice((0, 1)) if n_tracks == 1 else 1
        data = midi_file(*tracks, kind=kind, division=self.division, n_tracks=n_tracks)
        if random.random() < 0.1:  # a longer header
            data = data[:4] + struct.pack(">I", 8) + data[8:14] + b"\x01\x02" + data[14:]
        if random.random() < 0.1:
            data += b"\0" * random.randrange(1, 9)
        return data if self.for_mido or random.random() < 0.8 else rmid(data)

    def _track(self, number: int) -> bytes:
        random = self.random
        content = bytearray()
        tick, status, after_sysex = 0, 0, False
        pitches = random.sample(range(128), random.choice((2, 5, 40)))
        channels = random.sample(range(16), random.choice((1, 2, 3)))
        for _ in range(random.randrange(120)):
            delta, event = self._delta(), self._event(pitches, channels)
            tick += delta
            self._add(tick, number, event)
            may_run = event[0] == status and not (self.for_mido and after_sysex)
            content += quantity(delta, random.choice((1, 1, 1, 2, 4)))
            content += event[1:] if may_run and random.random() < 0.7 else event
            if event[0] < 0xF0:
                status, after_sysex = event[0], False
            after_sysex = after_sysex or event[0] in (0xF0, 0xF7)
        if random.random() < 0.85:
            content += quantity(self._delta()) + END[1]
            content += b"" if self.for_mido else b"\0" * random.choice((0, 0, 0, 5))
        return chunk(b"MTrk", bytes(content))

    def _add(self, tick: int, number: int, event: bytes) -> None:
        """Record a written event."""
        kind = {0x80: "off", 0x90: "on", 0xC0: "program"}.get(event[0] & 0xF0)
        if kind is not None:
            self.events.append(Event(tick, number, kind, event[0] & 0x0F, event[1], event[-1]))
        elif event[:2] == b"\xff\x51":
            self.events.append(Event(tick, number, "tempo", 0, int.from_bytes(event[3:], "big")))

    def _delta(self) -> int:
        draw = self.random.random()
        if draw < 0.4:
            return 0
        return self.random.randrange(1, 500) if draw < 0.98 else self.random.randrange(1, 2**16)

    def _event(self, pitches: Sequence[int], channels: Sequence[int]) -> bytes:
        random = self.random
        channel, pitch, value = random.choice(channels), random.choice(pitches), random.randrange(128)
        messages = {
            "on": bytes((0x90 | channel, pitch, max(1, value))),
            "on of velocity 0": bytes((0x90 | channel, pitch, 0)),
            "off": bytes((0x80 | channel, pitch, value)),
            "program": bytes((0xC0 | channel, value)),
            "control": bytes((random.choice((0xA0, 0xB0, 0xE0)) | channel, pitch, value)),
            "pressure": bytes((0xD0 | channel, value)),
            "tempo": tempo(random.choice((1, 200_000, 500_000, 2**24 - 1, random.randrange(1, 2**24)))),
            "meta": meta(
                random.choice((0x01, 0x03, 0x05, 0x7F) if self.for_mido else (0x01, 0x09, 0x60)),
                random.randbytes(random.choice((0, 1, 3, 127, 128, 300))),
            ),
            "sysex": self._sysex(),
        }
        return messages[random.choices(list(messages), (35, 15, 15, 5, 8, 4, 4, 7, 7))[0]]

    def _sysex(self) -> bytes:
        """Return a sysex, the first, a middle or the last packet of one, or an escape."""
        random = self.random
        size = random.choice((0, 1, 4, 40, 200))
        content = bytes(random.randrange(128) for _ in range(size))
        like_notes = bytes((0x90, 60, 80)) * size + random.choice((b"", b"\xf8", b"\xf3\x01"))
        events = [sysex(content + b"\xf7"), sysex(content), sysex(content, 0xF7), sysex(content + b"\xf7", 0xF7)]
        return random.choice(events if self.for_mido else [*events, sysex(like_notes, 0xF7)])
