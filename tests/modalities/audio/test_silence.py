"""Windows are in the sounding part of a file; silent windows are counted and treated as missing."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest

from rainbow_ray.modalities.audio.decoder import Samples
from rainbow_ray.modalities.audio.reader import RATE, AudioRecording, mix_down, open_recording
from rainbow_ray.modalities.media import MediaReader
from rainbow_ray.modalities.media_counts import check_media_errors, count_media_errors, count_unusable
from rainbow_ray.modalities.media_source import EmptyWindow, MediaError
from rainbow_ray.modalities.windows import Windows
from rainbow_ray.utils.errors import InputError
from tests.modalities.audio.test_audio import saved, tone


def silence(seconds: float) -> np.ndarray:
    return np.zeros(int(seconds * RATE), np.float32)


def sound_of(*parts: np.ndarray) -> AudioRecording:
    return open_recording(saved(np.concatenate(parts)))


def first_start(sound: AudioRecording, seconds: float = 10.0, position: str = "middle") -> float:
    return Windows(seconds, position).starts(sound.duration, "x", sound.sounding(seconds))[0]


ORDINARY = {
    "sound": [tone(40)],
    "a pause at both ends": [silence(2), tone(35), silence(4)],
    "a pause in the middle": [tone(18), silence(3), tone(18)],
    "shorter than a window": [silence(1), tone(4), silence(1)],
}


@pytest.mark.parametrize("name", ORDINARY)
def test_the_middle_of_an_ordinary_file_is_read(name):
    sound = sound_of(*ORDINARY[name])
    assert sound.sounding(10.0) == (0.0, sound.duration)
    assert first_start(sound) == Windows(10.0).starts(sound.duration, "x")[0]


@pytest.mark.parametrize(("parts", "begin", "end"), [
    ([tone(30), silence(50)], 0, 30),
    ([silence(50), tone(30)], 50, 80),
    ([silence(20), tone(30), silence(60)], 20, 50),
    ([tone(40), silence(120), tone(30)], 0, 40),
    ([tone(30), silence(120), tone(40)], 150, 190),
    ([silence(60), tone(3), silence(60)], 60, 63),
])  # fmt: skip
def test_the_window_is_in_the_middle_of_the_sounding_part(parts, begin, end):
    sound = sound_of(*parts)
    start = first_start(sound)
    assert start == pytest.approx(min(max(0.0, (begin + end) / 2 - 5.0), sound.duration - 10.0), abs=0.2)
    assert np.abs(sound.read(start, 10.0)).max() > 1000
    assert first_start(sound, position="start") == pytest.approx(begin, abs=0.2)


def test_random_windows_are_in_the_sounding_part():
    sound = sound_of(silence(60), tone(40), silence(60))
    starts = Windows(10.0, views=9).starts(sound.duration, "x", sound.sounding(10.0))
    assert all(60 <= start <= 90.1 for start in starts)
    assert len(set(starts)) == 9


@pytest.mark.parametrize("seconds", [1.0, 2.5, 10.0, 30.0])
def test_a_file_with_sound_has_no_silent_window(seconds):
    rng = np.random.default_rng(0)
    for _ in range(5):
        parts = [tone(float(length)) if rng.random() < 0.4 else silence(float(length))
                 for length in rng.exponential(8.0, 12)]  # fmt: skip
        sound = sound_of(*parts, tone(0.7), silence(float(rng.uniform(0, 40))))
        window = sound.read(first_start(sound, seconds), seconds)
        assert np.abs(window).max() > 1000


SILENT = {
    "zeros": np.zeros(20 * RATE, np.float32),
    "a constant": np.full(20 * RATE, 0.3, np.float32),
    "dither": (np.random.default_rng(0).uniform(-1, 1, 20 * RATE) / 32768).astype(np.float32),
    "two silent channels": np.zeros((20 * RATE, 2), np.float32),
}


@pytest.mark.parametrize("name", SILENT)
def test_silence_is_an_empty_window(name):
    sound = open_recording(saved(SILENT[name]))
    with pytest.raises(EmptyWindow, match="silent"):
        sound.read(first_start(sound), 10.0)


def test_quiet_sound_is_not_silence():
    sound = open_recording(saved(0.002 * tone(20)))
    assert np.abs(sound.read(first_start(sound), 10.0)).max() > 0


@pytest.mark.parametrize("factor", [-1.0, -0.98, -0.9])
def test_channels_that_cancel_each_other_are_not_mixed(factor):
    wave = tone(12)
    window = open_recording(saved(np.stack([wave, factor * wave], axis=1))).read(1.0, 4.0)
    assert np.abs(window).max() == pytest.approx(0.5 * 32767, rel=0.02)


def test_the_mix_of_other_channels_is_their_mean():
    rng = np.random.default_rng(0)
    for samples in (rng.normal(size=(4000, 2)), np.stack([tone(1), 0 * tone(1)], 1), np.eye(8)[:, :6]):
        channels = samples.astype(np.float32)
        assert np.array_equal(mix_down(channels), channels.mean(axis=1, dtype=np.float64).astype(np.float32))


def test_samples_in_the_table_are_searched_for_sound():
    wave = np.concatenate([silence(50), tone(20)])
    sound = AudioRecording(Samples(wave[:, None], RATE))
    assert 50 <= first_start(sound) <= 60


def read(folder, names, spans=None, **arguments):
    reader = MediaReader(("audio",), folder, Windows(10.0, **arguments), folder / "store")
    columns = {"raw_audio": names}
    if spans is not None:
        columns |= {"start": [float(start) for start, _ in spans], "end": [float(end) for _, end in spans]}
    return reader(pa.table(columns)), reader


@pytest.fixture
def folder(tmp_path):
    wave = tone(30)
    parts = {"sounds": wave, "silent": 0 * wave, "antiphase": np.stack([wave, -wave], axis=1),
             "hidden": np.concatenate([wave, silence(120), wave])}  # fmt: skip
    for name, samples in parts.items():
        (tmp_path / f"{name}.wav").write_bytes(saved(samples))
    return tmp_path


def test_silent_files_are_counted_and_treated_as_missing(folder):
    names = ["antiphase.wav", "silent.wav", "hidden.wav", "sounds.wav"]
    rows, reader = read(folder, names)
    assert [len(windows) for windows in rows["audio"].to_pylist()] == [1, 0, 1, 1]
    assert count_media_errors(rows, "audio") == ({"silent": 1}, {"silent": ["silent.wav"]}, 4)
    for windows in rows["audio"].to_pylist():
        assert all(np.abs(reader.store.get("audio", name)).max() > 1000 for name in windows)
    with pytest.raises(InputError, match=r"only 3 of 4 audio files.*silent.*max_unreadable_fraction higher"):
        check_media_errors(rows, ["audio"], 0.2, folder)


class Pulses:
    """A recording of ten seconds that is silent in every other second."""

    duration = 10.0

    def sounding(self, seconds: float) -> tuple[float, float]:
        return 0.0, 10.0

    def read(self, start: float, seconds: float, max_seconds: float | None = None) -> np.ndarray:
        if int(start) % 2:
            raise EmptyWindow("silent")
        return np.full(4, int(start), np.int16)


def test_silent_views_are_left_out(folder, monkeypatch):
    monkeypatch.setattr("rainbow_ray.modalities.audio.modality.open_recording", lambda *_: Pulses())
    reader = MediaReader(("audio",), folder, Windows(1.0, views=12), None)
    rows = reader(pa.table({"raw_audio": ["sounds.wav"]}))
    starts = Windows(1.0, views=12).starts(10.0, "sounds.wav")
    expected = [int(start) for start in starts if not int(start) % 2]
    assert [reader.store.get("audio", name)[0] for name in rows["audio"][0].as_py()] == expected
    assert 1 <= len(expected) < 12
    assert rows["audio_trouble"].to_pylist() == [None]


def test_a_file_damaged_outside_its_middle_is_read(folder, monkeypatch):
    class Damaged(Pulses):
        def sounding(self, seconds: float) -> tuple[float, float]:
            raise MediaError("damaged")

    monkeypatch.setattr("rainbow_ray.modalities.audio.modality.open_recording", lambda *_: Damaged())
    reader = MediaReader(("audio",), folder, Windows(1.0), None)
    assert len(reader(pa.table({"raw_audio": ["sounds.wav"]}))["audio"][0].as_py()) == 1


def test_a_stem_silent_in_a_segment_is_counted_and_not_an_error(folder):
    rows, _ = read(folder, ["hidden.wav"] * 4, [(0, 10), (40, 50), (60, 70), (100, 110)])
    assert [len(windows) for windows in rows["audio"].to_pylist()] == [1, 0, 0, 0]
    counts, _, total = count_media_errors(rows, "audio")
    assert counts == {"silent, in the seconds of its segment": 3}
    assert (count_unusable(counts), total) == (0, 4)
    assert len(check_media_errors(rows, ["audio"], 0.2, folder)) == 1
    silent_rows, _ = read(folder, ["hidden.wav"] * 2, [(40, 50), (60, 70)])
    with pytest.raises(InputError, match="none of 2 audio files can be used"):
        check_media_errors(silent_rows, ["audio"], 0.2, folder)


def test_samples_far_out_of_range_are_refused():
    wave = tone(4.0)[:, None]
    integer_range = wave * 32768  # floats in the range of 16-bit integers
    assert np.abs(AudioRecording(Samples(integer_range, RATE)).read(0.0, 4.0)).mean() > 1000
    for positions in ([RATE], [RATE, 2 * RATE, 3 * RATE]):
        damaged = wave.copy()
        damaged[positions] = 1e30
        with pytest.raises(MediaError, match="far out of range"):
            AudioRecording(Samples(damaged, RATE)).read(0.0, 4.0)
