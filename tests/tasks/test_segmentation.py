"""Segmentation: neighbours in the loss, masks, decoding, weak labels, metrics over songs."""

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
    """Targets of songs, a list of labels each, whose segments follow each other without gaps."""
    rows = []
    for number, labels in enumerate(songs):
        rows += [[label, i * seconds, (i + 1) * seconds, i, number] for i, label in enumerate(labels)]
    return np.array(rows, dtype=np.float32)


def sure(labels: list[int], classes: int = 3) -> np.ndarray:
    return np.eye(classes, dtype=np.float32)[labels]


def loss(task: Segmentation, logits: torch.Tensor, targets: np.ndarray) -> torch.Tensor:
    return task.loss(logits, torch.from_numpy(targets))


def test_a_segment_without_a_label_costs_nothing_and_moves_nothing():
    targets = timeline([0, NAN, 1, NAN])
    logits = torch.randn(4, 3, requires_grad=True)
    cost = loss(dataclasses.replace(PLAIN, tmse_weight=0.5, boundary_loss_weight=0.5), logits, targets)
    assert cost[1] == cost[3] == 0
    cost.sum().backward()
    assert logits.grad is not None
    assert torch.isfinite(logits.grad).all()
    assert (logits.grad[3] == 0).all()


def test_smoothing_is_ms_tcns():
    """Equations 8 to 10 of Farha & Gall: truncated, the frame before held fast, mean over classes."""
    targets, logits = timeline([0, 0, 0]), torch.tensor([[9.0, 0, 0], [0, 9.0, 0], [0.0, 1, 2]], requires_grad=True)
    cost = loss(dataclasses.replace(PLAIN, tmse_weight=0.15, tmse_clip=4.0), logits, targets)
    said = logits.log_softmax(1)
    steps = (said[1:] - said[:-1].detach()).abs().clamp(max=4.0)
    plain = functional.cross_entropy(logits, torch.zeros(3, dtype=torch.long), reduction="none")
    assert torch.allclose(cost[1:], plain[1:] + 0.15 * (steps**2).mean(1))
    assert cost[0] == plain[0]
    only = torch.autograd.grad(cost[1] - plain[1], logits)[0]
    assert (only[0] == 0).all(), "the frame before is held fast"


def test_songs_are_not_smoothed_into_each_other():
    task = dataclasses.replace(PLAIN, tmse_weight=0.5, boundary_loss_weight=0.5)
    logits, both = torch.randn(5, 3), timeline([0, 1, 1], [2, 2])
    together = loss(task, logits, both)
    apart = torch.cat([loss(task, logits[:3], both[:3]), loss(task, logits[3:], both[3:])])
    assert torch.allclose(together, apart)


def test_boundaries_cost_where_neighbours_differ_in_truth():
    task = dataclasses.replace(PLAIN, boundary_loss_weight=1.0)
    said = torch.tensor([[4.0, 0, 0], [4.0, 0, 0]])
    goes_on, breaks = (loss(task, said, timeline(labels)) - loss(PLAIN, said, timeline(labels)) for labels in
                       ([0, 0], [0, 1]))  # fmt: skip
    p = said.softmax(1)
    same = float((p[0] * p[1]).sum())
    assert goes_on[1].item() == pytest.approx(-np.log(same), rel=1e-4)
    assert breaks[1].item() == pytest.approx(-np.log(1 - same), rel=1e-4)


@pytest.mark.parametrize("name", ["binary", "regression"])
def test_other_inner_problems_have_losses_of_their_own(name):
    inner = make_task(name)
    task = Segmentation(inner, tmse_weight=0.1, boundary_loss_weight=0.1)
    targets, logits = timeline([0, 1, 1], [NAN, 0]), torch.randn(5, inner.outputs, requires_grad=True)
    cost = loss(task, logits, targets)
    assert cost.shape == (5,)
    assert cost[3] == 0
    cost.sum().backward()
    assert logits.grad is not None
    assert torch.isfinite(logits.grad).all()


def test_perfect_scores_have_perfect_metrics_and_masked_segments_do_not_count():
    targets = timeline([0, 0, 1, NAN, 2], [1, 1, 0])
    scores = PLAIN.perfect_scores(targets)
    values, _ = PLAIN.metrics(targets, scores)
    assert {name: values[name] for name in ("macro_f1", "time_accuracy", "edit", "f1_at_50", "boundary_0_5s")} == {
        name: pytest.approx(1.0) for name in ("macro_f1", "time_accuracy", "edit", "f1_at_50", "boundary_0_5s")
    }
    worse = scores.copy()
    worse[3] = sure([1])[0]
    assert PLAIN.metrics(targets, worse)[0] == values


def test_time_counts_by_seconds_not_by_segments():
    targets = np.array([[0, 0, 9, 0, 0], [1, 9, 10, 1, 0]], dtype=np.float32)
    assert PLAIN.metric("time_accuracy", targets, sure([0, 0])) == pytest.approx(0.9)
    assert PLAIN.metric("accuracy", targets, sure([0, 0])) == pytest.approx(0.5)


