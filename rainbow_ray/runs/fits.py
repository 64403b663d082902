"""The fits of a run: cross-validation with its baselines, then the refit on all songs."""

from __future__ import annotations

import dataclasses
import functools
import shutil

import numpy as np

from rainbow_ray.baselines.common import Baselines
from rainbow_ray.baselines.compute import compute_baselines
from rainbow_ray.baselines.names import NO_CONTEXT
from rainbow_ray.baselines.registry import registered_baselines
from rainbow_ray.data.batching import fixed_training_schedule
from rainbow_ray.data.dataset import count_songs
from rainbow_ray.evaluation.stacked_scores import wants_stack
from rainbow_ray.evaluation.summary import best_length
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
    run_folds,
)
from rainbow_ray.training.distributed_training import run_distributed
from rainbow_ray.training.loggers import LogForwarder
from rainbow_ray.training.schedule import schedule_of_fit

NO_CONTEXT_KIND = "none"  # value of `model.temporal.kind` without temporal layers


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
    folds, baselines = cross_validate(run, shared)
    run.stopwatch.mark("folds and baselines")
    # An ensemble keeps the models of the folds in place of a refit.
    has_refit = run.data.split.n_folds > 1 and not run.plan.config.training.ensemble
    refit = refit_on_all(run, shared, folds) if has_refit else None
    run.stopwatch.mark("refit")
    if shared.frozen_cache is not None:
        shutil.rmtree(shared.frozen_cache, ignore_errors=True)
    evaluate_and_save(run, folds, refit, baselines)


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
    data, training = run.data, shared.config.training
    checkpoints = run.run_dir.file("checkpoints")
    jobs = [FitJob(k, *data.split.train_val_indices(k), checkpoints / f"fold-{k}") for k in range(data.split.n_folds)]
    n_train, n_songs = len(jobs[0].train), count_songs(shared.dataset, jobs[0].train)
    progress = FitProgress(
        run.console,
        shared.config.logging.shown,
        schedule_of_fit(shared.config, shared.dataset, shared.task, shared.input_spec, n_train, n_songs=n_songs).epochs,
        headline=training.headline,
        larger_is_better=shared.task.larger_is_better(training.headline),
    )
    keep_fits = wants_stack(training, data.profile["songs"], data.split.n_folds)
    compute = functools.partial(
        compute_baselines, split=data.split, registered=registered_baselines(), keep_fits=keep_fits
    )
    no_context_jobs = jobs_without_context(shared, jobs)
    all_jobs = [*jobs, *no_context_jobs]
    is_distributed = len(jobs) == 1 or training.workers is not None or not shared.dataset.in_memory
    with progress:
        logs = LogForwarder([job.folder / METRICS for job in jobs], [*run.loggers, progress], progress.finish)
        if is_distributed:
            results = run_distributed(shared, all_jobs, run.worker_resources(), logs)
            _, baselines = run_folds(shared, [], run.resources, logs, compute)
        else:
            results, baselines = run_folds(shared, all_jobs, run.resources, logs, compute)
        if no_context_jobs:
            no_context = results[len(jobs) :]
            scores = out_of_fold(data.source, data.task, no_context, lambda result: result.val_scores)
            baselines = dataclasses.replace(baselines, scores={**baselines.scores, NO_CONTEXT: scores})
        return results[: len(jobs)], baselines


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


def refit_on_all(run: RunContext, shared: FitContext, folds: list[FitResult]) -> FitResult:
    """Fit the model that is kept: on all songs, for the median of the folds' best numbers of epochs.

    Args:
        run: The run.
        shared: What all fits share.
        folds: Results of the folds.

    Returns:
        The result, which has no validation scores.

    Raises:
        TrainingError: The fit failed.
    """
    all_examples, no_examples = np.arange(len(run.data.source)), np.array([], dtype=np.int64)
    n_songs = count_songs(run.data.source, all_examples)
    schedule = fixed_training_schedule(folds[0].facts["step_size"], best_length(folds), len(all_examples), n_songs)
    job = FitJob(None, all_examples, no_examples, run.run_dir.file("checkpoints") / "refit", schedule)
    with FitProgress(run.console, shared.config.logging.shown, schedule.epochs, headline=None) as progress:
        logs = LogForwarder([job.folder / METRICS], [*run.loggers, progress], progress.finish)
        return run_distributed(shared, [job], run.worker_resources(), logs)[0]
