"""The fits of a run: their context, jobs and results, and the execution of folds in parallel Ray actors.

Actors read the data and the encoder once and run one fold after the other.
"""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from rainbow_ray.config.schema import Config
from rainbow_ray.data.batching import TrainingSchedule, fixed_training_schedule
from rainbow_ray.data.dataset import Dataset, count_songs
from rainbow_ray.distributed.actor_pool import ActorLostError, Piece, run_with_retries
from rainbow_ray.distributed.assigned_resources import require_assigned_gpu, use_assigned_resources
from rainbow_ray.distributed.process_group import ProcessGroup
from rainbow_ray.distributed.resources import RayResources
from rainbow_ray.modalities.spec import InputSpec
from rainbow_ray.model.frozen_feature_cache import MB, FrozenFeatureCache
from rainbow_ray.tasks.base import Task
from rainbow_ray.tasks.scores import empty_scores
from rainbow_ray.training.checkpoint import CheckpointManager
from rainbow_ray.training.fit_data import FitData
from rainbow_ray.training.fit_errors import user_facing_error
from rainbow_ray.training.gpu_sharing import choose_fits_per_gpu
from rainbow_ray.training.loggers import JsonLinesLogger, LogForwarder, MetricLogger, NullLogger
from rainbow_ray.training.trainer import fit
from rainbow_ray.utils.errors import TrainingError, first_line

RESTARTS = 3  # of the worker of a fit; one that kills its workers more often will always kill them
SUBSET_PREFIX = "only "  # in `result.npz`, before the names of modalities

T = TypeVar("T")


@dataclass(frozen=True)
class FitJob:
    """One fit to run, in a folder of its own.

    Attributes:
        fold: Number of the fold; None for the refit.
        train: Indices of the training side, `(n,)`.
        val: Indices of the validation side, `(m,)`; empty in the refit.
        folder: Folder of the fit's checkpoints, metrics and result.
        config: Config of this fit; None: that of the context.
        length_from: Folders of fits that end before this one starts, of whose best numbers of epochs it trains for the
            median (the refit).
    """

    fold: int | None
    train: np.ndarray
    val: np.ndarray
    folder: Path
    config: Config | None = None
    length_from: tuple[Path, ...] = ()


@dataclass(frozen=True)
class FitResult:
    """Result of a finished fit.

    Attributes:
        job: The fit.
        train_scores: Scores of the training side, `(n,)` or `(n, classes)`; empty for streaming datasets.
        val_scores: Scores of the validation side.
        facts: Facts for the summary, as plain JSON.
        subset_scores: Scores of the validation side by each proper subset of the modalities (`text+midi`).
    """

    job: FitJob
    train_scores: np.ndarray
    val_scores: np.ndarray
    facts: dict[str, Any]
    subset_scores: dict[str, np.ndarray] = field(default_factory=dict)


@dataclass(frozen=True)
class FitContext:
    """What all fits of a run share; it is put into Ray's object store once.

    Attributes:
        config: Config of the run.
        dataset: All examples.
        task: The task, not yet fitted to training targets.
        input_spec: Modalities, encoders, and the reader of media files.
        split_by: Column whose values a split keeps together.
        frozen_cache: Folder of the frozen-feature cache, or None.
    """

    config: Config
    dataset: Dataset
    task: Task
    input_spec: InputSpec
    split_by: str
    frozen_cache: Path | None = None


def run_folds(
    context: FitContext, jobs: list[FitJob], resources: RayResources, forwarder: LogForwarder,
    extra_work: Callable[[FitContext], T],
) -> tuple[list[FitResult], T]:  # fmt: skip
    """Run fits in parallel, each in one actor. Finished fits are not run again.

    Ray restarts an actor that dies; its fit continues from its checkpoint, in that actor or in another one.

    Args:
        context: What all fits share.
        jobs: The fits.
        resources: Resources of the Ray cluster.
        forwarder: Forwards metrics while the fits run.
        extra_work: One more function of the context (the baselines), called in the first idle actor.

    Returns:
        The results of the fits in the order of `jobs`, and that of `extra_work`.

    Raises:
        TrainingError: A fit failed, or its worker died repeatedly.
        InputError: The input of a fit is wrong.
    """
    import ray

    pending = [job for job in jobs if is_pending(job)]
    n_shared = choose_fits_per_gpu(*data_of_job(context, pending[0]), resources, len(pending)) if pending else 1
    n_actors, actor_resources = resources.allocate_fits(len(pending) + 1, fits_per_gpu=n_shared)
    reference = ray.put(context)
    worker = ray.remote(**actor_resources, max_restarts=RESTARTS)(_FoldWorker)
    actors = [worker.remote() for _ in range(n_actors)]
    pieces: list[Piece] = [lambda actor, job=job: actor.run.remote([reference], job) for job in pending]  # type: ignore[misc]
    pieces.append(lambda actor: actor.call.remote([reference], extra_work))
    with forwarder.follow(), _errors_of_actors():
        *_, extra_result = run_with_retries(actors, pieces, tries=RESTARTS)
    for actor in actors:
        ray.kill(actor)
    return [read_result(job) for job in jobs], extra_result


