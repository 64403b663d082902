"""Former names of command-line flags: accepted, hidden from `--help`, and reported on standard error."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from typing import Any

from rainbow_ray.utils.streams import printable


class _DeprecatedFlag(argparse.Action):
    """Store the value under the destination of the present flag, and print one line."""

    def __init__(self, *, present_name: str, is_switch: bool = False, **options: Any) -> None:
        super().__init__(nargs=0 if is_switch else None, help=argparse.SUPPRESS, default=argparse.SUPPRESS, **options)
        self.present_name, self.is_switch = present_name, is_switch

    def __call__(
        self,
        parser: argparse.ArgumentParser,  # noqa: ARG002
        namespace: argparse.Namespace,
        values: str | Sequence[Any] | None,
        option_string: str | None = None,
    ) -> None:
        print(printable(f"warning: {option_string} is deprecated: use {self.present_name}"), file=sys.stderr)
        setattr(namespace, self.dest, True if self.is_switch else values)


def add_deprecated_flag(
    parser: argparse.ArgumentParser,
    former_name: str,
    present_name: str,
    *,
    type: Callable[[str], Any] = str,
    is_switch: bool = False,
) -> None:
    """Let a parser accept the former name of a flag.

    Args:
        parser: Parser that has the present flag.
        former_name: Former name, such as `--concurrent`.
        present_name: Present name, such as `--max-concurrent`.
        type: Conversion of the value, as of the present flag.
        is_switch: Whether the flag has no value.
    """
    destination = present_name.removeprefix("--").replace("-", "_")
    options: dict[str, Any] = {"is_switch": True} if is_switch else {"type": type}
    parser.add_argument(former_name, action=_DeprecatedFlag, dest=destination, present_name=present_name, **options)
