"""Stretches: worked examples, and what mir_eval says of the same boundaries."""

from __future__ import annotations

import mir_eval
import numpy as np
import pytest

from rainbow_ray.metrics.segments import (
    GAP_TOLERANCE,
    boundary_f_measure,
    contiguous_pieces,
    count_matches,
    durations,
    edit_score,
    merge,
    score_song,
)

ONE = np.ones(10)


def stretches(labels, seconds=None):
    labels = np.array(labels)
    return merge(labels, np.ones(len(labels)) if seconds is None else np.array(seconds))


def test_equal_neighbours_are_one_stretch():
    made = stretches([0, 0, 1, 1, 0], [1.0, 2.0, 1.0, 0.5, 4.0])
    assert made.labels.tolist() == [0, 1, 0]
    assert made.starts.tolist() == [0.0, 3.0, 4.5]
    assert made.ends.tolist() == [3.0, 4.5, 8.5]
    assert made.boundaries.tolist() == [3.0, 4.5]
    assert stretches([]).labels.tolist() == []


def test_overlaps_are_cut_in_their_middle_and_gaps_are_nobodys():
    starts, ends = np.array([0.0, 4.0, 10.0]), np.array([5.0, 8.0, 12.0])
    assert durations(starts, ends).tolist() == [4.5, 3.5, 2.0]
    assert starts.tolist() == [0.0, 4.0, 10.0], "what was given is not touched"


def test_what_has_no_length_takes_nothing_from_its_neighbours():
    starts, ends = np.array([0.0, 0.0, 5.0, 10.0]), np.array([10.0, 0.0, 4.0, 20.0])
    assert durations(starts, ends).tolist() == [10.0, 0.0, 0.0, 10.0]


def test_a_segment_inside_another_is_cut_in_the_middle_of_what_both_have():
    starts, ends = np.array([0.0, 10.0, 20.0, 100.0]), np.array([100.0, 20.0, 30.0, 110.0])
    assert durations(starts, ends).tolist() == [15.0, 5.0, 10.0, 10.0]
    assert durations(np.array([0.0, 10.0, 11.0]), np.array([100.0, 90.0, 12.0])).tolist() == [50.0, 40.0, 0.0]


def test_no_second_is_counted_twice_and_perfect_predictions_are_perfect():
    """Of any segments: overlapping, nested, of no length, in gaps."""
    rng = np.random.default_rng(3)
    for _ in range(300):
        starts = np.sort(rng.integers(0, 30, 12)).astype(float)
        ends = starts + rng.integers(-2, 15, 12) * rng.integers(0, 2, 12)
        seconds = durations(starts, ends)
        spans = [(a, b) for a, b in zip(starts, ends, strict=True) if b > a]
        covered = sum(any(a <= at < b for a, b in spans) for at in range(60))
        assert (seconds >= 0).all()
        assert seconds.sum() <= covered + 1e-9
        assert (seconds <= np.maximum(ends - starts, 0) + 1e-9).all()
        labels = rng.integers(0, 3, 12)
        made = score_song(labels, labels, seconds)
        assert made.edit == 1.0
        assert made.seconds_correct == made.seconds
        assert all(wrong == missed == 0 for _, wrong, missed in made.matches)
        assert set(made.boundaries) <= {1.0, None}


@pytest.mark.parametrize(
    ("truth", "said", "distance"),
    [([0, 1, 2], [0, 1, 2], 0), ([0, 1, 2], [0, 2], 1), ([0, 1], [1, 0], 2), ([0], [1, 0, 1, 0], 3), ([], [], 0),
     ([0, 1, 0, 1, 0], [0], 4), ([0, 1, 2, 3], [3, 0, 1, 2], 2)],
)  # fmt: skip
def test_the_edit_score_counts_what_must_be_put_in_taken_out_or_exchanged(truth, said, distance):
    longer = max(len(truth), len(said), 1)
    assert edit_score(truth, said) == pytest.approx(1 - distance / longer)


def test_the_edit_score_is_that_of_the_plain_table():
    rng = np.random.default_rng(0)

    def plain(a, b):
        table = np.zeros((len(a) + 1, len(b) + 1))
        table[:, 0], table[0] = range(len(a) + 1), range(len(b) + 1)
        for i, x in enumerate(a, 1):
            for j, y in enumerate(b, 1):
                table[i, j] = min(table[i - 1, j] + 1, table[i, j - 1] + 1, table[i - 1, j - 1] + (x != y))
        return table[-1, -1]

    for _ in range(200):
        a, b = (rng.integers(0, 3, rng.integers(1, 12)) for _ in range(2))
        assert edit_score(a, b) == pytest.approx(1 - plain(a, b) / max(len(a), len(b)))


def test_found_stretches_worked_by_hand():
    truth = stretches([0] * 6 + [1] * 4)
    # 0 is found by its larger part (4/6), the crumb at the end is one too many, and 1 overlaps by 2/6
    said = stretches([0] * 4 + [1] * 4 + [0] * 2)
    assert count_matches(truth, said, 0.5) == (1, 2, 1)
    assert count_matches(truth, said, 0.25) == (2, 1, 0)
    # one true stretch is found once, though two predicted ones lie in it
    twice = stretches([0, 0, 0, 1, 0, 0, 0, 0, 0, 0])
    assert count_matches(stretches([0] * 10), twice, 0.1) == (1, 2, 0)


