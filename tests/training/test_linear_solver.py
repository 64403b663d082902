"""Classifiers on constant features are solved to the optimum, with a penalty from inside the training side."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression, Ridge

from rainbow_ray.config import solver
from rainbow_ray.config.schema import TrainingConfig
from rainbow_ray.data.batching import fixed_training_schedule
from rainbow_ray.tasks.registry import make_task
from rainbow_ray.training import linear_solver
from rainbow_ray.training.checkpoint import CheckpointManager
from rainbow_ray.training.fit_data import FitData
from rainbow_ray.training.linear_solver import PENALTIES, LinearProblem, choose_penalty
from rainbow_ray.training.loggers import NullLogger
from rainbow_ray.training.schedule import is_solved_run
from rainbow_ray.training.trainer import fit
from rainbow_ray.utils.errors import InputError
from tests.helpers import data_of, fit_fold, plan_of
from tests.song_tables import song_rows

TARGET = "rebracketing_intensity"
N_SONGS = 40


@pytest.fixture
def numbers_file(write_table):
    """Return a table of songs whose number depends on a word of their text."""
    rows = song_rows(songs=N_SONGS, stems=1)
    is_positive = np.array([" but " in text for text in rows["concept"]], dtype=float)
    rows[TARGET] = (3 * is_positive + np.random.default_rng(0).normal(scale=0.1, size=N_SONGS)).tolist()
    return write_table(rows)


def problem_of(task, targets, features, weights=None) -> LinearProblem:
    weights = np.ones(len(targets)) if weights is None else weights
    return LinearProblem(features, targets, weights, task, np.zeros(task.outputs))


def number_problem(n=60, width=80, seed=0) -> LinearProblem:
    rng = np.random.default_rng(seed)
    features = rng.normal(size=(n, width))
    targets = features[:, :3].sum(axis=1) + rng.normal(size=n)
    task = make_task("regression").fit(targets, TrainingConfig(loss="mse", target_transform="none"))
    return problem_of(task, targets, features)


@pytest.mark.parametrize("penalty", PENALTIES)
def test_the_solution_of_squared_errors_is_that_of_ridge_regression(penalty):
    problem = number_problem()
    ((weight, bias),) = problem.solve([penalty])
    expected = Ridge(alpha=penalty * len(problem.targets), tol=1e-10).fit(problem.features, problem.targets)
    np.testing.assert_allclose(weight[:, 0], expected.coef_, atol=1e-4)
    np.testing.assert_allclose(bias[0], expected.intercept_, atol=1e-4)


def test_the_solution_of_cross_entropy_is_that_of_logistic_regression():
    rng = np.random.default_rng(0)
    features = rng.normal(size=(80, 30))
    targets = (features[:, 0] + rng.normal(size=80) > 0).astype(np.float32)
    task = make_task("binary").fit(targets, TrainingConfig(loss="bce", pos_weight=None))
    ((weight, bias),) = problem_of(task, targets, features).solve([0.1])
    expected = LogisticRegression(C=1 / (2 * 0.1 * 80), tol=1e-8, max_iter=1000).fit(features, targets)
    np.testing.assert_allclose(weight[:, 0], expected.coef_[0], atol=1e-4)
    np.testing.assert_allclose(bias, expected.intercept_, atol=1e-4)


def test_a_path_of_penalties_ends_at_the_solution_of_the_last_one():
    problem = number_problem()
    weight, bias = problem.solve(PENALTIES)[-1]
    ((expected_weight, expected_bias),) = problem.solve(PENALTIES[-1:])
    np.testing.assert_allclose(weight, expected_weight, atol=1e-3)
    np.testing.assert_allclose(bias, expected_bias, atol=1e-3)


def test_an_example_of_weight_two_counts_like_two_examples():
    problem = number_problem(n=30, width=5)
    twice = problem.take(np.concatenate([np.arange(30), np.arange(10)]))
    weighted = dataclasses.replace(problem, weights=np.where(np.arange(30) < 10, 2.0, 1.0))
    np.testing.assert_allclose(twice.solve([0.1])[0][0], weighted.solve([0.1])[0][0], atol=1e-5)


def test_the_penalty_follows_the_noise():
    def folds_of(problem: LinearProblem) -> list[tuple[LinearProblem, LinearProblem]]:
        fold = np.arange(60) % 5
        return [(problem.take(np.flatnonzero(fold != k)), problem.take(np.flatnonzero(fold == k))) for k in range(5)]

    clean, noisy = number_problem(width=3), number_problem(width=3)
    noise = np.random.default_rng(1).normal(scale=30.0, size=60)
    noisy = dataclasses.replace(noisy, targets=noisy.targets + noise)
    assert choose_penalty(folds_of(clean)) < choose_penalty(folds_of(noisy))
    assert choose_penalty([]) == PENALTIES[0]


def test_a_fit_of_numbers_is_solved(numbers_file, tiny_encoder, tmp_path):
    plan = plan_of(numbers_file, tiny_encoder("bert"), phase=4)
    data = data_of(plan)
    val, output = fit_fold(plan, data, tmp_path / "a")
    assert output.facts["penalty"] in PENALTIES
    assert output.facts["epochs"] == output.facts["steps"] == 1
    assert plan.task.metric("r2", data.source.targets[val], output.val_scores) > 0.5
    other = plan_of(numbers_file, tiny_encoder("bert"), phase=4, training__head_learning_rate=0.1, training__epochs=3)
    other_data = data_of(other)
    assert any("training.epochs has no effect" in warning for warning in other_data.warnings)
    assert any("training.head_learning_rate has no effect" in warning for warning in other_data.warnings)
    _, same = fit_fold(other, other_data, tmp_path / "b")
    np.testing.assert_array_equal(output.val_scores, same.val_scores)


def test_validation_targets_do_not_change_the_fit(numbers_file, tiny_encoder, tmp_path):
    plan = plan_of(numbers_file, tiny_encoder("bert"), phase=4)
    data = data_of(plan)
    val, output = fit_fold(plan, data, tmp_path / "a")
    data.source.targets[val] = 1e6
    _, same = fit_fold(plan, data, tmp_path / "b")
    np.testing.assert_array_equal(output.val_scores, same.val_scores)


@pytest.mark.parametrize(("keys", "expected"), [
    ({}, False), ({"phase": 4}, True), ({"phase": 4, "training__solver": "adamw"}, False),
    ({"training__solver": "lbfgs"}, True), ({"phase": 4, "training__loss": "mae"}, False),
    ({"phase": 4, "model__text_encoder__freeze_layers": 0}, False),
    ({"phase": 4, "model__text_encoder__freeze_layers": 1, "model__text_encoder__layer": 2}, False),
    ({"phase": 4, "model__text_encoder__freeze_layers": 1.0}, True),
    ({"phase": 4, "model__text_encoder__pooling": "attention"}, False),
    ({"phase": 4, "model__classifier__hidden_dims": [8]}, False),
    ({"phase": 4, "model__classifier__dropout": 0.1}, False),
    ({"phase": 4, "model__text_encoder__layer": "mix"}, False),
])  # fmt: skip
def test_which_fits_are_solved(numbers_file, tiny_encoder, tmp_path, keys, expected):
    plan = plan_of(numbers_file, tiny_encoder("bert"), **keys)
    data = data_of(plan)
    assert is_solved_run(plan.config, data.source, data.task, plan.input_spec) is expected
    assert not is_solved_run(plan.config, data.source, data.task, plan.input_spec, n_examples=1_000_000)
    if not keys.get("phase") or expected:
        _, output = fit_fold(plan, data, tmp_path)
        assert (output.facts["penalty"] is not None) is expected


def test_problems_that_are_not_convex_are_refused_at_once(numbers_file, tiny_encoder):
    keys = {"model__classifier__hidden_dims": [8], "model__text_encoder__freeze_layers": 0, "training__loss": "focal"}
    with pytest.raises(InputError) as error:
        plan_of(numbers_file, tiny_encoder("bert"), training__solver="lbfgs", **keys)
    message = str(error.value)
    assert "the loss focal is not convex" in message
    assert "the classifier has hidden layers" in message
    assert "freeze_layers is not all" in message


def test_a_solved_fit_resumes(numbers_file, tiny_encoder, tmp_path):
    plan = plan_of(numbers_file, tiny_encoder("bert"), phase=4, training__save_every_n_epochs=1)
    data = data_of(plan)
    _, output = fit_fold(plan, data, tmp_path)
    _, resumed = fit_fold(plan, data, tmp_path)
    assert any("resumed from step 1" in note for note in resumed.facts["notes"])
    assert resumed.facts["penalty"] == output.facts["penalty"]
    np.testing.assert_array_equal(output.val_scores, resumed.val_scores)


@pytest.mark.parametrize("n_epochs", [1, 3])
def test_checkpoints_of_the_other_solver_are_not_continued(numbers_file, tiny_encoder, tmp_path, n_epochs):
    """Neither those of an earlier version, which trained in steps, nor those of a solution."""
    encoder = tiny_encoder("bert")
    trained = plan_of(numbers_file, encoder, phase=4, training__solver="adamw", training__epochs=n_epochs,
                      training__min_steps=0, training__save_every_n_epochs=1)  # fmt: skip
    solved = plan_of(numbers_file, encoder, phase=4, training__save_every_n_epochs=1)
    data = data_of(solved)
    _, fresh = fit_fold(solved, data, tmp_path / "fresh")
    fit_fold(trained, data, tmp_path / "both")
    _, output = fit_fold(solved, data, tmp_path / "both")
    assert any("trained in steps" in note for note in output.facts["notes"])
    np.testing.assert_array_equal(output.val_scores, fresh.val_scores)
    _, output = fit_fold(trained, data, tmp_path / "both")
    assert output.facts["penalty"] is None
    assert output.facts["epochs"] == n_epochs


def test_a_refit_is_solved_like_the_folds_however_long_they_trained(numbers_file, tiny_encoder, tmp_path):
    plan = plan_of(numbers_file, tiny_encoder("bert"), phase=4)
    data = data_of(plan)
    everything, nothing = np.arange(len(data.source)), np.array([], dtype=np.int64)
    schedule = fixed_training_schedule(8, 20, len(everything))
    fit_data = FitData(data.source, everything, nothing, data.task, plan.input_spec, None, schedule=schedule)
    output = fit(plan.config, fit_data, NullLogger(), CheckpointManager(tmp_path))
    assert output.facts["penalty"] in PENALTIES
    assert output.facts["steps"] == 1


def record_inner_folds(monkeypatch) -> list[list[tuple[LinearProblem, LinearProblem]]]:
    """Return a list that gets the inner folds of each fit."""
    problems: list[list[tuple[LinearProblem, LinearProblem]]] = []

    def choose(folds: list[tuple[LinearProblem, LinearProblem]]) -> float:
        problems.append(folds)
        return PENALTIES[0]

    monkeypatch.setattr(linear_solver, "choose_penalty", choose)
    return problems


@pytest.mark.parametrize("weighting", ["ratio", "presence"])
def test_inner_folds_do_not_know_their_labels(numbers_file, tiny_encoder, tmp_path, weighting, monkeypatch):
    """The words' weights of an inner fold are those of the other folds: labels of its songs change only its targets."""
    problems = record_inner_folds(monkeypatch)
    plan = plan_of(numbers_file, tiny_encoder("bert"), phase=4, model__bag_of_words__weighting=weighting)
    data = data_of(plan)
    train, _ = data.split.train_val_indices(0)
    fit_fold(plan, data, tmp_path / "a")
    (_, held_out), *_ = problems[0]
    strata = data.task.strata(data.source.targets[train])
    changed = np.isin(data.source.targets[train], held_out.targets)
    assert 0 < changed.sum() < len(train)
    # another order of the held-out targets within each stratum leaves the inner folds as they are
    for stratum in np.unique(strata):
        rows = train[changed & (strata == stratum)]
        data.source.targets[rows] = data.source.targets[rows][::-1]
    fit_fold(plan, data, tmp_path / "b")
    (_, held_out_again), *_ = problems[1]
    np.testing.assert_allclose(held_out.features, held_out_again.features, atol=1e-6)


