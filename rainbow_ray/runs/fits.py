"""The fits of a run: cross-validation with its baselines, then the refit on all songs."""

from __future__ import annotations

import dataclasses
import functools
import shutil
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from rainbow_ray.baselines.common import Baselines
from rainbow_ray.baselines.compute import compute_baseline_states, compute_baselines
from rainbow_ray.baselines.names import NO_CONTEXT
from rainbow_ray.baselines.registry import registered_baselines
from rainbow_ray.data.batching import TrainingSchedule
from rainbow_ray.data.dataset import count_songs
from rainbow_ray.distributed.ray_cluster import owns_cluster
from rainbow_ray.evaluation.stacked_scores import wants_stack
from rainbow_ray.modalities.encoder_cache import clone_encoder
from rainbow_ray.runs.context import RunContext
from rainbow_ray.runs.progress import FitProgress
from rainbow_ray.runs.results import evaluate_and_save, open_loggers
from rainbow_ray.runs.run_dir import save_data_profile
from rainbow_ray.training.checkpoint import METRICS
from rainbow_ray.training.cross_validation import (
    FitContext,
    FitJob,
    FitResult,
    out_of_fold,
    refit_schedule,
    run_folds,
    start_in_actor,
)
from rainbow_ray.training.distributed_training import run_distributed, run_in_process
from rainbow_ray.training.loggers import LogForwarder
from rainbow_ray.training.schedule import (
    NO_CONTEXT_KIND,
    are_short_fits,
    has_fits_without_context,
    schedule_of_fit,
)
from rainbow_ray.utils.background import run_in_background
from rainbow_ray.utils.console import show_activity
from rainbow_ray.utils.errors import TrainingError
from rainbow_ray.utils.threads import torch_threads

MAX_THREADS = 4  # of PyTorch, of fits in this process


@dataclass(frozen=True)
class Fits:
    """Results of the fits of a run.

    Attributes:
        folds: One result per fold.
        refit: Result of the refit; None for an ensemble or a single split.
        baselines: Results of the baselines.
    """

    folds: list[FitResult]
    refit: FitResult | None
    baselines: Baselines


def train(run: RunContext) -> None:
    """Run all fits, evaluate them, and write the results.

    Args:
        run: The run.

    Raises:
        InputError: The run that is resumed had other data.
        TrainingError: A fit failed.
    """
    save_data_profile(run.run_dir, run.data)
    # Loggers start only now, since opening them changes the files of the run.
    run = dataclasses.replace(run, loggers=open_loggers(run.plan.config, run.run_dir))
    shared = run.fit_context()
    fits = fit_in_process(run, shared) if fits_in_process(run) else fit_in_parallel(run, shared)
    if shared.frozen_cache is not None:
        shutil.rmtree(shared.frozen_cache, ignore_errors=True)
    evaluate_and_save(run, fits.folds, fits.refit, fits.baselines)


def fits_in_process(run: RunContext) -> bool:
    """Return whether the fits of a run are executed by this process, see `are_short_fits`.

    Args:
        run: The run.

    Returns:
        True for short fits on the CPUs of this machine, for which Ray was started by this command. The CPUs of a
        cluster that was joined are assigned by Ray.
    """
    plan, data, resources = run.plan, run.data, run.resources
    if resources.uses_gpu(plan.config.training.device) or not owns_cluster():
        return False
    schedule = _schedule_of_folds(run)
    return are_short_fits(
        plan.config, data.source, data.task, plan.input_spec, schedule, n_folds=data.split.n_folds,
        n_cpus=resources.cpus,
    )  # fmt: skip


