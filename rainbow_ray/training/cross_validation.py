"""Where fits run: folds side by side in warm actors; what several workers share, or streams, in a TorchTrainer."""

from __future__ import annotations

import contextlib
import functools
import shutil
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from rainbow_ray.config.schema import Config
from rainbow_ray.data.batching import TrainingSchedule
from rainbow_ray.data.dataset import Dataset
from rainbow_ray.distributed.actor_pool import ActorLostError, Piece, run_with_retries
from rainbow_ray.distributed.process_group import ProcessGroup
from rainbow_ray.distributed.ray_errors import causes_of, user_error
from rainbow_ray.distributed.resources import RayResources, WorkerResources
from rainbow_ray.modalities.spec import InputSpec
from rainbow_ray.model.device import OUT_OF_MEMORY_ADVICE, is_out_of_memory
from rainbow_ray.tasks.base import Task
from rainbow_ray.tasks.scores import empty_scores
from rainbow_ray.training.checkpoint import CheckpointManager
from rainbow_ray.training.loggers import JsonLinesLogger, LogForwarder, MetricLogger, NullLogger
from rainbow_ray.utils.errors import InputError, TrainingError, first_line

POLL_SECONDS = 0.3
RESTARTS = 3  # of a worker that dies; what kills it more often kills it always

T = TypeVar("T")


@dataclass(frozen=True)
class FitJob:
    """One fit to run, in a folder of its own. `fold` is null for the refit, which has nothing to score."""

    fold: int | None
    train: np.ndarray
    val: np.ndarray
    folder: Path
    schedule: TrainingSchedule | None = None
    config: Config | None = None  # in place of the one that all share


@dataclass(frozen=True)
class FitResult:
    """What came out of a job: scores of both its sides, and the facts that the summary tells."""

    job: FitJob
    train_scores: np.ndarray
    val_scores: np.ndarray
    facts: dict[str, Any]
    subset_scores: dict[str, np.ndarray] = field(default_factory=dict)  # of the scored side, by modalities read


@dataclass(frozen=True)
class FitContext:
    """What all fits of a run have in common: put once into Ray's object store."""

    config: Config
    dataset: Dataset
    task: Task
    input_spec: InputSpec
    split_by: str
    frozen_cache: Path | None = None  # folder of the frozen-feature cache


def run_folds(
    shared: FitContext,
    jobs: list[FitJob],
    cluster: RayResources,
    mirror: LogForwarder,
    beside: Callable[[FitContext], T],
) -> tuple[list[FitResult], T]:
    """Run jobs side by side, each in an actor that has read data and encoder once; finished ones are not run again.

    `beside` is one more piece of work over the same data (the baselines), done by the first actor that is free. An
    actor that dies is started again, and its job goes on from its checkpoint, there or in another actor.
    """
    import ray

    waiting = [job for job in jobs if _is_waiting(job)]
    side_by_side, resources = cluster.allocate_fits(len(waiting) + 1)
    common = ray.put(shared)
    worker = ray.remote(**resources, max_restarts=RESTARTS)(_FoldWorker)
    actors = [worker.remote() for _ in range(side_by_side)]
    pieces: list[Piece] = [lambda actor, job=job: actor.run.remote([common], job) for job in waiting]  # type: ignore[misc]
    pieces.append(lambda actor: actor.call.remote([common], beside))
    with _following(mirror):
        try:
            *_, extra = run_with_retries(actors, pieces, tries=RESTARTS)
        except ray.exceptions.RayTaskError as error:
            known = user_facing_error(error)
            if known is None:
                raise
            raise known from error
        except ActorLostError as error:
            raise TrainingError(f"a worker died {RESTARTS + 1} times ({first_line(error)}); go on with"
                                " --resume") from error  # fmt: skip
    for actor in actors:
        ray.kill(actor)
    return [read_result(job) for job in jobs], extra


def run_distributed(
    shared: FitContext, jobs: list[FitJob], workers: WorkerResources, mirror: LogForwarder
) -> list[FitResult]:
    """Run jobs one after the other, each shared by all workers of one TorchTrainer; finished ones are not run again.

    When a worker dies, all start again from the checkpoint; elastic ones go on with those that are left.
    """
    import ray
    from ray.train import FailureConfig, RunConfig, ScalingConfig
    from ray.train.torch import TorchConfig, TorchTrainer

    waiting = [job for job in jobs if _is_waiting(job)]
    if waiting:
        storage = waiting[0].folder.resolve().parent / "ray"
        trainer = TorchTrainer(
            _train_worker,
            train_loop_config={"shared": ray.put(shared), "jobs": waiting, "threads": workers.threads},
            torch_config=TorchConfig(backend="nccl" if workers.use_gpu else "gloo"),
            scaling_config=ScalingConfig(
                num_workers=workers.min_workers
                if workers.min_workers == workers.max_workers
                else (workers.min_workers, workers.max_workers),
                use_gpu=workers.use_gpu,
                resources_per_worker={"CPU": workers.cpus, **({"GPU": 1} if workers.use_gpu else {})},
            ),
            # a name of its own for each start: Train would otherwise silently take up an earlier one's state
            run_config=RunConfig(
                name=f"{waiting[0].folder.name}-{time.time_ns()}",
                storage_path=str(storage),
                failure_config=FailureConfig(max_failures=RESTARTS),
            ),
        )
        # Train's own handler of SIGINT ends the process with exit code 0; ours raises, and Ray is then shut down
        trainer._register_sigint_handler = lambda controller: None  # noqa: ARG005
        with _following(mirror):
            _fit(trainer)
        shutil.rmtree(storage, ignore_errors=True)
    else:
        mirror.poll()
    return [read_result(job) for job in jobs]


