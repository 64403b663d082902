"""Segmentation tasks: losses of neighbours, masks, decoding, weak labels and metrics over songs."""

from __future__ import annotations

import dataclasses
import itertools

import numpy as np
import pytest
import torch
from torch.nn import functional

from rainbow_ray.config.schema import Config, TrainingConfig
from rainbow_ray.tasks.decoding import median, viterbi
from rainbow_ray.tasks.multiclass import Multiclass
from rainbow_ray.tasks.multiple_instance import multiple_instance_loss
from rainbow_ray.tasks.registry import make_task
from rainbow_ray.tasks.scores import decode_folds, measure_decoded
from rainbow_ray.tasks.segment_targets import LABEL, SegmentTargets, song_slices
from rainbow_ray.tasks.segmentation import Segmentation
from rainbow_ray.tasks.weak_segmentation import WeakSegmentation
from rainbow_ray.utils.errors import InputError

NAN = float("nan")
PLAIN = Segmentation(Multiclass(("a", "b", "c"), weights=(1.0, 1.0, 1.0)), tmse_weight=0.0, boundary_loss_weight=0.0)


def timeline(*songs: list[float], seconds: float = 2.0) -> np.ndarray:
    """Return targets of songs, one list of labels each, with consecutive segments without gaps."""
    rows = []
    for number, labels in enumerate(songs):
        rows += [[label, i * seconds, (i + 1) * seconds, i, number] for i, label in enumerate(labels)]
    return np.array(rows, dtype=np.float32)


def one_hot_scores(labels: list[int], classes: int = 3) -> np.ndarray:
    return np.eye(classes, dtype=np.float32)[labels]


def loss(task: Segmentation, logits: torch.Tensor, targets: np.ndarray) -> torch.Tensor:
    return task.loss(logits, torch.from_numpy(targets))


def test_a_segment_without_a_label_has_no_loss_and_no_gradient():
    targets = timeline([0, NAN, 1, NAN])
    logits = torch.randn(4, 3, requires_grad=True)
    cost = loss(dataclasses.replace(PLAIN, tmse_weight=0.5, boundary_loss_weight=0.5), logits, targets)
    assert cost[1] == cost[3] == 0
    cost.sum().backward()
    assert logits.grad is not None
    assert torch.isfinite(logits.grad).all()
    assert (logits.grad[3] == 0).all()


def test_the_smoothing_loss_is_that_of_ms_tcn():
    """Equations 8 to 10 of Farha & Gall: truncated, detached previous frame, mean over classes."""
    targets, logits = timeline([0, 0, 0]), torch.tensor([[9.0, 0, 0], [0, 9.0, 0], [0.0, 1, 2]], requires_grad=True)
    cost = loss(dataclasses.replace(PLAIN, tmse_weight=0.15, tmse_clip=4.0), logits, targets)
    log_probabilities = logits.log_softmax(1)
    steps = (log_probabilities[1:] - log_probabilities[:-1].detach()).abs().clamp(max=4.0)
    unsmoothed = functional.cross_entropy(logits, torch.zeros(3, dtype=torch.long), reduction="none")
    assert torch.allclose(cost[1:], unsmoothed[1:] + 0.15 * (steps**2).mean(1))
    assert cost[0] == unsmoothed[0]
    gradient = torch.autograd.grad(cost[1] - unsmoothed[1], logits)[0]
    assert (gradient[0] == 0).all(), "the previous frame has no gradient"


def test_the_losses_of_neighbours_stay_within_a_song():
    task = dataclasses.replace(PLAIN, tmse_weight=0.5, boundary_loss_weight=0.5)
    logits, targets = torch.randn(5, 3), timeline([0, 1, 1], [2, 2])
    joint = loss(task, logits, targets)
    separate = torch.cat([loss(task, logits[:3], targets[:3]), loss(task, logits[3:], targets[3:])])
    assert torch.allclose(joint, separate)


def test_the_boundary_loss_depends_on_the_labels_of_neighbours():
    task = dataclasses.replace(PLAIN, boundary_loss_weight=1.0)
    logits = torch.tensor([[4.0, 0, 0], [4.0, 0, 0]])
    same_label, different_label = (
        loss(task, logits, timeline(labels)) - loss(PLAIN, logits, timeline(labels)) for labels in ([0, 0], [0, 1])
    )
    p = logits.softmax(1)
    same_probability = float((p[0] * p[1]).sum())
    assert same_label[1].item() == pytest.approx(-np.log(same_probability), rel=1e-4)
    assert different_label[1].item() == pytest.approx(-np.log(1 - same_probability), rel=1e-4)


