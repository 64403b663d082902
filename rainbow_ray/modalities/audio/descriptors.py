"""Descriptors of the sound of a window, by librosa: onsets, tempo and metre, chroma, spectral shape, and loudness.

Reference:
    McFee et al. 2015, "librosa: Audio and music signal analysis in Python"; Prockup et al. 2015, "Modeling genre with
    the Music Genome Project", section 3.1 (tempogram ratios); Jiang et al. 2002, "Music type classification by spectral
    contrast feature"; Müller 2015, "Fundamentals of Music Processing", chapters 3 (chroma) and 6 (onsets and tempo).
"""

from __future__ import annotations

import functools
import importlib.util
import os
import warnings
from typing import Any

import numpy as np
from filelock import FileLock

from rainbow_ray.modalities.audio.reader import RATE
from rainbow_ray.modalities.rhythm import RHYTHM_WIDTH, describe_rhythm
from rainbow_ray.utils.cache_dir import make_cache_dir

VERSION = "2"  # of the definitions, which is part of the cache's keys
LIBRARY = "librosa"
NUMBA_CACHE = "NUMBA_CACHE_DIR"
ONSET_FFT, ONSET_HOP = 1024, 160  # a frame every 10 ms
FFT, HOP = 2048, 512  # of everything that changes more slowly
MELS, MIN_HZ = 64, 30.0
MFCCS, CHROMA, CONTRAST_BANDS, SHAPES = 13, 12, 6, 4
CONTRAST_HZ = 100.0  # upper edge of the lowest band of the spectral contrast; six octaves above it end below 8 kHz
TEMPOGRAM_SECONDS = 8.0
TEMPOGRAM_FACTORS = 13  # multiples of the tempo at which librosa reads the tempogram
LOUDNESS_PERCENTILES = (5, 50, 95)
PULSE_LAGS = (0.08, 0.36)  # seconds: where the fastest pulse is looked for
PULSE_MULTIPLES = np.array([1 / 2, 2 / 3, 3 / 4, 1, 3 / 2, 2, 5 / 2, 3, 4, 5, 6, 7, 8, 9, 10, 12, 14, 16])
MAX_LAG = 6.0  # seconds

AUDIO_WIDTH = (
    4 + 1 + TEMPOGRAM_FACTORS + len(PULSE_MULTIPLES) + 1 + RHYTHM_WIDTH
    + 3 * CHROMA + 2 * CHROMA
    + 3 * (CONTRAST_BANDS + 1 + SHAPES + MFCCS + 1) + len(LOUDNESS_PERCENTILES)
)  # fmt: skip


def is_installed() -> bool:
    """Return whether librosa is installed, without importing it.

    Returns:
        Whether `describe_sound` can be called.
    """
    return importlib.util.find_spec(LIBRARY) is not None


@functools.cache
def _compile() -> None:
    """Let numba compile, or load from its cache, what librosa needs, before this process calls it for the first time.

    Numba's files of compiled code do not bear that several processes write them: code is then found under the name of
    other code, and every process that loads it crashes, from then on. So only one process compiles or loads at a time,
    in a cache that no other program writes.
    """
    folder = make_cache_dir("numba")
    if not os.environ.get(NUMBA_CACHE):
        os.environ[NUMBA_CACHE] = str(folder)  # which numba reads when it is imported
    noise = np.random.default_rng(0).normal(0.0, 0.1, RATE).astype(np.float32)
    with FileLock(folder / "compile.lock"):
        _describe_onsets(noise)
        _describe_spectra(noise)


def describe_sound(window: np.ndarray, rate: int = RATE) -> np.ndarray:
    """Return descriptors of the sound of a window.

    Args:
        window: `(samples,)`, int16 or float.
        rate: Its sample rate in Hz; it is resampled to `RATE`, so that the descriptors do not depend on it.

    Returns:
        `(AUDIO_WIDTH,)` float32, all finite.
    """
    _compile()
    wave = window.astype(np.float32) / (32768 if window.dtype == np.int16 else 1)
    if rate != RATE:
        import soxr

        wave = soxr.resample(wave, rate, RATE)
    wave = np.pad(wave, (0, max(0, FFT - len(wave))))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of windows with few frames
        descriptors = np.concatenate([_describe_onsets(wave), _describe_spectra(wave)])
    return np.asarray(np.nan_to_num(descriptors, posinf=0.0, neginf=0.0), dtype=np.float32)


