"""Search for a better config: `python -m rainbow_ray.tune --trials 30`."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from rainbow_ray.cli import make_parser, read_config, run
from rainbow_ray.config.load import dump
from rainbow_ray.utils.errors import EXIT_SUCCESS


def main(arguments: Sequence[str]) -> int:
    options = make_parser("tune", __doc__ or "").parse_intermixed_args(arguments)
    resolved = read_config(options)
    if options.print_config:
        print(dump(resolved.config), end="")
        return EXIT_SUCCESS

    from rainbow_ray.runs.tune_run import tune_run

    return tune_run(resolved, options)


if __name__ == "__main__":
    sys.exit(run(main))
