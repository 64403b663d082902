"""A sweep of `python -m rainbow_ray.tune`: trials, selection, fresh splits, the best config trained."""

from __future__ import annotations

import argparse
import functools
import json
import shutil
import time
from typing import TYPE_CHECKING, Any

from rainbow_ray.config.keys import short_names
from rainbow_ray.config.load import Resolved
from rainbow_ray.config.schema import Config
from rainbow_ray.utils.errors import EXIT_SUCCESS
from rainbow_ray.utils.signals import raise_on_signal

if TYPE_CHECKING:
    from rich.console import Console

    from rainbow_ray.distributed.resources import RayResources
    from rainbow_ray.runs.run_dir import RunFolder
    from rainbow_ray.setup.plan import RunPlan
    from rainbow_ray.setup.prepared import PreparedData
    from rainbow_ray.training.cross_validation import FitContext
    from rainbow_ray.tuning.search_space import Axes, Space
    from rainbow_ray.tuning.sweep import Sweep
    from rainbow_ray.tuning.trial_log import TrialLog

STARTED = time.perf_counter()
LEAST_SECONDS = 5.0  # for trials, or a budget is refused


def tune_run(resolved: Resolved, options: argparse.Namespace) -> int:
    from rainbow_ray.distributed.ray_cluster import describe_dashboard, prepare_environment, ray_cluster
    from rainbow_ray.distributed.resources import allocate_trials
    from rainbow_ray.utils.stopwatch import Stopwatch

    prepare_environment()
    watch = Stopwatch(STARTED)

    from rainbow_ray.runs.run_dir import SWEEP, closing, how_to_resume, open_run
    from rainbow_ray.runs.train_run import complete_report
    from rainbow_ray.setup.plan import choose_manifest
    from rainbow_ray.utils.console import make_console

    console = make_console()

    if choose_manifest(resolved)[1]:
        console.print("Tuning on the built-in demo songs: name your own with --manifest.", style="bold")
    plan, space, axes = plan_sweep(resolved)
    tuning = plan.config.tune
    folder = None
    if not options.dry_run:
        document = {"name": space.name, **axes.to_json()}
        folder = open_run(plan.config, options.name, resume=options.resume, kind=SWEEP, space=document)
        check_space(folder, axes)
        if is_finished(folder, tuning.trials):
            complete_report(folder, plan.config)
            console.print(f"{folder.path} is finished: nothing is left to do; more trials with --trials.")
            return EXIT_SUCCESS
        if options.resume:
            console.print(f"Going on with {folder.path}")
    watch.mark("imports and checks")
    advice = how_to_resume(folder) if folder is not None else ""
    with raise_on_signal(), closing(folder), ray_cluster(options.address, advice) as cluster:
        watch.mark("ray")
        for line in describe_dashboard(cluster):
            console.print(line)
        slots = allocate_trials(
            cluster, n_trials=tuning.trials, max_concurrent=tuning.max_concurrent_trials,
            gpus_per_trial=tuning.gpus_per_trial,
            workers_per_trial=tuning.workers_per_trial, device=plan.config.training.device,
        )  # fmt: skip
        data = read_sweep_data(plan)
        watch.mark("data")
        reserve = print_sweep_header(plan, data, axes, slots.max_concurrent, console)
        seconds = budget_seconds(plan.config, STARTED, reserve)
        if folder is not None:
            tune(plan, data, folder, space, slots, cluster, console, watch, seconds)
    return EXIT_SUCCESS


def plan_sweep(resolved: Any) -> tuple[RunPlan, Space, Axes]:
    """Everything that can be checked before Ray starts. Raises `InputError` with all of it."""
    from rainbow_ray.setup.plan import check_values, make_plan
    from rainbow_ray.setup.segment_table import SONG_TARGET
    from rainbow_ray.tuning.search_space import explore, load_space, stacked_in
    from rainbow_ray.utils.errors import InputError

    tuning, problems = resolved.config.tune, []
    if tuning.budget_usd is not None and resolved.config.logging.usd_per_hour is None:
        problems.append(f"--budget-usd {tuning.budget_usd:g}: what an hour costs is not known; add --usd-per-hour")
    plan = space = axes = None
    try:
        plan = make_plan(resolved)
        if resolved.config.training.workers is not None:
            plan.warnings.append("training.workers has no effect on trials: see --workers-per-trial")
    except InputError as error:
        problems += error.problems
    try:
        kind = plan.task.name if plan is not None else ""
        if plan is not None and plan.segments is not None and plan.target == SONG_TARGET:  # what that is of, is known
            kind = f"weak {kind}"
        space = load_space(tuning.space, resolved.config.phase, kind)
        if plan is not None:
            check = functools.partial(check_values, task=plan.task)
            axes = explore(space, plan.config, check, resolved.config.reproducibility.seed)
            plan.warnings.extend(axes.notes)
            plan.warnings.extend(stacked_in(space, plan.config, resolved.config.reproducibility.seed))
    except InputError as error:
        problems += error.problems
    if problems or plan is None or space is None or axes is None:
        raise InputError(problems)
    return plan, space, axes


