"""Segment metrics: worked examples, and comparison with mir_eval."""

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


def intervals_of(labels, seconds=None):
    labels = np.array(labels)
    return merge(labels, np.ones(len(labels)) if seconds is None else np.array(seconds))


def test_neighbours_of_equal_label_are_merged():
    intervals = intervals_of([0, 0, 1, 1, 0], [1.0, 2.0, 1.0, 0.5, 4.0])
    assert intervals.labels.tolist() == [0, 1, 0]
    assert intervals.starts.tolist() == [0.0, 3.0, 4.5]
    assert intervals.ends.tolist() == [3.0, 4.5, 8.5]
    assert intervals.boundaries.tolist() == [3.0, 4.5]
    assert intervals_of([]).labels.tolist() == []


def test_overlaps_are_divided_in_the_middle_and_gaps_are_not_counted():
    starts, ends = np.array([0.0, 4.0, 10.0]), np.array([5.0, 8.0, 12.0])
    assert durations(starts, ends).tolist() == [4.5, 3.5, 2.0]
    assert starts.tolist() == [0.0, 4.0, 10.0], "the arguments are not changed"


def test_segments_without_length_do_not_shorten_their_neighbours():
    starts, ends = np.array([0.0, 0.0, 5.0, 10.0]), np.array([10.0, 0.0, 4.0, 20.0])
    assert durations(starts, ends).tolist() == [10.0, 0.0, 0.0, 10.0]


def test_nested_segments_are_divided_in_the_middle_of_their_overlap():
    starts, ends = np.array([0.0, 10.0, 20.0, 100.0]), np.array([100.0, 20.0, 30.0, 110.0])
    assert durations(starts, ends).tolist() == [15.0, 5.0, 10.0, 10.0]
    assert durations(np.array([0.0, 10.0, 11.0]), np.array([100.0, 90.0, 12.0])).tolist() == [50.0, 40.0, 0.0]


def test_no_second_is_counted_twice_and_perfect_predictions_are_perfect():
    """Random segments: overlapping, nested, without length, and with gaps."""
    rng = np.random.default_rng(3)
    for _ in range(300):
        starts = np.sort(rng.integers(0, 30, 12)).astype(float)
        ends = starts + rng.integers(-2, 15, 12) * rng.integers(0, 2, 12)
        seconds = durations(starts, ends)
        spans = [(a, b) for a, b in zip(starts, ends, strict=True) if b > a]
        covered_seconds = sum(any(a <= second < b for a, b in spans) for second in range(60))
        assert (seconds >= 0).all()
        assert seconds.sum() <= covered_seconds + 1e-9
        assert (seconds <= np.maximum(ends - starts, 0) + 1e-9).all()
        labels = rng.integers(0, 3, 12)
        song_scores = score_song(labels, labels, seconds)
        assert song_scores.edit == 1.0
        assert song_scores.seconds_correct == song_scores.seconds
        assert all(
            false_positives == false_negatives == 0 for _, false_positives, false_negatives in song_scores.matches
        )
        assert set(song_scores.boundaries) <= {1.0, None}


@pytest.mark.parametrize(
    ("reference", "predicted", "distance"),
    [([0, 1, 2], [0, 1, 2], 0), ([0, 1, 2], [0, 2], 1), ([0, 1], [1, 0], 2), ([0], [1, 0, 1, 0], 3), ([], [], 0),
     ([0, 1, 0, 1, 0], [0], 4), ([0, 1, 2, 3], [3, 0, 1, 2], 2)],
)  # fmt: skip
def test_the_edit_score_counts_insertions_deletions_and_substitutions(reference, predicted, distance):
    max_length = max(len(reference), len(predicted), 1)
    assert edit_score(reference, predicted) == pytest.approx(1 - distance / max_length)


def test_the_edit_score_equals_the_levenshtein_table():
    rng = np.random.default_rng(0)

    def levenshtein_distance(first, second):
        table = np.zeros((len(first) + 1, len(second) + 1))
        table[:, 0], table[0] = range(len(first) + 1), range(len(second) + 1)
        for i, first_label in enumerate(first, 1):
            for j, second_label in enumerate(second, 1):
                table[i, j] = min(
                    table[i - 1, j] + 1, table[i, j - 1] + 1, table[i - 1, j - 1] + (first_label != second_label)
                )
        return table[-1, -1]

    for _ in range(200):
        first, second = (rng.integers(0, 3, rng.integers(1, 12)) for _ in range(2))
        assert edit_score(first, second) == pytest.approx(
            1 - levenshtein_distance(first, second) / max(len(first), len(second))
        )


def test_matched_intervals_worked_by_hand():
    reference = intervals_of([0] * 6 + [1] * 4)
    # 0 matches the longer interval (4/6), the short one at the end is a false positive, and 1 overlaps by 2/6
    predicted = intervals_of([0] * 4 + [1] * 4 + [0] * 2)
    assert count_matches(reference, predicted, 0.5) == (1, 2, 1)
    assert count_matches(reference, predicted, 0.25) == (2, 1, 0)
    # a reference interval is matched once, although two predicted ones overlap it
    fragmented = intervals_of([0, 0, 0, 1, 0, 0, 0, 0, 0, 0])
    assert count_matches(intervals_of([0] * 10), fragmented, 0.1) == (1, 2, 0)


