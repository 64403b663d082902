"""Write the page of a run or a sweep, or compare several: `python -m rainbow_ray.report runs/NAME [runs/OTHER …]`."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from rainbow_ray.cli.main import run_command
from rainbow_ray.cli.model_arguments import make_report_parser


def main(arguments: Sequence[str]) -> int:
    """Run `report`.

    Args:
        arguments: Command line, without the program's name.

    Returns:
        The exit code.
    """
    options = make_report_parser(__doc__ or "").parse_args(arguments)

    from rainbow_ray.html_report.report_command import report

    return report(options)


if __name__ == "__main__":
    sys.exit(run_command(main))