def check_space(folder: RunFolder, axes: Axes) -> None:
    """Raises `InputError` when a sweep that is gone on with searched another space."""
    from rainbow_ray.runs.run_dir import SPACE
    from rainbow_ray.utils.errors import InputError

    differs = axes.differences(json.loads(folder.file(SPACE).read_text(encoding="utf-8")))
    if differs:
        raise InputError(f"--resume: {folder.path} searched another space: {'; '.join(differs)}; start a new sweep")


def read_sweep_data(plan: RunPlan) -> PreparedData:
    """The songs of a sweep, in memory. Raises `InputError` for more than that."""
    from rainbow_ray.data.dataset import InMemoryDataset
    from rainbow_ray.setup.prepare import prepare_data
    from rainbow_ray.utils.errors import InputError

    data = prepare_data(plan)
    if not isinstance(data.source, InMemoryDataset):
        limit = plan.config.data.in_memory_limit_mb
        raise InputError(f"data.in_memory_limit_mb: a sweep keeps its songs in memory, and {plan.manifest.shown} takes"
                         f" more than {limit} MB; set it higher, or tune on fewer songs")  # fmt: skip
    asked = plan.config.data.folds
    if asked is not None and data.split.n_folds < asked and plan.known_split is None:
        raise InputError(f"--folds {asked}: only {data.split.n_folds} groups of songs can be held out, so at most as"
                         " many folds")  # fmt: skip
    return data


def print_sweep_header(plan: RunPlan, data: PreparedData, axes: Axes, concurrent: int, console: Console) -> float:
    """What will be searched, what it will cost, what so many songs can show; returns seconds to keep for the end."""
    import numpy as np

    from rainbow_ray.checks.estimate import estimate_trials
    from rainbow_ray.setup.prepare import describe_dataset
    from rainbow_ray.training.loggers import wandb_notes
    from rainbow_ray.tuning.bbc_cv import smallest_difference
    from rainbow_ray.utils.errors import InputError

    split, tuning = data.split, plan.config.tune
    songs = len(np.unique(data.index.codes("song", np.flatnonzero(split.fold >= 0))))
    said = [
        *describe_dataset(plan, data),
        f"{tuning.trials} trials of {split.n_folds} {'fold' if split.n_folds == 1 else 'folds'}, {concurrent} side by"
        f" side; {plan.reading.said}; {len(axes.distributions)} axes: "
        + ", ".join(short_names(axes.distributions).values()),
        f"{songs} scored songs can show a difference of accuracy of {smallest_difference(songs):.2f} between two"
        " configs; what is smaller is luck",
    ]
    cost = estimate_trials(plan, data, concurrent)
    if cost.disk.status != "ok":
        raise InputError(f"--output-dir: {cost.disk.text}; free some, or choose another folder")
    said += [cost.text]
    said += [f"Note: {note}" for note in [*plan.warnings, *data.warnings, *wandb_notes(plan.config)]]
    for line in said:
        console.print(line)
    return cost.closing_seconds


def tune(
    plan: RunPlan, data: PreparedData, folder: RunFolder, space: Space, slots: Any, cluster: RayResources,
    console: Console, watch: Any, seconds: float | None,
) -> None:  # fmt: skip
    """The trials that are missing; then, once all have ended or the budget is spent, what they found."""
    from rainbow_ray.runs.progress import TrialLines
    from rainbow_ray.runs.run_dir import keep_data
    from rainbow_ray.training.cross_validation import FitContext
    from rainbow_ray.tuning.trial_log import TrialLog
    from rainbow_ray.tuning.tuner import KeepBest, run_sweep
    from rainbow_ray.utils.errors import TrainingError

    keep_data(folder, data)
    prefix = folder.file("prefix")
    shared = FitContext(plan.config, data.source, data.task, plan.reading, data.split.split_by, prefix)
    trial_log = TrialLog(folder.file("trials.jsonl"))
    sweep = make_sweep(plan, data, shared, folder, space, slots, trial_log)
    before = len(trial_log.ended)
    if before:
        console.print(f"{before} trials have ended before, {len(trial_log.interrupted)} were interrupted")
    larger = sweep.larger_is_better
    with TrialLines(console, plan.config.training.headline, sweep.n_trials, larger_is_better=larger) as lines:
        lines.know(trial_log.ended)
        trial_log.watchers += [lines, KeepBest(sweep), *open_mirrors(plan, folder)]
        run_sweep(sweep, seconds=seconds)
    watch.mark("trials")
    missing = sweep.n_trials - len(trial_log.ended)
    if missing > 0:
        console.print(f"The budget is spent with {missing} trials to go; --resume goes on with them")
    complete = trial_log.complete(larger_is_better=sweep.larger_is_better)
    if not complete:
        reasons = "; ".join(dict.fromkeys(trial.reason for trial in trial_log.ended if trial.reason)) or "out of time"
        raise TrainingError(f"no trial of {folder.path} ran to its end: {reasons}")
    conclude(plan, data, sweep, folder, cluster, console, watch)
    shutil.rmtree(prefix, ignore_errors=True)