def test_a_boundary_is_matched_once():
    assert boundary_f_measure(np.array([10.0]), np.array([9.8, 10.2]), 0.5) == pytest.approx(2 / 3)
    assert boundary_f_measure(np.array([]), np.array([]), 0.5) is None
    assert boundary_f_measure(np.array([1.0]), np.array([]), 0.5) == 0.0


@pytest.mark.parametrize("window", [0.5, 3.0])
def test_boundary_scores_equal_those_of_mir_eval(window):
    rng = np.random.default_rng(1)
    for _ in range(300):
        seconds = rng.uniform(0.1, 6.0, rng.integers(2, 15))
        reference, predicted = (merge(rng.integers(0, 3, len(seconds)), seconds) for _ in range(2))
        if not (len(reference.boundaries) and len(predicted.boundaries)):
            continue
        intervals = [np.stack([labeled.starts, labeled.ends], axis=1) for labeled in (reference, predicted)]
        expected = mir_eval.segment.detection(*intervals, window=window, trim=True)[2]
        assert boundary_f_measure(reference.boundaries, predicted.boundaries, window) == pytest.approx(expected)


def test_correct_seconds_equal_those_of_mir_eval():
    """Correctly labeled seconds equal the intervals of agreeing labels of mir_eval."""
    rng = np.random.default_rng(2)
    for _ in range(50):
        seconds = rng.uniform(0.1, 6.0, 12)
        labels, predicted = rng.integers(0, 3, 12), rng.integers(0, 3, 12)
        song_scores = score_song(labels, predicted, seconds)
        names = [[str(label) for label in merge(values, seconds).labels] for values in (labels, predicted)]
        spans = [
            np.stack([label.starts, label.ends], axis=1)
            for label in (merge(labels, seconds), merge(predicted, seconds))
        ]
        merged, reference_labels, predicted_labels = mir_eval.util.merge_labeled_intervals(
            spans[0], names[0], spans[1], names[1]
        )
        is_correct = np.array([a == b for a, b in zip(reference_labels, predicted_labels, strict=True)])
        assert song_scores.seconds_correct == pytest.approx(float(np.diff(merged, axis=1).ravel()[is_correct].sum()))
        assert song_scores.seconds == pytest.approx(seconds.sum())


def test_a_song_of_one_segment_has_an_edit_score_and_no_boundary():
    song_scores = score_song(np.array([1]), np.array([1]), np.array([3.0]))
    assert (song_scores.edit, song_scores.matches, song_scores.boundaries) == (1.0, ((1, 0, 0),) * 3, (None, None))


def test_an_interval_ends_at_a_gap_of_time():
    starts, ends = np.array([0.0, 10.0, 30.0, 40.0]), np.array([10.0, 20.0, 40.0, 50.0])
    pieces = contiguous_pieces(starts, ends)
    assert pieces.tolist() == [0, 0, 1, 1]
    intervals = merge(np.array([1, 1, 1, 0]), ends - starts, pieces)
    assert intervals.labels.tolist() == [1, 1, 0]
    assert intervals.ends.tolist() == [20.0, 30.0, 40.0]
    assert intervals.boundaries.tolist() == [30.0], "a gap is not a boundary"


def test_small_gaps_overlaps_and_nested_segments_do_not_split():
    tolerance = GAP_TOLERANCE
    assert contiguous_pieces(np.array([0.0, 10 + tolerance]), np.array([10.0, 20.0])).tolist() == [0, 0]
    assert contiguous_pieces(np.array([0.0, 10.1 + tolerance]), np.array([10.0, 20.0])).tolist() == [0, 1]
    assert contiguous_pieces(np.array([0.0, 1.0, 9.0]), np.array([10.0, 2.0, 12.0])).tolist() == [0, 0, 0]
    with_empty_segment = contiguous_pieces(np.array([0.0, 10.0, 10.0, 30.0]), np.array([10.0, 10.0, 20.0, 40.0]))
    assert with_empty_segment.tolist() == [0, 0, 0, 1], "segments without length do not bridge a gap"
    assert contiguous_pieces(np.array([]), np.array([])).tolist() == []


def test_songs_without_gaps_are_one_piece():
    rng = np.random.default_rng(4)
    for _ in range(100):
        edges = np.cumsum(rng.uniform(0.5, 6.0, 13))
        starts, ends = edges[:-1], edges[1:] + rng.uniform(-0.4, 0.4, 12)
        labels, predicted = rng.integers(0, 3, 12), rng.integers(0, 3, 12)
        seconds = durations(starts, ends)
        assert score_song(labels, predicted, seconds) == score_song(
            labels, predicted, seconds, contiguous_pieces(starts, ends)
        )


def test_metrics_of_a_song_with_a_gap_count_intervals_on_both_sides():
    labels, pieces = np.array([0, 0, 0, 0]), np.array([0, 0, 1, 1])
    song_scores = score_song(labels, np.array([0, 0, 0, 1]), np.ones(4), pieces)
    assert song_scores.matches[2] == (2, 1, 0)
    assert song_scores.edit == pytest.approx(2 / 3)
    assert song_scores.boundaries[0] == 0.0
