"""Stacked scores are cross-fitted: the weights of a fold were fitted without the labels of its songs."""

from __future__ import annotations

import dataclasses

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from rainbow_ray.baselines.common import KeepFits, baseline_inputs, run_baselines
from rainbow_ray.evaluation.stacked_scores import describe_contributions, stack_scores, wants_stack
from rainbow_ray.stacking.stack import NEURAL
from rainbow_ray.training.cross_validation import FitJob, FitResult
from rainbow_ray.utils.errors import InputError
from tests.helpers import data_of, plan_of
from tests.song_tables import song_rows


@pytest.fixture(scope="module")
def table(tmp_path_factory):
    path = tmp_path_factory.mktemp("songs") / "songs.parquet"
    pq.write_table(pa.table(song_rows(songs=40, stems=1)), path)
    return path


def fold_results(data, tmp_path, scores):
    """Results of folds whose neural network gives the scores."""
    results = []
    for fold in range(data.split.n_folds):
        train, val = data.split.train_val_indices(fold)
        job = FitJob(fold, train, val, tmp_path / str(fold))
        results.append(FitResult(job, scores[train], scores[val], {}))
    return results


def fits_of(data):
    fits = run_baselines(
        data.task, baseline_inputs(data.task, data.examples, None, seed=0), data.split, keep=KeepFits()
    ).fits
    assert fits is not None
    return fits


def stacked(data, tmp_path, neural, fits=None):
    return stack_scores(data, fold_results(data, tmp_path, neural), fits or fits_of(data), "macro_f1", seed=0)


def test_weights_of_a_fold_do_not_see_its_labels(table, tmp_path):
    data = data_of(plan_of(table))
    neural, fits = np.random.default_rng(0).random(len(data.source)).astype(np.float32), fits_of(data)
    before = stacked(data, tmp_path, neural, fits)
    _, val = data.split.train_val_indices(0)
    data.source.targets[val] = 1 - data.source.targets[val]
    after = stacked(data, tmp_path, neural, fits)
    data.source.targets[val] = 1 - data.source.targets[val]
    np.testing.assert_array_equal(before.scores[val], after.scores[val])
    np.testing.assert_array_equal(before.fold_scores[0][val], after.fold_scores[0][val])
    assert before.by_fold[0] == after.by_fold[0]
    assert before.weights != after.weights


def test_members_with_skill_count_and_shares_sum_to_one(table, tmp_path):
    data = data_of(plan_of(table))
    result = stacked(data, tmp_path, np.full(len(data.source), 0.5, dtype=np.float32))
    assert result.shares["bag of words + boosting"] > 0.3  # the label is one word
    assert sum(result.shares.values()) == pytest.approx(1)
    assert result.shares.get(NEURAL, 0.0) == pytest.approx(0)
    assert "bag of words + boosting" in describe_contributions(result.shares)
    refit = result.stack_of(None)
    assert {member.name for member in refit.members} == set(result.weights.names) - {NEURAL}


def test_one_split_fits_weights_on_folds_of_its_validation_songs(table, tmp_path):
    data = data_of(plan_of(table, data__folds=1, training__combine="stack"))
    neural = np.random.default_rng(0).random(len(data.source)).astype(np.float32)
    fits = fits_of(data)
    result = stacked(data, tmp_path, neural, fits)
    _, val = data.split.train_val_indices(0)
    assert np.isfinite(result.scores[val]).all()
    assert np.isnan(np.delete(result.scores, val)).all()
    data.source.targets[val[:1]] = 1 - data.source.targets[val[:1]]
    changed = stacked(data, tmp_path, neural, fits)
    assert result.scores[val[0]] == changed.scores[val[0]], "the weights of its own fold did not see its label"


def test_stacks_are_made_of_at_least_30_songs_in_folds(table):
    training = plan_of(table).config.training
    assert wants_stack(training, 30, 5)
    assert not wants_stack(training, 29, 5)
    assert not wants_stack(training, 500, 1)
    assert not wants_stack(training.model_copy(update={"combine": "none"}), 100, 5)
    assert wants_stack(training.model_copy(update={"combine": "stack"}), 12, 5)


def test_one_split_of_few_songs_cannot_be_stacked(tmp_path):
    path = tmp_path / "songs.parquet"
    pq.write_table(pa.table(song_rows(songs=24, stems=1)), path)
    with pytest.raises(InputError, match=r"training\.combine: stack .* set data\.folds to 2 or more"):
        data_of(plan_of(path, data__folds=1, training__combine="stack"))
    assert dataclasses.is_dataclass(data_of(plan_of(path, data__folds=2, training__combine="stack")))
