"""Where fits run: folds side by side in warm actors, and single fits (the refit, `--folds 1`) in a TorchTrainer."""

from __future__ import annotations

import contextlib
import shutil
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from rainbow_ray.config import Config
from rainbow_ray.data.examples import Examples
from rainbow_ray.errors import InputError, TrainingError
from rainbow_ray.problems import Problem
from rainbow_ray.runtime import Cluster
from rainbow_ray.training.batches import Length
from rainbow_ray.training.checkpoint import Checkpoints
from rainbow_ray.training.reporters import JsonLines, Mirror

POLL_SECONDS = 0.3

T = TypeVar("T")


@dataclass(frozen=True)
class Job:
    """One fit to run, in a folder of its own. `fold` is null for the refit, which has nothing to score."""

    fold: int | None
    train: np.ndarray
    val: np.ndarray
    folder: Path
    length: Length | None = None


@dataclass(frozen=True)
class Outcome:
    """What came out of a job: scores of both its sides, and the facts that the summary tells."""

    job: Job
    train_scores: np.ndarray
    val_scores: np.ndarray
    facts: dict[str, Any]


@dataclass(frozen=True)
class Shared:
    """What all fits of a run have in common: put once into Ray's object store."""

    config: Config
    examples: Examples
    problem: Problem
    encoder: str
    by: str


def run_folds(
    shared: Shared, jobs: list[Job], cluster: Cluster, mirror: Mirror, beside: Callable[[Shared], T]
) -> tuple[list[Outcome], T]:
    """Run jobs side by side, each in an actor that has read data and encoder once; finished ones are not run again.

    `beside` is one more piece of work over the same data (the baselines), done by the first actor that is free.
    """
    import ray
    from ray.util import ActorPool

    waiting = [job for job in jobs if _is_waiting(job)]
    side_by_side, resources = cluster.slots(len(waiting) + 1)
    common = ray.put(shared)
    worker = ray.remote(**resources)(_FoldWorker)
    actors = [worker.remote(common) for _ in range(side_by_side)]
    pool = ActorPool(actors)
    with _following(mirror):
        for job in waiting:
            pool.submit(lambda actor, job: actor.run.remote(job), job)
        pool.submit(lambda actor, work: actor.call.remote(work), beside)
        results = []
        while pool.has_next():
            try:
                results.append(pool.get_next_unordered())
            except ray.exceptions.RayTaskError as error:
                if isinstance(error.cause, TrainingError | InputError):
                    raise error.cause from error
                raise
    for actor in actors:
        ray.kill(actor)
    (extra,) = [result for result in results if result is not None]
    return [_finished(job) for job in jobs], extra


def run_alone(shared: Shared, job: Job, cluster: Cluster, mirror: Mirror) -> Outcome:
    """Run one job in a TorchTrainer's worker."""
    import ray
    from ray.train import RunConfig, ScalingConfig
    from ray.train.torch import TorchTrainer

    if _is_waiting(job):
        storage = job.folder.resolve() / "ray"
        trainer = TorchTrainer(
            _train_worker,
            train_loop_config={"shared": ray.put(shared), "job": job},
            scaling_config=ScalingConfig(
                num_workers=1,
                use_gpu=cluster.gpus > 0,
                resources_per_worker={"CPU": cluster.node_cpus, **({"GPU": 1} if cluster.gpus else {})},
            ),
            # a name of its own for each start: Train would otherwise silently take up an earlier one's state
            run_config=RunConfig(name=f"{job.folder.name}-{time.time_ns()}", storage_path=str(storage)),
        )
        with _following(mirror):
            _fit(trainer)
        shutil.rmtree(storage, ignore_errors=True)
    else:
        mirror.poll()
    return _finished(job)


class _FoldWorker:
    """An actor: it reads the shared data once and keeps the encoder warm between folds."""

    def __init__(self, shared: Shared) -> None:
        self.shared = shared

    def run(self, job: Job) -> None:
        _run_job(self.shared, job)

    def call(self, work: Callable[[Shared], Any]) -> Any:
        return work(self.shared)


def _train_worker(arguments: dict[str, Any]) -> None:
    """What a TorchTrainer's worker runs."""
    import ray
    import ray.train

    _run_job(ray.get(arguments["shared"]), arguments["job"])
    ray.train.report({"finished": 1})


def _is_waiting(job: Job) -> bool:
    """Whether a job has to run; what it logged after its last checkpoint is forgotten before anyone reads it."""
    state = Checkpoints(job.folder)
    if state.load_result() is not None:
        return False
    _cut_back(state)
    return True


def _cut_back(state: Checkpoints) -> JsonLines:
    reporter = JsonLines(state.metrics)
    last = state.load("last")
    reporter.cut_back(last["progress"]["epoch"] if last else 0)
    return reporter


def _run_job(shared: Shared, job: Job) -> None:
    from rainbow_ray.training.loop import FitData, fit

    state = Checkpoints(job.folder)
    state.clear_debris()
    reporter = _cut_back(state)
    data = FitData(
        examples=shared.examples,
        train=job.train,
        val=job.val,
        problem=shared.problem,
        encoder=shared.encoder,
        fold=job.fold,
        by=shared.by,
        length=job.length,
    )
    fitted = fit(shared.config, data, reporter, state)
    state.save_result({"train": fitted.train_scores, "val": fitted.val_scores}, fitted.facts)


def _finished(job: Job) -> Outcome:
    result = Checkpoints(job.folder).load_result()
    if result is None:
        raise TrainingError(f"{job.folder}: the fit ended without a result")
    arrays, facts = result
    return Outcome(job, arrays["train"], arrays["val"], facts)


def _fit(trainer: Any) -> None:
    """Run a trainer; an error of ours inside a worker comes out as itself."""
    from ray.train import TrainingFailedError

    try:
        trainer.fit()
    except TrainingFailedError as error:
        for inner in getattr(error, "worker_failures", {}).values():
            cause = getattr(inner, "cause", inner)
            if isinstance(cause, TrainingError | InputError):
                raise cause from error
        raise


@contextlib.contextmanager
def _following(mirror: Mirror) -> Iterator[None]:
    """Copy new records on while the fits run."""
    done = threading.Event()

    def follow() -> None:
        while not done.wait(POLL_SECONDS):
            mirror.poll()

    thread = threading.Thread(target=follow, name="mirror", daemon=True)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()
        mirror.poll()