class _FoldWorker:
    """An actor: it reads the shared data once and keeps the encoder warm between folds.

    `common` comes with each call rather than once: Ray starts an actor anew without what its constructor was given.
    """

    def __init__(self) -> None:
        self.shared: FitContext | None = None

    def ready(self) -> None:
        """Answers when the actor is there."""

    def run(self, common: list[Any], job: FitJob) -> None:
        run_job(self._take(common), job, ProcessGroup())

    def call(self, common: list[Any], work: Callable[[FitContext], Any]) -> Any:
        return work(self._take(common))

    def _take(self, common: list[Any]) -> FitContext:
        import ray

        if self.shared is None:
            self.shared = ray.get(common[0])  # in a list, where Ray leaves the fetching to us
        return self.shared


def _train_worker(arguments: dict[str, Any]) -> TrainingError | InputError | None:
    """What each of a TorchTrainer's workers runs.

    An error that we understand is given back rather than raised: all workers meet it in the same step, and Train would
    start them again to meet it once more.
    """
    import ray
    import ray.train
    import ray.train.torch
    import torch

    context = ray.train.get_context()
    torch.set_num_threads(arguments["threads"])
    # parameters that a cut encoder leaves unused get no gradient; buffers are the same on all workers from the start
    options = {"find_unused_parameters": True, "broadcast_buffers": False}
    prepare = functools.partial(ray.train.torch.prepare_model, move_to_device=False, parallel_strategy_kwargs=options)
    process_group = ProcessGroup(context.get_world_rank(), context.get_world_size(), prepare)
    shared = ray.get(arguments["shared"])
    try:
        for job in arguments["jobs"]:
            if CheckpointManager(job.folder).load_result() is None:
                run_job(shared, job, process_group)
    except Exception as error:
        known = user_error(error)  # wrapped, where it comes from tasks that read songs for this worker
        if known is None:
            raise
        return known
    return None


def _is_waiting(job: FitJob) -> bool:
    """Whether a job has to run; what it logged after its last checkpoint is forgotten before anyone reads it."""
    state = CheckpointManager(job.folder)
    if state.load_result() is not None:
        return False
    last, _ = state.load_latest()
    JsonLinesLogger(state.metrics).truncate_after(last["progress"]["step"] if last else -1)
    return True


def run_job(
    shared: FitContext,
    job: FitJob,
    process_group: ProcessGroup,
    on_validation: Callable[[float, np.ndarray], None] | None = None,
) -> None:
    """Run one job in this process, from its checkpoint if it has one, and keep its result."""
    from rainbow_ray.model.frozen_cache import MB, FrozenFeatureCache
    from rainbow_ray.training.fit_data import FitData
    from rainbow_ray.training.trainer import fit

    state = CheckpointManager(job.folder)
    reporter: MetricLogger = JsonLinesLogger(state.metrics) if process_group.is_main else NullLogger()
    if process_group.is_main:
        state.clear_debris()
    config = job.config or shared.config
    max_bytes = config.training.feature_cache_mb * MB
    frozen_cache = (
        FrozenFeatureCache(shared.frozen_cache, max_bytes) if shared.frozen_cache is not None and max_bytes else None
    )
    data = FitData(
        dataset=shared.dataset,
        train=job.train,
        val=job.val,
        task=shared.task,
        input_spec=shared.input_spec,
        fold=job.fold,
        split_by=shared.split_by,
        schedule=job.schedule,
        frozen_cache=frozen_cache,
        on_validation=on_validation,
    )
    fitted = fit(config, data, reporter, state, process_group)
    if process_group.is_main:
        parts = {f"only {name}": scores for name, scores in fitted.subset_scores.items()}
        state.save_result({"train": fitted.train_scores, "val": fitted.val_scores, **parts}, fitted.facts)


def read_result(job: FitJob) -> FitResult:
    """What a finished job left. Raises `TrainingError` where it left nothing."""
    result = CheckpointManager(job.folder).load_result()
    if result is None:
        raise TrainingError(f"{job.folder}: the fit ended without a result")
    arrays, facts = result
    parts = {name.removeprefix("only "): scores for name, scores in arrays.items() if name.startswith("only ")}
    return FitResult(job, arrays["train"], arrays["val"], facts, parts)


def out_of_fold(
    source: Dataset, task: Task, folds: Sequence[FitResult], scores_of: Callable[[FitResult], np.ndarray]
) -> np.ndarray:
    """Some scores of all examples, each from the fold that held it out; NaN where none did."""
    scores = empty_scores(task, len(source))
    for outcome in folds:
        scores[outcome.job.val] = scores_of(outcome)
    return scores


def _fit(trainer: Any) -> None:
    """Run a trainer; an error of ours inside a worker comes out as itself."""
    from ray.exceptions import RayActorError
    from ray.train import TrainingFailedError

    try:
        told = trainer.fit().return_value
    except TrainingFailedError as error:
        failures = list(getattr(error, "worker_failures", {}).values())
        if failures and all(isinstance(failure, RayActorError) for failure in failures):
            why = first_line(failures[0])
            raise TrainingError(f"workers died {RESTARTS + 1} times ({why}); go on with --resume") from error
        known = next((known for failure in failures if (known := user_facing_error(failure)) is not None), None)
        if known is not None:
            raise known from error
        raise
    if told is not None:
        raise told


def user_facing_error(error: BaseException) -> TrainingError | InputError | None:
    """An error of a worker's as one for people, where it is or wraps one."""
    known = user_error(error)
    if known is not None:
        return known
    for cause in causes_of(error):
        if is_out_of_memory(cause):
            return TrainingError(
                f"memory does not suffice for one song alone ({first_line(cause)}); {OUT_OF_MEMORY_ADVICE}"
            )
    return None


@contextlib.contextmanager
def _following(mirror: LogForwarder) -> Iterator[None]:
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