def test_a_hit_is_taken_once():
    assert boundary_f_measure(np.array([10.0]), np.array([9.8, 10.2]), 0.5) == pytest.approx(2 / 3)
    assert boundary_f_measure(np.array([]), np.array([]), 0.5) is None
    assert boundary_f_measure(np.array([1.0]), np.array([]), 0.5) == 0.0


@pytest.mark.parametrize("window", [0.5, 3.0])
def test_boundaries_are_as_mir_eval_has_them(window):
    rng = np.random.default_rng(1)
    for _ in range(300):
        seconds = rng.uniform(0.1, 6.0, rng.integers(2, 15))
        truth, said = (merge(rng.integers(0, 3, len(seconds)), seconds) for _ in range(2))
        if not (len(truth.boundaries) and len(said.boundaries)):
            continue
        intervals = [np.stack([one.starts, one.ends], axis=1) for one in (truth, said)]
        theirs = mir_eval.segment.detection(*intervals, window=window, trim=True)[2]
        assert boundary_f_measure(truth.boundaries, said.boundaries, window) == pytest.approx(theirs)


def test_overlap_with_labels_is_as_mir_eval_measures_time():
    """Time that is labelled right, against mir_eval's intervals of agreeing labels."""
    rng = np.random.default_rng(2)
    for _ in range(50):
        seconds = rng.uniform(0.1, 6.0, 12)
        labels, guesses = rng.integers(0, 3, 12), rng.integers(0, 3, 12)
        made = score_song(labels, guesses, seconds)
        names = [[str(one) for one in merge(values, seconds).labels] for values in (labels, guesses)]
        spans = [np.stack([one.starts, one.ends], axis=1) for one in (merge(labels, seconds), merge(guesses, seconds))]
        joined, truth, said = mir_eval.util.merge_labeled_intervals(spans[0], names[0], spans[1], names[1])
        agree = np.array([a == b for a, b in zip(truth, said, strict=True)])
        assert made.seconds_correct == pytest.approx(float(np.diff(joined, axis=1).ravel()[agree].sum()))
        assert made.seconds == pytest.approx(seconds.sum())


def test_a_song_of_one_segment_has_an_edit_score_and_no_boundary():
    made = score_song(np.array([1]), np.array([1]), np.array([3.0]))
    assert (made.edit, made.matches, made.boundaries) == (1.0, ((1, 0, 0),) * 3, (None, None))


def test_a_stretch_ends_at_a_gap_of_time():
    starts, ends = np.array([0.0, 10.0, 30.0, 40.0]), np.array([10.0, 20.0, 40.0, 50.0])
    pieces = contiguous_pieces(starts, ends)
    assert pieces.tolist() == [0, 0, 1, 1]
    made = merge(np.array([1, 1, 1, 0]), ends - starts, pieces)
    assert made.labels.tolist() == [1, 1, 0]
    assert made.ends.tolist() == [20.0, 30.0, 40.0]
    assert made.boundaries.tolist() == [30.0], "a gap is given, and no boundary that could be missed"


def test_gaps_within_the_tolerance_overlaps_and_nested_segments_do_not_part():
    gap = GAP_TOLERANCE
    assert contiguous_pieces(np.array([0.0, 10 + gap]), np.array([10.0, 20.0])).tolist() == [0, 0]
    assert contiguous_pieces(np.array([0.0, 10.1 + gap]), np.array([10.0, 20.0])).tolist() == [0, 1]
    assert contiguous_pieces(np.array([0.0, 1.0, 9.0]), np.array([10.0, 2.0, 12.0])).tolist() == [0, 0, 0]
    timeless = contiguous_pieces(np.array([0.0, 10.0, 10.0, 30.0]), np.array([10.0, 10.0, 20.0, 40.0]))
    assert timeless.tolist() == [0, 0, 0, 1], "what has no length bridges nothing"
    assert contiguous_pieces(np.array([]), np.array([])).tolist() == []


def test_metrics_of_songs_without_gaps_are_as_they_were():
    rng = np.random.default_rng(4)
    for _ in range(100):
        edges = np.cumsum(rng.uniform(0.5, 6.0, 13))
        starts, ends = edges[:-1], edges[1:] + rng.uniform(-0.4, 0.4, 12)
        labels, guesses = rng.integers(0, 3, 12), rng.integers(0, 3, 12)
        seconds = durations(starts, ends)
        assert score_song(labels, guesses, seconds) == score_song(
            labels, guesses, seconds, contiguous_pieces(starts, ends)
        )


def test_metrics_of_a_song_with_a_gap_count_the_stretches_on_both_sides():
    labels, pieces = np.array([0, 0, 0, 0]), np.array([0, 0, 1, 1])
    fit = score_song(labels, np.array([0, 0, 0, 1]), np.ones(4), pieces)
    assert fit.matches[2] == (2, 1, 0)
    assert fit.edit == pytest.approx(2 / 3)
    assert fit.boundaries[0] == 0.0
