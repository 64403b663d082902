"""Search for a better config: `python -m rainbow_ray.tune --trials 30`."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from rainbow_ray.cli.config_arguments import make_parser, print_config_or_schema, read_config
from rainbow_ray.cli.main import run_command
from rainbow_ray.utils.errors import EXIT_SUCCESS


def main(arguments: Sequence[str]) -> int:
    """Run `tune`.

    Args:
        arguments: Command line, without the program's name.

    Returns:
        The exit code.
    """
    options = make_parser("tune", __doc__ or "").parse_intermixed_args(arguments)
    if print_config_or_schema(options):
        return EXIT_SUCCESS
    resolved = read_config(options)

    from rainbow_ray.runs.tune_run import tune_run

    return tune_run(resolved, options)


if __name__ == "__main__":
    sys.exit(run_command(main))
