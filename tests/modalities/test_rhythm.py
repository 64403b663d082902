"""Descriptors of rhythm: what they show of known rhythms, and that tempo does not change them."""

from __future__ import annotations

import numpy as np
import pytest

from rainbow_ray.modalities.rhythm import (
    GRID_LAGS,
    RATIOS,
    RHYTHM_WIDTH,
    autocorrelation,
    chord_starts,
    describe_rhythm,
    find_tatum,
    soft_histogram,
)

RATIO_AUTOCORRELATION = 2 * len(RATIOS)
GRID = slice(RATIO_AUTOCORRELATION + 8, RATIO_AUTOCORRELATION + 8 + len(GRID_LAGS))


def onsets_of(lengths, tempo=1.0, bars=6):
    return np.cumsum([0.0, *(np.tile(lengths, bars) / tempo)])


def test_equal_notes_have_the_ratio_one_and_no_error_of_the_grid():
    values = describe_rhythm(onsets_of([0.25]))
    assert values[list(RATIOS).index(0.0)] == 1
    assert values[-2:] == pytest.approx([0.0, -2.0], abs=1e-9)  # error of the grid, and log2 of the tatum


@pytest.mark.parametrize("lengths", [[0.75, 0.25], [0.5, 0.25, 0.25], [1 / 3] * 3 + [0.5] * 2])
def test_a_rhythm_has_the_same_descriptors_at_any_tempo_but_for_its_tatum(lengths):
    slow, fast = describe_rhythm(onsets_of(lengths, 0.8)), describe_rhythm(onsets_of(lengths, 1.7))
    assert slow[:-1] == pytest.approx(fast[:-1], abs=1e-6)
    assert slow[-1] - fast[-1] == pytest.approx(np.log2(1.7 / 0.8))


def test_the_grid_shows_the_metre():
    triple = describe_rhythm(onsets_of([1.0, 0.5], bars=16))[GRID]  # a long and a short note, as in 6/8
    duple = describe_rhythm(onsets_of([1.5, 0.5], bars=16))[GRID]
    assert triple[3 - 1] > 0.9
    assert triple[4 - 1] < 0
    assert duple[4 - 1] > 0.9
    assert duple[3 - 1] < 0.1


def test_notes_of_one_chord_are_one_onset():
    chords = np.sort(np.concatenate([onsets_of([0.25]), onsets_of([0.25]) + 0.01]))
    assert describe_rhythm(chords) == pytest.approx(describe_rhythm(onsets_of([0.25])), abs=1e-6)


@pytest.mark.parametrize("onsets", [[], [1.0], [1.0, 1.0, 1.0], [0.0, 1e5, 1e5 + 0.05], [0.0, 0.5, 1.0]])
def test_few_or_far_onsets_give_finite_values(onsets):
    values = describe_rhythm(np.array(onsets))
    assert values.shape == (RHYTHM_WIDTH,)
    assert np.isfinite(values).all()


def test_the_tatum_divides_notes_and_triplets():
    assert find_tatum(np.array([0.5, 0.25, 0.75, 0.25]))[0] == pytest.approx(0.25)
    assert find_tatum(np.array([0.5, 0.5, 1 / 3, 1 / 3, 1 / 3]))[0] == pytest.approx(1 / 6)


def test_histograms_and_autocorrelations_of_nothing_are_zero():
    assert soft_histogram(np.array([]), RATIOS).tolist() == [0.0] * len(RATIOS)
    assert soft_histogram(np.array([-9.0, 0.5, 9.0]), np.arange(3)).tolist() == pytest.approx([1.5 / 3, 0.5 / 3, 1 / 3])
    assert autocorrelation(np.array([]), [1, 2]).tolist() == [0, 0]
    assert autocorrelation(np.ones(9), [1, 2]).tolist() == [0, 0]
    assert autocorrelation(np.tile([1.0, -1.0], 8), [1, 2]) == pytest.approx([-1, 1])


def test_notes_are_of_one_chord_by_their_distance_to_its_first():
    assert chord_starts(np.arange(8) * 0.025).tolist() == [0, 2, 4, 6]
    assert chord_starts(np.array([])).tolist() == []