def test_inner_folds_keep_songs_together(write_table, tiny_encoder, tmp_path, monkeypatch):
    rows = song_rows(songs=20, stems=2)
    rows[TARGET] = np.repeat(np.arange(20.0), 2).tolist()
    plan = plan_of(write_table(rows), tiny_encoder("bert"), phase=4, data__example_level="stem", data__split_by="album")
    data = data_of(plan)
    problems = record_inner_folds(monkeypatch)
    one_album = np.flatnonzero(data.index.codes("song") < 8)
    fit_data = FitData(data.source, one_album, one_album[:0], data.task, plan.input_spec, 0, "album")
    fit(plan.config, fit_data, NullLogger(), CheckpointManager(tmp_path))
    assert problems[0]
    for train, held_out in problems[0]:
        assert not set(train.targets) & set(held_out.targets)


def test_sampling_and_the_solver_exclude_each_other(numbers_file, tiny_encoder):
    with pytest.raises(InputError, match="draws other examples in each epoch"):
        plan_of(numbers_file, tiny_encoder("bert"), training__solver="lbfgs", training__sampling="undersample")


def test_without_the_solver_no_key_is_called_unused(numbers_file, tiny_encoder, monkeypatch):
    monkeypatch.setattr(solver, "MAX_SOLVED_EXAMPLES", 10)
    data = data_of(plan_of(numbers_file, tiny_encoder("bert"), phase=4, training__epochs=3, training__solver="lbfgs"))
    assert not any("training.epochs has no effect" in warning for warning in data.warnings)
    assert any("training.solver has no effect: there are more than 10,000" in warning for warning in data.warnings)
