"""The fits of a run: cross-validation with its baselines, then the refit on all songs."""

from __future__ import annotations

import dataclasses
import functools
import shutil
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from rainbow_ray.baselines.common import Baselines
from rainbow_ray.baselines.compute import compute_baselines
from rainbow_ray.baselines.names import NO_CONTEXT
from rainbow_ray.baselines.registry import registered_baselines
from rainbow_ray.config.solver import trains_no_encoder
from rainbow_ray.data.dataset import count_songs
from rainbow_ray.evaluation.stacked_scores import wants_stack
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
)
from rainbow_ray.training.distributed_training import run_distributed
from rainbow_ray.training.loggers import LogForwarder
from rainbow_ray.training.schedule import schedule_of_fit
from rainbow_ray.utils.background import run_in_background

MAX_SHARED_EXAMPLES = 5_000  # of a run whose fits share one process
NO_CONTEXT_KIND = "none"  # value of `model.temporal.kind` without temporal layers


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
    fits = fit_in_one_worker(run, shared) if shares_one_worker(run) else fit_in_parallel(run, shared)
    if shared.frozen_cache is not None:
        shutil.rmtree(shared.frozen_cache, ignore_errors=True)
    evaluate_and_save(run, fits.folds, fits.refit, fits.baselines)


def shares_one_worker(run: RunContext) -> bool:
    """Return whether one process runs all fits of a run sooner than several processes start.

    Args:
        run: The run.

    Returns:
        True on CPUs, where a few songs are read into memory and only layers after a frozen text encoder are trained.
    """
    data, training = run.data, run.plan.config.training
    is_single = data.split.n_folds == 1 or training.workers is not None
    if is_single or run.resources.uses_gpu(training.device) or not data.source.in_memory:
        return False
    has_frozen_inputs = not run.plan.input_spec.media and trains_no_encoder(run.plan.config)
    return has_frozen_inputs and len(data.source) <= MAX_SHARED_EXAMPLES


def fit_in_one_worker(run: RunContext, shared: FitContext) -> Fits:
    """Run folds and refit one after the other in one TorchTrainer, and the baselines beside it in this process.

    Args:
        run: The run.
        shared: What all fits share.

    Returns:
        The results.

    Raises:
        TrainingError: A fit failed.
    """
    jobs = fold_jobs(run)
    no_context_jobs = jobs_without_context(shared, jobs)
    refits = [] if shared.config.training.ensemble else [refit_job(run, jobs)]
    workers = run.worker_resources()
    # the baselines keep one CPU busy
    workers = dataclasses.replace(workers, threads=max(1, workers.threads - 1))
    progress = _progress(run, shared, jobs, lambda: refit_schedule(shared, refits[0]).epochs)
    compute = _baselines_of(run)

    def compute_and_import() -> Baselines:
        baselines = compute(shared)
        # what is needed after the fits, and takes a second to import
        import rainbow_ray.html_report.write  # noqa: F401

        return baselines

    # the fits take longer, with the start of their worker
    baselines = run_in_background(compute_and_import, "baselines", yields_cpus=True)
    with progress:
        shown = [*jobs, *refits]
        logs = LogForwarder([job.folder / METRICS for job in shown], [*run.loggers, progress], progress.finish)
        results = run_distributed(shared, [*jobs, *no_context_jobs, *refits], workers, logs)
        run.stopwatch.mark("fits")
        scored = _add_no_context(run, baselines.result(), results[len(jobs) : len(jobs) + len(no_context_jobs)])
    run.stopwatch.mark("baselines")
    return Fits(results[: len(jobs)], results[-1] if refits else None, scored)


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
    progress = _progress(run, shared, jobs)
    no_context_jobs = jobs_without_context(shared, jobs)
    all_jobs = [*jobs, *no_context_jobs]
    is_distributed = len(jobs) == 1 or shared.config.training.workers is not None or not shared.dataset.in_memory
    with progress:
        logs = LogForwarder([job.folder / METRICS for job in jobs], [*run.loggers, progress], progress.finish)
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


def _baselines_of(run: RunContext) -> Callable[[FitContext], Baselines]:
    """Return the function that computes the baselines of a run, in any process."""
    data = run.data
    keep_fits = wants_stack(run.plan.config.training, data.profile["songs"], data.split.n_folds)
    return functools.partial(
        compute_baselines, split=data.split, registered=registered_baselines(), keep_fits=keep_fits
    )


def _progress(
    run: RunContext, shared: FitContext, jobs: list[FitJob], refit_epochs: Callable[[], int] | None = None
) -> FitProgress:
    """Return the display of the folds, and of the refit where it follows them."""
    n_songs = count_songs(shared.dataset, jobs[0].train)
    schedule = schedule_of_fit(
        shared.config, shared.dataset, shared.task, shared.input_spec, len(jobs[0].train), n_songs=n_songs
    )
    headline = shared.config.training.headline
    return FitProgress(
        run.console,
        shared.config.logging.shown,
        schedule.epochs,
        headline=headline,
        larger_is_better=shared.task.larger_is_better(headline),
        refit_epochs=refit_epochs,
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
    is_requested = shared.task.is_sequence_task and shared.config.segments.no_context_baseline
    if not is_requested or shared.config.model.temporal.kind == NO_CONTEXT_KIND:
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
    with _progress(run, shared, folds, lambda: refit_schedule(shared, job).epochs) as progress:
        logs = LogForwarder([job.folder / METRICS], [*run.loggers, progress], progress.finish)
        return run_distributed(shared, [job], run.worker_resources(), logs)[0]