@pytest.mark.parametrize("name", ["binary", "regression"])
def test_other_base_tasks_have_finite_losses_and_gradients(name):
    base_task = make_task(name)
    task = Segmentation(base_task, tmse_weight=0.1, boundary_loss_weight=0.1)
    targets, logits = timeline([0, 1, 1], [NAN, 0]), torch.randn(5, base_task.outputs, requires_grad=True)
    cost = loss(task, logits, targets)
    assert cost.shape == (5,)
    assert cost[3] == 0
    cost.sum().backward()
    assert logits.grad is not None
    assert torch.isfinite(logits.grad).all()


def test_perfect_scores_have_perfect_metrics_without_masked_segments():
    targets = timeline([0, 0, 1, NAN, 2], [1, 1, 0])
    scores = PLAIN.perfect_scores(targets)
    values, _ = PLAIN.metrics(targets, scores)
    assert {name: values[name] for name in ("macro_f1", "time_accuracy", "edit", "f1_at_50", "boundary_0_5s")} == {
        name: pytest.approx(1.0) for name in ("macro_f1", "time_accuracy", "edit", "f1_at_50", "boundary_0_5s")
    }
    worse = scores.copy()
    worse[3] = one_hot_scores([1])[0]
    assert PLAIN.metrics(targets, worse)[0] == values


def test_several_metrics_at_once_are_those_of_each():
    targets, scores = timeline([0, 1, 1], [2, 0, NAN, 1]), one_hot_scores([0, 1, 2, 2, 0, 0, 0])
    expected = {name: PLAIN.metric(name, targets, scores) for name in PLAIN.metric_names}
    assert PLAIN.metric_values(PLAIN.metric_names, targets, scores) == expected
    assert None not in expected.values()
    unlabeled = PLAIN.metric_values(PLAIN.metric_names, timeline([NAN, NAN]), scores[:2])
    assert set(unlabeled.values()) == {None}


def test_time_accuracy_is_weighted_by_seconds():
    targets = np.array([[0, 0, 9, 0, 0], [1, 9, 10, 1, 0]], dtype=np.float32)
    assert PLAIN.metric("time_accuracy", targets, one_hot_scores([0, 0])) == pytest.approx(0.9)
    assert PLAIN.metric("accuracy", targets, one_hot_scores([0, 0])) == pytest.approx(0.5)


def test_a_song_drawn_twice_counts_as_two_songs():
    song = timeline([0, 1])
    repeated = np.concatenate([song, song])
    assert [(rows.start, rows.stop) for rows in song_slices(repeated)] == [(0, 2), (2, 4)]
    assert PLAIN.metric("edit", repeated, one_hot_scores([0, 1, 1, 1])) == pytest.approx(0.75)


def test_regression_errors_are_weighted_by_time():
    task = Segmentation(make_task("regression"))
    targets = np.array([[1.0, 0, 9, 0, 0], [3.0, 9, 10, 1, 0]], dtype=np.float32)
    assert task.metric("time_mae", targets, np.array([1.0, 1.0], dtype=np.float32)) == pytest.approx(0.2)
    assert not task.larger_is_better("time_mae")


def test_a_median_filter_removes_isolated_segments():
    scores = one_hot_scores([0, 0, 1, 0, 0, 2, 2, 2])
    assert median(scores, 3).argmax(1).tolist() == [0, 0, 0, 0, 0, 2, 2, 2]
    assert median(np.array([0.1, 0.9, 0.1], dtype=np.float32), 3).tolist() == pytest.approx([0.1, 0.1, 0.1])


def test_viterbi_finds_the_most_probable_path():
    rng = np.random.default_rng(0)
    for _ in range(20):
        scores, transitions = rng.dirichlet(np.ones(3), 5), np.log(rng.dirichlet(np.ones(3), 3))
        paths = np.array(np.meshgrid(*[range(3)] * 5)).reshape(5, -1).T
        log_probabilities = [sum(np.log(scores[i, c]) for i, c in enumerate(path))
                 + sum(transitions[a, b] for a, b in itertools.pairwise(path)) for path in paths]  # fmt: skip
        assert viterbi(scores, transitions).argmax(1).tolist() == paths[int(np.argmax(log_probabilities))].tolist()


def test_transitions_are_fitted_to_the_training_targets():
    task = dataclasses.replace(PLAIN, decoding="viterbi").fit(timeline([0, 0, 0, 1], [1, NAN, 2]), TrainingConfig())
    assert isinstance(task, Segmentation)
    transitions = np.exp(task.transitions)  # 0→0 twice, 0→1 once, and a prior count of 1 each
    assert transitions[0] == pytest.approx([3 / 6, 2 / 6, 1 / 6])

    assert transitions[1] == pytest.approx([1 / 3] * 3), "masked segments are not neighbours"
    scores = np.array([[0.9, 0.05, 0.05], [0.4, 0.5, 0.1], [0.9, 0.05, 0.05]], dtype=np.float32)
    targets = timeline([NAN] * 3)
    assert task.decode_scores(targets, scores).argmax(1).tolist() == [0, 0, 0]
    assert dataclasses.replace(task, decoding="argmax").decode_scores(targets, scores) is scores


