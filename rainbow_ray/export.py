"""Export a trained model to ONNX or transformers: `python -m rainbow_ray.export runs/NAME --onnx`."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from rainbow_ray.cli.main import run_command
from rainbow_ray.cli.model_arguments import make_export_parser


def main(arguments: Sequence[str]) -> int:
    """Run `export`.

    Args:
        arguments: Command line, without the program's name.

    Returns:
        The exit code.
    """
    options = make_export_parser(__doc__ or "").parse_args(arguments)

    from rainbow_ray.exporters.export_command import export

    return export(options)


if __name__ == "__main__":
    sys.exit(run_command(main))
