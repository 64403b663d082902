"""The multi-label task: lists of every form, rare classes, losses and metrics."""

from __future__ import annotations

import dataclasses

import numpy as np
import pyarrow as pa
import pytest
import sklearn.metrics as reference
import torch
from torch.nn import functional

from rainbow_ray.baselines.model_family import model_family
from rainbow_ray.config.schema import Config, DataConfig, TrainingConfig
from rainbow_ray.tasks.class_labels import RARE
from rainbow_ray.tasks.multilabel import LEFT_OUT, Multilabel
from rainbow_ray.utils.errors import InputError

TASK = Multilabel(classes=("a", "b", "c"))
TARGETS = np.array([[1, 0, 0], [1, 1, 0], [0, 0, 0], [0, 1, 1]], dtype=np.float32)


def parse(labels, **data):
    return Multilabel().parse(pa.chunked_array([labels]), "kinds", DataConfig(multi_label=True, **data))


@pytest.mark.parametrize(
    "labels",
    [
        ["a, b", "c", "b;a"],
        [["a", "b"], ["c"], ["b", "a"]],
        ['["a", "b"]', '["c"]', '["b", "a"]'],
        ["a|b", "c", "b|a|"],
    ],
    ids=["delimited", "lists", "json", "bars"],
)
def test_lists_are_read_from_every_form(labels):
    parsed = parse(labels)
    assert parsed.task.classes == ("a", "b", "c")
    assert parsed.targets.tolist() == [[1, 1, 0], [0, 0, 1], [1, 1, 0]]


def test_a_configured_delimiter_replaces_the_others():
    assert parse(["a, b / c"], label_delimiter="/").task.classes == ("a, b", "c")


def test_a_song_without_classes_is_used_unless_its_classes_were_dropped():
    parsed = parse([["a"], [], ["b"], ["a", "b"]], class_mapping={"a": "a", "b": None})
    assert parsed.targets.tolist() == [[1], [0], [0], [1]]
    assert list(parsed.left_out)[:2] == [None, None]
    assert parsed.left_out[2] != LEFT_OUT  # the more specific reason is reported
    assert parsed.left_out[3] is None


def test_rare_classes_and_songs_with_only_them_are_left_out():
    parsed = parse([["a"], ["a", "c"], ["b"], ["b"], ["c", "d"], ["d"]])
    config = Config(data=DataConfig(multi_label=True, min_songs_per_class=2))
    finalized = parsed.task.finalize_labels(parsed.targets, "kinds", config)
    assert finalized.task.classes == ("a", "b", "c", "d")
    fewer = parsed.task.finalize_labels(parsed.targets[:5], "kinds", config)
    assert fewer.task.classes == ("a", "b", "c")
    with_rare_only = np.vstack([parsed.targets[:4], parsed.targets[5:]])
    without_rare = parsed.task.finalize_labels(with_rare_only, "kinds", config)
    assert list(without_rare.left_out) == [None, None, None, None, RARE]


def test_a_class_that_all_songs_have_is_refused():
    parsed = parse([["a"], ["a", "b"], ["a", "b"]])
    with pytest.raises(InputError, match="every song has 'a'"):
        parsed.task.finalize_labels(parsed.targets, "kinds", Config())


def test_baselines_fit_a_single_label():
    task = parse([["a"], [], ["a"], []]).task
    family = model_family(task)
    inputs = np.array([[1.0], [0.0], [1.0], [0.0], [1.0], [0.0]])
    targets = inputs.astype(np.float32)
    for make in (lambda: family.linear(1.0), lambda: family.boosting(0, 1.0)):
        scores = family.fit_predict(make(), inputs, targets, np.arange(4), np.array([4, 5]))
        assert scores.shape == (2, 1)
        assert scores[0, 0] > 0.5 > scores[1, 0]


def test_lists_inside_of_lists_are_refused_and_python_lists_are_read():
    assert parse(["['a', 'b']", "['c']"]).task.classes == ("a", "b", "c")
    for nested in ([[["a"]], [["b"]]], ["[['a']]"], ['[{"k": "a"}]']):
        with pytest.raises(InputError, match="lists inside of lists"):
            parse(nested)


def test_dropped_labels_are_named_and_counted():
    labels = [["a", "w"], ["b", "w"], ["a", "q"]]
    dropped = parse(labels, class_mapping={"a": "a", "b": "b", "q": None}, unknown_classes="drop")
    assert "w (2 rows)" in dropped.notes[0]
    assert "q (1 rows)" in dropped.notes[1]
    other = parse(labels, class_mapping={"a": "a", "b": "b"}, unknown_classes="other")
    assert "become 'other': q (1 rows), w (2 rows)" in other.notes[0]


def test_losses_follow_their_formulas():
    logits = torch.randn(4, 3, generator=torch.Generator().manual_seed(0))
    targets = torch.from_numpy(TARGETS)
    plain = TASK.fit(TARGETS, TrainingConfig(class_weights="none"))
    expected = functional.binary_cross_entropy_with_logits(logits, targets, reduction="none").mean(-1)
    torch.testing.assert_close(plain.loss(logits, targets), expected)
    balanced = TASK.fit(TARGETS, TrainingConfig())
    tiny = dataclasses.replace(TASK, tiny=("c",)).fit(TARGETS, TrainingConfig())
    np.testing.assert_allclose(tiny.weights, [1.0, 1.0, 1.0], rtol=1e-5)
    np.testing.assert_allclose(balanced.weights, [1.0, 1.0, 3.0], rtol=1e-5)


@pytest.mark.parametrize(
    "keys", [{}, {"class_weights": "none"}, {"loss": "logit_adjusted"}, {"loss": "class_balanced"}]
)
def test_the_initial_bias_minimizes_the_loss_without_features(keys):
    task = TASK.fit(TARGETS, TrainingConfig(**keys))
    bias = torch.tensor(task.initial_bias(TARGETS), requires_grad=True)
    task.loss(bias.expand(4, 3), torch.from_numpy(TARGETS)).sum().backward()
    assert bias.grad is not None
    torch.testing.assert_close(bias.grad, torch.zeros(3), atol=1e-5, rtol=0)


def test_metrics_equal_those_of_scikit_learn():
    rng = np.random.default_rng(0)
    truth, scores = (rng.random((40, 3)) < 0.4).astype(np.float32), rng.random((40, 3))
    values, _ = TASK.metrics(truth, scores)
    predicted = scores > 0.5
    assert values["macro_f1"] == pytest.approx(reference.f1_score(truth, predicted, average="macro"))
    assert values["micro_f1"] == pytest.approx(reference.f1_score(truth, predicted, average="micro"))
    assert values["weighted_f1"] == pytest.approx(reference.f1_score(truth, predicted, average="weighted"))
    assert values["subset_accuracy"] == pytest.approx(reference.accuracy_score(truth, predicted))
    assert values["hamming_loss"] == pytest.approx(reference.hamming_loss(truth, predicted))
    assert values["macro_average_precision"] == pytest.approx(reference.average_precision_score(truth, scores))


def test_predictions_are_names():
    scores = np.array([[0.6, 0.6, 0.2], [0.1, 0.2, 0.3]])
    assert TASK.decode_predictions(scores) == [("a", "b"), ()]
    fitted = TASK.fit(TARGETS, TrainingConfig(loss="focal"))
    assert Multilabel(**fitted.to_json()) == fitted


def test_strata_are_the_rarest_class_of_each_song():
    assert TASK.strata(TARGETS).tolist() == [1, 1, 0, 3] or len(set(TASK.strata(TARGETS))) == 3
