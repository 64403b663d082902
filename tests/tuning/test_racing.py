"""A race: a trial is compared with the best complete one on the same songs, and stopped if it is unlikely to win."""

from __future__ import annotations

import functools

import numpy as np
import pytest

from rainbow_ray.tuning.racing import PRIOR_SONGS, Race, draw_all_songs, required_probability, song_codes
from tests.tuning.conftest import N_FOLDS, scores_of, song_context


@pytest.fixture
def race(tmp_path) -> Race:
    context = song_context(tmp_path)
    return Race(context.shared, context.train_val_indices, alpha=0.05, larger_is_better=True)


def test_the_best_complete_trial_is_the_one_to_beat(race):
    assert race.compare(scores_of(0.1, 1)) is None, "no trial is complete"
    for number, accuracy in enumerate((0.7, 0.9, 0.8, 0.9)):
        race.add_complete(number, accuracy, scores_of(accuracy, N_FOLDS))
    comparison = race.compare(scores_of(0.9, 2))
    assert comparison.incumbent == 1, "of equal ones, that which was first"
    assert (comparison.score, comparison.incumbent_score) == pytest.approx((0.9, 0.9))


def test_smaller_is_better_for_losses(tmp_path):
    context = song_context(tmp_path)
    race = Race(context.shared, context.train_val_indices, alpha=0.05, larger_is_better=False)
    race.add_complete(0, 0.2, scores_of(0.2, N_FOLDS))
    assert race.compare(scores_of(0.9, 2)).loses
    assert not race.compare(scores_of(0.1, 2)).loses


def test_both_are_measured_on_the_songs_of_the_folds_so_far(race):
    incumbent = scores_of(1.0, N_FOLDS)
    incumbent[:10] = 1 - incumbent[:10]  # all of the first fold is wrong
    race.add_complete(0, 0.8, incumbent)
    comparison = race.compare(scores_of(0.5, 1))
    assert (comparison.score, comparison.incumbent_score) == (0.5, 0.0)
    assert not comparison.loses


def test_a_difference_that_the_missing_songs_cannot_make_up_decides(race):
    """After four of five folds, ten songs are left: a deficit of four songs is decided, that of one song is not."""
    race.add_complete(0, 0.9, scores_of(0.9, N_FOLDS))
    assert race.compare(scores_of(0.8, 4, first=True)).loses
    assert not race.compare(_with_errors(scores_of(0.9, 4, first=True), 1)).loses


def _with_errors(scores: np.ndarray, *songs: int) -> np.ndarray:
    scores[list(songs)] = 1 - scores[list(songs)]
    return scores


def test_a_song_alone_decides_nothing(race):
    """A trial that is never better than the best one, on the few songs so far, may be better on others."""
    race.add_complete(0, 0.9, scores_of(0.9, N_FOLDS))
    assert not race.compare(scores_of(0.8, 1)).loses


def test_in_the_middle_of_a_fit_the_best_trial_is_at_the_same_stage(race, monkeypatch):
    monkeypatch.setattr("rainbow_ray.tuning.racing.PRIOR_SONGS", 1.0)  # ten songs would not do
    early = {0.25: scores_of(0.3, 1), 0.5: scores_of(1.0, 1)}
    race.add_complete(0, 0.9, scores_of(0.9, N_FOLDS), early)
    comparison = race.compare(scores_of(0.3, 1), fraction=0.25)
    assert comparison.incumbent_score == pytest.approx(0.3)
    assert not comparison.loses
    assert race.compare(scores_of(0.3, 1), fraction=0.3).incumbent_score == 1.0, "the next later look"
    assert race.compare(scores_of(0.0, 1), fraction=0.5, relative_cost=1.0).loses
    costly = functools.partial(race.compare, scores_of(0.8, 1), fraction=0.5, relative_cost=1e6)
    assert not costly().loses, "the cost alone does not count there"
    assert costly(n_earlier=500).loses, "it counts together with the trials that have ended"
    assert not race.compare(scores_of(0.8, 1), fraction=0.5, n_earlier=500).loses


def test_without_scores_at_the_same_stage_nothing_is_decided(race):
    race.add_complete(0, 0.9, scores_of(0.9, N_FOLDS))
    comparison = race.compare(scores_of(0.0, 1), fraction=0.25)
    assert comparison.incumbent_score == pytest.approx(0.9), "shown"
    assert not comparison.loses
    assert race.compare(scores_of(0.0, 1)).loses, "at the end of the fold"


