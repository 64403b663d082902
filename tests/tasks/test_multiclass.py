"""Multi-class: labels and what becomes of rare ones, losses by their formulas, metrics as scikit-learn defines them."""

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
PROBLEM = Multiclass(classes=CLASSES)
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


def test_a_mapping_renames_joins_leaves_out_and_orders():
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
    wanted = config(rare_classes=policy)
    if policy == "error":
        with pytest.raises(InputError, match=r"fewer than 2 songs: c \(1\), d \(1\)"):
            parsed.task.finalize_labels(parsed.targets, "kind", wanted)
        return
    settled = parsed.task.finalize_labels(parsed.targets, "kind", wanted)
    assert "c (1), d (1)" in settled.notes[0]
    if policy == "drop":
        assert settled.task.classes == ("a", "b")
        assert list(settled.left_out) == [None] * 7 + [RARE] * 2
    else:
        assert settled.task.classes == ("a", "b", "other")
        assert settled.usable.all()
        assert settled.targets.tolist() == [0] * 4 + [1] * 3 + [2] * 2


def test_others_that_are_still_too_few_are_left_out():
    parsed = parse(["a"] * 4 + ["b"] * 3 + ["c"])
    settled = parsed.task.finalize_labels(parsed.targets, "kind", config(rare_classes="other"))
    assert settled.task.classes == ("a", "b")
    assert list(settled.left_out)[-1] == RARE


def test_nothing_to_tell_apart_is_refused():
    parsed = parse(["a"] * 5)
    with pytest.raises(InputError, match="one class only: each of 5 songs is 'a'"):
        parsed.task.finalize_labels(parsed.targets, "kind", config())
    parsed = parse(["a"] * 5 + ["b"])
    with pytest.raises(InputError, match=r"one class only: classes of fewer than 2 songs are left out: b \(1\)"):
        parsed.task.finalize_labels(parsed.targets, "kind", config())
    with pytest.raises(InputError, match="too many classes"):
        parse([str(i) for i in range(2000)])


def test_weights_that_do_not_fit_are_refused():
    parsed = parse(["a"] * 3 + ["b"] * 3)
    with pytest.raises(InputError, match="3 weights for 2 classes"):
        parsed.task.finalize_labels(parsed.targets, "kind", config({"class_weights": [1.0, 2.0, 3.0]}))
    with pytest.raises(InputError, match="no class 'aa'"):
        parsed.task.finalize_labels(parsed.targets, "kind", config({"class_weights": {"aa": 2.0}}))


def fitted(**keys) -> Multiclass:
    return PROBLEM.fit(SIX, TrainingConfig(**keys))


def test_weights_come_from_the_training_side():
    for asked in ("auto", "balanced"):
        np.testing.assert_allclose(fitted(class_weights=asked).weights, [2, 1, 2 / 3], rtol=1e-6)
    assert fitted(class_weights="none").weights == (1.0, 1.0, 1.0)
    assert fitted(class_weights=[1.0, 2.0, 3.0]).weights == (1.0, 2.0, 3.0)
    assert fitted(class_weights={"spatial": 5.0}).weights == (1.0, 5.0, 1.0)
    balanced = np.array(fitted(loss="class_balanced", class_balanced_beta=0.9).weights)
    raw = np.array([0.1 / (1 - 0.9**n) for n in (1, 2, 3)])
    np.testing.assert_allclose(balanced, raw * 6 / (raw @ [1, 2, 3]), rtol=1e-6)


def test_all_that_is_wrong_with_classes_is_said_at_once():
    parsed = parse(["a"] * 5 + ["b"] * 4 + ["c"])
    with pytest.raises(InputError) as error:
        parsed.task.finalize_labels(parsed.targets, "kind", config({"class_weights": [1.0]}, rare_classes="error"))
    assert len(error.value.problems) == 2


def test_what_is_no_name_is_refused():
    with pytest.raises(InputError, match="cannot be class names"):
        Multiclass().parse(pa.chunked_array([pa.array([b"\xff\xfe", b"a"])]), "kind", DataConfig())


def test_with_a_tiny_class_auto_does_not_balance_and_says_so():
    def settled(least: int, **keys):
        kinds = ["a"] * least + ["b"] * 20
        parsed = parse(kinds)
        labels = parsed.task.finalize_labels(parsed.targets, "kind", config(keys))
        return labels.task.fit(labels.targets, TrainingConfig(**keys)).weights, labels.notes

    weights, (note,) = settled(5)
    assert weights == (1.0, 1.0)
    assert "a (5)" in note
    assert "training.class_weights=balanced" in note
    weights, notes = settled(6)
    np.testing.assert_allclose(weights, [26 / 12, 26 / 40], rtol=1e-6)
    assert notes == ()
    weights, notes = settled(5, class_weights="balanced")
    np.testing.assert_allclose(weights, [25 / 10, 25 / 40], rtol=1e-6)
    assert notes == ()