def make_sweep(
    plan: RunPlan,
    data: PreparedData,
    shared: FitContext,
    folder: RunFolder,
    space: Space,
    slots: Any,
    trial_log: TrialLog,
) -> Sweep:
    """What the engine works with."""
    from rainbow_ray.modalities import encoder_cache
    from rainbow_ray.tuning.sweep import Sweep
    from rainbow_ray.tuning.trial import TrialContext, make_rungs

    split = data.split
    sides = [split.train_val_indices(fold) for fold in range(split.n_folds)]
    context = TrialContext(
        shared,
        sides,
        make_rungs(split.n_folds, plan.config.tune.reduction_factor),
        folder.file("trials"),
        slots.workers,
    )
    context.folder.mkdir(exist_ok=True)
    return Sweep(
        plan.config,
        space,
        context,
        trial_log,
        slots,
        plan.task.larger_is_better(plan.config.training.headline),
        functools.partial(prepare_variant, data=data, shared=shared),
        encoder_cache.export_weights(plan.reading.text)
        if plan.reading.text and slots.gpus == 0 and slots.workers is None
        else None,
    )


def prepare_variant(config: Config, *, data: PreparedData, shared: FitContext) -> FitContext:
    """The same songs with their text read as another config says. Raises `InputError` where they are not the same."""
    import dataclasses

    import numpy as np

    from rainbow_ray.config.load import Resolved
    from rainbow_ray.data.reader import read_rows_locally
    from rainbow_ray.data.splits import group_ids
    from rainbow_ray.setup.plan import make_plan
    from rainbow_ray.setup.prepare import prepare_data
    from rainbow_ray.utils.errors import InputError

    other = make_plan(Resolved(config=config.model_copy(deep=True), user_keys=frozenset()))
    read = prepare_data(other, read_rows_locally)
    same = np.array_equal(read.index.ids, data.index.ids) and np.array_equal(read.source.targets, data.source.targets)
    if not same or read.task != data.task:
        raise InputError("with this text not the same songs are left, and scores could not be compared; see"
                         " data.min_concept_length, data.require_concept")  # fmt: skip
    by = config.data.split_by
    ours, theirs = group_ids(read.index, by), group_ids(data.index, by)
    if len(np.unique(np.stack([ours, theirs]), axis=1)[0]) > len(np.unique(ours)):
        raise InputError("songs that a split may part have the same text, read like this; add the column to the sweep's"
                         " own data.text_columns, or leave it out")  # fmt: skip
    return dataclasses.replace(shared, source=read.source, reading=other.reading)


def budget_seconds(config: Config, started: float, reserve: float) -> float | None:
    """How long trials may run, with `reserve` seconds kept for the end; None without a budget.

    Raises `InputError` for a budget that leaves them no time.
    """
    from rainbow_ray.utils.errors import InputError

    tuning, price = config.tune, config.logging.usd_per_hour
    limits = [tuning.budget_minutes * 60] if tuning.budget_minutes is not None else []
    if tuning.budget_usd is not None and price:
        limits.append(tuning.budget_usd / price * 3600)
    if not limits:
        return None
    spent = time.perf_counter() - started
    left = min(limits) - spent - reserve
    if left < LEAST_SECONDS:
        raise InputError(f"--budget-minutes, --budget-usd: {min(limits) / 60:.1f} minutes are too few: starting took"
                         f" {spent / 60:.1f}, and the end (fresh splits, the winner's run) takes about"
                         f" {reserve / 60:.1f}; allow at least {(spent + reserve) / 60 + 1:.0f}")  # fmt: skip
    return left


