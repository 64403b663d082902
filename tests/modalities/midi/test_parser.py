"""Standard MIDI Files: the notes of odd and adversarial event streams, or a reason why there are none."""

from __future__ import annotations

import struct
from collections.abc import Sequence
from random import Random

import numpy as np
import pytest

from rainbow_ray.modalities.media_source import MediaError
from rainbow_ray.modalities.midi.parser import read_notes
from tests.modalities.midi.midi_streams import (
    END,
    Note,
    StreamWriter,
    chunk,
    meta,
    midi_file,
    notes_of_mido,
    off,
    on,
    quantity,
    rmid,
    sysex,
    tempo,
    track,
)

FILES = 150
QUICK = 10
MANY = 1000


def notes_of(data: bytes) -> list[Note]:
    notes = read_notes(data)
    columns = (notes.onset, notes.duration, notes.pitch, notes.velocity, notes.channel, notes.program)
    return list(zip(*(column.tolist() for column in columns), strict=True))


def assert_equal(notes: Sequence[Note], expected: Sequence[Note]) -> None:
    """Assert that notes are equal, with times to a relative and absolute tolerance of 1e-6."""
    assert [note[2:] for note in notes] == [note[2:] for note in expected]
    times, expected_times = (np.array([note[:2] for note in sequence]).reshape(-1, 2) for sequence in (notes, expected))
    np.testing.assert_allclose(times, expected_times, rtol=1e-6, atol=1e-6)


def assert_streams_are_read(seeds: range) -> None:
    for seed in seeds:
        for for_mido in (True, False):
            stream = StreamWriter(seed, for_mido=for_mido)
            notes = notes_of(stream.data)
            assert_equal(notes, stream.notes)
            if for_mido:
                assert_equal(notes, notes_of_mido(stream.data))


def damage(data: bytes, random: Random) -> bytes:
    """Truncate a file, or change, add or remove bytes."""
    changed = bytearray(data)
    position = random.randrange(len(data))
    kind = random.choice(("cut", "changed", "changed", "added", "removed"))
    if kind == "cut":
        del changed[position:]
    elif kind == "changed":
        for _ in range(random.choice((1, 2, 5))):
            changed[random.randrange(len(data))] = random.choice((0, 0x7F, 0x80, 0xFF, 0xF0, random.randrange(256)))
    elif kind == "added":
        changed[position:position] = random.randbytes(random.choice((1, 3)))
    else:
        del changed[position : position + random.choice((1, 2, 5))]
    return bytes(changed)


def assert_damage_is_noticed(seeds: range) -> tuple[int, int]:
    """Assert that damaged files are refused or read as mido reads them; return the numbers refused and compared."""
    n_refused = n_compared = 0
    for seed in seeds:
        data = damage(StreamWriter(seed, for_mido=True).data, Random(seed))
        try:
            notes = notes_of(data)
        except MediaError:
            n_refused += 1
            continue
        try:
            expected = notes_of_mido(data)
        except (ValueError, OSError, EOFError, LookupError):
            continue
        assert_equal(notes, expected)
        n_compared += 1
    return n_refused, n_compared


def test_adversarial_streams_are_read_as_written():
    assert_streams_are_read(range(QUICK))


def test_damaged_streams_are_refused_or_read_as_mido_reads_them():
    n_refused, n_compared = assert_damage_is_noticed(range(QUICK * 3))
    assert n_refused > 0
    assert n_compared > 0


@pytest.mark.slow
def test_150_adversarial_streams_are_read_as_written():
    assert_streams_are_read(range(QUICK, FILES))


@pytest.mark.slow
def test_150_damaged_streams_are_refused_or_read_as_mido_reads_them():
    n_refused, n_compared = assert_damage_is_noticed(range(1000, 1000 + FILES))
    assert n_refused + n_compared > FILES / 2


@pytest.mark.slow
@pytest.mark.long
def test_a_thousand_streams_are_read_and_their_damage_is_noticed():
    assert_streams_are_read(range(FILES, FILES + MANY))
    assert_damage_is_noticed(range(2000, 2000 + 2 * MANY))


