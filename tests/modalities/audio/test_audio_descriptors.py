"""Descriptors of sound by librosa: what they show of known sounds, and that they are always finite."""

from __future__ import annotations

import numpy as np
import pytest
import soxr

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
