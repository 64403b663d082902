"""Sequences of segments are distributed over steps, shards and micro-batches, never divided and about equally."""

from __future__ import annotations

import itertools

import numpy as np
import pyarrow as pa
import pytest
import torch

from rainbow_ray.data.batch import make_segment_times
from rainbow_ray.data.batching import divide_sequences, plan_sequences, shard_sequences
from rainbow_ray.model.device import ExecutionContext, Precision
from rainbow_ray.training import evaluator, feature_provider
from rainbow_ray.training.components import build_components
from rainbow_ray.utils.errors import TrainingError
from tests.helpers import data_of, fit_fold, plan_of
from tests.song_tables import segment_rows


def sequences_of(sizes):
    edges = np.concatenate([[0], np.cumsum(sizes)])
    return [np.arange(a, b) for a, b in itertools.pairwise(edges)]


@pytest.mark.parametrize("steps", [1, 7, 20, 40])
def test_an_epoch_has_each_sequence_once_and_no_empty_step(steps):
    sequences = sequences_of(np.random.default_rng(0).integers(1, 60, 40))
    planned = plan_sequences(sequences, steps, seed=1, epoch=3)
    assert len(planned) == steps
    assert all(len(step) for step in planned)
    assert sorted(sequence.tolist() for step in planned for sequence in step.sequences) == [
        sequence.tolist() for sequence in sequences
    ]
    repeated, next_epoch = (plan_sequences(sequences, steps, seed=1, epoch=epoch) for epoch in (3, 4))
    assert all(np.array_equal(a.indices, b.indices) for a, b in zip(planned, repeated, strict=True))
    assert steps == 40 or not all(
        np.array_equal(a.indices, b.indices) for a, b in zip(planned, next_epoch, strict=True)
    )


def test_steps_have_about_equally_many_examples():
    sequences = sequences_of(np.full(64, 10))
    assert {len(step) for step in plan_sequences(sequences, 16, seed=0, epoch=0)} == {40}


@pytest.mark.parametrize("workers", [1, 2, 3, 8])
def test_workers_divide_the_sequences_of_a_step(workers):
    sequences = sequences_of([5, 30, 2, 17, 9])
    shards = [shard_sequences(sequences, rank, workers) for rank in range(workers)]
    assert sorted(sequence.tolist() for shard in shards for sequence in shard.sequences) == [
        sequence.tolist() for sequence in sequences
    ]
    if workers == 2:
        assert abs(len(shards[0]) - len(shards[1])) <= 5


def test_micro_batches_are_filled_by_tokens_and_keep_sequences_whole():
    sizes = [4, 4, 4, 50, 1]
    sequences = sequences_of(sizes)
    lengths = np.repeat([10, 100, 12, 5, 11], sizes)
    batches = divide_sequences(sequences, lengths, max_examples=16, max_tokens=400)
    assert sorted(sequence.tolist() for batch in batches for sequence in batch.sequences) == [
        sequence.tolist() for sequence in sequences
    ]
    for batch in batches:
        assert len(batch.sequences) == 1 or (len(batch) <= 16 and lengths[batch.indices].max() * len(batch) <= 400)
    assert len(batches) == 3, "one of long lines, one of the others, one sequence that exceeds the limit"


@pytest.mark.parametrize("sizes", [[4, 4, 4], [2, 5, 1]])
def test_adjacent_sequences_stay_separate(sizes):
    """Adjacent sequences of one song cannot be distinguished by their indices."""
    sequences = sequences_of(sizes)
    (step,) = plan_sequences(sequences, 1, seed=0, epoch=0)
    shard = shard_sequences(step.sequences, 0, 1)
    (batch,) = divide_sequences(shard.sequences, np.ones(sum(sizes)), max_examples=99, max_tokens=None)
    assert sorted(map(len, batch.sequences)) == sorted(sizes)
    table = pa.table({name: np.arange(12.0) for name in ("start", "end", "relative_start", "relative_end", "position")})
    segment_times = make_segment_times(table, batch.indices, batch.sequence_ids)
    assert segment_times is not None
    assert torch.bincount(segment_times.sequence_ids).tolist() == [len(sequence) for sequence in batch.sequences]


