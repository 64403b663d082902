"""Descriptors of notes: what they show, what does not change them, and that they are always finite."""

from __future__ import annotations

import numpy as np
import pytest

from rainbow_ray.modalities.midi.descriptors import MAX_INTERVAL, MIDI_WIDTH, PITCH_CLASSES, describe_notes
from rainbow_ray.modalities.midi.reader import DRUMS, FIELDS, INSTRUMENT, ONSET, PITCH

RELATIVE = slice(PITCH_CLASSES, 3 * PITCH_CLASSES)  # the profile from the most frequent class, and sorted
INTERVALS = slice(3 * PITCH_CLASSES, 3 * PITCH_CLASSES + 2 * MAX_INTERVAL + 1)


def melody(pitches, *, length=0.25, instrument=0):
    notes = np.zeros((len(pitches), FIELDS))
    notes[:, ONSET], notes[:, PITCH], notes[:, INSTRUMENT] = length * np.arange(len(pitches)), pitches, instrument
    notes[:, 1], notes[:, 3] = 0.9 * length, 80
    return notes.astype(np.float32)


SCALE = [60, 62, 64, 65, 67, 69, 71, 72] * 3


def test_a_transposed_melody_has_the_same_intervals_and_relative_profile():
    original, transposed = describe_notes(melody(SCALE)), describe_notes(melody(np.array(SCALE) + 5))
    assert original[RELATIVE] == pytest.approx(transposed[RELATIVE])
    assert original[INTERVALS] == pytest.approx(transposed[INTERVALS])
    assert original[:PITCH_CLASSES] == pytest.approx(np.roll(transposed[:PITCH_CLASSES], -5))


def test_intervals_are_those_of_the_highest_notes():
    with_bass = np.concatenate([melody(SCALE), melody([36] * len(SCALE))])
    with_bass = with_bass[np.lexsort((with_bass[:, PITCH], with_bass[:, ONSET]))]
    assert describe_notes(with_bass)[INTERVALS] == pytest.approx(describe_notes(melody(SCALE))[INTERVALS])


def test_drums_add_no_pitches():
    drums = melody([38] * len(SCALE), instrument=DRUMS)
    both = np.concatenate([melody(SCALE), drums])
    both = both[np.lexsort((both[:, PITCH], both[:, ONSET]))]
    assert describe_notes(both)[: 3 * PITCH_CLASSES] == pytest.approx(
        describe_notes(melody(SCALE))[: 3 * PITCH_CLASSES]
    )
    assert describe_notes(both)[-1] == 0.5  # fraction of drums


@pytest.mark.parametrize(
    "notes",
    [melody([60]), melody([60, 60]), melody([0, 127] * 200, length=0.001), melody([38] * 9, instrument=DRUMS),
     melody([60, 61, 62], length=500.0), melody([60] * 5, length=0.0)],
    ids=["one", "two", "dense", "drums", "slow", "chord"],
)  # fmt: skip
def test_any_notes_give_finite_values(notes):
    values = describe_notes(notes)
    assert values.shape == (MIDI_WIDTH,)
    assert values.dtype == np.float32
    assert np.isfinite(values).all()
