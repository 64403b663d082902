"""Score songs or ideas with a trained model: `python -m rainbow_ray.predict --model runs/NAME --text "…"`."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from rainbow_ray.cli.main import run_command
from rainbow_ray.cli.model_arguments import make_predict_parser


def main(arguments: Sequence[str]) -> int:
    """Run `predict`.

    Args:
        arguments: Command line, without the program's name.

    Returns:
        The exit code.
    """
    options = make_predict_parser(__doc__ or "").parse_args(arguments)

    from rainbow_ray.inference.predict_command import predict

    return predict(options)


if __name__ == "__main__":
    sys.exit(run_command(main))