@pytest.fixture
def segments(write_table, tiny_encoder):
    """Return a function that gives plan and data of songs of 24 segments, with lines of all lengths."""

    def make_segments(**keys):
        rows = segment_rows(segments=24, stems=1)
        line_lengths = np.random.default_rng(1).integers(1, 30, len(rows["song_id"]))
        rows["lyric_text"] = [f"{text} {'door ' * n}" for text, n in zip(rows["lyric_text"], line_lengths, strict=True)]
        path = write_table(rows, "segments.parquet")
        plan = plan_of("demo", tiny_encoder("bert"), phase=5, segments__path=str(path), data__folds=2,
                       training__epochs=1, training__min_steps=0, training__device="cpu", **keys)  # fmt: skip
        return plan, data_of(plan)

    return make_segments


def components_of(plan, data):
    task = data.task.fit(data.source.targets, plan.config.training)
    indices = np.arange(len(data.source))
    torch.manual_seed(0)
    execution = ExecutionContext(torch.device("cpu"), Precision(None))
    return build_components(plan.config, data.source, plan.input_spec, task, indices, execution)


def losses_of(components, batch):
    view = next(components.features.iter_views([batch]))
    return evaluator.forward_loss(components.model, components.features, components.task, view)[0]


@pytest.mark.parametrize(("max_length", "overlap"), [(1, 0.25), (2, 0.25), (8, 0.05), (9, 0.4)])
def test_scores_do_not_depend_on_the_other_sequences_of_a_batch(segments, monkeypatch, max_length, overlap):
    components = components_of(*segments(segments__max_sequence_length=max_length, segments__overlap=overlap))
    indices = np.arange(len(components.features.dataset))
    batched, _ = components.evaluator.score(indices)
    monkeypatch.setattr(feature_provider, "MAX_EVAL_TOKENS", 1)  # one sequence per batch
    one_per_batch, _ = components.evaluator.score(indices)
    assert np.isfinite(batched).all()
    assert batched == pytest.approx(one_per_batch, abs=1e-5)


def test_long_songs_are_trained_and_scored(segments, tmp_path):
    plan, data = segments(segments__max_sequence_length=5)
    val, fitted = fit_fold(plan, data, tmp_path / "fit")
    assert fitted.val_scores.shape[0] == len(val)
    assert fitted.val_scores.sum(axis=1) == pytest.approx(1.0, abs=1e-4)


def test_adjacent_sequences_have_no_boundary_loss_between_them(segments):
    """The loss of a step does not depend on how its sequences are divided into micro-batches."""
    components = components_of(*segments(segments__max_sequence_length=8))
    first, second = np.arange(8), np.arange(8, 16)
    (batch_of_both,) = plan_sequences([first, second], 1, seed=0, epoch=0)
    with torch.no_grad():
        components.model.eval()
        separate = [
            losses_of(components, *plan_sequences([sequence], 1, seed=0, epoch=0))
            for sequence in batch_of_both.sequences
        ]
        joint = losses_of(components, batch_of_both)
    assert torch.allclose(joint, torch.cat(separate), atol=1e-5)


def test_segments_without_a_score_raise_an_error(segments, monkeypatch):
    components = components_of(*segments(segments__max_sequence_length=8))
    sequence_index = components.features.dataset.sequence_index
    monkeypatch.setattr(type(sequence_index), "scoring_sequences", lambda self, song: [song[:8], song[8:16]])
    monkeypatch.setattr(type(sequence_index), "center_mask", lambda self, sequence: np.ones(len(sequence), dtype=bool))
    with pytest.raises(TrainingError, match="not finite"):
        components.evaluator.score(np.arange(len(components.features.dataset)))


def test_sequences_are_not_divided_when_memory_is_short(segments, monkeypatch):
    components = components_of(*segments(segments__max_sequence_length=8))
    indices = np.arange(len(components.features.dataset))
    expected, _ = components.evaluator.score(indices)
    forward_loss, max_examples = evaluator.forward_loss, [40]

    def limited_forward_loss(module, features, task, view, modalities=None):
        if len(view) > max_examples[0]:
            raise torch.OutOfMemoryError("out of memory")
        return forward_loss(module, features, task, view, modalities)

    monkeypatch.setattr(evaluator, "forward_loss", limited_forward_loss)
    assert components.evaluator.score(indices)[0] == pytest.approx(expected, abs=1e-5)
    max_examples[0] = 7
    with pytest.raises(TrainingError, match=r"segments\.max_sequence_length"):
        components.evaluator.score(indices)
