"""The regression task: numbers of every form, transforms, losses by their formulas, metrics of scikit-learn."""

from __future__ import annotations

import datetime
from typing import get_args

import numpy as np
import pyarrow as pa
import pytest
import scipy.stats
import sklearn.metrics as reference
import torch
from torch.nn import functional

from rainbow_ray.config.choices import TargetTransform
from rainbow_ray.config.schema import Config, DataConfig, TrainingConfig
from rainbow_ray.tasks.regression import Regression
from rainbow_ray.tasks.regression_losses import LOSSES, choose_loss
from rainbow_ray.utils.errors import InputError

TASK = Regression()
TARGETS = np.array([0, 0, 0, 0.5, 1.5, 2.0, 6.0], dtype=np.float32)


def parse(labels, **data):
    return TASK.parse(pa.chunked_array([labels]), "intensity", DataConfig(**data))


def fitted(**keys) -> Regression:
    return TASK.fit(TARGETS, TrainingConfig(**keys))


@pytest.mark.parametrize("labels", [[0.5, 2.0], ["0.5", " 2 "], pa.array([0.5, 2.0], pa.float32())])
def test_numbers_are_read_from_every_form(labels):
    assert parse(labels).targets.tolist() == [0.5, 2.0]


@pytest.mark.parametrize(
    ("labels", "word"),
    [
        (["0.5", "loud"], "not a number: 'loud'"),
        ([1.0, float("inf")], "infinite"),
        ([1.0, 1e300], "too large"),
        ([True, False], "bool"),
        ([[1.0], [2.0]], "list"),
        ([datetime.date(2024, 1, 1), datetime.date(2024, 1, 2)], "date32"),
        ([datetime.datetime(2024, 1, 1)], "timestamp"),
    ],
)
def test_other_labels_are_refused(labels, word):
    with pytest.raises(InputError, match=word):
        parse(labels)


def test_huge_numbers_are_numbers():
    assert parse([2**60, 3]).targets[0] == np.float32(2**60)
    fitted = TASK.fit(np.array([1e38, -1e38, 3e38], dtype=np.float32), TrainingConfig(target_transform="standardize"))
    assert np.isfinite([fitted.shift, fitted.scale]).all()


def test_all_problems_of_targets_are_reported_together():
    with pytest.raises(InputError, match="nothing to learn"):
        TASK.finalize_labels(np.ones(5), "intensity", Config())
    bounded = parse([-2.0, 5.0], target_bounds=(0.0, 4.0))
    config = Config(training=TrainingConfig(target_transform="log1p"))
    with pytest.raises(InputError) as error:
        bounded.task.finalize_labels(bounded.targets, "intensity", config)
    assert len(error.value.problems) == 3
    assert "from 0 on" in error.value.problems[-1]


@pytest.mark.parametrize("transform", get_args(TargetTransform))
@pytest.mark.parametrize("loss", LOSSES)
def test_perfect_logits_give_the_targets(transform, loss):
    task = fitted(loss=loss, target_transform=transform)
    expected = np.log1p(TARGETS) if transform == "log1p" else TARGETS
    logits = torch.from_numpy((expected - task.shift) / task.scale)[:, None]
    if loss == "zero_inflated":
        logits = torch.cat([torch.from_numpy(np.where(TARGETS > 0, 9.0, -9.0))[:, None], logits], dim=1)
    np.testing.assert_allclose(task.scores(logits).numpy(), TARGETS, atol=1e-5)
    assert task.outputs == logits.shape[1]
    assert task.loss(logits.float(), torch.from_numpy(TARGETS)).max() < 1e-3


def test_transforms_are_fitted_to_the_training_targets():
    assert (fitted(loss="huber").shift, fitted(loss="huber").scale) == pytest.approx((TARGETS.mean(), TARGETS.std()))
    logs = np.log1p(TARGETS)
    log = fitted(target_transform="log1p", loss="huber")
    assert (log.shift, log.scale) == pytest.approx((logs.mean(), logs.std()))
    hurdle = fitted(loss="zero_inflated")
    assert hurdle.shift == pytest.approx(TARGETS[TARGETS > 0].mean())


def test_losses_follow_their_formulas():
    logits = torch.linspace(-1, 1, 7)[:, None]
    targets = torch.from_numpy(TARGETS)
    task = fitted(loss="mse")
    expected = (targets - task.shift) / task.scale
    torch.testing.assert_close(task.loss(logits, targets), (logits[:, 0] - expected) ** 2)
    torch.testing.assert_close(fitted(loss="mae").loss(logits, targets), (logits[:, 0] - expected).abs())
    huber_loss = fitted(loss="huber", huber_delta=0.4).loss(logits, targets)
    torch.testing.assert_close(huber_loss, functional.huber_loss(logits[:, 0], expected, delta=0.4, reduction="none"))


