"""Epochs are divided into steps and steps into micro-batches completely, reproducibly and within limits."""

from __future__ import annotations

import numpy as np
import pytest

from rainbow_ray.config.schema import TrainingConfig
from rainbow_ray.data.batching import divide_batch, make_training_schedule, plan_batches
from rainbow_ray.data.sampling import resample_indices


@pytest.mark.parametrize("n", [1, 7, 34, 640, 5000])
@pytest.mark.parametrize("size", [1, 8, 32])
def test_each_example_occurs_once_per_epoch(n, size):
    lengths = np.random.default_rng(0).integers(5, 500, n)
    steps = plan_batches(lengths, batch_size=size, seed=1, epoch=0)
    assert sorted(np.concatenate(steps)) == list(range(n))
    assert len(steps) == -(-n // size)
    assert all(len(step) <= size for step in steps)


def test_the_order_depends_on_seed_and_epoch():
    lengths = np.arange(1, 101)
    first, repeated = (np.concatenate(plan_batches(lengths, batch_size=8, seed=1, epoch=0)) for _ in range(2))
    assert (first == repeated).all()
    assert (first != np.concatenate(plan_batches(lengths, batch_size=8, seed=1, epoch=1))).any()
    assert (first != np.concatenate(plan_batches(lengths, batch_size=8, seed=2, epoch=0))).any()


def test_many_steps_are_bucketed_by_length_and_few_are_random():
    rng = np.random.default_rng(0)

    def spread(n: int) -> float:
        lengths = rng.integers(10, 400, n)
        steps = plan_batches(lengths, batch_size=16, seed=0, epoch=0)
        return float(np.mean([np.ptp(lengths[step]) for step in steps]))

    assert spread(4096) < 0.5 * spread(160)


@pytest.mark.parametrize("seed", range(5))
def test_a_step_is_divided_completely_and_within_its_limits(seed):
    rng = np.random.default_rng(seed)
    lengths = rng.integers(5, 400, 100)
    step = rng.choice(100, 40, replace=False)
    batches = divide_batch(step, lengths, max_examples=16, max_tokens=1500, min_tokens=512)
    assert sorted(np.concatenate(batches)) == sorted(step)
    for batch in batches:
        assert len(batch) <= 16
        assert len(batch) == 1 or len(batch) * lengths[batch].max() <= 1500


def test_micro_batches_are_divided_to_save_padding():
    lengths = np.array([400, 390, 20, 20, 20, 20])
    indices = np.arange(6)
    batches = divide_batch(indices, lengths, max_examples=6, max_tokens=None, min_tokens=512)
    assert [len(batch) for batch in batches] == [2, 4]
    assert len(divide_batch(indices, lengths, max_examples=6, max_tokens=None, min_tokens=10**9)) == 1


@pytest.mark.parametrize(
    ("examples", "keys", "expected"),
    [
        (10_000, {}, (20, 32, 313)),
        (128, {}, (20, 8, 16)),
        (34, {}, (60, 8, 5)),
        (34, {"min_steps": 0}, (20, 32, 2)),
        (34, {"batch_size": 4}, (34, 4, 9)),
        (128, {"gradient_accumulation_steps": 2, "min_steps": 0}, (20, 64, 2)),
    ],
)
def test_fewer_examples_shrink_batches_then_grow_epochs(examples, keys, expected):
    config = TrainingConfig(**keys)
    schedule = make_training_schedule(config, examples)
    assert (schedule.epochs, schedule.global_batch_size, schedule.steps_per_epoch) == expected
    is_changed = (schedule.epochs, schedule.global_batch_size) != (
        config.epochs,
        config.batch_size * config.gradient_accumulation_steps,
    )
    assert bool(schedule.notes) == is_changed
    if is_changed:
        assert "training.min_steps" in schedule.notes[0]


def test_sampling_balances_classes():
    strata = np.array([0] * 10 + [1] * 3)
    oversampled = resample_indices(strata, "oversample", seed=0, epoch=0)
    assert np.bincount(strata[oversampled]).tolist() == [10, 10]
    assert set(oversampled) == set(range(13))
    undersampled = resample_indices(strata, "undersample", seed=0, epoch=0)
    assert np.bincount(strata[undersampled]).tolist() == [3, 3]
    assert len(set(undersampled)) == 6
    samples = {tuple(resample_indices(strata, "undersample", seed=0, epoch=epoch)) for epoch in range(8)}
    assert len(samples) > 1
    assert resample_indices(strata, "none", seed=0, epoch=3).tolist() == list(range(13))
