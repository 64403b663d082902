"""Descriptors of sound by librosa: what they show of known sounds, and that they are always finite."""

from __future__ import annotations

import os
import subprocess
import sys
import time

import numpy as np
import pytest
import soxr
from filelock import FileLock

from rainbow_ray.modalities.audio import descriptors
from rainbow_ray.modalities.audio.descriptors import AUDIO_WIDTH, TEMPOGRAM_FACTORS, describe_sound
from rainbow_ray.modalities.audio.reader import RATE
from rainbow_ray.modalities.rhythm import RHYTHM_WIDTH

pytest.importorskip(descriptors.LIBRARY)
DENSITY, TEMPO = 3, 4  # positions: onsets per second, log2 of the tempo in BPM
CHROMA = 5 + TEMPOGRAM_FACTORS + len(descriptors.PULSE_MULTIPLES) + 1 + RHYTHM_WIDTH
CLASSES = ["C", "C#", "D", "D#", "E", "F", "F#", "G", "G#", "A", "A#", "B"]


def clicks(per_second, seconds=10.0):
    wave = np.zeros(round(seconds * RATE), dtype=np.float32)
    click = np.hanning(400) * np.sin(np.arange(400))
    for onset in np.arange(0.0, seconds - 0.1, 1 / per_second):
        wave[round(onset * RATE) : round(onset * RATE) + 400] += click
    return (20000 * wave).astype(np.int16)


@pytest.mark.parametrize("per_second", [1.5, 2.0])
def test_clicks_have_their_density_and_tempo(per_second):
    values = describe_sound(clicks(per_second))
    assert values[DENSITY] == pytest.approx(per_second, rel=0.1)
    assert 2 ** values[TEMPO] == pytest.approx(60 * per_second, rel=0.05)


@pytest.mark.parametrize(("hertz", "name"), [(440.0, "A"), (523.25, "C"), (392.0, "G")])
def test_a_tone_has_its_pitch_class(hertz, name):
    wave = (9000 * np.sin(2 * np.pi * hertz * np.arange(5 * RATE) / RATE)).astype(np.int16)
    chroma = describe_sound(wave)[CHROMA : CHROMA + 12]
    assert CLASSES[int(chroma.argmax())] == name
    assert chroma.sum() == pytest.approx(1, abs=1e-4)


@pytest.mark.parametrize("seconds", [0.001, 0.2, 1.0, 10.0, 30.0])
@pytest.mark.parametrize("kind", ["silence", "noise", "constant", "impulse"])
def test_any_sound_gives_finite_values(seconds, kind):
    n = round(seconds * RATE)
    waves = {
        "silence": np.zeros(n), "noise": np.random.default_rng(0).normal(0, 3000, n), "constant": np.full(n, 30000.0),
        "impulse": np.eye(1, n, n // 2)[0] * 32767,
    }  # fmt: skip
    values = describe_sound(waves[kind].clip(-32768, 32767).astype(np.int16))
    assert values.shape == (AUDIO_WIDTH,)
    assert values.dtype == np.float32
    assert np.isfinite(values).all()
    assert np.abs(values).max() < 1e4


def test_samples_of_any_type_give_the_same_values():
    wave = clicks(2.0)
    assert describe_sound(wave) == pytest.approx(describe_sound(wave.astype(np.float32) / 32768), rel=1e-4, abs=1e-4)


def test_the_sample_rate_of_a_window_does_not_change_its_descriptors():
    beats = np.sin(2 * np.pi * np.arange(0, 6, 1 / 48000) * 330) * (np.arange(0, 6, 1 / 48000) % 0.5 < 0.1)
    high = (9000 * beats).astype(np.int16)
    low = (9000 * soxr.resample(beats, 48000, RATE)).astype(np.int16)
    at_high, at_low = describe_sound(high, 48000), describe_sound(low)
    positions = [DENSITY, TEMPO, *range(CHROMA, CHROMA + 12)]
    assert at_high[positions] == pytest.approx(at_low[positions], abs=0.1)
    assert describe_sound(high, RATE)[TEMPO] != pytest.approx(at_high[TEMPO], abs=0.1)


DESCRIBE = """
import numpy as np
from rainbow_ray.modalities.audio.descriptors import describe_sound

print("started", flush=True)
describe_sound(np.random.default_rng(0).normal(0, 3000, 16000).astype(np.int16))
print("described", flush=True)
"""


@pytest.mark.slow
def test_one_process_at_a_time_compiles_in_a_cache_of_our_own(tmp_path):
    """Numba's cache of compiled code is broken for good by processes that write it at the same time."""
    environment = {**os.environ, "XDG_CACHE_HOME": str(tmp_path)}
    environment.pop(descriptors.NUMBA_CACHE, None)
    folder = tmp_path / "rainbow_ray" / "numba"
    folder.mkdir(parents=True)
    with FileLock(folder / "compile.lock"):
        processes = [
            subprocess.Popen([sys.executable, "-c", DESCRIBE], env=environment, stdout=subprocess.PIPE, text=True)
            for _ in range(3)
        ]
        assert [process.stdout.readline() for process in processes] == ["started\n"] * 3
        time.sleep(5)
        assert not list(folder.rglob("*.nb?")), "compiled without the lock"
    assert [process.communicate(timeout=120)[0] for process in processes] == ["described\n"] * 3
    assert [process.returncode for process in processes] == [0] * 3
    assert list(folder.rglob("*.nbi"))