def test_the_hurdle_loss_predicts_zero_or_an_amount():
    task = fitted(loss="zero_inflated")
    logits = torch.zeros(7, 2)
    loss = task.loss(logits, torch.from_numpy(TARGETS))
    assert loss[:3].tolist() == pytest.approx([np.log(2)] * 3)  # the amount has no effect on targets of zero
    assert (loss[3:] > np.log(2) - 1e-6).all()
    assert task.scores(torch.tensor([[-1.0, 3.0]])).tolist() == [0.0]


@pytest.mark.parametrize("loss", LOSSES)
def test_the_initial_bias_minimizes_the_loss_without_features(loss):
    task = fitted(loss=loss, huber_delta=10.0)
    bias = task.initial_bias(TARGETS)

    def shifted_loss(shift: float) -> float:
        shifted = torch.from_numpy(bias).clone()
        shifted[-1] += shift
        return float(task.loss(shifted.expand(7, task.outputs), torch.from_numpy(TARGETS)).sum())

    if loss in ("mse", "mae"):
        assert shifted_loss(0.0) <= min(shifted_loss(0.05), shifted_loss(-0.05)) + 1e-6
    assert np.isfinite(bias).all()


@pytest.mark.parametrize(("zeros", "metric", "expected"), [
    (40, "mae", "zero_inflated"), (20, "mae", "huber"), (40, "rmse", "huber"), (40, "time_mae", "huber"),
    (0, "mae", "huber"),
])  # fmt: skip
def test_the_loss_follows_the_fraction_of_zeros(zeros, metric, expected):
    targets = np.concatenate([np.zeros(zeros), np.linspace(1, 5, 100 - zeros)])
    assert choose_loss(targets, metric) == expected
    training = TrainingConfig(loss="auto", metric=metric)
    task = TASK.finalize_labels(targets, "intensity", Config(training=training)).task
    assert isinstance(task, Regression)
    few = np.array([1.0, 2.0, 0.0])  # the training side of a fold: all fits of a run have the same loss
    assert task.fit(few, training).loss_name == expected
    assert task.fit(few, TrainingConfig(metric=metric)).loss_name == expected
    assert task.fit(few, TrainingConfig(loss="mse", metric=metric)).loss_name == "mse"


def test_the_choice_of_the_loss_is_said():
    targets, config = np.array([0.0, 0.0, 1.0, 2.0]), Config(training=TrainingConfig(loss="auto", metric="mae"))
    (note,) = TASK.finalize_labels(targets, "intensity", config).notes
    assert "0 on 50% of the songs: training.loss is zero_inflated" in note


def test_predictions_stay_inside_the_bounds():
    bounded = parse([0.0, 1.0], target_bounds=(0.0, None)).task
    scores = bounded.scores(torch.tensor([[-3.0], [2.0]]))
    assert scores.tolist() == [0.0, 2.0]


def test_metrics_equal_those_of_scikit_learn_and_scipy():
    rng = np.random.default_rng(0)
    truth = np.round(rng.random(50), 1)
    predicted = truth + rng.normal(size=50) * 0.3
    values, undefined = TASK.metrics(truth, predicted)
    assert not undefined
    assert values["mae"] == pytest.approx(reference.mean_absolute_error(truth, predicted))
    assert values["rmse"] == pytest.approx(reference.root_mean_squared_error(truth, predicted))
    assert values["r2"] == pytest.approx(reference.r2_score(truth, predicted))
    assert values["pearson"] == pytest.approx(scipy.stats.pearsonr(truth, predicted).statistic)
    assert values["spearman"] == pytest.approx(scipy.stats.spearmanr(truth, predicted).statistic)


def test_constant_predictions_have_no_correlation():
    values, reasons = TASK.metrics(np.array([1.0, 2.0]), np.array([1.5, 1.5]))
    assert values["spearman"] is None
    assert values["mae"] == 0.5
    assert "do not vary" in reasons["spearman"]


def test_zeros_are_one_stratum():
    strata = TASK.strata(TARGETS)
    assert set(strata[:3]) == {0}
    assert 0 not in strata[3:]
    assert len(np.unique(TASK.strata(np.arange(40.0)))) == 4


def test_a_task_is_restored_from_json():
    task = fitted(loss="zero_inflated", target_transform="log1p")
    assert Regression(**task.to_json()) == task


def test_names_and_sampling_are_checked():
    config = Config(training=TrainingConfig(loss="focal", metric="mea", sampling="oversample"))
    assert len(TASK.check(config)) == 3


def test_the_transform_of_an_earlier_version_is_read_under_its_present_name():
    assert Regression(transform="standardise") == Regression(transform="standardize")
