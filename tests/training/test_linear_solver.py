"""Classifiers on constant features are solved to the optimum, with a penalty from inside the training side."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression, Ridge

from rainbow_ray.config.schema import TrainingConfig
from rainbow_ray.tasks.registry import make_task
from rainbow_ray.training.linear_solver import PENALTIES, LinearProblem, choose_penalty
from rainbow_ray.training.schedule import wants_solution
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
    folds = np.arange(60) % 5
    clean, noisy = number_problem(width=3), number_problem(width=3)
    noise = np.random.default_rng(1).normal(scale=30.0, size=60)
    noisy = dataclasses.replace(noisy, targets=noisy.targets + noise)
    assert choose_penalty(clean, folds) < choose_penalty(noisy, folds)


def test_a_fit_of_numbers_is_solved(numbers_file, tiny_encoder, tmp_path):
    plan = plan_of(numbers_file, tiny_encoder("bert"), phase=4)
    data = data_of(plan)
    val, output = fit_fold(plan, data, tmp_path / "a")
    assert output.facts["penalty"] in PENALTIES
    assert output.facts["epochs"] == output.facts["steps"] == 1
    assert plan.task.metric("r2", data.source.targets[val], output.val_scores) > 0.5
    other = plan_of(numbers_file, tiny_encoder("bert"), phase=4, training__head_learning_rate=0.1, training__epochs=3)
    assert any("training.epochs has no effect" in warning for warning in other.warnings)
    assert any("training.head_learning_rate has no effect" in warning for warning in other.warnings)
    _, same = fit_fold(other, data_of(other), tmp_path / "b")
    np.testing.assert_array_equal(output.val_scores, same.val_scores)
    _, resumed = fit_fold(plan, data, tmp_path / "a")
    np.testing.assert_array_equal(output.val_scores, resumed.val_scores)


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
    ({"phase": 4, "model__text_encoder__pooling": "attention"}, False),
    ({"phase": 4, "model__classifier__hidden_dims": [8]}, False),
    ({"phase": 4, "model__classifier__dropout": 0.1}, False),
    ({"phase": 4, "model__text_encoder__layer": "mix"}, False),
])  # fmt: skip
def test_which_fits_are_solved(numbers_file, tiny_encoder, tmp_path, keys, expected):
    plan = plan_of(numbers_file, tiny_encoder("bert"), **keys)
    data = data_of(plan)
    assert wants_solution(plan.config, data.source, data.task, plan.input_spec, 32) is expected
    assert not wants_solution(plan.config, data.source, data.task, plan.input_spec, 1_000_000)
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
    assert "layers of the encoder are trained" in message