def test_a_song_that_is_drawn_twice_is_two_songs():
    one = timeline([0, 1])
    twice = np.concatenate([one, one])
    assert [(rows.start, rows.stop) for rows in song_slices(twice)] == [(0, 2), (2, 4)]
    assert PLAIN.metric("edit", twice, sure([0, 1, 1, 1])) == pytest.approx(0.75)


def test_numbers_are_weighed_by_time():
    task = Segmentation(make_task("regression"))
    targets = np.array([[1.0, 0, 9, 0, 0], [3.0, 9, 10, 1, 0]], dtype=np.float32)
    assert task.metric("time_mae", targets, np.array([1.0, 1.0], dtype=np.float32)) == pytest.approx(0.2)
    assert not task.larger_is_better("time_mae")


def test_a_median_takes_out_what_stands_alone():
    scores = sure([0, 0, 1, 0, 0, 2, 2, 2])
    assert median(scores, 3).argmax(1).tolist() == [0, 0, 0, 0, 0, 2, 2, 2]
    assert median(np.array([0.1, 0.9, 0.1], dtype=np.float32), 3).tolist() == pytest.approx([0.1, 0.1, 0.1])


def test_viterbi_is_the_likeliest_of_all_ways():
    rng = np.random.default_rng(0)
    for _ in range(20):
        scores, moves = rng.dirichlet(np.ones(3), 5), np.log(rng.dirichlet(np.ones(3), 3))
        ways = np.array(np.meshgrid(*[range(3)] * 5)).reshape(5, -1).T
        worth = [sum(np.log(scores[i, c]) for i, c in enumerate(way))
                 + sum(moves[a, b] for a, b in itertools.pairwise(way)) for way in ways]  # fmt: skip
        assert viterbi(scores, moves).argmax(1).tolist() == ways[int(np.argmax(worth))].tolist()


def test_transitions_are_those_of_the_training_side():
    task = dataclasses.replace(PLAIN, decoding="viterbi").fit(timeline([0, 0, 0, 1], [1, NAN, 2]), TrainingConfig())
    assert isinstance(task, Segmentation)
    moves = np.exp(task.transitions)  # 0→0 twice, 0→1 once, and one more of each
    assert moves[0] == pytest.approx([3 / 6, 2 / 6, 1 / 6])

    assert moves[1] == pytest.approx([1 / 3] * 3), "what is masked is no neighbour"
    said = np.array([[0.9, 0.05, 0.05], [0.4, 0.5, 0.1], [0.9, 0.05, 0.05]], dtype=np.float32)
    targets = timeline([NAN] * 3)
    assert task.decode_scores(targets, said).argmax(1).tolist() == [0, 0, 0]
    assert dataclasses.replace(task, decoding="argmax").decode_scores(targets, said) is said


def test_decoding_does_not_look_across_songs():
    task = dataclasses.replace(PLAIN, decoding="median", filter_width=3)
    targets, said = timeline([0, 0], [1, 1]), sure([0, 0, 1, 1])
    assert task.decode_scores(targets, said).argmax(1).tolist() == [0, 0, 1, 1]


def test_rare_classes_are_counted_by_songs():
    config = Config()
    targets = timeline([0, 1, 2, 2, 2, 2], [0, 1], [0, 1], [1, 0])
    settled = PLAIN.finalize_labels(targets, "kind", config)
    known = ~np.isnan(settled.targets[:, LABEL])
    assert known.tolist() == [True, True, *[False] * 4, *[True] * 6], "2 is in one song only"


@pytest.mark.parametrize("bag", ["attention", "noisy_or"])
@pytest.mark.parametrize("inner", ["multiclass", "binary"])
def test_weak_segments_share_in_their_songs_score(bag, inner):
    plain = PLAIN.base_task if inner == "multiclass" else make_task("binary")
    task = WeakSegmentation(plain, bag)
    targets = timeline([1, 1, 1], [0, 0])
    logits = torch.randn(5, task.outputs, requires_grad=True)
    said = task.finalize_logits(logits, torch.tensor([0, 0, 0, 1, 1]))
    scores = task.scores(said)
    sums = torch.stack([scores[:3].sum(0), scores[3:].sum(0)])
    assert ((sums > 0) & (sums <= 1 + 1e-5)).all()
    if inner == "multiclass":
        assert torch.allclose(sums.sum(1), torch.ones(2), atol=1e-4)
    cost = multiple_instance_loss(task.base_task, said, torch.from_numpy(targets))
    assert (cost != 0).tolist() == [True, False, False, True, False]
    label = torch.tensor([1, 0])
    right = sums[torch.arange(2), label] if inner == "multiclass" else torch.where(label == 1, sums, 1 - sums)
    assert torch.allclose(cost[[0, 3]], -right.log(), atol=1e-3)
    cost.sum().backward()
    assert logits.grad is not None
    assert torch.isfinite(logits.grad).all()
    label_of_songs, of_songs = task.pool_songs(targets, scores.detach().numpy())
    assert label_of_songs.tolist() == [1, 0]
    assert of_songs == pytest.approx(sums.detach().numpy())