ONE_NOTE = [(480, on(60)), (480, off(60))]
NOTE = (0.5, 0.5, 60, 80, 0, 0)
LATER = [(480, on(60)), (240, off(60))]  # for 0.25 s
PACKETS = [  # the example of RP-001, "sysex events"
    (0, sysex(b"\x43\x12\x00")),
    (200, sysex(b"\x43\x12\x00\x43\x12\x00", 0xF7)),
    (100, sysex(b"\x43\x12\x00\xf7", 0xF7)),
]
VALID = {
    "one note": (midi_file(track(*ONE_NOTE)), [NOTE]),
    "running status": (midi_file(track((480, on(60)), (480, b"\x3c\x00"))), [NOTE]),
    "running status after a sysex": (
        midi_file(track((480, on(60)), (0, sysex(b"\x7e\x7f\x09\x01\xf7")), (480, b"\x3c\x00"))), [NOTE],
    ),
    "running status after a packet and an escape": (
        midi_file(track((480, on(60)), (0, sysex(b"\x01", 0xF7)), (0, sysex(b"\x80\x3c\x00", 0xF7)), (480, b"\x3c\0"))),
        [NOTE],
    ),
    "running status after a meta event": (
        midi_file(track((480, on(60)), (0, meta(0x01, b"\x90\x3c")), (480, b"\x3c\x00"))), [NOTE],
    ),
    "a sysex in three packets": (midi_file(track(*PACKETS, (180, on(60)), (480, off(60)))), [NOTE]),
    "an escape that looks like a note": (midi_file(track((0, sysex(b"\x90\x3c\x50\x00", 0xF7)), *ONE_NOTE)), [NOTE]),
    "a sysex of 300 bytes": (midi_file(track((0, sysex(bytes(299) + b"\xf7")), *ONE_NOTE)), [NOTE]),
    "a realtime message": (midi_file(track((480, on(60)), (240, b"\xf8"), (240, b"\x3c\x00"))), [NOTE]),
    "delta times of 4 bytes": (
        midi_file(chunk(b"MTrk", b"".join(quantity(d, 4) + e for d, e in (*ONE_NOTE, END)))), [NOTE],
    ),
    "a long delta time": (midi_file(track((0x0FFFFFFF, on(60)), (480, off(60)))), [(279620.265625, *NOTE[1:])]),
    "note-on of velocity 0": (midi_file(track((480, on(60)), (480, on(60, 0)))), [NOTE]),
    "equal notes that overlap: first in, first out": (
        midi_file(track((0, on(60, 1)), (480, on(60, 2)), (480, off(60)), (480, off(60)))),
        [(0.0, 1.0, 60, 1, 0, 0), (0.5, 1.0, 60, 2, 0, 0)],
    ),
    "a note-off without a note": (midi_file(track((0, off(60)), *ONE_NOTE)), [NOTE]),
    "a note of no length": (midi_file(track((480, on(60)), (0, off(60)))), [(0.5, 0.0, 60, 80, 0, 0)]),
    "a tempo in another track": (
        midi_file(track((480, tempo(1_000_000))), track((480, on(60)), (480, off(60)))), [(0.5, 1.0, 60, 80, 0, 0)],
    ),
    "a tempo in a later track": (
        midi_file(track(*ONE_NOTE), track((720, tempo(1_000_000)))), [(0.5, 0.75, 60, 80, 0, 0)],
    ),
    "two tempos at one time: the last counts": (
        midi_file(track((0, tempo(1)), (0, tempo(250_000)), *ONE_NOTE)), [(0.25, 0.25, 60, 80, 0, 0)],
    ),
    "a tempo of more bytes": (
        midi_file(track((0, meta(0x51, b"\x0f\x42\x40\x07")), *ONE_NOTE)), [(1.0, 1.0, 60, 80, 0, 0)],
    ),
    "a tempo of 0 for no time": (midi_file(track((0, tempo(0)), (0, tempo(500_000)), *ONE_NOTE)), [NOTE]),
    "a tempo of 0 after all notes": (midi_file(track(*ONE_NOTE, (0, tempo(0)))), [NOTE]),
    "a program of its own": (
        midi_file(track((0, b"\xc3\x05"), (480, on(60, 80, 3)), (0, b"\xc3\x06"), (480, off(60, 3)))),
        [(0.5, 0.5, 60, 80, 3, 5)],
    ),
    "a program that another track set": (midi_file(track((0, b"\xc0\x05")), track(*ONE_NOTE)), [(*NOTE[:5], 5)]),
    "equal notes of two tracks of a channel": (
        midi_file(track((0, on(60)), (960, off(60))), track(*ONE_NOTE[:1], (960, off(60)))),
        [(0.0, 1.0, 60, 80, 0, 0), (0.5, 1.0, 60, 80, 0, 0)],
    ),
    "format 0": (midi_file(track(*ONE_NOTE), kind=0), [NOTE]),
    "format 2, one track": (midi_file(track(*ONE_NOTE), kind=2), [NOTE]),
    "no end of track": (midi_file(track(*ONE_NOTE, end=False)), [NOTE]),
    "no end of track, and another track": (midi_file(track(*ONE_NOTE, end=False), track()), [NOTE]),
    "a track without events": (midi_file(chunk(b"MTrk", b""), track(*ONE_NOTE)), [NOTE]),
    "zeros after the end of a track": (midi_file(chunk(b"MTrk", track(*ONE_NOTE)[8:] + bytes(5))), [NOTE]),
    "chunks of other types": (
        midi_file(chunk(b"XFIH", b"MTrk"), track(*ONE_NOTE), n_tracks=1) + chunk(b"XFKM", b"abc"), [NOTE],
    ),
    "a longer header": (chunk(b"MThd", struct.pack(">HHHH", 1, 1, 480, 7)) + track(*ONE_NOTE), [NOTE]),
    "bytes after the last track": (midi_file(track(*ONE_NOTE)) + b"\x1a\x00garbage", [NOTE]),
    "a RIFF container": (rmid(midi_file(track(*ONE_NOTE))), [NOTE]),
}  # fmt: skip