def test_without_a_decision_scores_are_compared(race):
    race.add_complete(0, 0.9, scores_of(0.9, N_FOLDS))
    comparison = race.compare(scores_of(0.0, 3), decide=False)
    assert (comparison.score, comparison.loses) == (0.0, False)


@pytest.mark.parametrize("is_end_of_fold", [True, False])
def test_the_trials_that_the_best_one_was_selected_from_count_by_the_cost(is_end_of_fold):
    required = functools.partial(required_probability, 0.05, is_end_of_fold=is_end_of_fold)
    assert required(1.0, 30) == 0.05
    probability, even = required(1e6, 9), required(1e6, 1)
    # the odds of nine to one against it turn what is required into the required posterior probability
    odds = probability / (1 - probability) / 9
    assert odds / (1 + odds) == pytest.approx(even)
    by_cost = [required(cost, 9) for cost in (1, 3, 10, 30, 100, 300)]
    assert by_cost == sorted(by_cost)
    assert by_cost[2] < by_cost[-1] == probability


def test_a_costly_trial_must_be_more_likely_to_win(race):
    required = functools.partial(required_probability, is_end_of_fold=True)
    assert required(0.05, 0.5) == required(0.05, 1.0) == 0.05
    assert required(0.05, 4.0) == pytest.approx(0.1)
    assert required(0.05, 1e6) == 0.25
    assert required(0.4, 1e6) == 0.4
    assert required_probability(0.05, 1e6, is_end_of_fold=False) == 0.05  # the scores will change
    race.add_complete(0, 0.9, scores_of(0.9, N_FOLDS))
    trial = scores_of(0.6, 1, first=True)
    assert not race.compare(trial).loses
    assert race.compare(trial, relative_cost=100.0).loses
    assert not race.compare(scores_of(0.9, 1), relative_cost=100.0).loses, "a tie"


def test_an_undefined_metric_keeps_a_trial_alive(tmp_path):
    context = song_context(tmp_path)
    context.shared.config.training.metric = "roc_auc"
    race = Race(context.shared, context.train_val_indices, alpha=0.05, larger_is_better=True)
    race.add_complete(0, 1.0, scores_of(1.0, N_FOLDS))
    one_class = scores_of(0.0, 1)
    one_class[context.shared.dataset.targets == 1] = np.nan
    assert race.compare(one_class) is None


def test_draws_hold_all_songs_that_were_scored_and_as_many_as_there_are():
    songs = np.array([0, 0, 1, 2, 2])
    sizes = np.array([2, 1, 2, 2, 1, 2])  # of the songs and of their doubles
    song_of = np.concatenate([songs, songs + 3])
    draws = [
        np.bincount(song_of[rows], minlength=6) / sizes for rows in draw_all_songs(songs, 7, 300, seed=0, keep=True)
    ]
    assert len(draws) == 300
    assert all(counts.sum() == 7 and counts[:3].min() >= 1 for counts in draws)
    assert all((counts == counts.astype(int)).all() for counts in draws), "the examples of a song stay together"
    n_doubles = np.mean([counts[3:].sum() for counts in draws])
    assert n_doubles == pytest.approx(4 * PRIOR_SONGS / (3 + PRIOR_SONGS), abs=0.2)
    anew = [np.bincount(song_of[rows], minlength=6) for rows in draw_all_songs(songs, 7, 300, seed=0, keep=False)]
    assert any(counts[0] == 0 for counts in anew)
    whole = list(draw_all_songs(songs, 3, 10, seed=0, keep=True))
    assert all(np.array_equal(rows, np.arange(5)) for rows in whole), "nothing is left to draw"


def test_songs_of_segments_are_drawn_as_a_whole():
    """Metrics of segments start a new song wherever the position does not rise."""
    songs, position = np.array([0, 0, 0, 1, 1]), np.array([0, 1, 2, 0, 1])
    position = np.concatenate([position, position])
    for rows in draw_all_songs(songs, 6, 50, seed=0, keep=True):
        drawn = np.split(position[rows], np.flatnonzero(np.diff(position[rows]) <= 0) + 1)
        assert len(drawn) == 6
        assert all(np.array_equal(of_song, np.arange(len(of_song))) for of_song in drawn)


def test_songs_of_segments_are_found(tmp_path):
    from rainbow_ray.data.segments import SequenceIndex

    context = song_context(tmp_path)
    context.shared.dataset.sequence_index = SequenceIndex(np.array([0, 1, 2, 0, 1]), np.array([3, 3, 3, 2, 2]), 8, 0.0)
    np.testing.assert_array_equal(song_codes(context.shared.dataset, np.arange(5)), [0, 0, 0, 1, 1])