@pytest.mark.parametrize("bag", ["attention", "noisy_or"])
def test_segments_of_a_song_that_is_yes_can_be_yes(bag):
    """Shares of many are all below a half: they are held against each other."""
    task = WeakSegmentation(make_task("binary"), bag)
    targets = timeline([1] * 8, [0] * 4, [1])
    logits = torch.full((13, task.outputs), 4.0)
    logits[6:8], logits[8:12] = -4.0, -4.0
    scores = task.scores(task.finalize_logits(logits, torch.tensor([0] * 8 + [1] * 4 + [2]))).numpy()
    said = task.decode_scores(targets, scores)
    assert task.decode_predictions(said)[8:] == [False] * 4 + [True]
    assert task.decode_predictions(said)[:8] == ([True] * 6 + [False] * 2)
    of_songs = (task.pool_songs(targets, values)[1] > 0.5 for values in (scores, said))
    assert [one.tolist() for one in of_songs] == [[True, False, True]] * 2, "what is said of songs stays"
    assert task.metric("accuracy", targets, said) == 1.0


def test_noisy_or_worked_by_hand():
    """P(song) = 1 - ∏ (1 - p) of its segments."""
    task = WeakSegmentation(make_task("binary"), "noisy_or")
    p = torch.tensor([0.2, 0.5])
    said = task.scores(task.finalize_logits(torch.logit(p)[:, None], torch.tensor([0, 0])))
    assert float(said.sum()) == pytest.approx(1 - 0.8 * 0.5, rel=1e-5)
    assert float(said[1] / said[0]) == pytest.approx(np.log(0.5) / np.log(0.8), rel=1e-4)


def test_labels_that_are_the_songs_own_are_weak():
    targets = timeline([0, 0, NAN], [1, 1], [0, 0], [1, 1], [0, 0], [1, 1])
    settled = PLAIN.finalize_labels(targets, "rebracketing_type", Config())
    assert isinstance(settled.task, WeakSegmentation)
    assert settled.task.pooling == "attention"
    assert "WEAK" in " ".join(settled.notes)
    assert settled.targets[2, LABEL] == 0, "a song's label holds for what is masked in it"
    config = Config()
    config.training.metric = "time_accuracy"
    with pytest.raises(InputError, match=r"training\.metric: time_accuracy .* use one of accuracy"):
        PLAIN.finalize_labels(targets, "rebracketing_type", config)
    numbers = Segmentation(make_task("regression"))
    with pytest.raises(InputError, match="one number a song"):
        numbers.finalize_labels(targets, "intensity", Config())


def test_few_songs_of_several_segments_do_not_make_labels_weak():
    targets = timeline([0, 0], *([label] for label in (1, 0, 1, 0, 1)))
    settled = PLAIN.finalize_labels(targets, "kind", Config())
    assert not settled.task.is_weakly_labeled


def test_each_side_is_decoded_by_what_its_own_training_side_teaches():
    task = dataclasses.replace(PLAIN, decoding="viterbi")
    targets = timeline([0, 0, 0, 0], [1, 0, 1, 0])
    said = np.tile(np.array([[0.6, 0.4, 0.0], [0.4, 0.6, 0.0]], dtype=np.float32), (4, 1))
    first, second = np.arange(4), np.arange(4, 8)
    sides = [(first, second), (second, first)]
    decoded = decode_folds(task, targets, sides, said)
    for train, val in sides:
        fitted = task.fit_decoding(targets[train])
        assert np.array_equal(decoded[val], fitted.decode_scores(targets[val], said[val]))
    waiting = said.copy()
    waiting[first] = NAN
    half = decode_folds(task, targets, sides, waiting)
    assert np.isnan(half[first]).all()
    assert np.array_equal(half[second], decoded[second])
    assert decode_folds(make_task("binary"), targets, sides, said) is said


def test_metrics_of_an_epoch_look_at_what_is_decoded():
    task = dataclasses.replace(PLAIN, decoding="median", filter_width=3)
    targets = timeline([0, 0, 0, 0, 0])
    said = np.array([[0.9, 0.1, 0.0]] * 2 + [[0.1, 0.9, 0.0]] + [[0.9, 0.1, 0.0]] * 2, dtype=np.float32)
    decoded, _ = measure_decoded(task, targets, said)
    assert decoded["accuracy"] == decoded["edit"] == 1.0
    assert task.metrics(targets, said)[0]["accuracy"] == 0.8
    assert measure_decoded(PLAIN, targets, said)[0]["accuracy"] == 0.8


def test_it_comes_back_from_a_file():
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
