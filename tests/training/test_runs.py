"""Runs of neighbours as steps, shares and micro-batches: whole, all of them, and about as large as each other."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from rainbow_ray.training.batches import divide_runs, plan_runs, share_runs


def runs_of(sizes):
    edges = np.concatenate([[0], np.cumsum(sizes)])
    return [np.arange(a, b) for a, b in itertools.pairwise(edges)]


@pytest.mark.parametrize("steps", [1, 7, 20, 40])
def test_an_epoch_has_each_run_once_whole_and_no_empty_step(steps):
    runs = runs_of(np.random.default_rng(0).integers(1, 60, 40))
    planned = plan_runs(runs, steps, seed=1, epoch=3)
    assert len(planned) == steps
    assert all(len(step) for step in planned)
    assert sorted(np.concatenate(planned).tolist()) == list(range(sum(map(len, runs))))
    at = {int(i): k for k, step in enumerate(planned) for i in step}
    assert all(len({at[int(i)] for i in run}) == 1 for run in runs), "a run is in one step"
    again = plan_runs(runs, steps, seed=1, epoch=3)
    assert all(np.array_equal(a, b) for a, b in zip(planned, again, strict=True))
    assert steps == 40 or not all(
        np.array_equal(a, b) for a, b in zip(planned, plan_runs(runs, steps, seed=1, epoch=4), strict=True)
    )


def test_steps_are_about_as_large_as_each_other():
    runs = runs_of(np.full(64, 10))
    assert {len(step) for step in plan_runs(runs, 16, seed=0, epoch=0)} == {40}


@pytest.mark.parametrize("workers", [1, 2, 3, 8])
def test_workers_share_a_steps_runs(workers):
    runs = runs_of([5, 30, 2, 17, 9])
    shares = [share_runs(runs, rank, workers) for rank in range(workers)]
    assert sorted(np.concatenate(shares).tolist()) == list(range(63))
    if workers == 2:
        assert abs(len(shares[0]) - len(shares[1])) <= 5


def test_micro_batches_are_filled_by_tokens_and_keep_runs_whole():
    sizes = [4, 4, 4, 50, 1]
    runs = runs_of(sizes)
    lengths = np.repeat([10, 100, 12, 5, 11], sizes)
    batches = divide_runs(runs, lengths, max_examples=16, max_tokens=400)
    assert sorted(np.concatenate(batches).tolist()) == list(range(63))
    for batch in batches:
        owners = {next(k for k, run in enumerate(runs) if i in run) for i in batch}
        assert sorted(batch.tolist()) == sorted(np.concatenate([runs[k] for k in owners]).tolist())
        assert len(owners) == 1 or (len(batch) <= 16 and lengths[batch].max() * len(batch) <= 400)
    assert len(batches) == 3, "one of long lines, one of the others, one run that is more alone"
