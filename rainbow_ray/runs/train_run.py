"""Work of `python -m rainbow_ray.train`: open the run, start Ray, prepare the data, and train."""

from __future__ import annotations

import argparse
import contextlib
import functools
import importlib
from typing import TYPE_CHECKING

from rainbow_ray.config.load import Resolved
from rainbow_ray.distributed.assigned_resources import check_gpus
from rainbow_ray.distributed.ray_cluster import describe_dashboard, prepare_environment, ray_cluster
from rainbow_ray.distributed.resources import allocate_workers, describe_network, describe_sharing, parse_workers
from rainbow_ray.utils.background import run_in_background
from rainbow_ray.utils.errors import EXIT_SUCCESS
from rainbow_ray.utils.signals import raise_on_signal
from rainbow_ray.utils.stopwatch import Stopwatch, process_start_time

# what a run needs after its data, and takes seconds to import
SLOW_IMPORTS = ("transformers.models.auto.modeling_auto", "rainbow_ray.runs.fits")

if TYPE_CHECKING:
    from concurrent.futures import Future
    from pathlib import Path

    from rich.console import Console

    from rainbow_ray.distributed.resources import RayResources
    from rainbow_ray.runs.run_dir import RunDir
    from rainbow_ray.setup.plan import RunPlan
    from rainbow_ray.setup.prepared import PreparedData


def train_run(resolved: Resolved, options: argparse.Namespace) -> int:
    """Train one model.

    Args:
        resolved: The config.
        options: Arguments of `train`.

    Returns:
        The exit code.

    Raises:
        InputError: The config or the data are wrong, or the run cannot be opened.
        TrainingError: A fit failed.
    """
    prepare_environment()

    # After `prepare_environment`, which Ray and transformers read when they are imported.
    from rainbow_ray.runs.run_dir import closing, open_run, resume_advice
    from rainbow_ray.runs.saved_config import continued_config
    from rainbow_ray.setup.plan import choose_manifest, make_plan, with_config
    from rainbow_ray.utils.console import make_console, show_activity

    stopwatch, console = Stopwatch(process_start_time()), make_console()
    if choose_manifest(resolved)[1]:
        console.print("Training on the built-in demo songs: name your own with --manifest.", style="bold")
    plan = make_plan(resolved)
    run_dir = None if options.dry_run else open_run(plan.config, options.name, resume=options.resume)
    if run_dir is not None and run_dir.is_finished:
        from rainbow_ray.runs.results import complete_report

        complete_report(run_dir, plan.config)
        console.print(f"{run_dir.path} is already finished.")
        return EXIT_SUCCESS
    if options.resume and run_dir is not None:
        plan = with_config(plan, continued_config(run_dir.path, plan.config, resolved.user_keys))
        console.print(f"Continuing {run_dir.path}")
    stopwatch.mark("imports and checks")
    advice = resume_advice(run_dir) if run_dir is not None else ""
    with raise_on_signal(), closing(run_dir):
        reading = _start_reading(plan, trains=run_dir is not None)
        with ray_cluster(options.address, advice) as resources:
            stopwatch.mark("ray")
            _run_on_ray(plan, reading, run_dir, resources, console, stopwatch)
            report = _start_report(plan, run_dir)  # while Ray ends
        if report is not None:
            with show_activity(console, "report"):
                path = report.result()
            console.print(f"Report, with the songs whose labels to check: {path}")
    return EXIT_SUCCESS


def _start_reading(plan: RunPlan, *, trains: bool) -> Future[PreparedData | None]:
    """Read the data while Ray starts, if this process reads them; otherwise the result is None.

    Modules are imported in the same thread: imports of one library in two threads can see parts of it alone.
    """
    from rainbow_ray.setup.prepare import needs_ray, prepare_data

    def read() -> PreparedData | None:
        data = None if needs_ray(plan) else prepare_data(plan)
        for module in SLOW_IMPORTS if trains else ():
            with contextlib.suppress(ImportError):  # raised where it matters
                importlib.import_module(module)
        return data

    return run_in_background(read, "reading")


def _start_report(plan: RunPlan, run_dir: RunDir | None) -> Future[Path] | None:
    """Start to write the page of a finished run, unless the config asks for none or this is a dry run."""
    if run_dir is None or not plan.config.logging.report:
        return None

    from rainbow_ray.html_report.write import write_report

    return run_in_background(functools.partial(write_report, run_dir.path), "report")


def _run_on_ray(
    plan: RunPlan, reading: Future[PreparedData | None], run_dir: RunDir | None, resources: RayResources,
    console: Console, stopwatch: Stopwatch,
) -> None:  # fmt: skip
    """Wait for the data or let Ray read them, print the header, and train unless this is a dry run."""
    from rainbow_ray.setup.prepare import prepare_data_with_progress

    for line in describe_dashboard(resources):
        console.print(line)
    # The workers are checked before data are read, which may take long.
    device, requested = plan.config.training.device, parse_workers(plan.config.training.workers)
    allocate_workers(resources, requested, device=device, streams=False)
    check_gpus(resources, device)
    sharing = describe_sharing(resources, plan.config.training.fits_per_gpu, device=device)
    for line in [*describe_network(resources, requested, device=device), *sharing]:
        console.print(line)
    data = reading.result() or prepare_data_with_progress(plan, console)
    stopwatch.mark("data")
    print_run_header(plan, data, console)
    if run_dir is None:
        return

    from rainbow_ray.runs.context import RunContext
    from rainbow_ray.runs.fits import train

    train(RunContext(plan, data, run_dir, resources, console, stopwatch))


def print_run_header(plan: RunPlan, data: PreparedData, console: Console) -> None:
    """Print the data, the split, the model, the schedule and all notes before training starts.

    Args:
        plan: Plan of the run.
        data: Prepared data.
        console: Where it is printed.
    """
    from rainbow_ray.data.dataset import count_songs
    from rainbow_ray.setup.prepare import describe_dataset
    from rainbow_ray.training.loggers import wandb_notes
    from rainbow_ray.training.schedule import schedule_of_fit

    split = data.split
    train, _ = split.train_val_indices(0)
    n_songs = count_songs(data.source, train)
    schedule = schedule_of_fit(plan.config, data.source, data.task, plan.input_spec, len(train), n_songs=n_songs)
    folds = "one split" if split.n_folds == 1 else f"{split.n_folds} folds"
    notes = [*plan.warnings, *data.warnings, *schedule.notes, *wandb_notes(plan.config)]
    lines = [
        *describe_dataset(plan, data),
        f"{folds} by {split.split_by}; {plan.input_spec.description}; {schedule.description}",
        *(f"Note: {note}" for note in notes),
    ]
    for line in lines:
        console.print(line)
