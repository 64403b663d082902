"""Epochs are divided into steps and steps into micro-batches completely, reproducibly and within limits."""

from __future__ import annotations

import numpy as np
import pytest

from rainbow_ray.config.schema import TrainingConfig
from rainbow_ray.data.batching import (
    FEWEST_PASSES,
    PASS_OVERHEAD_TOKENS,
    divide_batch,
    learning_rate_factor,
    make_training_schedule,
    plan_batches,
    requested_step_size,
)
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


def correlated_songs(n: int) -> tuple[np.ndarray, np.ndarray]:
    """Return lengths and labels of songs; those of the second class have longer texts."""
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 2, n)
    return np.clip(rng.lognormal(4.4 + 0.5 * labels, 0.5), 5, 256).astype(np.int64), labels


@pytest.mark.parametrize("n", [160, 4096])
@pytest.mark.parametrize("device", sorted(PASS_OVERHEAD_TOKENS))
def test_steps_hold_texts_of_similar_length_and_all_labels(n, device):
    lengths, labels = correlated_songs(n)
    padded, share_of_label = 0, []
    for step in plan_batches(lengths, batch_size=8, seed=0, epoch=0, strata=labels):
        share_of_label.append(labels[step].mean())
        micro_batches = divide_batch(
            step, lengths, max_examples=8, max_tokens=None, overhead_tokens=PASS_OVERHEAD_TOKENS[device]
        )
        padded += sum(len(batch) * lengths[batch].max() for batch in micro_batches)
    # a label that is correlated with length costs padding on a device where a further pass takes longer
    assert padded / lengths.sum() < (1.15 if device == "cpu" else 1.45)
    assert max(share_of_label) < 1
    assert min(share_of_label) > 0
    assert np.std(share_of_label) < 0.6 * np.sqrt(0.25 / 8)  # of labels drawn at random


@pytest.mark.parametrize("device", sorted(PASS_OVERHEAD_TOKENS))
def test_padding_is_small_with_few_songs(device):
    lengths = np.clip(np.random.default_rng(1).normal(78, 25, 160), 28, 143).astype(np.int64)  # as the demo's
    labels = np.random.default_rng(2).integers(0, 2, 160)
    limits = {"max_examples": 8, "max_tokens": None, "overhead_tokens": PASS_OVERHEAD_TOKENS[device]}
    steps = plan_batches(lengths, batch_size=8, seed=0, epoch=0, strata=labels)
    micro_batches = [batch for step in steps for batch in divide_batch(step, lengths, **limits)]
    assert sum(len(batch) * lengths[batch].max() for batch in micro_batches) / lengths.sum() <= 1.15


def test_an_epoch_without_examples_has_no_steps():
    assert plan_batches(np.zeros(0, dtype=np.int64), batch_size=8, seed=0, epoch=0) == []


def test_steps_are_random_where_length_does_not_matter():
    lengths, _ = correlated_songs(640)
    steps = plan_batches(lengths, batch_size=16, seed=0, epoch=0)
    assert np.mean([np.ptp(lengths[step]) for step in steps]) > 0.6 * np.ptp(lengths)


@pytest.mark.parametrize("seed", range(5))
def test_a_step_is_divided_completely_and_within_its_limits(seed):
    rng = np.random.default_rng(seed)
    lengths = rng.integers(5, 400, 100)
    step = rng.choice(100, 40, replace=False)
    batches = divide_batch(step, lengths, max_examples=16, max_tokens=1500, overhead_tokens=64)
    assert sorted(np.concatenate(batches)) == sorted(step)
    for batch in batches:
        assert len(batch) <= 16
        assert len(batch) == 1 or len(batch) * lengths[batch].max() <= 1500


@pytest.mark.parametrize("seed", range(5))
def test_the_division_takes_the_least_time(seed):
    rng = np.random.default_rng(seed)
    lengths = rng.integers(5, 200, 9)

    def padded(batches: list[np.ndarray]) -> int:
        return sum(len(batch) * int(lengths[batch].max()) + 64 for batch in batches)

    order = np.argsort(-lengths)
    cuts = [[i for i in range(1, 9) if bits >> i & 1] for bits in range(0, 2**9, 2)]
    allowed = [
        parts for parts in (np.split(order, cut) for cut in cuts)
        if all(len(part) == 1 or (len(part) <= 4 and len(part) * lengths[part].max() <= 500) for part in parts)
    ]  # fmt: skip
    best = min(map(padded, allowed))
    assert padded(divide_batch(np.arange(9), lengths, max_examples=4, max_tokens=500, overhead_tokens=64)) == best


def test_micro_batches_are_divided_to_save_padding():
    lengths = np.array([400, 390, 20, 20, 20, 20])
    indices = np.arange(6)
    batches = divide_batch(indices, lengths, max_examples=6, max_tokens=None, overhead_tokens=64)
    assert [len(batch) for batch in batches] == [2, 4]
    assert len(divide_batch(indices, lengths, max_examples=6, max_tokens=None, overhead_tokens=FEWEST_PASSES)) == 1


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


@pytest.mark.parametrize(
    ("examples", "tokens", "keys", "expected"),
    [
        (10_000, 100.0, {}, (20, 64, 157)),  # 128 examples would leave 1,580 steps
        (100_000, 100.0, {}, (20, 256, 391)),  # 328 songs have 32,768 tokens
        (100_000, 128.0, {}, (20, 256, 391)),
        (100_000, 250.0, {}, (20, 128, 782)),
        (100_000, 100.0, {"step_tokens": 0}, (20, 32, 3125)),
        (100_000, 100.0, {"step_tokens": 6400}, (20, 64, 1563)),
        (100_000, 100.0, {"gradient_accumulation_steps": 4}, (20, 256, 391)),
        (100_000, 100.0, {"min_steps": 20_000}, (20, 64, 1563)),
        (100_000, None, {}, (20, 32, 3125)),
        (3_000, 100.0, {}, (20, 32, 94)),
    ],
)
def test_many_examples_make_steps_grow(examples, tokens, keys, expected):
    config = TrainingConfig(**keys)
    schedule = make_training_schedule(config, examples, mean_tokens=tokens)
    assert (schedule.epochs, schedule.global_batch_size, schedule.steps_per_epoch) == expected
    is_grown = schedule.global_batch_size > requested_step_size(config)
    assert is_grown == any("training.step_tokens: steps are increased" in note for note in schedule.notes)
    factor = learning_rate_factor(config, schedule.global_batch_size)
    assert factor == pytest.approx((schedule.global_batch_size / requested_step_size(config)) ** 0.5)
    assert learning_rate_factor(config, 8) == 1


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
