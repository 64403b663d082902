"""Planning of a sweep before its first trial: search space, data, estimates of time and cost, and budget."""

from __future__ import annotations

import dataclasses
import functools
import json
import time
from dataclasses import dataclass

import numpy as np
from rich.console import Console

from rainbow_ray.checks.estimate import SweepEstimate, estimate_trials
from rainbow_ray.config.keys import short_names
from rainbow_ray.config.load import Resolved
from rainbow_ray.config.schema import Config
from rainbow_ray.data.dataset import InMemoryDataset
from rainbow_ray.runs.run_dir import SPACE, RunDir
from rainbow_ray.setup import prepare
from rainbow_ray.setup.plan import RunPlan, make_plan
from rainbow_ray.setup.prepared import PreparedData
from rainbow_ray.setup.segment_table import SONG_TARGET
from rainbow_ray.setup.validate import check_values
from rainbow_ray.training.loggers import wandb_notes
from rainbow_ray.tuning.bbc_cv import min_detectable_difference
from rainbow_ray.tuning.search_space import SearchParameters, Space, explore, find_conflicting_settings, load_space
from rainbow_ray.utils.errors import InputError

MIN_TRIAL_SECONDS = 5.0  # for all trials together; a budget that leaves less time is rejected


@dataclass(frozen=True)
class SweepPlan:
    """A sweep before its data are read.

    Attributes:
        plan: Plan of a run with the default config.
        space: Search space.
        parameters: Keys that the space suggests or sets for this config.
    """

    plan: RunPlan
    space: Space
    parameters: SearchParameters

    @property
    def config(self) -> Config:
        """The config that the values of trials are applied to."""
        return self.plan.config


def plan_sweep(resolved: Resolved) -> SweepPlan:
    """Check everything about a sweep that can be checked before Ray starts.

    Args:
        resolved: The config.

    Returns:
        The plan.

    Raises:
        InputError: The config or the search space is wrong, with all problems.
    """
    tuning, problems = resolved.config.tune, []
    if tuning.budget_usd is not None and resolved.config.logging.usd_per_hour is None:
        problems.append(f"--budget-usd {tuning.budget_usd:g}: the price of an hour is not known; add --usd-per-hour")
    warnings: list[str] = []
    if resolved.config.training.workers is not None:
        warnings.append("training.workers has no effect on trials: see --workers-per-trial")
    plan = space = parameters = None
    try:
        plan = make_plan(resolved)
    except InputError as error:
        problems += error.problems
    seed = resolved.config.reproducibility.seed
    try:
        space = load_space(tuning.space, resolved.config.phase, _default_space(plan))
        if plan is not None:
            parameters = explore(space, plan.config, functools.partial(check_values, task=plan.task), seed)
            warnings += [*parameters.notes, *find_conflicting_settings(space, plan.config, seed)]
    except InputError as error:
        problems += error.problems
    if problems or plan is None or space is None or parameters is None:
        raise InputError(problems)
    return SweepPlan(dataclasses.replace(plan, warnings=[*plan.warnings, *warnings]), space, parameters)


def _default_space(plan: RunPlan | None) -> str:
    """Return the space of the task; that of any task where the plan cannot be made."""
    if plan is None:
        return "space"
    return plan.task.search_space(has_song_labels=plan.segments is not None and plan.target == SONG_TARGET)


def check_space(run_dir: RunDir, parameters: SearchParameters) -> None:
    """Compare the keys of the space with those of the sweep that is resumed.

    Args:
        run_dir: Folder of the sweep.
        parameters: Keys of the space at this start.

    Raises:
        InputError: The sweep searched another space.
    """
    differences = parameters.differences(json.loads(run_dir.file(SPACE).read_text(encoding="utf-8")))
    if differences:
        raise InputError(
            f"--resume: {run_dir.path} searched another space: {'; '.join(differences)}; start a new sweep"
        )


