"""Check data, labels, model, memory, time and machine before training: `python -m rainbow_ray.check --phase 1`."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from rainbow_ray.cli.config_arguments import make_parser, read_config
from rainbow_ray.cli.main import run_command


def main(arguments: Sequence[str]) -> int:
    """Run `check`.

    Args:
        arguments: Command line, without the program's name.

    Returns:
        The exit code.
    """
    options = make_parser("check", __doc__ or "").parse_intermixed_args(arguments)
    resolved = read_config(options)

    from rainbow_ray.checks.preflight import build_cache, check_run

    return (build_cache if options.build_cache else check_run)(resolved, options.address)


if __name__ == "__main__":
    sys.exit(run_command(main))
