"""Fits in the process of the command, by the local mode of a TorchTrainer."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from rainbow_ray.distributed.process_group import ProcessGroup
from rainbow_ray.training import cross_validation
from rainbow_ray.training.checkpoint import METRICS, CheckpointManager
from rainbow_ray.training.cross_validation import FitContext, FitJob
from rainbow_ray.training.distributed_training import run_in_process
from rainbow_ray.training.loggers import LogForwarder
from rainbow_ray.utils.errors import InputError, TrainingError
from tests.helpers import data_of, fit_fold, plan_of

QUICK = {"training__min_steps": 0, "training__epochs": 2}


@pytest.fixture
def songs(songs_file, tiny_encoder):
    plan = plan_of(songs_file, tiny_encoder("bert"), **QUICK)
    return plan, data_of(plan)


@pytest.fixture
def context(songs) -> FitContext:
    plan, data = songs
    return FitContext(plan.config, data.source, data.task, plan.input_spec, data.split.split_by)


@pytest.fixture
def jobs(songs, tmp_path) -> list[FitJob]:
    sides = [songs[1].split.train_val_indices(fold) for fold in (0, 1)]
    return [FitJob(fold, train, val, tmp_path / f"fold-{fold}") for fold, (train, val) in enumerate(sides)]


def test_fits_have_the_results_of_any_other_process_and_forward_their_records(songs, context, jobs, tmp_path):
    n_threads = torch.get_num_threads()
    records: list[dict[str, Any]] = []
    ended: list[int | None] = []
    forwarder = LogForwarder([job.folder / METRICS for job in jobs], [records.append], ended.append)
    results = run_in_process(context, jobs, 1, forwarder)
    assert torch.get_num_threads() == n_threads
    assert ended == [0, 1]
    assert {record["fold"] for record in records} == {0, 1}
    _, expected = fit_fold(songs[0], songs[1], tmp_path / "alone", fold=1)
    np.testing.assert_array_equal(results[1].val_scores, expected.val_scores)


def test_finished_fits_are_not_run_again(context, jobs, monkeypatch):
    run_in_process(context, jobs[:1], 1, LogForwarder([], []))
    started = []

    def run(context: FitContext, job: FitJob, group: ProcessGroup) -> None:
        started.append(job.fold)
        CheckpointManager(job.folder).save_result({"train": np.zeros(1), "val": np.zeros(1)}, {})

    monkeypatch.setattr(cross_validation, "run_job", run)
    results = run_in_process(context, jobs, 1, LogForwarder([], []))
    assert started == [1]
    assert [result.job.fold for result in results] == [0, 1]


@pytest.mark.parametrize(
    ("error", "expected", "message"),
    [
        (InputError("column of songs"), InputError, "column of songs"),
        (torch.OutOfMemoryError("CUDA out of memory"), TrainingError, "out of memory: one song"),
        (ZeroDivisionError("a defect"), ZeroDivisionError, "a defect"),
        (KeyboardInterrupt("stopped"), KeyboardInterrupt, "stopped"),
    ],
)
def test_errors_of_fits_are_raised_as_themselves(context, jobs, monkeypatch, error, expected, message):
    n_threads = torch.get_num_threads()

    def fail(*arguments):
        raise error

    monkeypatch.setattr(cross_validation, "run_job", fail)
    with pytest.raises(expected, match=message):
        run_in_process(context, jobs, 1, LogForwarder([], []))
    assert torch.get_num_threads() == n_threads