@pytest.mark.parametrize("case", VALID)
def test_valid_and_unambiguous_files_are_read(case):
    data, expected = VALID[case]
    assert_equal(notes_of(data), expected)


def test_notes_that_never_end_are_left_out_and_counted():
    notes = read_notes(midi_file(track((0, on(61)), (0, on(61)), *ONE_NOTE), track((0, on(60)))))
    assert notes.pitch.tolist() == [60]
    assert notes.n_unended == 3


VALID_FILE = midi_file(track(*ONE_NOTE))
LATER_TRACK = track(*LATER)
REFUSED = {
    "nothing": (b"", "not readable as MIDI"),
    "text": (b"MThd and then nothing that anyone could read", "not readable as MIDI"),
    "garbage before the header": (bytes(128) + VALID_FILE, "not readable as MIDI"),
    "a RIFF container of sound": (b"RIFF\x04\x00\x00\x00WAVE", "not readable as MIDI"),
    "a RIFF container without MIDI": (rmid(VALID_FILE)[:24], "not readable as MIDI"),
    "a RIFF container that is cut": (rmid(VALID_FILE)[:-4], "cut off"),
    "a header that is cut": (VALID_FILE[:12], "cut off"),
    "a track that is cut": (VALID_FILE[:-3], "cut off"),
    "a track that is missing": (midi_file(track(*ONE_NOTE), n_tracks=2), "cut off"),
    "a track too many": (VALID_FILE + LATER_TRACK, "damaged"),
    "format 3": (midi_file(track(*ONE_NOTE), kind=3), "not readable as MIDI"),
    "format 2": (midi_file(track(*ONE_NOTE), track(*LATER), kind=2), "format 2"),
    "SMPTE": (midi_file(track(*ONE_NOTE), division=0xE728), "SMPTE"),
    "a division of 0": (midi_file(track(*ONE_NOTE), division=0), "division of 0"),
    "a tempo of 0": (midi_file(track((0, tempo(0)), *ONE_NOTE)), "tempo of 0"),
    "a tempo of 0 during a note": (midi_file(track((480, on(60)), (9, tempo(0)), (480, off(60)))), "tempo of 0"),
    "a tempo of 0 in another track": (midi_file(track((700, tempo(0)), (1, tempo(9))), track(*ONE_NOTE)), "tempo of 0"),
    "a tempo of 2 bytes": (midi_file(track((0, meta(0x51, b"\x01\x02")), *ONE_NOTE)), "damaged"),
    "running status at the start": (midi_file(track((0, b"\x3c\x50"))), "damaged"),
    "an undefined status": (midi_file(track((0, b"\xf4"), *ONE_NOTE)), "damaged"),
    "a data byte above 127": (midi_file(track((0, b"\x90\x3c\xc8"), *ONE_NOTE)), "damaged"),
    "a delta time of 5 bytes": (midi_file(chunk(b"MTrk", b"\x80\x80\x80\x80\x00" + on(60))), "damaged"),
    "a sysex longer than its track": (midi_file(track((0, b"\xf0\x81\x00\x01"))), "damaged"),
    "a meta event longer than its track": (midi_file(track((0, b"\xff\x01\x7f\x01"), end=False)), "damaged"),
    "a note that its track cuts": (midi_file(track((0, b"\x90\x3c"), end=False)), "damaged"),
    "a delta time that its track cuts": (midi_file(chunk(b"MTrk", b"\x00\x90\x3c\x50\x81")), "damaged"),
    "notes after the end of a track": (midi_file(track(*ONE_NOTE, END, *LATER)), "damaged"),
    "a track longer than it says": (
        midi_file(b"MTrk" + struct.pack(">I", 9) + track(*ONE_NOTE, *LATER)[8:], n_tracks=1), "damaged",
    ),
    "zeros in place of a chunk": (midi_file(track(*ONE_NOTE), b"\0\0\0\0\0\0\0\0", LATER_TRACK, n_tracks=2), "damaged"),
}  # fmt: skip


@pytest.mark.parametrize("case", REFUSED)
def test_other_files_are_refused_with_a_reason(case):
    data, reason = REFUSED[case]
    with pytest.raises(MediaError, match=reason):
        read_notes(data)
