"""Serve a trained model over HTTP on this machine: `python -m rainbow_ray.serve runs/NAME`."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from rainbow_ray.cli.main import run_command
from rainbow_ray.cli.model_arguments import make_serve_parser


def main(arguments: Sequence[str]) -> int:
    """Run `serve`.

    Args:
        arguments: Command line, without the program's name.

    Returns:
        The exit code.
    """
    options = make_serve_parser(__doc__ or "").parse_args(arguments)

    from rainbow_ray.serving.serve_command import serve

    return serve(options)


if __name__ == "__main__":
    sys.exit(run_command(main))