def open_mirrors(plan: RunPlan, folder: RunFolder) -> list[Any]:
    """W&B, where it was asked for: a run a trial, grouped by the sweep."""
    from rainbow_ray.tuning.trial_loggers import WandbTrialLogger

    return [WandbTrialLogger(plan.config, folder.path)] if plan.config.logging.wandb.enabled else []


def conclude(
    plan: RunPlan,
    data: PreparedData,
    sweep: Sweep,
    folder: RunFolder,
    cluster: RayResources,
    console: Console,
    watch: Any,
) -> None:
    """The winner's honest numbers, its model, and everything that is kept."""
    from rainbow_ray.html_report.write import write_report
    from rainbow_ray.training.checkpoint import write_json
    from rainbow_ray.tuning import summary
    from rainbow_ray.tuning.optuna_study import write_study
    from rainbow_ray.tuning.revalidation import correct_selection, revalidate
    from rainbow_ray.tuning.search_space import apply
    from rainbow_ray.tuning.trial import prefix_savings

    trial_log = sweep.trial_log
    trials = sorted(trial_log.ended, key=lambda trial: trial.number)
    winner = trial_log.complete(larger_is_better=sweep.larger_is_better)[0]
    config = apply(plan.config, winner.values, f"trial {winner.number}")
    quarantine(folder, len(trials))
    summary.write_trials(folder.file("trials.csv"), trials)
    write_study(folder.file("study.db"), folder.path.name, trials, larger_is_better=sweep.larger_is_better)
    summary.write_best(folder.file("best.yaml"), config)
    corrected = correct_selection(sweep, data)
    watch.mark("correction")
    confirmed = revalidate(sweep, data, config, winner, folder.file("confirm"), cluster, console)
    for weights in folder.file("confirm").glob("**/*.pt"):
        weights.unlink(missing_ok=True)  # its scores are what is kept
    watch.mark("fresh splits")
    train_best(config, folder, cluster, console)
    watch.mark("best")
    said = summary.verdict(config.training.headline, winner, corrected, confirmed, data.profile["songs"])
    document = summary.summarize(
        plan=plan, data=data, trials=trials, winner=winner, corrected=corrected, confirmed=confirmed,
        seconds=watch.seconds(), space=sweep.space.name, said=said,
        prefix=prefix_savings(sweep.context, [trial.number for trial in trials]),
    )  # fmt: skip
    write_json(folder.file("summary.json"), document)
    summary.print_summary(document, trials, folder.path, console)
    if plan.config.logging.report:
        console.print(f"What mattered, and what the winner is worth: {write_report(folder.path)}")


def is_finished(folder: RunFolder, trials: int) -> bool:
    """Whether a sweep has told the result of so many trials."""
    return folder.finished and trials_told(folder) >= trials


def trials_told(folder: RunFolder) -> int:
    """Of how many trials a sweep's summary speaks."""
    from rainbow_ray.evaluation.summary_format import read_summary

    return int(read_summary(folder.file("summary.json"))["trials"]["total"])


def quarantine(folder: RunFolder, trials: int) -> None:
    """A result of fewer trials is kept under another name: what is finished is never overwritten."""
    if not folder.finished or (before := trials_told(folder)) == trials:
        return
    for name in (
        "best",
        "best.yaml",
        "confirm",
        "report.html",
        "plots",
        "summary.json",
    ):  # the summary last: it says that all else is there
        source = folder.file(name)
        if source.exists():
            source.replace(source.with_name(f"{source.stem}-of-{before}{source.suffix}"))


def train_best(config: Config, folder: RunFolder, cluster: RayResources, console: Console) -> None:
    """A run of the winner, `best/`, with its bundle: what `train --config best.yaml` does."""
    from rainbow_ray.config.load import Resolved
    from rainbow_ray.runs.run_dir import begin_run, same_config
    from rainbow_ray.runs.train_run import train
    from rainbow_ray.setup.plan import make_plan
    from rainbow_ray.setup.prepare import prepare_data
    from rainbow_ray.utils.console import make_console
    from rainbow_ray.utils.stopwatch import Stopwatch

    path = folder.file("best")
    if path.exists() and not same_config(path, config):  # of a start that was stopped before more trials ran
        path.replace(folder.file(f"best-of-{time.time_ns()}"))
    best = begin_run(config, path)
    if best.finished:
        return
    console.print(f"The winner's run, in {best.path} …")
    plan = make_plan(Resolved(config=config.model_copy(deep=True), user_keys=frozenset()))
    # its own table says nothing that the sweep's does not say better
    train(plan, prepare_data(plan), best, cluster, make_console(quiet=True), Stopwatch(time.perf_counter()))