def test_decoding_stays_within_a_song():
    task = dataclasses.replace(PLAIN, decoding="median", filter_width=3)
    targets, scores = timeline([0, 0], [1, 1]), one_hot_scores([0, 0, 1, 1])
    assert task.decode_scores(targets, scores).argmax(1).tolist() == [0, 0, 1, 1]


def test_rare_classes_are_counted_by_songs():
    config = Config()
    targets = timeline([0, 1, 2, 2, 2, 2], [0, 1], [0, 1], [1, 0])
    finalized = PLAIN.finalize_labels(targets, "kind", config)
    has_label = ~np.isnan(finalized.targets[:, LABEL])
    assert has_label.tolist() == [True, True, *[False] * 4, *[True] * 6], "class 2 occurs in one song only"


@pytest.mark.parametrize("pooling", ["attention", "noisy_or"])
@pytest.mark.parametrize("base_name", ["multiclass", "binary"])
def test_segment_scores_sum_to_the_score_of_their_song(pooling, base_name):
    base_task = PLAIN.base_task if base_name == "multiclass" else make_task("binary")
    task = WeakSegmentation(base_task, pooling)
    targets = timeline([1, 1, 1], [0, 0])
    logits = torch.randn(5, task.outputs, requires_grad=True)
    song_logits = task.finalize_logits(logits, torch.tensor([0, 0, 0, 1, 1]))
    scores = task.scores(song_logits)
    sums = torch.stack([scores[:3].sum(0), scores[3:].sum(0)])
    assert ((sums > 0) & (sums <= 1 + 1e-5)).all()
    if base_name == "multiclass":
        assert torch.allclose(sums.sum(1), torch.ones(2), atol=1e-4)
    cost = multiple_instance_loss(task.base_task, song_logits, torch.from_numpy(targets))
    assert (cost != 0).tolist() == [True, False, False, True, False]
    label = torch.tensor([1, 0])
    expected = sums[torch.arange(2), label] if base_name == "multiclass" else torch.where(label == 1, sums, 1 - sums)
    assert torch.allclose(cost[[0, 3]], -expected.log(), atol=1e-3)
    cost.sum().backward()
    assert logits.grad is not None
    assert torch.isfinite(logits.grad).all()
    label_of_songs, song_scores = task.pool_songs(targets, scores.detach().numpy())
    assert label_of_songs.tolist() == [1, 0]
    assert song_scores == pytest.approx(sums.detach().numpy())


@pytest.mark.parametrize("pooling", ["attention", "noisy_or"])
def test_segments_of_a_positive_song_can_be_positive(pooling):
    """Scores of many segments are all below 0.5: decoding compares them with each other."""
    task = WeakSegmentation(make_task("binary"), pooling)
    targets = timeline([1] * 8, [0] * 4, [1])
    logits = torch.full((13, task.outputs), 4.0)
    logits[6:8], logits[8:12] = -4.0, -4.0
    scores = task.scores(task.finalize_logits(logits, torch.tensor([0] * 8 + [1] * 4 + [2]))).numpy()
    decoded = task.decode_scores(targets, scores)
    assert task.decode_predictions(decoded)[8:] == [False] * 4 + [True]
    assert task.decode_predictions(decoded)[:8] == ([True] * 6 + [False] * 2)
    song_predictions = (task.pool_songs(targets, values)[1] > 0.5 for values in (scores, decoded))
    assert [predictions.tolist() for predictions in song_predictions] == [[True, False, True]] * 2, (
        "decoding does not change the predictions of songs"
    )
    assert task.metric("accuracy", targets, decoded) == 1.0


def test_noisy_or_worked_by_hand():
    """P(song) = 1 - ∏ (1 - p) of its segments."""
    task = WeakSegmentation(make_task("binary"), "noisy_or")
    p = torch.tensor([0.2, 0.5])
    scores = task.scores(task.finalize_logits(torch.logit(p)[:, None], torch.tensor([0, 0])))
    assert float(scores.sum()) == pytest.approx(1 - 0.8 * 0.5, rel=1e-5)
    assert float(scores[1] / scores[0]) == pytest.approx(np.log(0.5) / np.log(0.8), rel=1e-4)


