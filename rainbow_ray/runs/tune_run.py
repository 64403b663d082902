"""Work of `python -m rainbow_ray.tune`: open the sweep, start Ray, prepare the data, and run the trials."""

from __future__ import annotations

import argparse
import dataclasses
from typing import TYPE_CHECKING

from rainbow_ray.config.load import Resolved
from rainbow_ray.distributed.assigned_resources import check_gpus
from rainbow_ray.distributed.ray_cluster import describe_dashboard, prepare_environment, ray_cluster
from rainbow_ray.distributed.resources import (
    RayResources,
    TrialResources,
    allocate_trials,
    describe_sharing,
    part_of_gpu,
)
from rainbow_ray.utils.errors import EXIT_SUCCESS
from rainbow_ray.utils.signals import raise_on_signal
from rainbow_ray.utils.stopwatch import Stopwatch, process_start_time

if TYPE_CHECKING:
    from rich.console import Console

    from rainbow_ray.config.schema import Config
    from rainbow_ray.runs.run_dir import RunDir
    from rainbow_ray.runs.sweep_plan import SweepPlan
    from rainbow_ray.setup.prepared import PreparedData


def tune_run(resolved: Resolved, options: argparse.Namespace) -> int:
    """Run a sweep.

    Args:
        resolved: The config.
        options: Arguments of `tune`.

    Returns:
        The exit code.

    Raises:
        InputError: The config, the search space or the data are wrong, or the sweep cannot be opened.
        TrainingError: No trial completed.
    """
    prepare_environment()

    # After `prepare_environment`, which Ray and transformers read when they are imported.
    from rainbow_ray.runs.run_dir import closing, resume_advice
    from rainbow_ray.runs.saved_config import continued_config
    from rainbow_ray.runs.sweep_plan import changed_rules, plan_sweep
    from rainbow_ray.setup.plan import choose_manifest, with_config
    from rainbow_ray.utils.console import make_console

    stopwatch, console = Stopwatch(process_start_time()), make_console()
    if choose_manifest(resolved)[1]:
        console.print("Tuning on the built-in demo songs: name your own with --manifest.", style="bold")
    sweep = plan_sweep(resolved)
    run_dir = None if options.dry_run else _open_sweep(sweep, options)
    if run_dir is not None and _report_finished(run_dir, sweep.config, console):
        return EXIT_SUCCESS
    if options.resume and run_dir is not None:
        config = continued_config(run_dir.path, sweep.config, resolved.user_keys)
        sweep = dataclasses.replace(sweep, plan=with_config(sweep.plan, config))
        console.print(f"Continuing {run_dir.path}")
        for note in changed_rules(run_dir, sweep.config):
            console.print(f"Note: {note}")
    stopwatch.mark("imports and checks")
    advice = resume_advice(run_dir) if run_dir is not None else ""
    with raise_on_signal(), closing(run_dir), ray_cluster(options.address, advice) as resources:
        stopwatch.mark("ray")
        _run_on_ray(sweep, run_dir, resources, console, stopwatch)
    return EXIT_SUCCESS


def _open_sweep(sweep: SweepPlan, options: argparse.Namespace) -> RunDir:
    """Create or find the folder of the sweep. Raises `InputError` where it searched another space."""
    from rainbow_ray.runs.run_dir import SWEEP, open_run
    from rainbow_ray.runs.sweep_plan import check_space

    space = {"name": sweep.space.name, **sweep.parameters.to_json()}
    run_dir = open_run(sweep.config, options.name, resume=options.resume, kind=SWEEP, space=space)
    check_space(run_dir, sweep.parameters)
    return run_dir


def _report_finished(run_dir: RunDir, config: Config, console: Console) -> bool:
    """Write the page of a finished sweep if it is missing. Return whether the sweep has all its trials."""
    from rainbow_ray.runs.results import complete_report
    from rainbow_ray.runs.sweep_results import count_reported_trials

    if not run_dir.is_finished or count_reported_trials(run_dir) < config.tune.trials:
        return False
    complete_report(run_dir, config)
    console.print(f"{run_dir.path} is finished: nothing is left to do; more trials with --trials.")
    return True