def _describe_onsets(wave: np.ndarray) -> np.ndarray:
    """Onset strength, tempo, metre, and the rhythm of the onsets."""
    import librosa

    decibels = librosa.power_to_db(
        librosa.feature.melspectrogram(y=wave, sr=RATE, n_fft=ONSET_FFT, hop_length=ONSET_HOP, n_mels=MELS, fmin=MIN_HZ)
    )
    frames_per_second = RATE / ONSET_HOP
    strength = librosa.onset.onset_strength(S=decibels, sr=RATE, hop_length=ONSET_HOP, lag=2, max_size=3)
    # a tempo needs no frames as short as an onset, and the cost of a tempogram grows with their number squared
    coarse, hop = strength[: len(strength) // 2 * 2].reshape(-1, 2).mean(axis=1), 2 * ONSET_HOP
    tempogram = librosa.feature.tempogram(
        onset_envelope=coarse, sr=RATE, hop_length=hop, win_length=round(TEMPOGRAM_SECONDS * RATE / hop)
    ).mean(axis=1, keepdims=True)
    tempo = librosa.feature.tempo(tg=tempogram, sr=RATE, hop_length=hop)
    ratios = librosa.feature.tempogram_ratio(tg=tempogram, bpm=tempo, sr=RATE, hop_length=hop)[:, 0]
    onsets = librosa.onset.onset_detect(
        onset_envelope=strength, sr=RATE, hop_length=ONSET_HOP, units="time", delta=0.05
    )
    level, spread = float(strength.mean()), float(strength.std())
    return np.concatenate(
        [
            [level, spread, np.mean(strength > level + spread), len(onsets) * RATE / len(wave)],
            [np.log2(max(float(tempo[0]), 1.0))],
            ratios,
            _describe_pulse(strength - level, frames_per_second),
            describe_rhythm(np.asarray(onsets)),
        ]
    )


def _describe_pulse(strength: np.ndarray, frames_per_second: float) -> np.ndarray:
    """Autocorrelation of the onset strength at multiples of its fastest pulse, and that pulse."""
    import librosa

    n_lags = round(MAX_LAG * frames_per_second)
    products = librosa.autocorrelate(strength, max_size=n_lags)
    correlation = np.zeros(n_lags)
    correlation[: len(products)] = products / max(float(products[0]), 1e-9)
    first, last = (round(seconds * frames_per_second) for seconds in PULSE_LAGS)
    pulse = first + int(np.argmax(correlation[first:last]))
    lags = np.minimum(pulse * PULSE_MULTIPLES, n_lags - 1)
    return np.concatenate([np.interp(lags, np.arange(n_lags), correlation), [np.log2(pulse / frames_per_second)]])


def _describe_spectra(wave: np.ndarray) -> np.ndarray:
    """Chroma, spectral contrast and shape, mel-frequency cepstral coefficients, and loudness."""
    import librosa

    magnitudes = np.abs(librosa.stft(wave, n_fft=FFT, hop_length=HOP))
    powers = magnitudes**2
    settings: dict[str, Any] = {"sr": RATE, "n_fft": FFT, "hop_length": HOP}
    chroma = librosa.feature.chroma_stft(S=powers, tuning=0.0, **settings)
    profile = chroma.mean(axis=1) / max(float(chroma.mean(axis=1).sum()), 1e-9)
    decibels = librosa.power_to_db(librosa.feature.melspectrogram(S=powers, n_mels=MELS, fmin=MIN_HZ, sr=RATE))
    loudness = librosa.amplitude_to_db(librosa.feature.rms(S=magnitudes, frame_length=FFT))
    series = np.concatenate(
        [
            librosa.feature.spectral_contrast(S=magnitudes, fmin=CONTRAST_HZ, n_bands=CONTRAST_BANDS, **settings),
            librosa.feature.spectral_centroid(S=magnitudes, **settings) / 1000,
            librosa.feature.spectral_bandwidth(S=magnitudes, **settings) / 1000,
            librosa.feature.spectral_rolloff(S=magnitudes, **settings) / 1000,
            librosa.feature.spectral_flatness(S=magnitudes),
            librosa.feature.mfcc(S=decibels, n_mfcc=MFCCS),
            loudness,
        ]
    )
    return np.concatenate(
        [
            profile,
            np.roll(profile, -int(profile.argmax())),
            np.sort(profile)[::-1],
            chroma.std(axis=1),
            _change(chroma),
            series.mean(axis=1),
            series.std(axis=1),
            _change(series),
            np.percentile(loudness, LOUDNESS_PERCENTILES),
        ]
    )


def _change(series: np.ndarray) -> np.ndarray:
    """Return the mean absolute difference of successive frames, `(rows,)`; 0 for a single frame."""
    if series.shape[1] < 2:
        return np.zeros(len(series))
    return np.asarray(np.abs(np.diff(series, axis=1)).mean(axis=1))