def start_in_actor(
    context: FitContext, jobs: list[FitJob], extra_work: Callable[[FitContext], T], *, n_cpus: int
) -> Callable[[], tuple[list[FitResult], T]]:
    """Start fits that one actor runs one after the other, beside other work of this process.

    Ray restarts an actor that dies. Finished fits are not run again.

    Args:
        context: What all fits share.
        jobs: The fits.
        extra_work: One more function of the context (the baselines), called after the fits.
        n_cpus: CPUs of the actor.

    Returns:
        A function that waits for the actor, and returns what `run_folds` returns. It raises `TrainingError` and
        `InputError` as that does.
    """
    import ray

    pending = [job for job in jobs if is_pending(job)]
    reference = ray.put(context)
    options = {"num_cpus": n_cpus, "max_restarts": RESTARTS, "max_task_retries": RESTARTS}
    actor = ray.remote(**options)(_FoldWorker).remote()
    result = actor.run_all.remote([reference], pending, extra_work)

    def wait() -> tuple[list[FitResult], T]:
        with _errors_of_actors():
            extra_result = ray.get(result)
        ray.kill(actor)
        return [read_result(job) for job in jobs], extra_result

    return wait


@contextlib.contextmanager
def _errors_of_actors() -> Iterator[None]:
    """Raise the errors of actors that run fits as errors for users."""
    import ray

    try:
        yield
    except ray.exceptions.RayTaskError as error:
        translated = user_facing_error(error)
        if translated is None:
            raise
        raise translated from error
    except (ActorLostError, ray.exceptions.RayActorError) as error:
        raise TrainingError(
            f"a worker died {RESTARTS + 1} times ({first_line(error)}); continue with --resume"
        ) from error


def run_jobs(context: FitContext, jobs: Sequence[FitJob], process_group: ProcessGroup) -> None:
    """Run fits one after the other in this process, except those that have ended.

    Args:
        context: What all fits share.
        jobs: The fits.
        process_group: The workers that share each fit, each of which calls this function.

    Raises:
        TrainingError: A fit failed.
        InputError: The config does not fit the data or the encoder.
    """
    for job in jobs:
        if CheckpointManager(job.folder).load_result() is None:
            run_job(context, job, process_group)


def run_job(
    context: FitContext,
    job: FitJob,
    process_group: ProcessGroup,
    on_validation: Callable[[float, np.ndarray], None] | None = None,
) -> None:
    """Run one fit in this process, from its checkpoint if there is one, and save its result.

    Args:
        context: What all fits share.
        job: The fit.
        process_group: The workers that share the fit, each of which calls this function.
        on_validation: Called after each epoch with the fraction of the epochs that are done and the validation scores.

    Raises:
        TrainingError: The fit failed.
        InputError: The config does not fit the data or the encoder.
    """
    checkpoints = CheckpointManager(job.folder)
    logger: MetricLogger = JsonLinesLogger(checkpoints.metrics) if process_group.is_main else NullLogger()
    if process_group.is_main:
        checkpoints.remove_temporary_files()
    config, data = data_of_job(context, job)
    data = dataclasses.replace(data, on_validation=on_validation)
    output = fit(config, data, logger, checkpoints, process_group)
    if process_group.is_main:
        subsets = {f"{SUBSET_PREFIX}{name}": scores for name, scores in output.subset_scores.items()}
        checkpoints.save_result({"train": output.train_scores, "val": output.val_scores, **subsets}, output.facts)


