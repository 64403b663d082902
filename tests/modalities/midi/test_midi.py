"""MIDI: notes in seconds, unreadable files, and an encoder that does not depend on padding."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest
import torch
from symusic import Note, Score, Tempo, Track

from rainbow_ray.config.schema import MidiEncoderConfig
from rainbow_ray.modalities.media import MediaReader
from rainbow_ray.modalities.media_counts import check_media_errors
from rainbow_ray.modalities.media_source import EmptyWindow, MediaError
from rainbow_ray.modalities.midi.encoder import MidiEncoder, summarize_notes
from rainbow_ray.modalities.midi.reader import (
    DRUMS,
    DURATION,
    FIELDS,
    GAP,
    INSTRUMENT,
    ONSET,
    PITCH,
    MidiRecording,
    describe_cut_windows,
    open_recording,
)
from rainbow_ray.modalities.windowed_modality import pad_arrays
from rainbow_ray.modalities.windows import Windows
from tests.helpers import data_of, plan_of
from tests.modalities.audio.test_audio import saved, tone
from tests.modalities.midi.midi_streams import midi_file, off, on, track


def song(notes=((0, 480, 60), (480, 480, 64), (480, 240, 67), (1920, 480, 72)), *, tempo=120, drum=False) -> bytes:
    score = Score(480)
    score.tempos.append(Tempo(0, tempo))
    track = Track("stem", 5, drum)
    for onset, length, pitch in notes:
        track.notes.append(Note(onset, length, pitch, 80))
    score.tracks.append(track)
    return bytes(score.dumps_midi())


def test_notes_are_in_seconds_and_sorted_by_onset():
    recording = open_recording(song())
    assert recording.duration == pytest.approx(2.5)
    notes = recording.read(0.0, 10.0)
    assert notes[:, PITCH].tolist() == [60, 64, 67, 72]
    assert notes[:, ONSET].tolist() == [0.0, 0.5, 0.5, 2.0]
    assert notes[:, DURATION].tolist() == [0.5, 0.5, 0.25, 0.5]
    assert notes[:, GAP].tolist() == [0.0, 0.5, 0.0, 1.5]
    assert set(notes[:, INSTRUMENT]) == {5}
    assert open_recording(song(tempo=60)).duration == pytest.approx(5.0)
    assert set(open_recording(song(drum=True)).read(0, 9)[:, INSTRUMENT]) == {DRUMS}


def test_a_window_has_the_notes_that_begin_in_it():
    recording = open_recording(song())
    assert recording.read(0.4, 1.0)[:, ONSET] == pytest.approx([0.1, 0.1])
    with pytest.raises(EmptyWindow, match="no notes in its window"):
        recording.read(1.0, 0.5)


def notes_at(*onsets: float, length: float = 0.1) -> bytes:
    """Return a file with a note at each of these seconds."""
    return song([(round(onset * 960), round(length * 960), 60) for onset in onsets])


def test_the_sounding_part_has_the_most_notes():
    dense = np.arange(0, 20, 0.5).tolist()
    assert open_recording(notes_at(*dense)).sounding(10.0) == pytest.approx((0.0, 19.6))
    assert open_recording(notes_at(4.0, *(5 + onset for onset in dense))).sounding(10.0)[0] == 0.0, (
        "a short pause at its start"
    )
    assert open_recording(notes_at(*dense, 3600.0)).sounding(10.0) == pytest.approx((0.0, 19.6)), (
        "a stray note after it"
    )
    assert open_recording(notes_at(0.0, *(3600 + onset for onset in dense))).sounding(10.0) == pytest.approx(
        (3600, 3619.6), abs=0.02
    ), "a stray note before it"
    with_long_note = song([*((round(onset * 960), 96, 60) for onset in dense), (0, 3_600_000, 40)])
    assert open_recording(with_long_note).sounding(10.0)[1] < 30.0, "one note lasts an hour"


@pytest.mark.parametrize("position", ["middle", "start"])
def test_every_window_of_the_sounding_part_has_notes(position):
    rng = np.random.default_rng(0)
    for trial in range(300):
        seconds = float(rng.choice([1.0, 5.0, 10.0]))
        onsets = np.sort(rng.uniform(0, 10 ** rng.uniform(-1, 4), rng.integers(1, 30)))
        recording = open_recording(notes_at(*onsets, length=10 ** rng.uniform(-1, 2)))
        start, end = recording.sounding(seconds)
        assert 0 <= start <= end <= recording.duration
        for begin in Windows(seconds, position, views=3).starts(recording.duration, str(trial), (start, end)):
            assert len(recording.read(begin, seconds)) > 0


def test_a_stray_note_hours_later_does_not_move_the_window(tmp_path):
    onsets = np.arange(0, 20, 0.5).tolist()
    reader = MediaReader(("midi",), tmp_path, Windows(10.0), None)
    rows = reader(pa.table({"raw_midi": pa.array([notes_at(*onsets, 3600.0), notes_at(*onsets)], pa.large_binary())}))
    with_stray, without_stray = (reader.store.get("midi", windows[0]) for windows in rows["midi"].to_pylist())
    np.testing.assert_allclose(with_stray, without_stray, atol=0.06)


def test_a_stem_without_notes_in_the_audio_window_is_counted(tmp_path):
    reader = MediaReader(("audio", "midi"), tmp_path, Windows(10.0), None)
    late_notes = notes_at(*np.arange(40, 60, 0.5))
    audio = pa.array([saved(tone(30.0))] * 2, pa.large_binary())
    rows = reader(
        pa.table({"raw_audio": audio, "raw_midi": pa.array([late_notes, notes_at(12.0, 14.0)], pa.large_binary())})
    )
    assert rows["midi_lengths"].to_pylist() == [[], [2]], "the windows of a stem have the same time"
    (message,) = check_media_errors(rows, ["audio", "midi"], 0.2, tmp_path)
    assert "1 midi file is treated as missing: no notes in its window, in the seconds that are read of" in message


def test_midi_of_a_silent_stem_is_read_in_its_own_window(tmp_path):
    reader = MediaReader(("audio", "midi"), tmp_path, Windows(10.0), None)
    audio = pa.array([saved(0 * tone(30.0)), b"no sound"], pa.large_binary())
    midi = pa.array([notes_at(*np.arange(40, 60, 0.5))] * 2, pa.large_binary())
    rows = reader(pa.table({"raw_audio": audio, "raw_midi": midi}))
    assert [len(reason) > 0 for reason in rows["audio_trouble"].to_pylist()] == [True, True]
    assert rows["midi_lengths"].to_pylist() == [[20], [20]]


def test_notes_beyond_the_limit_are_counted(tmp_path):
    many_notes = notes_at(*np.linspace(0.0, 9.9, 300))
    reader = MediaReader(("midi",), tmp_path, Windows(10.0), None)
    rows = reader(pa.table({"raw_midi": pa.array([many_notes, song(), None, b"no"], pa.large_binary())}))
    assert rows["midi_lengths"].to_pylist() == [[300], [4], [], []]
    assert describe_cut_windows(rows, 300) == []
    (message,) = describe_cut_windows(rows, 256)
    assert message.startswith("1 of 2 MIDI windows have more than 256 notes: their last ones are not read, 44 of 304")
    assert "model.midi_encoder.max_notes=300" in message


def test_notes_that_never_end_are_counted_with_their_files(tmp_path):
    unended = midi_file(track((0, on(60)), (480, off(60)), (0, on(61)), (0, on(62))))
    (tmp_path / "a.mid").write_bytes(unended)
    reader = MediaReader(("midi",), tmp_path, Windows(10.0), tmp_path / "store")
    for _ in range(2):
        rows = reader(pa.table({"raw_midi": ["a.mid", None]}))
        assert rows["midi_lengths"].to_pylist() == [[1], []]
        assert check_media_errors(rows, ["midi"], 0.2, tmp_path) == [
            "1 midi file is used, but: notes that never end are left out (a.mid)"
        ]
    with pytest.raises(MediaError, match="no notes"):
        open_recording(midi_file(track((0, on(60)))))


def with_division(division: int) -> bytes:
    data = bytearray(song())
    data[12:14] = division.to_bytes(2, "big")
    return bytes(data)


BAD = {
    "not readable": b"MThd and then nothing that anyone could read",
    "SMPTE": with_division(0xE728),
    "no notes": song(notes=()),
    "division of 0": with_division(0),
}


@pytest.mark.parametrize("reason", BAD)
def test_bad_files_are_refused_with_the_reason(reason):
    with pytest.raises(MediaError, match=reason):
        open_recording(BAD[reason])


def test_truncated_files_are_refused():
    for length in (0, 10, 14, 30, len(song()) - 5):
        with pytest.raises(MediaError):
            open_recording(song()[:length])


def units(*lengths: int) -> list[np.ndarray]:
    rng = np.random.default_rng(0)
    notes_of_units = []
    for length in lengths:
        notes = np.zeros((length, 6), np.float32)
        notes[:, ONSET] = np.sort(rng.uniform(0, 10, length))
        notes[:, DURATION], notes[:, PITCH] = 0.3, rng.integers(40, 80, length)
        notes_of_units.append(notes)
    return notes_of_units


def test_encodings_do_not_depend_on_the_batch():
    torch.manual_seed(0)
    encoder = MidiEncoder(MidiEncoderConfig(hidden_size=16, num_heads=2), 10.0).eval()
    windows = units(5, 40, 0, 12)
    values, mask = pad_arrays(windows)
    tokens, token_mask = encoder(values, mask)
    summary = encoder.summary(values, mask)
    assert tokens.shape == (4, 17, 16)
    assert token_mask[2].sum() == 1, "a window without notes is one token"
    assert torch.isfinite(tokens).all()
    assert torch.isfinite(summary).all()
    for i, notes in enumerate(windows):
        if len(notes):
            single, single_mask = encoder(*pad_arrays([notes]))
            torch.testing.assert_close(single[0][single_mask[0]], tokens[i][token_mask[i]], atol=1e-5, rtol=0)
            torch.testing.assert_close(encoder.summary(*pad_arrays([notes]))[0], summary[i], atol=1e-5, rtol=0)


def test_encodings_depend_on_time_instrument_and_pitch():
    torch.manual_seed(0)
    encoder = MidiEncoder(MidiEncoderConfig(hidden_size=16, num_heads=2), 10.0).eval()
    (notes,) = units(8)
    original = encoder(*pad_arrays([notes]))[0]
    for field, value in ((ONSET, notes[:, ONSET] / 2), (INSTRUMENT, 30), (PITCH, notes[:, PITCH] + 1)):
        changed = notes.copy()
        changed[:, field] = value
        assert not torch.allclose(encoder(*pad_arrays([changed]))[0], original, atol=1e-4)


def test_rising_and_falling_melodies_have_different_summaries():
    def summarize_melody(steps):
        pitches = [60 + step for step in steps] * 4
        notes = np.zeros((1, len(pitches), FIELDS), dtype=np.float32)
        notes[0, :, PITCH], notes[0, 1:, GAP] = pitches, 0.25
        return summarize_notes(torch.from_numpy(notes), torch.ones(1, len(pitches), dtype=torch.bool))[0]

    scale = [0, 2, 4, 5, 7, 9, 11, 12]
    rising, falling = summarize_melody(scale), summarize_melody(scale[::-1])
    assert rising[-1] > 0.5 > -0.5 > falling[-1], "although both have the same pitches"
    torch.testing.assert_close(rising[:-1], falling[:-1])


def test_a_chord_has_no_melodic_direction():
    notes = np.zeros((1, 3, FIELDS), dtype=np.float32)
    notes[0, :, PITCH] = [60, 64, 67]
    assert summarize_notes(torch.from_numpy(notes), torch.ones(1, 3, dtype=torch.bool))[0, -1] == 0


def test_a_run_warns_of_notes_beyond_the_limit(stems_file, tiny_encoder, tmp_path):
    keys = {"phase": 3, "modalities": ["text", "midi"], "data__media_cache": str(tmp_path / "cache")}
    plan = plan_of(stems_file, tiny_encoder("bert"), model__midi_encoder__max_notes=3, **keys)
    assert any("24 of 24 MIDI windows have more than 3 notes" in warning for warning in data_of(plan).warnings)
    plan = plan_of(stems_file, tiny_encoder("bert"), **keys)
    assert not any("MIDI" in warning for warning in data_of(plan).warnings)


@pytest.mark.parametrize("position", ["start", "middle"])
def test_notes_without_a_length_at_the_very_end_are_read(position):
    note_rows = np.zeros((2, FIELDS))
    note_rows[:, ONSET] = 60.0004  # windows begin at times rounded to milliseconds
    recording = MidiRecording(note_rows, 60.0004)
    start = Windows(10.0, position).starts(recording.duration, "x", recording.sounding(10.0))[0]
    assert len(recording.read(start, 10.0)) == 2
    with pytest.raises(EmptyWindow):
        recording.read(start - 1.0, 10.0)