def prepare_sweep_data(plan: RunPlan) -> PreparedData:
    """Prepare the data of a sweep.

    Args:
        plan: Plan of the sweep.

    Returns:
        Data in memory.

    Raises:
        InputError: The songs exceed the memory limit, there are fewer groups than folds, or the data are wrong.
    """
    data = prepare.prepare_data(plan)
    if not isinstance(data.source, InMemoryDataset):
        limit = plan.config.data.in_memory_limit_mb
        raise InputError(
            f"data.in_memory_limit_mb: a sweep keeps its songs in memory, and {plan.manifest.shown} takes more than"
            f" {limit} MB; increase it, or tune on fewer songs"
        )
    n_folds = plan.config.data.folds
    if n_folds is not None and data.split.n_folds < n_folds and plan.known_split is None:
        raise InputError(
            f"--folds {n_folds}: only {data.split.n_folds} groups of songs can be held out, so at most as many folds"
        )
    return data


def estimate_sweep(plan: RunPlan, data: PreparedData, n_concurrent: int) -> SweepEstimate:
    """Estimate time, cost and disk space of a sweep.

    Args:
        plan: Plan of the sweep.
        data: Prepared data.
        n_concurrent: Trials that run in parallel.

    Returns:
        The estimate.

    Raises:
        InputError: The disk has too little space.
    """
    estimate = estimate_trials(plan, data, n_concurrent)
    if estimate.disk.status != "ok":
        raise InputError(f"--output-dir: {estimate.disk.text}; free some space, or choose another folder")
    return estimate


def print_sweep_header(
    sweep: SweepPlan, data: PreparedData, n_concurrent: int, estimate: SweepEstimate, console: Console
) -> None:
    """Print the data, the hyperparameters, the smallest difference that can be detected, the estimate and all notes.

    Args:
        sweep: The sweep.
        data: Prepared data.
        n_concurrent: Trials that run in parallel.
        estimate: Time and cost.
        console: Where it is printed.
    """
    split, plan = data.split, sweep.plan
    n_songs = len(np.unique(data.index.codes("song", np.flatnonzero(split.fold >= 0))))
    folds = f"{split.n_folds} {'fold' if split.n_folds == 1 else 'folds'}"
    names = list(short_names(sweep.parameters.distributions).values())
    space = f"{len(names)} {'hyperparameter' if len(names) == 1 else 'hyperparameters'}: {', '.join(names)}"
    notes = [*plan.warnings, *data.warnings, *wandb_notes(plan.config)]
    lines = [
        *prepare.describe_dataset(plan, data),
        f"{plan.config.tune.trials} trials of {folds}, {n_concurrent} in parallel; {plan.input_spec.description};"
        f" search space of {space}",
        f"{n_songs} scored songs can show a difference in accuracy of {min_detectable_difference(n_songs):.2f} between"
        " two configs; smaller differences are chance",
        estimate.text,
        *(f"Note: {note}" for note in notes),
    ]
    for line in lines:
        console.print(line)


def budget_seconds(config: Config, started: float, closing_seconds: float) -> float | None:
    """Return how long trials may run.

    Args:
        config: The config.
        started: Time at which the command started, on the clock of `time.perf_counter()`.
        closing_seconds: Estimated time after the last trial, which is reserved.

    Returns:
        Seconds from now on; None without a budget.

    Raises:
        InputError: The budget leaves no time for trials.
    """
    tuning, price = config.tune, config.logging.usd_per_hour
    limits = [tuning.budget_minutes * 60] if tuning.budget_minutes is not None else []
    if tuning.budget_usd is not None and price:
        limits.append(tuning.budget_usd / price * 3600)
    if not limits:
        return None
    spent_seconds = time.perf_counter() - started
    remaining_seconds = min(limits) - spent_seconds - closing_seconds
    if remaining_seconds < MIN_TRIAL_SECONDS:
        raise InputError(
            f"--budget-minutes, --budget-usd: {min(limits) / 60:.1f} minutes are too few: the start took"
            f" {spent_seconds / 60:.1f}, and the end (revalidation, the run of the best config) takes about"
            f" {closing_seconds / 60:.1f}; allow at least {(spent_seconds + closing_seconds) / 60 + 1:.0f}"
        )
    return remaining_seconds
