"""Which runs execute their fits in the process of the command, and the length of their refit."""

from __future__ import annotations

import dataclasses
import time

import numpy as np
import pytest
from rich.console import Console

from rainbow_ray.data.batching import fixed_training_schedule
from rainbow_ray.distributed.resources import RayResources
from rainbow_ray.runs.context import RunContext
from rainbow_ray.runs.fits import fits_in_process, fold_jobs, refit_job
from rainbow_ray.runs.run_dir import init_run_dir
from rainbow_ray.training.checkpoint import CheckpointManager
from rainbow_ray.training.cross_validation import refit_schedule
from rainbow_ray.utils.errors import TrainingError
from rainbow_ray.utils.stopwatch import Stopwatch
from tests.helpers import data_of, plan_of


@pytest.fixture
def make_run(songs_file, tmp_path):
    def make(*, gpus: int = 0, cpus: int = 2, **keys) -> RunContext:
        plan = plan_of(songs_file, **keys)
        resources, stopwatch = RayResources(cpus, gpus, None, node_cpus=cpus), Stopwatch(time.perf_counter())
        run_dir = init_run_dir(plan.config, tmp_path / "run")
        return RunContext(plan, data_of(plan), run_dir, resources, Console(quiet=True), stopwatch)

    return make


@pytest.fixture
def own_cluster(monkeypatch):
    monkeypatch.setattr("rainbow_ray.runs.fits.owns_cluster", lambda: True)


@pytest.mark.parametrize(
    ("expected", "keys"),
    [
        (True, {}),
        (False, {"gpus": 1}),
        (True, {"gpus": 1, "training__device": "cpu"}),
        (False, {"training__workers": 2}),
        (False, {"data__folds": 1}),
        (False, {"model__text_encoder__freeze_layers": 0}),
        (False, {"model__text_encoder__freeze_embeddings": False}),
        (False, {"training__epochs": 50_000}),
        (True, {"cpus": 1}),
        (False, {"cpus": 1, "training__epochs": 50_000}),
    ],
)
def test_short_fits_on_cpus_need_no_workers(own_cluster, make_run, expected, keys):
    assert fits_in_process(make_run(**keys)) == expected


def test_large_runs_do_not(own_cluster, make_run, monkeypatch):
    monkeypatch.setattr("rainbow_ray.training.schedule.MAX_EXAMPLES_IN_PROCESS", 3)
    assert not fits_in_process(make_run())


def test_a_cluster_that_was_joined_assigns_its_cpus(make_run):
    assert not fits_in_process(make_run())


def test_the_refit_takes_the_median_length_of_the_folds(make_run):
    run = make_run(data__folds=3)
    shared, folds = run.fit_context(), fold_jobs(run)
    job = refit_job(run, folds)
    with pytest.raises(TrainingError, match="without a result"):
        refit_schedule(shared, job)
    for fold, epoch in zip(folds, (2, 9, 4), strict=True):
        facts = {"best_epoch": epoch, "step_size": 8}
        CheckpointManager(fold.folder).save_result({"train": np.zeros(1), "val": np.zeros(1)}, facts)
    n_songs = len(run.data.source)
    assert refit_schedule(shared, job) == fixed_training_schedule(8, 4, n_songs)
    assert len(job.train) == n_songs
    assert job.fold is None
    one = dataclasses.replace(job, length_from=job.length_from[1:2])
    assert refit_schedule(shared, one).epochs == 9
