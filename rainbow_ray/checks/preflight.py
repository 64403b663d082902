"""Work of `python -m rainbow_ray.check`: all checks before a run, or filling the cache of audio and MIDI."""

from __future__ import annotations

import functools
import os
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

from rainbow_ray.distributed.ray_cluster import prepare_environment
from rainbow_ray.utils.errors import EXIT_FAILURE, EXIT_INPUT_ERROR, EXIT_SUCCESS, InputError
from rainbow_ray.utils.signals import raise_on_signal

if TYPE_CHECKING:
    import subprocess

    from rich.console import Console

    from rainbow_ray.checks.result import CheckResult, Status
    from rainbow_ray.config.load import Resolved

SYMBOLS: dict[Status, tuple[str, str]] = {
    "ok": ("✓", "green"),
    "warning": ("!", "yellow"),
    "input_error": ("✗", "red"),
    "environment_error": ("✗", "red"),
}  # symbol and color of each status


def check_run(resolved: Resolved, address: str | None) -> int:
    """Check data, labels, model, memory, disk, services, Ray and the estimated time of a run; print each result.

    Args:
        resolved: The config.
        address: Address of a Ray cluster, or None to start one.

    Returns:
        0 if the run can start, 1 if something is wrong with this machine, 2 if the input or the config is wrong.
    """
    prepare_environment()

    # After `prepare_environment`, which Ray and transformers read when they are imported.
    from rainbow_ray.checks.environment import start_ray

    with raise_on_signal():
        ray_process = start_ray(address)  # in parallel to the other checks
        try:
            return _run_checks(resolved, ray_process)
        finally:
            if ray_process.poll() is None:
                ray_process.terminate()
                ray_process.communicate()


def _run_checks(resolved: Resolved, ray_process: subprocess.Popen[str]) -> int:
    """Run all checks and print every result as soon as it is available."""
    from rainbow_ray.checks.data import MAX_ROWS, check_labels, check_lengths, check_songs
    from rainbow_ray.checks.environment import check_devices, check_disk, check_ray, check_services
    from rainbow_ray.checks.estimate import check_memory, disk_needed_mb, estimate_run
    from rainbow_ray.checks.media import check_media
    from rainbow_ray.checks.model import check_model
    from rainbow_ray.checks.more_songs import check_more_songs
    from rainbow_ray.checks.result import CheckResult
    from rainbow_ray.data.reader import read_rows_locally
    from rainbow_ray.setup.plan import make_plan
    from rainbow_ray.setup.prepare import prepare_data
    from rainbow_ray.utils.console import make_console

    console = make_console()
    results: list[CheckResult] = []

    def show(new_results: Iterable[CheckResult]) -> None:
        for result in new_results:
            results.append(result)
            _print_result(result, console)

    try:
        show(check_devices(resolved.config))
        plan = make_plan(resolved)
        data = prepare_data(plan, functools.partial(read_rows_locally, max_rows=MAX_ROWS))
        show(check_songs(plan, data))
        show([check_lengths(plan, data)] if plan.input_spec.text else [])
        show(check_labels(plan, data))
        show(check_more_songs(plan, data))
        model_results, profile = check_model(plan, data)
        show([*model_results, check_memory(plan, data, profile)])
        show(check_media(plan, data, profile.components.features.audio_features))
        show([check_disk(Path(plan.config.logging.output_dir), disk_needed_mb(data, profile))])
        show(check_services(plan.config))
        ray_result, ray_seconds = check_ray(ray_process)
        show([ray_result])
        show([estimate_run(plan, data, profile, ray_seconds, n_parallel=os.cpu_count() or 1)])
    except InputError as error:
        show(CheckResult("input_error", "input", problem) for problem in error.problems)
    return _print_conclusion(results, console)


def build_cache(resolved: Resolved, address: str | None) -> int:
    """Fill the cache of audio and MIDI: the files are read as `data.reader` says, then this process encodes them.

    Args:
        resolved: The config.
        address: Address of a Ray cluster, or None to start one.

    Returns:
        The exit code.

    Raises:
        InputError: The config or the data are wrong.
    """
    from rainbow_ray.distributed.ray_cluster import ray_cluster

    prepare_environment()

    # After `prepare_environment`, which Ray and transformers read when they are imported.
    from rainbow_ray.checks.media import encode_all_windows
    from rainbow_ray.checks.result import CheckResult
    from rainbow_ray.setup.plan import make_plan
    from rainbow_ray.setup.prepare import prepare_data_with_progress
    from rainbow_ray.utils.console import make_console

    plan, console = make_plan(resolved), make_console()
    with ray_cluster(address):
        data = prepare_data_with_progress(plan, console)
    for warning in data.warnings:
        _print_result(CheckResult("warning", "media", warning), console)
    _print_result(encode_all_windows(plan, data, console), console)
    return EXIT_SUCCESS


def _print_result(result: CheckResult, console: Console) -> None:
    from rich.text import Text

    from rainbow_ray.utils.streams import printable

    console.print(Text.assemble(SYMBOLS[result.status], printable(f" {result.topic}: {result.text}")))


def _print_conclusion(results: list[CheckResult], console: Console) -> int:
    """Print whether training can start; return the exit code."""
    statuses = [result.status for result in results]
    n_input, n_environment = statuses.count("input_error"), statuses.count("environment_error")
    n_warnings = statuses.count("warning")
    if n_input:
        console.print(f"{n_input} to fix in the input or the config.", style="bold")
        return EXIT_INPUT_ERROR
    if n_environment:
        console.print(f"{n_environment} to fix on this machine.", style="bold")
        return EXIT_FAILURE
    warnings = f", with {n_warnings} {'warning' if n_warnings == 1 else 'warnings'}" if n_warnings else ""
    console.print(f"Ready to train{warnings}.", style="bold")
    return EXIT_SUCCESS
