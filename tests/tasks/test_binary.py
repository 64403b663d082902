"""The binary task: labels, losses by their formulas, and metrics equal to those of scikit-learn."""

from __future__ import annotations

import math

import numpy as np
import pyarrow as pa
import pytest
import sklearn.metrics as reference
import torch

from rainbow_ray.config.schema import Config, DataConfig, TrainingConfig
from rainbow_ray.metrics.classification import BINARY_METRICS
from rainbow_ray.tasks.binary import Binary
from rainbow_ray.tasks.registry import make_task
from rainbow_ray.utils.errors import InputError

TASK = Binary()


def cases():
    rng = np.random.default_rng(0)
    for n in (2, 5, 43, 300):
        for ties in (False, True):
            truth = rng.random(n) < 0.4
            truth[:2] = [True, False]
            scores = rng.random(n)
            yield truth, np.round(scores, 1) if ties else scores
    yield np.array([True, False, True]), np.array([0.1, 0.2, 0.3])  # no prediction is True
    yield np.array([True, False, True]), np.array([0.9, 0.8, 0.7])


def average_precision_of_rarer_class(truth, scores):
    is_majority = truth.mean() > 0.5
    return reference.average_precision_score(~truth if is_majority else truth, -scores if is_majority else scores)


REFERENCES = {
    "accuracy": lambda t, s: reference.accuracy_score(t, s > 0.5),
    "balanced_accuracy": lambda t, s: reference.balanced_accuracy_score(t, s > 0.5),
    "precision": lambda t, s: reference.precision_score(t, s > 0.5, zero_division=0),
    "recall": lambda t, s: reference.recall_score(t, s > 0.5, zero_division=0),
    "f1": lambda t, s: reference.f1_score(t, s > 0.5, zero_division=0),
    "macro_f1": lambda t, s: reference.f1_score(t, s > 0.5, average="macro", labels=[False, True], zero_division=0),
    "mcc": lambda t, s: reference.matthews_corrcoef(t, s > 0.5),
    "roc_auc": reference.roc_auc_score,
    "average_precision": reference.average_precision_score,
    "average_precision_rarer": average_precision_of_rarer_class,
    "brier": reference.brier_score_loss,
    "log_loss": lambda t, s: reference.log_loss(t, np.clip(s, 1e-7, 1 - 1e-7)),
}


@pytest.mark.parametrize("name", REFERENCES)
def test_metrics_equal_those_of_scikit_learn(name):
    for truth, scores in cases():
        assert TASK.metric(name, truth.astype(np.float32), scores) == pytest.approx(REFERENCES[name](truth, scores))


def test_every_metric_has_a_reference_or_a_worked_example():
    assert set(BINARY_METRICS) - set(REFERENCES) == {"ece"}
    truth, scores = np.array([1.0, 0.0, 1.0, 1.0]), np.array([0.95, 0.95, 0.15, 0.15])
    # two bins of two songs: |0.5 - 0.95| and |1.0 - 0.15|, half of the songs each
    assert TASK.metric("ece", truth, scores) == pytest.approx(0.5 * 0.45 + 0.5 * 0.85)


def test_metrics_undefined_for_one_class_are_none_with_a_reason():
    values, reasons = TASK.metrics(np.zeros(4), np.array([0.1, 0.2, 0.7, 0.4]))
    assert values["accuracy"] == 0.75
    assert values["macro_f1"] is None
    assert set(reasons) == {name for name, value in values.items() if value is None}
    assert "one class" in reasons["roc_auc"]
    assert TASK.metric("accuracy", np.array([]), np.array([])) is None


@pytest.mark.parametrize(
    ("labels", "expected"),
    [
        ([True, False], [1, 0]),
        ([0, 1], [0, 1]),
        ([1.0, 0.0], [1, 0]),
        (["True", "false"], [1, 0]),
        (["1", "0"], [1, 0]),
    ],
)
def test_labels_are_parsed(labels, expected):
    assert TASK.parse(pa.chunked_array([labels]), "t", DataConfig()).targets.tolist() == expected


