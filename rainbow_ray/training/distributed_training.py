"""Fits that Ray Train's TorchTrainer executes: in workers that share each fit, or in the process of the command."""

from __future__ import annotations

import contextlib
import os
import shutil
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from rainbow_ray.distributed.ray_cluster import owns_cluster
from rainbow_ray.distributed.resources import WorkerResources
from rainbow_ray.training.cross_validation import (
    RESTARTS,
    FitContext,
    FitJob,
    FitResult,
    is_pending,
    read_result,
)
from rainbow_ray.training.fit_errors import user_facing_error
from rainbow_ray.training.loggers import LogForwarder
from rainbow_ray.training.train_worker import train_in_process, train_worker
from rainbow_ray.utils.errors import TrainingError, first_line

TORCHRUN_VARIABLE = "LOCAL_WORLD_SIZE"  # one of those that a TorchTrainer looks for
CLEANER = "PlacementGroupCleanerCallback"  # of Train, which exports neither it nor the list that it is in


def run_distributed(
    context: FitContext, jobs: list[FitJob], workers: WorkerResources, forwarder: LogForwarder
) -> list[FitResult]:
    """Run fits one after the other, each shared by all workers of a TorchTrainer. Finished fits are not run again.

    When a worker dies, all workers restart from the checkpoint; an elastic trainer continues with those that are left.

    Args:
        context: What all fits share.
        jobs: The fits.
        workers: Number and resources of the workers.
        forwarder: Forwards metrics while the fits run.

    Returns:
        The results in the order of `jobs`.

    Raises:
        TrainingError: A fit failed, or its workers died repeatedly.
        InputError: The input of a fit is wrong.
    """
    pending = [job for job in jobs if is_pending(job)]
    if pending:
        storage = pending[0].folder.resolve().parent / "ray"
        trainer = _make_trainer(context, pending, workers, storage)
        with forwarder.follow():
            _fit_trainer(trainer, _max_deaths(pending))
        shutil.rmtree(storage, ignore_errors=True)
    else:
        forwarder.poll()
    return [read_result(job) for job in jobs]


def run_in_process(context: FitContext, jobs: list[FitJob], n_threads: int, forwarder: LogForwarder) -> list[FitResult]:
    """Run fits one after the other in this process, by the local mode of a TorchTrainer, which starts no workers.

    The process of a worker takes longer to start than short fits take to run. Finished fits are not run again.

    Args:
        context: What all fits share.
        jobs: The fits.
        n_threads: Number of threads of PyTorch.
        forwarder: Forwards metrics while the fits run.

    Returns:
        The results in the order of `jobs`.

    Raises:
        TrainingError: A fit failed.
        InputError: The input of a fit is wrong.
    """
    from ray.train import RunConfig, ScalingConfig
    from ray.train.torch import TorchTrainer

    pending = [job for job in jobs if is_pending(job)]
    if pending:
        storage = pending[0].folder.resolve().parent / "ray"
        shutil.rmtree(storage, ignore_errors=True)  # of a start in a cluster, which did not end
        trainer = TorchTrainer(
            train_in_process,
            train_loop_config={"work": (context, pending), "threads": n_threads},
            scaling_config=ScalingConfig(num_workers=0),
            run_config=RunConfig(name=pending[0].folder.name, storage_path=str(storage)),
        )
        with forwarder.follow(), _without_torchrun():
            try:
                trainer.fit()
            except Exception as error:
                translated = user_facing_error(error)
                if translated is None or translated is error:
                    raise
                raise translated from error
    else:
        forwarder.poll()
    return [read_result(job) for job in jobs]


@contextlib.contextmanager
def _without_torchrun() -> Iterator[None]:
    """Hide a variable of `torchrun`, for whose other processes the local mode of a TorchTrainer would wait."""
    value = os.environ.pop(TORCHRUN_VARIABLE, None)
    try:
        yield
    finally:
        if value is not None:
            os.environ[TORCHRUN_VARIABLE] = value


def _make_trainer(context: FitContext, jobs: list[FitJob], workers: WorkerResources, storage: Path) -> Any:
    import ray
    from ray.train import FailureConfig, RunConfig, ScalingConfig
    from ray.train.torch import TorchConfig, TorchTrainer

    is_elastic = workers.min_workers != workers.max_workers
    trainer = TorchTrainer(
        train_worker,
        # behind a reference, so that Train's other processes need not import the types of these objects
        train_loop_config={"work": ray.put((context, jobs)), "threads": workers.threads},
        torch_config=TorchConfig(backend="nccl" if workers.use_gpu else "gloo"),
        scaling_config=ScalingConfig(
            num_workers=(workers.min_workers, workers.max_workers) if is_elastic else workers.min_workers,
            use_gpu=workers.use_gpu,
            resources_per_worker={"CPU": workers.cpus, **({"GPU": 1} if workers.use_gpu else {})},
        ),
        run_config=RunConfig(
            # a new name for each start, because Train would silently continue from the state of an earlier start
            name=f"{jobs[0].folder.name}-{time.time_ns()}",
            storage_path=str(storage),
            failure_config=FailureConfig(max_failures=_max_deaths(jobs)),
        ),
    )
    # Train's own handler of SIGINT ends the process with exit code 0; ours raises, and Ray is then shut down
    trainer._register_sigint_handler = lambda controller: None  # noqa: ARG005
    return _without_cleaner(trainer) if owns_cluster() else trainer


def _max_deaths(jobs: list[FitJob]) -> int:
    """Return how many times the workers may die: Train counts all fits together, and each may have bad luck once."""
    return RESTARTS + len(jobs) - 1


def _without_cleaner(trainer: Any) -> Any:
    """Keep a trainer from starting the actor that frees the resources of a controller that was killed.

    Ray that a command has started for itself ends with the command, and a process takes two seconds to start.
    """
    make_callbacks = getattr(trainer, "_create_default_callbacks", None)
    if make_callbacks is not None:
        trainer._create_default_callbacks = lambda: [
            callback for callback in make_callbacks() if type(callback).__name__ != CLEANER
        ]
    return trainer


def _fit_trainer(trainer: Any, max_deaths: int) -> None:
    """Run a TorchTrainer and raise the error of its workers, if any, as one for the user."""
    from ray.exceptions import RayActorError
    from ray.train import TrainingFailedError

    try:
        returned_error = trainer.fit().return_value
    except TrainingFailedError as error:
        failures = list(getattr(error, "worker_failures", {}).values())
        if failures and all(isinstance(failure, RayActorError) for failure in failures):
            raise TrainingError(
                f"workers died {max_deaths + 1} times ({first_line(failures[0])}); continue with --resume"
            ) from error
        translated = next(filter(None, map(user_facing_error, failures)), None)
        if translated is not None:
            raise translated from error
        raise
    if returned_error is not None:
        raise returned_error
