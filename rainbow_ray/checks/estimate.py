"""Estimates of memory, disk, time and cost of a run or a sweep, from measurements of its model."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import psutil

from rainbow_ray.baselines.common import MAX_EXAMPLES
from rainbow_ray.checks.environment import check_disk
from rainbow_ray.checks.model import ModelProfile, check_model
from rainbow_ray.checks.result import CheckResult
from rainbow_ray.config.schema import Config
from rainbow_ray.data.batching import TrainingSchedule
from rainbow_ray.distributed.resources import parse_workers
from rainbow_ray.model.device import free_memory_bytes
from rainbow_ray.setup.plan import RunPlan
from rainbow_ray.setup.prepared import FOLDS_BELOW, PreparedData
from rainbow_ray.tasks.base import Task
from rainbow_ray.training.schedule import (
    are_short_fits,
    head_step_seconds,
    schedule_of_fit,
)
from rainbow_ray.training.train_step import initial_limits
from rainbow_ray.tuning.trial_cost import BACKWARD_COST, SOLUTION_SECONDS, CostModel, CostRates
from rainbow_ray.utils.number_format import format_duration

USABLE_MEMORY = 0.9  # fraction; the rest is for the system and fragmentation
MAX_SHOWN_EXAMPLES = 100_000
# Fixed costs of a run, in starts of Ray: reading data, starting workers, the trainer of the refit. They were fitted to
# `seconds.parts` of real runs.
STARTS_WITH_FOLDS, STARTS_WITH_ONE_SPLIT = 6.5, 5.0
STARTS_IN_PROCESS = 2.6  # where the command itself runs the fits
BASELINE_PASSES, BASELINE_SECONDS = 3, 5  # baselines read every layer of the encoder, and fit four small models
CLOSING_SECONDS = 60  # of a sweep's end, apart from its fits


def check_memory(plan: RunPlan, data: PreparedData, profile: ModelProfile) -> CheckResult:
    """Compare the memory of a micro-batch of the longest texts with the free memory.

    Args:
        plan: Plan of the run.
        data: Prepared data.
        profile: Measurements of the model.

    Returns:
        The result, with the largest micro-batch that fits.
    """
    device = profile.components.execution.device
    free_bytes = free_memory_bytes(device) if device.type == "cuda" else psutil.virtual_memory().available
    max_length = int(data.source.lengths.max())
    limits = initial_limits(profile.components)
    batch_size = limits.examples
    if limits.tokens is not None:
        batch_size = max(1, min(len(data.source), limits.tokens // max_length))
    needed = profile.fixed_bytes + batch_size * profile.example_bytes
    n_fitting = int((USABLE_MEMORY * free_bytes - profile.fixed_bytes) // profile.example_bytes)
    unit = "song" if plan.segments is None else "segment"
    batch = f"micro-batches of {batch_size} {unit}s of {max_length} tokens"
    text = f"about {_format_bytes(needed)} for {batch}; {_format_bytes(free_bytes)} are free"
    if n_fitting < 1:
        advice = f"not even one {unit} fits; freeze more layers, or truncate texts at fewer tokens"
        return CheckResult("environment_error", "memory", f"{text}: {advice}")
    text = f"{text}: up to {min(n_fitting, MAX_SHOWN_EXAMPLES)} {unit}s fit"
    if needed > USABLE_MEMORY * free_bytes:
        size = max(1, 2 ** int(np.log2(n_fitting)))
        advice = f"larger micro-batches are halved when they run out of memory, or set training.batch_size={size}"
        return CheckResult("warning", "memory", f"{text}; {advice}")
    return CheckResult("ok", "memory", text)


def estimate_run(
    plan: RunPlan, data: PreparedData, profile: ModelProfile, ray_seconds: float, *, n_parallel: int
) -> CheckResult:
    """Estimate time and cost of a run from the measured step.

    Args:
        plan: Plan of the run.
        data: Prepared data, which may be a sample of a large manifest.
        profile: Measurements of the model.
        ray_seconds: Time in which Ray started.
        n_parallel: Number of folds that run in parallel.

    Returns:
        The estimate.
    """
    sampling_factor = plan.manifest.rows / max(1, data.profile["rows"])
    is_large = plan.config.data.folds is None and data.profile["songs"] * sampling_factor >= FOLDS_BELOW
    training, n_folds = plan.config.training, 1 if is_large else data.split.n_folds
    n_train, n_val = (len(indices) * sampling_factor for indices in data.split.train_val_indices(0))
    n_examples = round(len(data.source) * sampling_factor)
    schedule = schedule_of_fit(
        plan.config, data.source, data.task, plan.input_spec, round(n_train), n_examples=n_examples
    )
    fit_seconds = _fit_seconds(profile, data.task, schedule, n_train, n_val)
    n_workers = (parse_workers(training.workers) or (1, 1))[1]
    uses_gpu = profile.components.execution.device.type == "cuda"
    is_in_process = not uses_gpu and are_short_fits(
        plan.config, data.source, data.task, plan.input_spec, schedule, n_folds=n_folds, n_cpus=n_parallel
    )
    n_concurrent = 1 if is_in_process or training.workers is not None else min(n_parallel, n_folds)
    fits_seconds = fit_seconds * n_folds / n_concurrent / n_workers + (fit_seconds / n_workers if n_folds > 1 else 0.0)
    n_baseline = min(n_train + n_val, MAX_EXAMPLES)
    baseline_seconds = n_baseline * profile.encode_seconds * BASELINE_PASSES + BASELINE_SECONDS
    if is_in_process:
        total_seconds = ray_seconds * STARTS_IN_PROCESS + max(fits_seconds, baseline_seconds)
    else:
        n_starts = STARTS_WITH_FOLDS if n_folds > 1 else STARTS_WITH_ONE_SPLIT
        total_seconds = ray_seconds * n_starts + fits_seconds + baseline_seconds
    fits = f", {n_folds} folds and a refit" if n_folds > 1 else ""
    price = plan.config.logging.usd_per_hour
    cost = f", ${total_seconds / 3600 * price:.3f}" if price is not None else "; add --usd-per-hour for the cost"
    training_time = f"{format_duration(fits_seconds)} of training ({schedule.description}{fits})"
    parts = f"{training_time}, the rest for the start and the baselines"
    return CheckResult("ok", "the run", f"about {format_duration(total_seconds)}{cost}: {parts}")


def _fit_seconds(profile: ModelProfile, task: Task, schedule: TrainingSchedule, n_train: float, n_val: float) -> float:
    """Return the time of one fit."""
    if profile.components.model.has_frozen_features:
        return (n_train + n_val) * profile.encode_seconds + _head_seconds(task, schedule)
    scoring = (schedule.epochs * n_val + n_train) * profile.encode_seconds
    step_seconds = profile.step_seconds * min(schedule.global_batch_size, n_train) / profile.step_examples
    return schedule.total_steps * step_seconds + scoring


def _head_seconds(task: Task, schedule: TrainingSchedule) -> float:
    """Return the time in which a classifier on constant features is trained or solved."""
    if schedule.is_solved:
        return SOLUTION_SECONDS * (1 + schedule.global_batch_size / 500)
    return schedule.total_steps * head_step_seconds(task)


@dataclass(frozen=True)
class SweepEstimate:
    """Estimated cost of a sweep.

    Attributes:
        costs: Forecasts the cost of a trial.
        disk: Whether its models fit on the disk.
    """

    costs: CostModel
    disk: CheckResult


def estimate_trials(plan: RunPlan, data: PreparedData, n_concurrent: int) -> SweepEstimate:
    """Estimate the time of trials and the disk space of a sweep, from measurements of the default config's model.

    Args:
        plan: Plan of the sweep.
        data: Prepared data.
        n_concurrent: Trials that run in parallel.

    Returns:
        The estimate.

    Raises:
        InputError: The model cannot be built.
    """
    _, profile = check_model(plan, data)
    folds = [data.split.train_val_indices(fold) for fold in range(data.split.n_folds)]
    costs = CostModel(data.source, data.task, plan.input_spec, folds, _cost_rates(plan, data, profile))
    models_mb = disk_needed_mb(data, profile) * (plan.config.tune.keep_best_models + n_concurrent + 2)
    return SweepEstimate(costs, check_disk(Path(plan.config.logging.output_dir), models_mb))


def closing_seconds(config: Config, costs: CostModel, n_concurrent: int) -> float:
    """Estimate the time of a sweep after its last trial: the revalidation and the run of the best config.

    The best config may cost more than the default one, whose time is known: the stopper reserves the difference.

    Args:
        config: The config.
        costs: Forecasts the cost of a trial.
        n_concurrent: Trials that run in parallel.

    Returns:
        Seconds.
    """
    return 2 * config.tune.revalidation_seeds * costs.forecast(config).seconds / n_concurrent + CLOSING_SECONDS


def _cost_rates(plan: RunPlan, data: PreparedData, profile: ModelProfile) -> CostRates:
    """Return the time of one layer, the measured pass divided by the layers that it ran, and that of a step.

    A step was measured without the outputs of frozen layers, which trials keep, so the passes through layers are
    subtracted.
    """
    model = profile.components.model
    encoders = (model.text, model.audio)
    bodies = [getattr(encoder, "body", None) for encoder in encoders]
    totals = [int(getattr(getattr(body, "config", None), "num_hidden_layers", 0)) for body in bodies]
    n_read, n_frozen = (sum(int(getattr(each, name, 0)) for each in encoders) for name in ("depth", "frozen"))
    layer_seconds = profile.encode_seconds / max(1, n_read)
    step_seconds = head_step_seconds(data.task)
    if not model.has_frozen_features:
        n_train = len(data.split.train_val_indices(0)[0])
        schedule = schedule_of_fit(plan.config, data.source, data.task, plan.input_spec, n_train)
        size = min(schedule.global_batch_size, n_train)
        passes = size * (n_frozen + BACKWARD_COST * (n_read - n_frozen))
        measured = profile.step_seconds * size / profile.step_examples
        step_seconds = max(step_seconds, measured - passes * layer_seconds)
    return CostRates(layer_seconds, step_seconds, *totals)


def disk_needed_mb(data: PreparedData, profile: ModelProfile) -> float:
    """Return the size of a run: two checkpoints and a model of each fit, and the bundle.

    Args:
        data: Prepared data.
        profile: Measurements of the model.

    Returns:
        The size in MiB.
    """
    n_fits = data.split.n_folds + (data.split.n_folds > 1)
    weights = sum(p.numel() * p.element_size() for p in profile.components.model.parameters())
    return (3 * n_fits * profile.checkpoint_bytes + weights) / 2**20


def _format_bytes(n_bytes: float) -> str:
    return f"{n_bytes / 2**30:.1f} GB" if n_bytes >= 2**30 else f"{n_bytes / 2**20:.0f} MB"
