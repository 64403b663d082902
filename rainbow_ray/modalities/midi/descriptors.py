"""Descriptors of the notes of a window: pitch classes, intervals, rhythm and metre, density, polyphony and register.

Reference:
    McKay & Fujinaga 2006, "jSymbolic: A feature extractor for MIDI files" (the kinds of features; the definitions here
    are our own).
"""

from __future__ import annotations

import numpy as np

from rainbow_ray.modalities.midi.reader import DRUMS, DURATION, INSTRUMENT, ONSET, PITCH, VELOCITY
from rainbow_ray.modalities.rhythm import (
    GRID_LAGS,
    MIN_INTERVAL,
    RHYTHM_WIDTH,
    autocorrelation,
    chord_starts,
    describe_rhythm,
    find_tatum,
    on_grid,
    soft_histogram,
)

VERSION = "2"  # of the definitions, which is part of the cache's keys
PITCH_CLASSES = 12
MAX_INTERVAL = 12  # semitones; a larger one counts as an octave
INTERVAL_LAGS = range(1, 13)  # in notes of the melody
MAX_DURATION = 2.0  # seconds that a note adds at most to the profile of pitch classes
PROGRAMS_PER_FAMILY, FAMILIES = 8, 16  # of General MIDI
N_SCALARS = 17

MIDI_WIDTH = (
    3 * PITCH_CLASSES + 2 * MAX_INTERVAL + 1 + MAX_INTERVAL + 1 + 2 * len(INTERVAL_LAGS) + len(GRID_LAGS)
    + RHYTHM_WIDTH + FAMILIES + N_SCALARS
)  # fmt: skip


def describe_notes(notes: np.ndarray) -> np.ndarray:
    """Return descriptors of the notes of a window.

    Args:
        notes: `(notes, FIELDS)`, at least one, sorted by onset.

    Returns:
        `(MIDI_WIDTH,)` float32.
    """
    notes = notes.astype(np.float64)
    is_drum = notes[:, INSTRUMENT] == DRUMS
    tonal = notes[~is_drum] if not is_drum.all() else notes
    onsets, melody = highest_notes(tonal)
    descriptors = np.concatenate(
        [
            _pitch_classes(tonal),
            _intervals(onsets, np.diff(melody)),
            describe_rhythm(onsets),
            _families(notes),
            _scalars(notes, tonal, onsets, np.diff(melody)),
        ]
    )
    return np.nan_to_num(descriptors.astype(np.float32), posinf=0.0, neginf=0.0)


def highest_notes(notes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the highest note of each chord, which mostly is the melody.

    Args:
        notes: `(notes, FIELDS)`, at least one, sorted by onset.

    Returns:
        Onsets in seconds and pitches, `(chords,)` each.
    """
    first = chord_starts(notes[:, ONSET])
    return notes[first, ONSET], np.maximum.reduceat(notes[:, PITCH], first)


def _pitch_classes(tonal: np.ndarray) -> np.ndarray:
    """Profile of the pitch classes by duration: as it is, from the most frequent one up, and in descending order."""
    weights = np.minimum(tonal[:, DURATION], MAX_DURATION) + MIN_INTERVAL
    profile = np.bincount(tonal[:, PITCH].astype(np.int64) % PITCH_CLASSES, weights, PITCH_CLASSES) / weights.sum()
    return np.concatenate([profile, np.roll(profile, -int(profile.argmax())), np.sort(profile)[::-1]])


def _intervals(onsets: np.ndarray, intervals: np.ndarray) -> np.ndarray:
    """Histograms of the intervals of the melody, and how they repeat, by note and on the grid of the tatum."""
    sizes = np.abs(intervals)
    on_tatums = np.zeros(0)
    if len(intervals) > 1:
        on_tatums = on_grid(onsets[1:], sizes, find_tatum(np.diff(onsets))[0])
    return np.concatenate(
        [
            soft_histogram(intervals, np.arange(-MAX_INTERVAL, MAX_INTERVAL + 1)),
            soft_histogram(sizes, np.arange(MAX_INTERVAL + 1)),
            autocorrelation(intervals, INTERVAL_LAGS),
            autocorrelation(sizes, INTERVAL_LAGS),
            autocorrelation(on_tatums, GRID_LAGS),
        ]
    )


def _families(notes: np.ndarray) -> np.ndarray:
    """Fractions of the families of General MIDI instruments; drums are in none of them."""
    programs = notes[notes[:, INSTRUMENT] < DRUMS, INSTRUMENT].astype(np.int64)
    return np.asarray(np.bincount(programs // PROGRAMS_PER_FAMILY, minlength=FAMILIES)[:FAMILIES] / len(notes))


def _scalars(notes: np.ndarray, tonal: np.ndarray, onsets: np.ndarray, intervals: np.ndarray) -> np.ndarray:
    """Density, polyphony, register, dynamics, durations and contour, `(N_SCALARS,)`."""
    span = max(float(onsets[-1] - onsets[0]), 0.5)
    ends = np.sort(notes[:, ONSET] + notes[:, DURATION])
    sounding = np.searchsorted(notes[:, ONSET], onsets, side="right") - np.searchsorted(ends, onsets + 0.01)
    pitches, durations = tonal[:, PITCH] / PITCH_CLASSES, np.log1p(tonal[:, DURATION])
    turns = np.mean(np.sign(intervals[1:]) != np.sign(intervals[:-1])) if len(intervals) > 1 else 0.0
    return np.array(
        [
            np.log(len(notes) / span),
            np.log(len(onsets) / span),
            np.log1p(len(notes)),
            sounding.mean(),
            sounding.std(),
            sounding.max(),
            pitches.mean(),
            pitches.std(),
            pitches.min(),
            pitches.max(),
            notes[:, VELOCITY].mean() / 127,
            notes[:, VELOCITY].std() / 127,
            durations.mean(),
            durations.std(),
            np.sign(intervals).mean() if len(intervals) else 0.0,
            turns,
            np.mean(notes[:, INSTRUMENT] == DRUMS),
        ]
    )
