"""Planning of a sweep before its first trial: search space, data, estimates of time and cost, and budget."""

from __future__ import annotations

import dataclasses
import functools
import json
import math
import time
from dataclasses import dataclass
from typing import Any

import numpy as np
from rich.console import Console

from rainbow_ray.checks.estimate import SweepEstimate, estimate_trials
from rainbow_ray.config.keys import short_names
from rainbow_ray.config.load import Resolved
from rainbow_ray.config.schema import Config
from rainbow_ray.data.dataset import InMemoryDataset
from rainbow_ray.runs.run_dir import SPACE, RunDir
from rainbow_ray.runs.saved_config import read_config
from rainbow_ray.setup import prepare
from rainbow_ray.setup.plan import STEP_SIZE_KEYS, RunPlan, keep_step_size, make_plan
from rainbow_ray.setup.prepared import PreparedData
from rainbow_ray.setup.segment_table import SONG_TARGET
from rainbow_ray.setup.validate import check_values
from rainbow_ray.training.loggers import wandb_notes
from rainbow_ray.tuning.bbc_cv import min_detectable_difference
from rainbow_ray.tuning.search_space import (
    PREPARED,
    SearchParameters,
    Space,
    explore,
    find_conflicting_settings,
    load_space,
)
from rainbow_ray.tuning.sweep_forecast import SweepForecast
from rainbow_ray.utils.errors import InputError
from rainbow_ray.utils.number_format import format_duration

MIN_TRIAL_SECONDS = 5.0  # for all trials together; a budget that leaves less time is rejected
RULES = ("prune", "race_alpha", "cost_aware")  # keys of `tune` that decide which trials end early, and which are tried
BATCH_SIZE = "training.batch_size"
# keys of which larger values do not tell the memory of a trial
UNKNOWN_MEMORY_KEYS = (
    *PREPARED, "model.audio_encoder.freeze_layers", "model.audio_encoder.layer",
    "model.audio_encoder.freeze_feature_extractor", "training.batch_tokens",
)  # fmt: skip
BUDGET_MARGIN = 1.1  # of the least budget that is named, over the estimate: the next start may take longer


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

    @property
    def largest_config(self) -> Config | None:
        """The config of a trial that takes as much memory as any of the space; None where that cannot be told."""
        varied = self.parameters.distributions
        if any(key in varied for key in UNKNOWN_MEMORY_KEYS):
            return None
        largest: dict[str, Any] = {"model.text_encoder.freeze_layers": 0, "model.text_encoder.layer": "last"}
        largest = {key: value for key, value in largest.items() if key in varied}
        if BATCH_SIZE in varied:
            largest[BATCH_SIZE] = max(_largest_choice(text) for text in varied[BATCH_SIZE])
        return self.config.with_values(largest)


def _largest_choice(distribution: str) -> int:
    """Return the largest number of a distribution, which is given as JSON of Optuna."""
    from optuna.distributions import CategoricalDistribution, json_to_distribution

    parsed: Any = json_to_distribution(distribution)
    return int(max(parsed.choices if isinstance(parsed, CategoricalDistribution) else [parsed.high]))


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
    if not tuning.prune and "tune.race_alpha" in resolved.user_keys:
        warnings.append("tune.race_alpha has no effect, because tune.prune is false: no trial is stopped early")
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
            if {*parameters.distributions, *parameters.constants}.intersection(STEP_SIZE_KEYS):
                plan = dataclasses.replace(plan, config=keep_step_size(plan.config))
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


def changed_rules(run_dir: RunDir, config: Config) -> list[str]:
    """Return notes about rules that decide on trials and that differ from those of the sweep's first start.

    Args:
        run_dir: Folder of the sweep.
        config: The config of this start.

    Returns:
        A message for each rule; sweeps of versions without a rule have its default.

    Raises:
        InputError: The config of the first start cannot be read.
    """
    first = read_config(run_dir.path).tune
    changes = [(name, getattr(first, name), getattr(config.tune, name)) for name in RULES]
    return [
        f"tune.{name} is {json.dumps(now)}, and was {json.dumps(before)} at first; trials that have ended stay as they"
        " are"
        for name, before, now in changes
        if before != now
    ]


