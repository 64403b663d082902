"""The multi-class task: labels, rare classes, losses by their formulas, and metrics equal to those of scikit-learn."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest
import sklearn.metrics as reference
import torch
from torch.nn import functional

from rainbow_ray.config.schema import Config, DataConfig, TrainingConfig
from rainbow_ray.metrics.multiclass import MULTICLASS_METRICS
from rainbow_ray.tasks.class_labels import MAPPED_AWAY, RARE, UNKNOWN
from rainbow_ray.tasks.multiclass import Multiclass
from rainbow_ray.utils.errors import InputError

CLASSES = ("causal", "spatial", "temporal")
TASK = Multiclass(classes=CLASSES)
SIX = np.array([0, 1, 1, 2, 2, 2], dtype=np.float32)


def parse(labels, **data):
    return Multiclass().parse(pa.chunked_array([labels]), "kind", DataConfig(**data))


def config(training=None, **data) -> Config:
    return Config(data=DataConfig(**data), training=TrainingConfig(**(training or {})))


def test_classes_come_from_the_labels():
    labels = parse(["temporal", " spatial", "temporal", "causal"])
    assert labels.task.classes == CLASSES
    assert labels.targets.tolist() == [2, 1, 2, 0]
    assert labels.usable.all()
    assert labels.task.outputs == 3
    assert labels.task.score_names == ("score_causal", "score_spatial", "score_temporal")


def test_a_mapping_renames_merges_drops_and_orders_classes():
    named = parse(["a", "b", "c"], class_mapping={"a": "x", "b": "x", "c": None})
    assert named.task.classes == ("x",)
    assert list(named.left_out) == [None, None, MAPPED_AWAY]
    numbered = parse(["a", "b", "c", "a"], class_mapping={"c": 0, "a": 1, "b": 1})
    assert numbered.task.classes == ("c", "a")
    assert numbered.targets.tolist() == [1, 1, 0, 1]


def test_labels_that_the_mapping_lacks_follow_the_policy():
    mapping = {"spatial": "space"}
    with pytest.raises(InputError, match=r"lacks: spatal \(did you mean spatial\?\)"):
        parse(["spatial", "spatal"], class_mapping=mapping)
    dropped = parse(["spatial", "spatal"], class_mapping=mapping, unknown_classes="drop")
    assert list(dropped.left_out) == [None, UNKNOWN]
    other = parse(["spatial", "spatal"], class_mapping=mapping, unknown_classes="other")
    assert other.task.classes == ("other", "space")


@pytest.mark.parametrize("policy", ["drop", "other", "error"])
def test_classes_of_too_few_songs_follow_the_policy(policy):
    labels = ["a"] * 4 + ["b"] * 3 + ["c", "d"]
    parsed = parse(labels)
    settings = config(rare_classes=policy)
    if policy == "error":
        with pytest.raises(InputError, match=r"fewer than 2 songs: c \(1\), d \(1\)"):
            parsed.task.finalize_labels(parsed.targets, "kind", settings)
        return
    finalized = parsed.task.finalize_labels(parsed.targets, "kind", settings)
    assert "c (1), d (1)" in finalized.notes[0]
    if policy == "drop":
        assert finalized.task.classes == ("a", "b")
        assert list(finalized.left_out) == [None] * 7 + [RARE] * 2
    else:
        assert finalized.task.classes == ("a", "b", "other")
        assert finalized.usable.all()
        assert finalized.targets.tolist() == [0] * 4 + [1] * 3 + [2] * 2


def test_a_class_of_others_that_is_too_small_is_left_out():
    parsed = parse(["a"] * 4 + ["b"] * 3 + ["c"])
    labels = parsed.task.finalize_labels(parsed.targets, "kind", config(rare_classes="other"))
    assert labels.task.classes == ("a", "b")
    assert list(labels.left_out)[-1] == RARE


def test_a_single_class_is_refused():
    parsed = parse(["a"] * 5)
    with pytest.raises(InputError, match="one class only: each of 5 songs is 'a'"):
        parsed.task.finalize_labels(parsed.targets, "kind", config())
    parsed = parse(["a"] * 5 + ["b"])
    with pytest.raises(InputError, match=r"one class only: classes of fewer than 2 songs are left out: b \(1\)"):
        parsed.task.finalize_labels(parsed.targets, "kind", config())
    with pytest.raises(InputError, match="too many classes"):
        parse([str(i) for i in range(2000)])


def test_unsuitable_class_weights_are_refused():
    parsed = parse(["a"] * 3 + ["b"] * 3)
    with pytest.raises(InputError, match="3 weights for 2 classes"):
        parsed.task.finalize_labels(parsed.targets, "kind", config({"class_weights": [1.0, 2.0, 3.0]}))
    with pytest.raises(InputError, match="no class 'aa'"):
        parsed.task.finalize_labels(parsed.targets, "kind", config({"class_weights": {"aa": 2.0}}))


def fitted(**keys) -> Multiclass:
    return TASK.fit(SIX, TrainingConfig(**keys))


def test_weights_are_computed_from_the_training_targets():
    for policy in ("auto", "balanced"):
        np.testing.assert_allclose(fitted(class_weights=policy).weights, [2, 1, 2 / 3], rtol=1e-6)
    assert fitted(class_weights="none").weights == (1.0, 1.0, 1.0)
    assert fitted(class_weights=[1.0, 2.0, 3.0]).weights == (1.0, 2.0, 3.0)
    assert fitted(class_weights={"spatial": 5.0}).weights == (1.0, 5.0, 1.0)
    balanced = np.array(fitted(loss="class_balanced", class_balanced_beta=0.9).weights)
    raw = np.array([0.1 / (1 - 0.9**n) for n in (1, 2, 3)])
    np.testing.assert_allclose(balanced, raw * 6 / (raw @ [1, 2, 3]), rtol=1e-6)


def test_all_problems_of_classes_are_reported_together():
    parsed = parse(["a"] * 5 + ["b"] * 4 + ["c"])
    with pytest.raises(InputError) as error:
        parsed.task.finalize_labels(parsed.targets, "kind", config({"class_weights": [1.0]}, rare_classes="error"))
    assert len(error.value.problems) == 2


def test_bytes_are_refused_as_names():
    with pytest.raises(InputError, match="cannot be class names"):
        Multiclass().parse(pa.chunked_array([pa.array([b"\xff\xfe", b"a"])]), "kind", DataConfig())


def test_automatic_weights_are_off_with_a_note_for_a_tiny_class():
    def fit_weights(n_songs: int, **keys):
        kinds = ["a"] * n_songs + ["b"] * 20
        parsed = parse(kinds)
        finalized = parsed.task.finalize_labels(parsed.targets, "kind", config(keys))
        return finalized.task.fit(finalized.targets, TrainingConfig(**keys)).weights, finalized.notes

    weights, (note,) = fit_weights(5)
    assert weights == (1.0, 1.0)
    assert "a (5)" in note
    assert "training.class_weights=balanced" in note
    weights, notes = fit_weights(6)
    np.testing.assert_allclose(weights, [26 / 12, 26 / 40], rtol=1e-6)
    assert notes == ()
    weights, notes = fit_weights(5, class_weights="balanced")
    np.testing.assert_allclose(weights, [25 / 10, 25 / 40], rtol=1e-6)
    assert notes == ()


def test_losses_follow_their_formulas():
    logits = torch.randn(6, 3, generator=torch.Generator().manual_seed(0))
    codes = torch.from_numpy(SIX).long()
    plain = functional.cross_entropy(logits, codes, reduction="none")
    weighted = fitted(class_weights="balanced")
    weights = torch.tensor(weighted.weights)[codes]
    torch.testing.assert_close(weighted.loss(logits, torch.from_numpy(SIX)), weights * plain)
    p = logits.softmax(-1)[torch.arange(6), codes]
    focal = fitted(class_weights="balanced", loss="focal").loss(logits, torch.from_numpy(SIX))
    torch.testing.assert_close(focal, weights * plain * (1 - p) ** 2)
    prior = torch.tensor([1 / 6, 2 / 6, 3 / 6])
    adjusted = functional.cross_entropy(logits + 0.5 * prior.log(), codes, reduction="none")
    task = fitted(loss="logit_adjusted", logit_adjustment=0.5)
    torch.testing.assert_close(task.loss(logits, torch.from_numpy(SIX)), adjusted)
    # the adjustment applies only to the training loss
    torch.testing.assert_close(task.scores(logits), logits.softmax(-1))


@pytest.mark.parametrize(
    "keys",
    [
        {},
        {"class_weights": "none"},
        {"class_weights": "balanced"},
        {"loss": "class_balanced"},
        {"loss": "logit_adjusted"},
        {"loss": "logit_adjusted", "logit_adjustment": 0.3},
    ],
)
def test_the_initial_bias_minimizes_the_loss_without_features(keys):
    task = fitted(**keys)
    bias = torch.tensor(task.initial_bias(SIX), requires_grad=True)
    task.loss(bias.expand(6, 3), torch.from_numpy(SIX)).sum().backward()
    assert bias.grad is not None
    torch.testing.assert_close(bias.grad, torch.zeros(3), atol=1e-5, rtol=0)


def cases():
    rng = np.random.default_rng(0)
    for n in (3, 8, 60):
        for classes in (3, 5):
            truth = rng.integers(0, 3, n)
            truth[:2] = [0, 1]
            scores = rng.random((n, classes))
            yield truth, scores / scores.sum(1, keepdims=True)


@pytest.mark.parametrize(("truth", "scores"), cases())
def test_metrics_equal_those_of_scikit_learn(truth, scores):
    task = Multiclass(classes=tuple("abcde"[: scores.shape[1]]))
    values, undefined = task.metrics(truth.astype(np.float32), scores)
    predicted, present = scores.argmax(1), np.unique(truth)
    all_codes = list(range(scores.shape[1]))
    f1_arguments = {"labels": present, "zero_division": 0}
    expected = {
        "accuracy": reference.accuracy_score(truth, predicted),
        "micro_f1": reference.f1_score(truth, predicted, average="micro"),
        "macro_f1": reference.f1_score(truth, predicted, average="macro", **f1_arguments),
        "weighted_f1": reference.f1_score(truth, predicted, average="weighted", **f1_arguments),
        "balanced_accuracy": np.mean([np.mean(predicted[truth == c] == c) for c in present]),
        "mcc": reference.matthews_corrcoef(truth, predicted),
        "top_3": reference.top_k_accuracy_score(truth, scores, k=3, labels=all_codes) if len(all_codes) > 3 else 1.0,
        "log_loss": reference.log_loss(truth, scores, labels=all_codes),
    }
    assert set(values) == {*expected, "ece"}
    assert not undefined
    for name, value in expected.items():
        assert values[name] == pytest.approx(value, abs=1e-6), name


def test_macro_f1_ignores_absent_classes():
    scores = np.eye(3)[[0, 1, 0, 1]]
    assert TASK.metric("macro_f1", np.array([0, 1, 0, 1]), scores) == 1.0


def test_undefined_metrics_have_a_reason():
    values, reasons = TASK.metrics(np.zeros(3), np.eye(3)[[0, 0, 1]])
    assert values["macro_f1"] is None
    assert values["accuracy"] == pytest.approx(2 / 3)
    assert "one class only" in reasons["macro_f1"]


def test_calibration_error_of_overconfident_scores():
    scores = np.tile([0.9, 0.05, 0.05], (10, 1))
    truth = np.array([0] * 6 + [1] * 4)
    assert MULTICLASS_METRICS["ece"](truth, scores) == pytest.approx(0.3)


def test_details_are_by_class():
    scores = np.eye(3)[[0, 1, 1, 2, 0, 2]]
    details = TASK.details(SIX, scores)
    assert details["confusion"] == [[1, 0, 0], [0, 2, 0], [1, 0, 2]]
    assert details["classes"]["temporal"] == {"precision": 1.0, "recall": 2 / 3, "f1": 0.8, "support": 3}


def test_a_task_is_restored_from_json():
    task = fitted(loss="logit_adjusted")
    assert Multiclass(**task.to_json()) == task
    assert task.decode_predictions(np.eye(3)[[2, 0]]) == ["temporal", "causal"]
    assert task.decode_targets(SIX[:2]) == ["causal", "spatial"]
    assert task.describe(SIX) == {"temporal": 3, "spatial": 2, "causal": 1}


def test_names_are_checked():
    problems = TASK.check(config({"loss": "mse", "metric": "macrof1"}, class_mapping={"a": None}))
    assert len(problems) == 3
    assert problems[0].endswith("one of: cross_entropy, focal, class_balanced, logit_adjusted")
    assert "did you mean macro_f1" in problems[1]
