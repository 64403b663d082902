"""Look before you pay: data, labels, model, memory, time, machine: `python -m rainbow_ray.check --phase 1`."""

from __future__ import annotations

import functools
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from rainbow_ray.cli import make_parser, read_config, run
from rainbow_ray.utils.errors import EXIT_FAILURE, EXIT_INPUT_ERROR, EXIT_SUCCESS
from rainbow_ray.utils.signals import raise_on_signal

if TYPE_CHECKING:
    import subprocess

    from rich.console import Console

    from rainbow_ray.checks.result import CheckResult
    from rainbow_ray.config.load import Resolved

SIGNS = {"good": ("✓", "green"), "word": ("!", "yellow"), "input": ("✗", "red"), "environment": ("✗", "red")}


def main(arguments: Sequence[str]) -> int:
    options = make_parser("check", __doc__ or "").parse_intermixed_args(arguments)
    resolved = read_config(options)
    if options.prepare:
        return prepare(resolved, options.address)

    from rainbow_ray.distributed.ray_cluster import prepare_environment

    prepare_environment()

    from rainbow_ray.checks.environment import start_ray

    with raise_on_signal():
        starting = start_ray(options.address)  # beside everything else
        try:
            return _check(resolved, starting)
        finally:
            if starting.poll() is None:
                starting.terminate()
                starting.communicate()


def _check(resolved: Resolved, starting: subprocess.Popen[str]) -> int:
    """Show every finding as soon as it is known; `starting` is Ray on its way up."""
    from rainbow_ray.checks.data import MOST_ROWS, check_lengths, check_songs, probe_songs
    from rainbow_ray.checks.environment import check_devices, check_disk, check_ray, check_services
    from rainbow_ray.checks.estimate import check_memory, disk_needed_mb, estimate_run
    from rainbow_ray.checks.media import check_media
    from rainbow_ray.checks.model import check_model
    from rainbow_ray.checks.result import CheckResult
    from rainbow_ray.data.reader import read_rows_locally
    from rainbow_ray.setup.plan import make_plan
    from rainbow_ray.setup.prepare import prepare_data
    from rainbow_ray.utils.console import make_console
    from rainbow_ray.utils.errors import InputError

    console = make_console()
    seen: list[CheckResult] = []
    show = functools.partial(_show, console=console, seen=seen)
    try:
        show(check_devices(resolved.config))
        plan = make_plan(resolved)
        data = prepare_data(plan, functools.partial(read_rows_locally, max_rows=MOST_ROWS))
        show(check_songs(plan, data))
        show([check_lengths(plan, data)] if plan.reading.text else [])
        show(probe_songs(plan, data))
        found, measured = check_model(plan, data)
        show([*found, check_memory(plan, data, measured)])
        show(check_media(plan, data, measured.learner))
        show([check_disk(Path(plan.config.logging.output_dir), disk_needed_mb(data, measured))])
        show(check_services(plan.config))
        found_ray, seconds = check_ray(starting)
        show([found_ray])
        show(estimate_run(plan, data, measured, seconds, slots=_cpus()))
    except InputError as error:
        show(CheckResult("input", "input", problem) for problem in error.problems)
    return _close(console, seen)


def prepare(resolved: Resolved, address: str | None) -> int:
    """Fill the cache of audio and MIDI: files are read by Ray Data on all CPUs, then encoded here."""
    from rainbow_ray.distributed.ray_cluster import prepare_environment, ray_cluster

    prepare_environment()

    from rainbow_ray.checks.media import prepare_media
    from rainbow_ray.checks.result import CheckResult
    from rainbow_ray.setup.plan import make_plan
    from rainbow_ray.setup.prepare import prepare_data
    from rainbow_ray.utils.console import make_console

    plan = make_plan(resolved)
    with ray_cluster(address):
        data = prepare_data(plan)
    lines = [*(CheckResult("word", "media", line) for line in data.warnings), prepare_media(plan, data)]
    _show(lines, console=make_console(), seen=[])
    return EXIT_SUCCESS


def _show(found: Iterable[CheckResult], *, console: Console, seen: list[CheckResult]) -> None:
    from rich.text import Text

    from rainbow_ray.utils.streams import printable

    for finding in found:
        seen.append(finding)
        console.print(Text.assemble(SIGNS[finding.mark], printable(f" {finding.part}: {finding.text}")))


def _close(console: Console, seen: list[CheckResult]) -> int:
    marks = [one.mark for one in seen]
    wrong, failed, words = (marks.count(mark) for mark in ("input", "environment", "word"))
    if wrong:
        console.print(f"{wrong} to mend in the input or the config.", style="bold")
        return EXIT_INPUT_ERROR
    if failed:
        console.print(f"{failed} to mend on this machine.", style="bold")
        return EXIT_FAILURE
    console.print(f"Ready to train{f', with {words} things to know' if words else ''}.", style="bold")
    return EXIT_SUCCESS


def _cpus() -> int:
    import os

    return os.cpu_count() or 1


if __name__ == "__main__":
    sys.exit(run(main))