def data_of_job(context: FitContext, job: FitJob) -> tuple[Config, FitData]:
    """Return config and data of a fit.

    Args:
        context: What all fits share.
        job: The fit.

    Returns:
        What `fit` is called with.
    """
    config = job.config or context.config
    max_bytes = config.training.feature_cache_mb * MB
    frozen_cache = None
    if context.frozen_cache is not None and max_bytes:
        frozen_cache = FrozenFeatureCache(context.frozen_cache, max_bytes)
    data = FitData(
        dataset=context.dataset,
        train=job.train,
        val=job.val,
        task=context.task,
        input_spec=context.input_spec,
        fold=job.fold,
        split_by=context.split_by,
        schedule=refit_schedule(context, job) if job.length_from else None,
        frozen_cache=frozen_cache,
    )
    return config, data


def refit_schedule(context: FitContext, job: FitJob) -> TrainingSchedule:
    """Return the schedule of a fit whose length other fits determine.

    Args:
        context: What all fits share.
        job: The fit; those that it names in `length_from` have ended.

    Returns:
        Their batch size, and the median of their best numbers of epochs.

    Raises:
        TrainingError: A fit has left no result.
    """
    facts = [_load_result(folder)[1] for folder in job.length_from]
    n_songs = count_songs(context.dataset, job.train)
    return fixed_training_schedule(facts[0]["step_size"], best_length(facts), len(job.train), n_songs)


def best_length(facts: Sequence[Mapping[str, Any]]) -> int:
    """Return the median best number of epochs of several fits, which is how long the refit trains.

    Args:
        facts: Facts of the fits.

    Returns:
        Number of epochs, at least 1.
    """
    return max(1, round(float(np.median([each["best_epoch"] for each in facts]))))


def is_pending(job: FitJob) -> bool:
    """Return whether a fit must be run, and remove the metrics that it logged after its last checkpoint.

    The metrics are removed before anything reads them, because the fit will log them again.

    Args:
        job: The fit.

    Returns:
        False for a finished fit.
    """
    checkpoints = CheckpointManager(job.folder)
    if checkpoints.load_result() is not None:
        return False
    checkpoint, _ = checkpoints.load_latest()
    JsonLinesLogger(checkpoints.metrics).truncate_after(checkpoint["progress"]["step"] if checkpoint else -1)
    return True


def read_result(job: FitJob) -> FitResult:
    """Read the result of a finished fit.

    Args:
        job: The fit.

    Returns:
        Its scores and facts.

    Raises:
        TrainingError: The fit left no result.
    """
    arrays, facts = _load_result(job.folder)
    subsets = {
        name.removeprefix(SUBSET_PREFIX): scores for name, scores in arrays.items() if name.startswith(SUBSET_PREFIX)
    }
    return FitResult(job, arrays["train"], arrays["val"], facts, subsets)


def _load_result(folder: Path) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    result = CheckpointManager(folder).load_result()
    if result is None:
        raise TrainingError(f"{folder}: the fit ended without a result")
    return result


def out_of_fold(
    dataset: Dataset, task: Task, folds: Sequence[FitResult], scores_of: Callable[[FitResult], np.ndarray]
) -> np.ndarray:
    """Return scores of all examples, each from the fold whose validation set it is in.

    Args:
        dataset: All examples.
        task: Defines the shape of the scores.
        folds: Results of the folds.
        scores_of: Returns scores of a fold's validation set, `(m,)` or `(m, classes)`.

    Returns:
        `(n,)` or `(n, classes)`; NaN for examples that are in no validation set.
    """
    scores = empty_scores(task, len(dataset))
    for result in folds:
        scores[result.job.val] = scores_of(result)
    return scores


class _FoldWorker:
    """An actor that fetches the context once and runs one fold after the other.

    Each call passes the reference of the context, because Ray restarts an actor that died without its state.
    """

    def __init__(self) -> None:
        self.context: FitContext | None = None
        use_assigned_resources()

    def ready(self) -> None:
        """Return when the actor has started."""

    def run(self, reference: list[Any], job: FitJob) -> None:
        run_job(self._fetch(reference), job, ProcessGroup())

    def run_all(self, reference: list[Any], jobs: list[FitJob], function: Callable[[FitContext], Any]) -> Any:
        run_jobs(context := self._fetch(reference), jobs, ProcessGroup())
        return function(context)

    def call(self, reference: list[Any], function: Callable[[FitContext], Any]) -> Any:
        return function(self._fetch(reference))

    def _fetch(self, reference: list[Any]) -> FitContext:
        import ray

        if self.context is None:
            self.context = ray.get(reference[0])  # Ray does not resolve a reference inside a list by itself
            require_assigned_gpu(self.context.config.training.device)
        return self.context