def test_equal_labels_within_songs_make_a_weak_task():
    targets = timeline([0, 0, NAN], [1, 1], [0, 0], [1, 1], [0, 0], [1, 1])
    finalized = PLAIN.finalize_labels(targets, "rebracketing_type", Config())
    assert isinstance(finalized.task, WeakSegmentation)
    assert finalized.task.pooling == "attention"
    assert "WEAK" in " ".join(finalized.notes)
    assert finalized.targets[2, LABEL] == 0, "masked segments take the label of their song"
    config = Config()
    config.training.metric = "time_accuracy"
    with pytest.raises(InputError, match=r"training\.metric: time_accuracy .* use one of accuracy"):
        PLAIN.finalize_labels(targets, "rebracketing_type", config)
    regression = Segmentation(make_task("regression"))
    with pytest.raises(InputError, match="one number a song"):
        regression.finalize_labels(targets, "intensity", Config())


def test_few_songs_of_several_segments_do_not_make_labels_weak():
    targets = timeline([0, 0], *([label] for label in (1, 0, 1, 0, 1)))
    finalized = PLAIN.finalize_labels(targets, "kind", Config())
    assert not finalized.task.is_weakly_labeled


def test_each_fold_is_decoded_with_the_transitions_of_its_training_set():
    task = dataclasses.replace(PLAIN, decoding="viterbi")
    targets = timeline([0, 0, 0, 0], [1, 0, 1, 0])
    scores = np.tile(np.array([[0.6, 0.4, 0.0], [0.4, 0.6, 0.0]], dtype=np.float32), (4, 1))
    first, second = np.arange(4), np.arange(4, 8)
    fold_indices = [(first, second), (second, first)]
    decoded = decode_folds(task, targets, fold_indices, scores)
    for train, val in fold_indices:
        fitted = task.fit_decoding(targets[train])
        assert np.array_equal(decoded[val], fitted.decode_scores(targets[val], scores[val]))
    unscored_first = scores.copy()
    unscored_first[first] = NAN
    decoded_half = decode_folds(task, targets, fold_indices, unscored_first)
    assert np.isnan(decoded_half[first]).all()
    assert np.array_equal(decoded_half[second], decoded[second])
    assert decode_folds(make_task("binary"), targets, fold_indices, scores) is scores


def test_epoch_metrics_are_computed_from_decoded_scores():
    task = dataclasses.replace(PLAIN, decoding="median", filter_width=3)
    targets = timeline([0, 0, 0, 0, 0])
    scores = np.array([[0.9, 0.1, 0.0]] * 2 + [[0.1, 0.9, 0.0]] + [[0.9, 0.1, 0.0]] * 2, dtype=np.float32)
    decoded, _ = measure_decoded(task, targets, scores)
    assert decoded["accuracy"] == decoded["edit"] == 1.0
    assert task.metrics(targets, scores)[0]["accuracy"] == 0.8
    assert measure_decoded(PLAIN, targets, scores)[0]["accuracy"] == 0.8


def test_a_task_is_restored_from_json():
    task = dataclasses.replace(PLAIN, decoding="viterbi").fit(timeline([0, 1, 2]), TrainingConfig())
    assert make_task("segmentation", **task.to_json()) == task


def test_states_of_earlier_versions_are_read_under_their_former_keys():
    state = {"inner": {"name": "multiclass", "classes": ["a", "b"]}, "decoding": "median", "filter_width": 5,
             "smoothing": 0.2, "smoothing_limit": 3.0, "boundary": 0.4, "weak": None, "transitions": []}  # fmt: skip
    base_task = Multiclass(("a", "b"))
    task = Segmentation(base_task, "median", 5, tmse_weight=0.2, tmse_clip=3.0, boundary_loss_weight=0.4)
    assert make_task("segmentation", **state) == task
    assert Segmentation(Multiclass()).from_json(state) == task
    weak = WeakSegmentation(base_task, "noisy_or")
    assert make_task("segmentation", **{**state, "weak": "noisy_or"}) == weak
    assert WeakSegmentation(Multiclass()).from_json({**state, "weak": "noisy_or"}) == weak


def test_a_weak_task_is_restored_from_its_state():
    task = WeakSegmentation(Multiclass(("a", "b"), weights=(1.0, 2.0)), "noisy_or")
    assert make_task(task.name, **task.to_json()) == task
    assert WeakSegmentation(Multiclass()).from_json(task.to_json()) == task


def test_segment_targets_keep_their_values_when_packed_sliced_and_concatenated():
    packed = timeline([0, NAN], [1, 2, 0])
    targets = SegmentTargets.from_array(packed)
    assert targets.to_array().tobytes() == packed.tobytes()
    assert SegmentTargets.concatenate([targets[:2], targets[2:]]).to_array().tobytes() == packed.tobytes()
    assert len(targets[targets.has_label]) == 4
    assert targets[[3]].position.tolist() == [1]
    assert targets.song_slices() == [slice(0, 2), slice(2, 5)]
    tensors = SegmentTargets.from_array(torch.from_numpy(packed))
    assert torch.equal(tensors[2:].labels, torch.tensor([1.0, 2.0, 0.0]))
