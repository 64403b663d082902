"""The trials of a sweep."""

from __future__ import annotations

import dataclasses
import functools
import shutil
from typing import Any

import numpy as np

from rainbow_ray.config.load import Resolved
from rainbow_ray.config.schema import Config
from rainbow_ray.data.reader import read_rows_locally
from rainbow_ray.data.splits import group_ids
from rainbow_ray.distributed.resources import TrialResources
from rainbow_ray.modalities import encoder_cache
from rainbow_ray.runs.context import RunContext
from rainbow_ray.runs.run_dir import RunDir, save_data_profile
from rainbow_ray.runs.sweep_plan import SweepPlan
from rainbow_ray.runs.sweep_results import save_sweep
from rainbow_ray.runs.time_left import TimeLeft
from rainbow_ray.runs.trial_progress import TrialProgress
from rainbow_ray.setup import prepare
from rainbow_ray.setup.plan import make_plan
from rainbow_ray.setup.prepared import PreparedData
from rainbow_ray.training.cross_validation import FitContext
from rainbow_ray.tuning.search_space import Space
from rainbow_ray.tuning.sweep import Sweep
from rainbow_ray.tuning.sweep_forecast import SweepForecast
from rainbow_ray.tuning.trial import TrialContext, make_rungs
from rainbow_ray.tuning.trial_log import TrialLog
from rainbow_ray.tuning.trial_loggers import WandbTrialLogger
from rainbow_ray.tuning.tuner import KeepBest, run_sweep
from rainbow_ray.utils.errors import InputError, TrainingError


def run_trials(
    run: RunContext, sweep_plan: SweepPlan, trial_resources: TrialResources, forecast: SweepForecast,
    seconds: float | None,
) -> None:  # fmt: skip
    """Run the trials that are missing; when all have ended or the budget is spent, write the results of the sweep.

    Args:
        run: The sweep, as a run.
        sweep_plan: Search space and its parameters.
        trial_resources: Resources of each trial.
        forecast: Forecasts the time of trials.
        seconds: Budget of time, or None.

    Raises:
        InputError: The sweep that is resumed had other data.
        TrainingError: No trial completed.
    """
    run_dir, console = run.run_dir, run.console
    save_data_profile(run_dir, run.data)
    sweep = make_sweep(run, sweep_plan.space, trial_resources, forecast)
    trial_log = sweep.trial_log
    n_before = len(trial_log.ended)
    if n_before:
        console.print(f"{n_before} trials have ended before, {len(trial_log.interrupted)} were interrupted")
    time_left, headline = TimeLeft(sweep, console, seconds), run.plan.config.training.headline
    n_folds, larger = len(sweep.context.train_val_indices), sweep.larger_is_better
    with TrialProgress(
        console, headline, sweep.n_trials, n_folds, larger_is_better=larger, time_left=time_left.text
    ) as progress:
        progress.add_earlier(trial_log.ended)
        trial_log.watchers += [time_left, progress, KeepBest(sweep), *open_loggers(run.plan.config, run_dir)]
        run_sweep(sweep, seconds=seconds)
    run.stopwatch.mark("trials")
    n_missing = sweep.n_trials - len(trial_log.ended)
    if n_missing > 0:
        console.print(f"The budget is spent with {n_missing} trials to go; continue with --resume")
    if not trial_log.complete(larger_is_better=sweep.larger_is_better):
        reasons = "; ".join(dict.fromkeys(trial.reason for trial in trial_log.ended if trial.reason)) or "out of time"
        raise TrainingError(f"no trial of {run_dir.path} completed: {reasons}")
    save_sweep(run, sweep)
    shutil.rmtree(run_dir.file("frozen_features"), ignore_errors=True)


def make_sweep(
    run: RunContext, space: Space, trial_resources: TrialResources, forecast: SweepForecast | None = None
) -> Sweep:
    """Return what every part of the sweep works with.

    Args:
        run: The sweep, as a run.
        space: Search space.
        trial_resources: Resources of each trial.
        forecast: Forecasts the time of trials, or None.

    Returns:
        The sweep, with the trials of earlier starts.
    """
    plan, split, shared = run.plan, run.data.split, run.fit_context()
    context = TrialContext(
        shared,
        [split.train_val_indices(fold) for fold in range(split.n_folds)],
        make_rungs(split.n_folds),
        run.run_dir.file("trials"),
        trial_resources.workers,
    )
    context.folder.mkdir(exist_ok=True)
    # Actors on CPUs share the weights of the frozen encoder in memory.
    shares_weights = plan.input_spec.text and trial_resources.gpus == 0 and trial_resources.workers is None
    return Sweep(
        plan.config,
        space,
        context,
        TrialLog(run.run_dir.file("trials.jsonl")),
        trial_resources,
        plan.task.larger_is_better(plan.config.training.headline),
        functools.partial(prepare_variant, data=run.data, shared=shared),
        encoder_cache.export_weights(plan.input_spec.text) if plan.input_spec.text and shares_weights else None,
        forecast,
    )


def prepare_variant(config: Config, *, data: PreparedData, shared: FitContext) -> FitContext:
    """Return the songs of a sweep, read as the config of a trial requires.

    Args:
        config: Config of a trial that reads its inputs differently.
        data: Data of the sweep.
        shared: What the fits of the sweep share.

    Returns:
        The same, with the dataset and the inputs of the config.

    Raises:
        InputError: With this config other songs remain, or songs of different folds have equal texts.
    """
    plan = make_plan(Resolved(config=config.model_copy(deep=True), user_keys=frozenset()))
    variant = prepare.prepare_data(plan, read_rows_locally)
    has_same_songs = np.array_equal(variant.index.ids, data.index.ids)
    has_same_targets = has_same_songs and np.array_equal(variant.source.targets, data.source.targets)
    if not has_same_targets or variant.task != data.task:
        raise InputError(
            "with this text, other songs remain, and scores could not be compared; see data.min_concept_length,"
            " data.require_concept"
        )
    split_by = config.data.split_by
    variant_groups, groups = group_ids(variant.index, split_by), group_ids(data.index, split_by)
    n_pairs = len(np.unique(np.stack([variant_groups, groups]), axis=1)[0])
    if n_pairs > len(np.unique(variant_groups)):
        raise InputError(
            "with this text, songs of different folds have equal texts; add the column to the sweep's own"
            " data.text_columns, or leave it out"
        )
    return dataclasses.replace(shared, dataset=variant.source, input_spec=plan.input_spec)


def open_loggers(config: Config, run_dir: RunDir) -> list[Any]:
    """Return the loggers of trials: Weights & Biases, where requested, with one run per trial.

    Args:
        config: The config.
        run_dir: Folder of the sweep, whose name groups the runs.

    Returns:
        Watchers of the trial log.
    """
    return [WandbTrialLogger(config, run_dir.path)] if config.logging.wandb.enabled else []
