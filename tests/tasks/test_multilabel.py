"""Multi-label: lists in every form, what becomes of rare classes, losses and metrics."""

from __future__ import annotations

import dataclasses

import numpy as np
import pyarrow as pa
import pytest
import sklearn.metrics as reference
import torch
from torch.nn import functional

from rainbow_ray.baselines.models import model_family
from rainbow_ray.config.schema import Config, DataConfig, TrainingConfig
from rainbow_ray.tasks.class_labels import RARE
from rainbow_ray.tasks.multilabel import LEFT_OUT, Multilabel
from rainbow_ray.utils.errors import InputError

PROBLEM = Multilabel(classes=("a", "b", "c"))
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
def test_lists_arrive_in_every_form(labels):
    parsed = parse(labels)
    assert parsed.task.classes == ("a", "b", "c")
    assert parsed.targets.tolist() == [[1, 1, 0], [0, 0, 1], [1, 1, 0]]


def test_a_delimiter_of_ones_own_leaves_the_others_alone():
    assert parse(["a, b / c"], label_delimiter="/").task.classes == ("a, b", "c")


def test_a_song_with_no_class_is_one_and_a_song_whose_classes_are_left_out_is_none():
    parsed = parse([["a"], [], ["b"], ["a", "b"]], class_mapping={"a": "a", "b": None})
    assert parsed.targets.tolist() == [[1], [0], [0], [1]]
    assert list(parsed.left_out)[:2] == [None, None]
    assert parsed.left_out[2] != LEFT_OUT  # the one reason is told
    assert parsed.left_out[3] is None


def test_rare_classes_go_and_songs_that_had_only_them():
    parsed = parse([["a"], ["a", "c"], ["b"], ["b"], ["c", "d"], ["d"]])
    config = Config(data=DataConfig(multi_label=True, min_songs_per_class=2))
    settled = parsed.task.finalize_labels(parsed.targets, "kinds", config)
    assert settled.task.classes == ("a", "b", "c", "d")
    fewer = parsed.task.finalize_labels(parsed.targets[:5], "kinds", config)
    assert fewer.task.classes == ("a", "b", "c")
    with_rare_alone = np.vstack([parsed.targets[:4], parsed.targets[5:]])
    lost = parsed.task.finalize_labels(with_rare_alone, "kinds", config)
    assert list(lost.left_out) == [None, None, None, None, RARE]


def test_a_class_that_all_songs_have_is_refused():
    parsed = parse([["a"], ["a", "b"], ["a", "b"]])
    with pytest.raises(InputError, match="every song has 'a'"):
        parsed.task.finalize_labels(parsed.targets, "kinds", Config())


def test_one_class_alone_is_a_problem_too():
    task = parse([["a"], [], ["a"], []]).task
    family = model_family(task)
    inputs = np.array([[1.0], [0.0], [1.0], [0.0], [1.0], [0.0]])
    targets = inputs.astype(np.float32)
    for make in (lambda: family.linear(1.0), lambda: family.boosting(0)):
        scores = family.fit_predict(make(), inputs, targets, np.arange(4), np.array([4, 5]))
        assert scores.shape == (2, 1)
        assert scores[0, 0] > 0.5 > scores[1, 0]


def test_lists_inside_of_lists_are_refused_and_python_lists_are_read():
    assert parse(["['a', 'b']", "['c']"]).task.classes == ("a", "b", "c")
    for wrong in ([[["a"]], [["b"]]], ["[['a']]"], ['[{"k": "a"}]']):
        with pytest.raises(InputError, match="lists inside of lists"):
            parse(wrong)


def test_labels_that_vanish_are_named_and_counted():
    labels = [["a", "w"], ["b", "w"], ["a", "q"]]
    dropped = parse(labels, class_mapping={"a": "a", "b": "b", "q": None}, unknown_classes="drop")
    assert "w (2 rows)" in dropped.notes[0]
    assert "q (1 rows)" in dropped.notes[1]
    other = parse(labels, class_mapping={"a": "a", "b": "b"}, unknown_classes="other")
    assert "become 'other': q (1 rows), w (2 rows)" in other.notes[0]


def test_losses_follow_their_formulas():
    logits = torch.randn(4, 3, generator=torch.Generator().manual_seed(0))
    targets = torch.from_numpy(TARGETS)
    plain = PROBLEM.fit(TARGETS, TrainingConfig(class_weights="none"))
    wanted = functional.binary_cross_entropy_with_logits(logits, targets, reduction="none").mean(-1)
    torch.testing.assert_close(plain.loss(logits, targets), wanted)
    balanced = PROBLEM.fit(TARGETS, TrainingConfig())
    tiny = dataclasses.replace(PROBLEM, tiny=("c",)).fit(TARGETS, TrainingConfig())
    np.testing.assert_allclose(tiny.weights, [1.0, 1.0, 1.0], rtol=1e-5)
    np.testing.assert_allclose(balanced.weights, [1.0, 1.0, 3.0], rtol=1e-5)


@pytest.mark.parametrize(
    "keys", [{}, {"class_weights": "none"}, {"loss": "logit_adjusted"}, {"loss": "class_balanced"}]
)
def test_the_first_bias_is_where_the_loss_is_least_without_text(keys):
    task = PROBLEM.fit(TARGETS, TrainingConfig(**keys))
    bias = torch.tensor(task.initial_bias(TARGETS), requires_grad=True)
    task.loss(bias.expand(4, 3), torch.from_numpy(TARGETS)).sum().backward()
    assert bias.grad is not None
    torch.testing.assert_close(bias.grad, torch.zeros(3), atol=1e-5, rtol=0)


def test_metrics_are_those_of_scikit_learn():
    rng = np.random.default_rng(0)
    truth, scores = (rng.random((40, 3)) < 0.4).astype(np.float32), rng.random((40, 3))
    ours, _ = PROBLEM.metrics(truth, scores)
    said = scores > 0.5
    assert ours["macro_f1"] == pytest.approx(reference.f1_score(truth, said, average="macro"))
    assert ours["micro_f1"] == pytest.approx(reference.f1_score(truth, said, average="micro"))
    assert ours["weighted_f1"] == pytest.approx(reference.f1_score(truth, said, average="weighted"))
    assert ours["subset_accuracy"] == pytest.approx(reference.accuracy_score(truth, said))
    assert ours["hamming_loss"] == pytest.approx(reference.hamming_loss(truth, said))
    assert ours["macro_average_precision"] == pytest.approx(reference.average_precision_score(truth, scores))


def test_predictions_are_names():
    scores = np.array([[0.6, 0.6, 0.2], [0.1, 0.2, 0.3]])
    assert PROBLEM.decode_predictions(scores) == [("a", "b"), ()]
    fitted = PROBLEM.fit(TARGETS, TrainingConfig(loss="focal"))
    assert Multilabel(**fitted.to_json()) == fitted


def test_strata_keep_the_rarest_class_of_each_song():
    assert PROBLEM.strata(TARGETS).tolist() == [1, 1, 0, 3] or len(set(PROBLEM.strata(TARGETS))) == 3
