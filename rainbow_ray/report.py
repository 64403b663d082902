"""Write the page of a run or a sweep, or compare several: `python -m rainbow_ray.report runs/NAME [runs/OTHER …]`."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from rainbow_ray.cli import run
from rainbow_ray.utils.errors import EXIT_SUCCESS
from rainbow_ray.utils.paths import path_option

if TYPE_CHECKING:
    from rainbow_ray.html_report.run_artifacts import RunArtifacts


def main(arguments: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m rainbow_ray.report", description=__doc__, allow_abbrev=False)
    parser.add_argument("runs", nargs="+", type=path_option, metavar="RUN", help="folder of a finished run or sweep")
    parser.add_argument(
        "--out", type=path_option, metavar="F", help="of several runs: the page (default: comparison.html)"
    )
    parser.add_argument("--overwrite", action="store_true", help="an existing --out may be replaced")
    options = parser.parse_args(arguments)

    from rainbow_ray.distributed.ray_cluster import prepare_environment
    from rainbow_ray.utils.errors import InputError

    prepare_environment()
    if len(options.runs) == 1:
        if options.out is not None:
            raise InputError("--out is for several runs: the page of one lies in its folder")
        from rainbow_ray.html_report.write import write_report

        print(write_report(options.runs[0].resolve()))
        return EXIT_SUCCESS

    from rainbow_ray.html_report.comparison import comparison_page
    from rainbow_ray.html_report.html import write_page

    out = options.out or Path("comparison.html")
    if out.is_dir():
        raise InputError(f"--out {out}: this is a folder")
    if out.exists() and not options.overwrite:
        raise InputError(f"--out {out}: the file exists; another name, or --overwrite")
    write_page(comparison_page(_read_all(options.runs)), out)
    print(out)
    return EXIT_SUCCESS


def _read_all(paths: Sequence[Path]) -> list[RunArtifacts]:
    from rainbow_ray.html_report.run_artifacts import read_run
    from rainbow_ray.utils.errors import InputError

    found, problems = [], []
    for path in paths:
        try:
            found.append(read_run(path))
        except InputError as error:
            problems += error.problems
    if problems:
        raise InputError(problems)
    return found


if __name__ == "__main__":
    sys.exit(run(main))
