"""Train one model: `python -m rainbow_ray.train --phase 1`."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from rainbow_ray.cli import make_parser, read_config, run
from rainbow_ray.config.load import dump
from rainbow_ray.utils.errors import EXIT_SUCCESS


def main(arguments: Sequence[str]) -> int:
    options = make_parser("train", __doc__ or "").parse_intermixed_args(arguments)
    resolved = read_config(options)
    if options.print_config:
        print(dump(resolved.config), end="")
        return EXIT_SUCCESS

    from rainbow_ray.runs.train_run import train_run

    return train_run(resolved, options)


if __name__ == "__main__":
    sys.exit(run(main))