def prepare_sweep_data(plan: RunPlan, console: Console) -> PreparedData:
    """Prepare the data of a sweep.

    Args:
        plan: Plan of the sweep.
        console: Where progress is shown.

    Returns:
        Data in memory.

    Raises:
        InputError: The songs exceed the memory limit, there are fewer groups than folds, or the data are wrong.
    """
    data = prepare.prepare_data_with_progress(plan, console)
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
    """Estimate the time of trials and the disk space of a sweep.

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


def describe_forecast(config: Config, forecast: SweepForecast, n_ended: int, closing_seconds: float) -> str:
    """Return the expected time and cost of the trials that are left, and of what follows them.

    Args:
        config: The config.
        forecast: Forecasts the time of trials.
        n_ended: Number of trials that ended in earlier starts.
        closing_seconds: Time after the last trial.

    Returns:
        A sentence.
    """
    expected, price = forecast.time_left(n_ended), config.logging.usd_per_hour
    n_left = max(0, config.tune.trials - n_ended)
    cost = f", ${expected.low / 3600 * price:.3f} to ${expected.high / 3600 * price:.3f}" if price is not None else ""
    return (
        f"Expected: {expected.text}{cost} for {n_left} trials of this search space; then about"
        f" {format_duration(closing_seconds)} for the revalidation and the run of the best config"
    )


def print_sweep_header(
    sweep: SweepPlan, data: PreparedData, n_concurrent: int, expected: str, console: Console
) -> None:
    """Print the data, the hyperparameters, the smallest difference that can be detected, the forecast and all notes.

    Args:
        sweep: The sweep.
        data: Prepared data.
        n_concurrent: Trials that run in parallel.
        expected: What `describe_forecast` returned.
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
        expected,
        *(f"Note: {note}" for note in notes),
    ]
    for line in lines:
        console.print(line)


def budget_seconds(config: Config, started: float, closing_seconds: float, trial_seconds: float) -> float | None:
    """Return how long trials may run.

    Args:
        config: The config.
        started: Time at which the command started, on the clock of `time.perf_counter()`.
        closing_seconds: Estimated time after the last trial, which is reserved.
        trial_seconds: Estimated time of a trial of the default config, or 0 where trials have ended before.

    Returns:
        Seconds from now on; None without a budget.

    Raises:
        InputError: A budget leaves no time for a trial.
    """
    tuning, price = config.tune, config.logging.usd_per_hour
    limits = {"--budget-minutes": tuning.budget_minutes * 60} if tuning.budget_minutes is not None else {}
    if tuning.budget_usd is not None and price:
        limits["--budget-usd"] = tuning.budget_usd / price * 3600
    if not limits:
        return None
    spent_seconds = time.perf_counter() - started
    trial_seconds = max(trial_seconds, MIN_TRIAL_SECONDS)
    least_seconds = spent_seconds + closing_seconds + trial_seconds
    too_small = [flag for flag, seconds in limits.items() if seconds < least_seconds]
    if too_small:
        parts = (
            f"the start took {format_duration(spent_seconds)}, a trial takes about {format_duration(trial_seconds)},"
            f" and the end (revalidation, the run of the best config) about {format_duration(closing_seconds)}"
        )
        raise InputError(
            [
                f"{flag}: {limits[flag] / 60:.1f} minutes are too few for one trial: {parts}; allow at least"
                f" {_format_budget(flag, least_seconds * BUDGET_MARGIN, price)}"
                for flag in too_small
            ]
        )
    return min(limits.values()) - spent_seconds - closing_seconds


def _format_budget(flag: str, seconds: float, price: float | None) -> str:
    """Return a flag with a value of at least so many seconds, rounded up."""
    if flag == "--budget-minutes" or not price:
        return f"{flag} {math.ceil(seconds / 6) / 10:g}"
    return f"{flag} {math.ceil(seconds / 3600 * price * 1000) / 1000:g}"
