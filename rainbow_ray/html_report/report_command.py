"""Work of `python -m rainbow_ray.report`: write the page of a run, or a comparison of several."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from rainbow_ray.distributed.ray_cluster import prepare_environment
from rainbow_ray.utils.errors import EXIT_SUCCESS, InputError

if TYPE_CHECKING:
    from rainbow_ray.html_report.run_artifacts import RunArtifacts

COMPARISON = Path("comparison.html")


def report(options: argparse.Namespace) -> int:
    """Write the page of a run or a sweep, or a comparison of several, and print its path.

    Args:
        options: Arguments of `report`.

    Returns:
        The exit code.

    Raises:
        InputError: The options are wrong, or a folder is not a finished run.
    """
    prepare_environment()
    if len(options.runs) == 1:
        if options.out is not None:
            raise InputError("--out: it applies to several runs; the page of one run is in its folder")
        from rainbow_ray.html_report.write import write_report

        print(write_report(options.runs[0].resolve()))
        return EXIT_SUCCESS

    from rainbow_ray.html_report.comparison import comparison_page
    from rainbow_ray.html_report.html import write_page

    out = options.out or COMPARISON
    if out.is_dir():
        raise InputError(f"--out {out}: this is a folder")
    if out.exists() and not options.overwrite:
        raise InputError(f"--out {out}: the file exists; choose another name, or --overwrite")
    write_page(comparison_page(_read_runs(options.runs)), out)
    print(out)
    return EXIT_SUCCESS


def _read_runs(paths: Sequence[Path]) -> list[RunArtifacts]:
    """Read several runs. Raises `InputError` with the problems of all of them."""
    from rainbow_ray.html_report.run_artifacts import read_run

    runs, problems = [], []
    for path in paths:
        try:
            runs.append(read_run(path))
        except InputError as error:
            problems += error.problems
    if problems:
        raise InputError(problems)
    return runs