def fit_in_process(run: RunContext, shared: FitContext) -> Fits:
    """Run folds and refit one after the other in this process, and beside them what the baselines need.

    Args:
        run: The run.
        shared: What all fits share.

    Returns:
        The results.

    Raises:
        TrainingError: A fit failed.
    """
    folds = fold_jobs(run)
    no_context_jobs = jobs_without_context(shared, folds)
    refits = [] if shared.config.training.ensemble else [refit_job(run, folds)]
    # At most half of the CPUs. Matrices are small: more threads would cost more than they save.
    n_threads = min(max(1, run.worker_resources().threads // 2), MAX_THREADS)
    wait_for_baselines = _start_baselines(run, shared, no_context_jobs, n_threads)
    with _progress(run, shared, refits[0] if refits else None) as progress:
        logs = _forwarder(run, progress, [*folds, *refits])
        results = run_in_process(shared, [*folds, *refits], n_threads, logs)
    run.stopwatch.mark("fits")
    with show_activity(run.console, "fits without context and baselines" if no_context_jobs else "baselines"):
        no_context_results, scores = wait_for_baselines()
    run.stopwatch.mark("baselines")
    scores = _add_no_context(run, scores, no_context_results)
    return Fits(results[: len(folds)], results[-1] if refits else None, scores)


def _start_baselines(
    run: RunContext, shared: FitContext, no_context_jobs: list[FitJob], n_threads: int
) -> Callable[[], tuple[list[FitResult], Baselines]]:
    """Start what the baselines need, beside the fits of this process; return a function that waits for their results.

    Fits without context take as long as the others: they run in an actor of Ray, and the baselines after them. Without
    them, only the encoder runs beside the fits, in a thread of this process, outside Python's lock; models of
    scikit-learn would hold it, and thereby slow down the fits.
    """
    compute = _baselines_of(run)
    if no_context_jobs:
        return start_in_actor(shared, no_context_jobs, compute, n_cpus=max(1, run.resources.cpus - n_threads))
    if shared.input_spec.text:
        # Cached for the thread and the fits: libraries that load weights change global state, as if they were alone.
        clone_encoder(shared.input_spec.text)

    def compute_states() -> np.ndarray | None:
        with torch_threads(n_threads):
            return compute_baseline_states(shared)

    states = run_in_background(compute_states, "hidden states")
    return lambda: ([], compute(shared, states=states.result()))


def _forwarder(run: RunContext, progress: FitProgress, jobs: list[FitJob]) -> LogForwarder:
    """Return the forwarder of the metrics of fits to the loggers and the display."""
    return LogForwarder([job.folder / METRICS for job in jobs], [*run.loggers, progress], progress.finish)


def fit_in_parallel(run: RunContext, shared: FitContext) -> Fits:
    """Run folds and baselines in parallel, then the refit in a TorchTrainer.

    Args:
        run: The run.
        shared: What all fits share.

    Returns:
        The results.

    Raises:
        TrainingError: A fit failed.
    """
    folds, baselines = cross_validate(run, shared)
    run.stopwatch.mark("folds and baselines")
    # An ensemble keeps the models of the folds in place of a refit.
    has_refit = run.data.split.n_folds > 1 and not run.plan.config.training.ensemble
    refit = refit_on_all(run, shared, [fold.job for fold in folds]) if has_refit else None
    run.stopwatch.mark("refit")
    return Fits(folds, refit, baselines)


def cross_validate(run: RunContext, shared: FitContext) -> tuple[list[FitResult], Baselines]:
    """Train on all folds but one and score that one, for each fold, and score the baselines on the same folds.

    Folds run in parallel. A single split, fits with several workers, and datasets that are streamed run one after the
    other in a TorchTrainer.

    Args:
        run: The run.
        shared: What all fits share.

    Returns:
        One result per fold, and the results of the baselines.

    Raises:
        TrainingError: A fit failed.
    """
    jobs, compute = fold_jobs(run), _baselines_of(run)
    progress = _progress(run, shared)
    no_context_jobs = jobs_without_context(shared, jobs)
    all_jobs = [*jobs, *no_context_jobs]
    is_distributed = len(jobs) == 1 or shared.config.training.workers is not None or not shared.dataset.in_memory
    with progress:
        logs = _forwarder(run, progress, jobs)
        if is_distributed:
            results = run_distributed(shared, all_jobs, run.worker_resources(), logs)
            _, baselines = run_folds(shared, [], run.resources, logs, compute)
        else:
            results, baselines = run_folds(shared, all_jobs, run.resources, logs, compute)
        return results[: len(jobs)], _add_no_context(run, baselines, results[len(jobs) :])


def _add_no_context(run: RunContext, baselines: Baselines, results: list[FitResult]) -> Baselines:
    """Add the scores of the fits without context, if there are any."""
    if not results:
        return baselines
    scores = out_of_fold(run.data.source, run.data.task, results, lambda result: result.val_scores)
    return dataclasses.replace(baselines, scores={**baselines.scores, NO_CONTEXT: scores})


def _baselines_of(run: RunContext) -> Callable[..., Baselines]:
    """Return the function that computes the baselines of a run, in any process."""
    data = run.data
    keep_fits = wants_stack(run.plan.config.training, data.profile["songs"], data.split.n_folds)
    return functools.partial(
        compute_baselines, split=data.split, registered=registered_baselines(), keep_fits=keep_fits
    )


def _schedule_of_folds(run: RunContext) -> TrainingSchedule:
    plan, data = run.plan, run.data
    train, _ = data.split.train_val_indices(0)
    n_songs = count_songs(data.source, train)
    return schedule_of_fit(plan.config, data.source, data.task, plan.input_spec, len(train), n_songs=n_songs)


def _progress(run: RunContext, shared: FitContext, refit: FitJob | None = None) -> FitProgress:
    """Return the display of the folds, and of the refit where there is one."""
    headline, n_epochs = shared.config.training.headline, _schedule_of_folds(run).epochs

    def refit_epochs() -> int:
        assert refit is not None
        try:
            return refit_schedule(shared, refit).epochs
        except TrainingError:  # the result of a fold is damaged, and the fold will run again
            return n_epochs

    return FitProgress(
        run.console,
        shared.config.logging.shown,
        n_epochs,
        headline=headline,
        larger_is_better=shared.task.larger_is_better(headline),
        refit_epochs=None if refit is None else refit_epochs,
    )


def fold_jobs(run: RunContext) -> list[FitJob]:
    """Return the fits of the folds.

    Args:
        run: The run.

    Returns:
        One fit per fold.
    """
    split, checkpoints = run.data.split, run.run_dir.file("checkpoints")
    return [FitJob(k, *split.train_val_indices(k), checkpoints / f"fold-{k}") for k in range(split.n_folds)]


def refit_job(run: RunContext, folds: list[FitJob]) -> FitJob:
    """Return the fit of the model that is kept: on all songs, for the median of the folds' best numbers of epochs.

    Args:
        run: The run.
        folds: Fits of the folds, which end before.

    Returns:
        The fit.
    """
    all_examples, no_examples = np.arange(len(run.data.source)), np.array([], dtype=np.int64)
    folder = run.run_dir.file("checkpoints") / "refit"
    return FitJob(None, all_examples, no_examples, folder, length_from=tuple(fold.folder for fold in folds))


def jobs_without_context(shared: FitContext, jobs: list[FitJob]) -> list[FitJob]:
    """Return the same fits with a model that reads each segment on its own, as a baseline of the temporal layers.

    Args:
        shared: What all fits share.
        jobs: The fits of the folds.

    Returns:
        One fit per fold, or none where the model has no temporal layers or `segments.no_context_baseline` is false.
    """
    if not has_fits_without_context(shared.config, shared.task):
        return []
    config = shared.config.with_values({"model.temporal.kind": NO_CONTEXT_KIND})
    return [
        dataclasses.replace(job, config=config, folder=job.folder.with_name(f"{NO_CONTEXT_KIND}-{job.folder.name}"))
        for job in jobs
    ]


def refit_on_all(run: RunContext, shared: FitContext, folds: list[FitJob]) -> FitResult:
    """Fit the model that is kept in a TorchTrainer.

    Args:
        run: The run.
        shared: What all fits share.
        folds: Fits of the folds, which have ended.

    Returns:
        The result, which has no validation scores.

    Raises:
        TrainingError: The fit failed.
    """
    job = refit_job(run, folds)
    with _progress(run, shared, job) as progress:
        return run_distributed(shared, [job], run.worker_resources(), _forwarder(run, progress, [job]))[0]