def test_losses_follow_their_formulas():
    logits = torch.randn(6, 3, generator=torch.Generator().manual_seed(0))
    codes = torch.from_numpy(SIX).long()
    plain = functional.cross_entropy(logits, codes, reduction="none")
    weighed = fitted(class_weights="balanced")
    weights = torch.tensor(weighed.weights)[codes]
    torch.testing.assert_close(weighed.loss(logits, torch.from_numpy(SIX)), weights * plain)
    p = logits.softmax(-1)[torch.arange(6), codes]
    focal = fitted(class_weights="balanced", loss="focal").loss(logits, torch.from_numpy(SIX))
    torch.testing.assert_close(focal, weights * plain * (1 - p) ** 2)
    prior = torch.tensor([1 / 6, 2 / 6, 3 / 6])
    adjusted = functional.cross_entropy(logits + 0.5 * prior.log(), codes, reduction="none")
    ours = fitted(loss="logit_adjusted", logit_adjustment=0.5)
    torch.testing.assert_close(ours.loss(logits, torch.from_numpy(SIX)), adjusted)
    torch.testing.assert_close(ours.scores(logits), logits.softmax(-1))  # the adjustment is for training alone


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
def test_the_first_bias_is_where_the_loss_is_least_without_text(keys):
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
def test_metrics_are_those_of_scikit_learn(truth, scores):
    task = Multiclass(classes=tuple("abcde"[: scores.shape[1]]))
    ours, undefined = task.metrics(truth.astype(np.float32), scores)
    said, present = scores.argmax(1), np.unique(truth)
    everything = list(range(scores.shape[1]))
    f1 = {"labels": present, "zero_division": 0}
    expected = {
        "accuracy": reference.accuracy_score(truth, said),
        "micro_f1": reference.f1_score(truth, said, average="micro"),
        "macro_f1": reference.f1_score(truth, said, average="macro", **f1),
        "weighted_f1": reference.f1_score(truth, said, average="weighted", **f1),
        "balanced_accuracy": np.mean([np.mean(said[truth == c] == c) for c in present]),
        "mcc": reference.matthews_corrcoef(truth, said),
        "top_3": reference.top_k_accuracy_score(truth, scores, k=3, labels=everything) if len(everything) > 3 else 1.0,
        "log_loss": reference.log_loss(truth, scores, labels=everything),
    }
    assert set(ours) == {*expected, "ece"}
    assert not undefined
    for name, value in expected.items():
        assert ours[name] == pytest.approx(value, abs=1e-6), name


def test_a_class_that_no_song_has_does_not_spoil_macro_f1():
    scores = np.eye(3)[[0, 1, 0, 1]]
    assert PROBLEM.metric("macro_f1", np.array([0, 1, 0, 1]), scores) == 1.0


def test_what_is_undefined_is_said():
    values, why = PROBLEM.metrics(np.zeros(3), np.eye(3)[[0, 0, 1]])
    assert values["macro_f1"] is None
    assert values["accuracy"] == pytest.approx(2 / 3)
    assert "one class only" in why["macro_f1"]


def test_sureness_that_is_too_large_is_counted():
    scores = np.tile([0.9, 0.05, 0.05], (10, 1))
    truth = np.array([0] * 6 + [1] * 4)
    assert MULTICLASS_METRICS["ece"](truth, scores) == pytest.approx(0.3)


def test_details_are_by_class():
    said = np.eye(3)[[0, 1, 1, 2, 0, 2]]
    details = PROBLEM.details(SIX, said)
    assert details["confusion"] == [[1, 0, 0], [0, 2, 0], [1, 0, 2]]
    assert details["classes"]["temporal"] == {"precision": 1.0, "recall": 2 / 3, "f1": 0.8, "support": 3}


def test_it_comes_back_from_json():
    task = fitted(loss="logit_adjusted")
    assert Multiclass(**task.to_json()) == task
    assert task.decode_predictions(np.eye(3)[[2, 0]]) == ["temporal", "causal"]
    assert task.decode_targets(SIX[:2]) == ["causal", "spatial"]
    assert task.describe(SIX) == {"temporal": 3, "spatial": 2, "causal": 1}


def test_names_are_checked():
    problems = PROBLEM.check(config({"loss": "mse", "metric": "macrof1"}, class_mapping={"a": None}))
    assert len(problems) == 3
    assert problems[0].endswith("one of: cross_entropy, focal, class_balanced, logit_adjusted")
    assert "did you mean macro_f1" in problems[1]
