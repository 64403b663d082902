"""Regression: numbers in every form, transforms, losses by their formulas, metrics as scikit-learn defines them."""

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
from rainbow_ray.tasks.regression import LOSSES, Regression
from rainbow_ray.utils.errors import InputError

PROBLEM = Regression()
TARGETS = np.array([0, 0, 0, 0.5, 1.5, 2.0, 6.0], dtype=np.float32)


def parse(labels, **data):
    return PROBLEM.parse(pa.chunked_array([labels]), "intensity", DataConfig(**data))


def fitted(**keys) -> Regression:
    return PROBLEM.fit(TARGETS, TrainingConfig(**keys))


@pytest.mark.parametrize("labels", [[0.5, 2.0], ["0.5", " 2 "], pa.array([0.5, 2.0], pa.float32())])
def test_numbers_arrive_in_every_form(labels):
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
    fitted = PROBLEM.fit(
        np.array([1e38, -1e38, 3e38], dtype=np.float32), TrainingConfig(target_transform="standardize")
    )
    assert np.isfinite([fitted.shift, fitted.scale]).all()


def test_what_cannot_be_learned_is_refused_all_at_once():
    with pytest.raises(InputError, match="nothing to learn"):
        PROBLEM.finalize_labels(np.ones(5), "intensity", Config())
    bounded = parse([-2.0, 5.0], target_bounds=(0.0, 4.0))
    config = Config(training=TrainingConfig(target_transform="log1p"))
    with pytest.raises(InputError) as error:
        bounded.task.finalize_labels(bounded.targets, "intensity", config)
    assert len(error.value.problems) == 3
    assert "from 0 on" in error.value.problems[-1]


@pytest.mark.parametrize("transform", get_args(TargetTransform))
@pytest.mark.parametrize("loss", LOSSES)
def test_a_perfect_model_says_the_targets(transform, loss):
    task = fitted(loss=loss, target_transform=transform)
    wanted = np.log1p(TARGETS) if transform == "log1p" else TARGETS
    logits = torch.from_numpy((wanted - task.shift) / task.scale)[:, None]
    if loss == "zero_inflated":
        logits = torch.cat([torch.from_numpy(np.where(TARGETS > 0, 9.0, -9.0))[:, None], logits], dim=1)
    np.testing.assert_allclose(task.scores(logits).numpy(), TARGETS, atol=1e-5)
    assert task.outputs == logits.shape[1]
    assert task.loss(logits.float(), torch.from_numpy(TARGETS)).max() < 1e-3


def test_transforms_are_fitted_on_the_training_side():
    assert (fitted().shift, fitted().scale) == pytest.approx((TARGETS.mean(), TARGETS.std()))
    logs = np.log1p(TARGETS)
    log = fitted(target_transform="log1p")
    assert (log.shift, log.scale) == pytest.approx((logs.mean(), logs.std()))
    hurdle = fitted(loss="zero_inflated")
    assert hurdle.shift == pytest.approx(TARGETS[TARGETS > 0].mean())


def test_losses_follow_their_formulas():
    logits = torch.linspace(-1, 1, 7)[:, None]
    targets = torch.from_numpy(TARGETS)
    task = fitted(loss="mse")
    wanted = (targets - task.shift) / task.scale
    torch.testing.assert_close(task.loss(logits, targets), (logits[:, 0] - wanted) ** 2)
    torch.testing.assert_close(fitted(loss="mae").loss(logits, targets), (logits[:, 0] - wanted).abs())
    ours = fitted(loss="huber", huber_delta=0.4).loss(logits, targets)
    torch.testing.assert_close(ours, functional.huber_loss(logits[:, 0], wanted, delta=0.4, reduction="none"))


def test_a_hurdle_asks_whether_and_then_how_much():
    task = fitted(loss="zero_inflated")
    logits = torch.zeros(7, 2)
    loss = task.loss(logits, torch.from_numpy(TARGETS))
    assert loss[:3].tolist() == pytest.approx([np.log(2)] * 3)  # of nothing, the amount does not count
    assert (loss[3:] > np.log(2) - 1e-6).all()
    assert task.scores(torch.tensor([[-1.0, 3.0]])).tolist() == [0.0]


@pytest.mark.parametrize("loss", LOSSES)
def test_the_first_bias_is_where_the_loss_is_least_without_text(loss):
    task = fitted(loss=loss, huber_delta=10.0)
    bias = task.initial_bias(TARGETS)

    def total(shift: float) -> float:
        moved = torch.from_numpy(bias).clone()
        moved[-1] += shift
        return float(task.loss(moved.expand(7, task.outputs), torch.from_numpy(TARGETS)).sum())

    if loss in ("mse", "mae"):
        assert total(0.0) <= min(total(0.05), total(-0.05)) + 1e-6
    assert np.isfinite(bias).all()


def test_predictions_stay_inside_the_bounds():
    bounded = parse([0.0, 1.0], target_bounds=(0.0, None)).task
    scores = bounded.scores(torch.tensor([[-3.0], [2.0]]))
    assert scores.tolist() == [0.0, 2.0]


def test_metrics_are_those_of_scikit_learn_and_scipy():
    rng = np.random.default_rng(0)
    truth = np.round(rng.random(50), 1)
    said = truth + rng.normal(size=50) * 0.3
    ours, undefined = PROBLEM.metrics(truth, said)
    assert not undefined
    assert ours["mae"] == pytest.approx(reference.mean_absolute_error(truth, said))
    assert ours["rmse"] == pytest.approx(reference.root_mean_squared_error(truth, said))
    assert ours["r2"] == pytest.approx(reference.r2_score(truth, said))
    assert ours["pearson"] == pytest.approx(scipy.stats.pearsonr(truth, said).statistic)
    assert ours["spearman"] == pytest.approx(scipy.stats.spearmanr(truth, said).statistic)


def test_what_does_not_vary_has_no_correlation():
    values, why = PROBLEM.metrics(np.array([1.0, 2.0]), np.array([1.5, 1.5]))
    assert values["spearman"] is None
    assert values["mae"] == 0.5
    assert "do not vary" in why["spearman"]


def test_strata_keep_the_zeros_together():
    strata = PROBLEM.strata(TARGETS)
    assert set(strata[:3]) == {0}
    assert 0 not in strata[3:]
    assert len(np.unique(PROBLEM.strata(np.arange(40.0)))) == 4


def test_it_comes_back_from_json():
    task = fitted(loss="zero_inflated", target_transform="log1p")
    assert Regression(**task.to_json()) == task


def test_names_and_sampling_are_checked():
    config = Config(training=TrainingConfig(loss="focal", metric="mea", sampling="oversample"))
    assert len(PROBLEM.check(config)) == 3


def test_the_transform_of_an_earlier_version_is_read_under_its_present_name():
    assert Regression(transform="standardise") == Regression(transform="standardize")