@pytest.mark.parametrize(
    ("labels", "word"),
    [
        (["spatial", "True"], "'spatial'"),
        ([2, 0, 1], "not boolean: 2"),
        ([0.5, 1.0], "0.5"),
    ],
)
def test_other_labels_are_refused(labels, word):
    with pytest.raises(InputError, match=word):
        TASK.parse(pa.chunked_array([labels]), "t", DataConfig())


def test_one_class_alone_is_refused():
    with pytest.raises(InputError, match="one class only: each of 3 songs is True"):
        TASK.finalize_labels(np.ones(3), "t", Config())


def test_focal_loss_has_finite_gradients_for_extreme_logits():
    for gamma in (0.5, 2.0):
        logits = torch.tensor([[-120.0], [120.0], [0.3]], requires_grad=True)
        loss = fitted(loss="focal", focal_gamma=gamma).loss(logits, torch.tensor([0.0, 1.0, 1.0]))
        loss.sum().backward()
        assert torch.isfinite(logits.grad).all()


def test_names_are_checked():
    problems = TASK.check(Config(training=TrainingConfig(loss="mse", metric="macrof1")))
    assert "'mse' is unknown" in problems[0]
    assert problems[0].endswith("one of: bce, focal, asymmetric, logit_adjusted")
    assert "did you mean macro_f1" in problems[1]
    assert TASK.check(Config()) == []
    with pytest.raises(InputError, match="unknown"):
        make_task("bnary")


def fitted(**keys) -> Binary:
    return TASK.fit(np.array([1.0, 0.0, 0.0, 0.0]), TrainingConfig(**keys))


def test_pos_weight_is_computed_from_the_training_targets():
    assert fitted().pos_weight == 3.0
    assert fitted(pos_weight=2.5).pos_weight == 2.5
    assert fitted(pos_weight=None).pos_weight == 1.0
    assert TASK.fit(np.zeros(3), TrainingConfig()).pos_weight == 1.0


LOGITS, TARGETS = torch.tensor([[1.2], [-0.7]]), torch.tensor([1.0, 0.0])
P = [1 / (1 + math.exp(-1.2)), 1 / (1 + math.exp(0.7))]


def test_losses_follow_their_formulas():
    def loss_values(**keys):
        return fitted(**keys).loss(LOGITS, TARGETS).tolist()

    assert loss_values(pos_weight=None) == pytest.approx([-math.log(P[0]), -math.log(1 - P[1])], rel=1e-5)
    assert loss_values() == pytest.approx([-3 * math.log(P[0]), -math.log(1 - P[1])], rel=1e-5)
    focal = [-((1 - P[0]) ** 2) * math.log(P[0]), -(P[1] ** 2) * math.log(1 - P[1])]
    assert loss_values(loss="focal", pos_weight=None) == pytest.approx(focal, rel=1e-5)
    assert loss_values(loss="focal", focal_gamma=0.0) == pytest.approx(loss_values(), rel=1e-5)
    shifted = P[1] - 0.05
    asymmetric = [-(1 - P[0]) * math.log(P[0]), -(shifted**4) * math.log(1 - shifted)]
    assert loss_values(loss="asymmetric", pos_weight=None, asymmetric_gamma_positive=1.0) == pytest.approx(
        asymmetric, rel=1e-5
    )
    smooth = [-(0.9 * math.log(P[0]) + 0.1 * math.log(1 - P[0])), -(0.9 * math.log(1 - P[1]) + 0.1 * math.log(P[1]))]
    assert loss_values(pos_weight=None, label_smoothing=0.2) == pytest.approx(smooth, rel=1e-5)


def test_the_initial_bias_minimizes_the_loss_without_features():
    targets = np.array([1.0] * 3 + [0.0] * 9, dtype=np.float32)
    for weight in ("auto", None, 2.0):
        task = TASK.fit(targets, TrainingConfig(pos_weight=weight))
        bias = torch.tensor(task.initial_bias(targets), requires_grad=True)
        task.loss(bias.expand(12, 1), torch.from_numpy(targets)).mean().backward()
        assert abs(bias.grad.item()) < 1e-5


def test_a_task_is_restored_from_json():
    task = fitted(loss="focal", focal_gamma=1.5)
    restored = make_task("binary", **task.to_json())
    assert vars(restored) == vars(task)