def _run_on_ray(
    sweep: SweepPlan, run_dir: RunDir | None, resources: RayResources, console: Console, stopwatch: Stopwatch
) -> None:
    """Prepare the data, print the header, and run the sweep unless this is a dry run."""
    from rainbow_ray.checks.estimate import closing_seconds
    from rainbow_ray.runs.sweep_plan import (
        budget_seconds,
        describe_forecast,
        estimate_sweep,
        prepare_sweep_data,
        print_sweep_header,
    )
    from rainbow_ray.tuning.sweep_forecast import SweepForecast

    for line in describe_dashboard(resources):
        console.print(line)
    for line in describe_sharing(resources, sweep.config.training.fits_per_gpu, device=sweep.config.training.device):
        console.print(line)
    config, trial_resources = sweep.config, _allocate(sweep.config, resources)
    check_gpus(resources, config.training.device)
    data = prepare_sweep_data(sweep.plan, console)
    stopwatch.mark("data")
    if run_dir is not None:
        trial_resources = _share_gpus(sweep, data, run_dir, resources, trial_resources)
    n_concurrent = trial_resources.max_concurrent
    estimate = estimate_sweep(sweep.plan, data, n_concurrent)
    forecast = SweepForecast(estimate.costs, sweep.space, config, n_concurrent)
    n_ended = forecast.observe_log(run_dir.file("trials.jsonl")) if run_dir is not None else 0
    after_seconds = closing_seconds(config, estimate.costs, n_concurrent)
    expected = describe_forecast(config, forecast, n_ended, after_seconds)
    print_sweep_header(sweep, data, n_concurrent, expected, console)
    # trials of earlier starts are results already
    trial_seconds = 0.0 if n_ended else estimate.costs.encode_seconds + estimate.costs.forecast(config).seconds
    seconds = budget_seconds(config, stopwatch.started, after_seconds, trial_seconds)
    if run_dir is None:
        return

    from rainbow_ray.runs.context import RunContext
    from rainbow_ray.runs.sweep_trials import run_trials

    run = RunContext(sweep.plan, data, run_dir, resources, console, stopwatch)
    run_trials(run, sweep, trial_resources, forecast, seconds)


def _share_gpus(
    sweep: SweepPlan, data: PreparedData, run_dir: RunDir, resources: RayResources, allocated: TrialResources
) -> TrialResources:
    """Return the resources of trials, which share GPUs where a measurement allows it and the user did not choose."""
    tuning, largest = sweep.config.tune, sweep.largest_config
    is_chosen = tuning.gpus_per_trial is not None or tuning.workers_per_trial > 1
    n_shared = sweep.config.training.fits_per_gpu
    if is_chosen or allocated.gpus == 0 or (largest is None and n_shared is None):
        return allocated
    if n_shared is None:
        assert largest is not None
        n_shared = _measure_fits_per_gpu(largest, sweep, data, run_dir, resources)
    if n_shared == 1:
        return allocated
    return _allocate(sweep.config.with_values({"tune.gpus_per_trial": part_of_gpu(n_shared)}), resources)


def _measure_fits_per_gpu(
    largest: Config, sweep: SweepPlan, data: PreparedData, run_dir: RunDir, resources: RayResources
) -> int:
    """Return how many trials may share a GPU, from a few steps of the largest one."""
    from rainbow_ray.training.cross_validation import FitContext, FitJob, data_of_job
    from rainbow_ray.training.gpu_sharing import choose_fits_per_gpu

    train, val = data.split.train_val_indices(0)
    cache = run_dir.file("frozen_features")
    context = FitContext(largest, data.source, data.task, sweep.plan.input_spec, data.split.split_by, cache)
    _, fit_data = data_of_job(context, FitJob(0, train, val, run_dir.path))
    n_fits = sweep.config.tune.max_concurrent_trials or sweep.config.tune.trials
    return choose_fits_per_gpu(largest, fit_data, resources, n_fits)


def _allocate(config: Config, resources: RayResources) -> TrialResources:
    tuning = config.tune
    return allocate_trials(
        resources, n_trials=tuning.trials, max_concurrent=tuning.max_concurrent_trials,
        gpus_per_trial=tuning.gpus_per_trial, workers_per_trial=tuning.workers_per_trial,
        device=config.training.device,
    )  # fmt: skip
