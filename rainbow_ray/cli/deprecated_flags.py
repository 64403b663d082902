"""Former names of command-line flags: accepted, hidden from `--help`, and reported on standard error."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from typing import Any, NamedTuple

from rainbow_ray.utils.streams import print_note


class _GivenFlag(NamedTuple):
    """A flag of a command line, under the name that the user wrote."""

    namespace: argparse.Namespace
    name: str
    value: Any

    def __str__(self) -> str:
        return self.name if self.value is True else f"{self.name} {self.value}"


class _RenamedFlag(argparse.Action):
    """Store the value of a flag under either of its names; print one line for the former one."""

    def __init__(self, option_strings: Sequence[str], dest: str, *, is_switch: bool = False, **options: Any) -> None:
        switch_options: dict[str, Any] = {"nargs": 0, "default": False} if is_switch else {}
        super().__init__(option_strings, dest, **switch_options, **options)
        self.present_name, self.former_name = option_strings
        self.is_switch = is_switch
        self._earlier: _GivenFlag | None = None

    def __call__(
        self,
        parser: argparse.ArgumentParser,  # noqa: ARG002
        namespace: argparse.Namespace,
        values: str | Sequence[Any] | None,
        option_string: str | None = None,
    ) -> None:
        given = _GivenFlag(namespace, option_string or self.present_name, True if self.is_switch else values)
        earlier, self._earlier = self._earlier, given
        # a parser can be used again, with another namespace
        if earlier is not None and earlier.namespace is namespace and _contradict(earlier, given):
            raise argparse.ArgumentError(None, f"{earlier} contradicts {given}; give only {self.present_name}")
        if given.name == self.former_name:
            print_note(f"{self.former_name} is deprecated: the flag is now {self.present_name}")
        setattr(namespace, self.dest, given.value)


def _contradict(first: _GivenFlag, second: _GivenFlag) -> bool:
    return first.name != second.name and first.value != second.value


def add_renamed_flag(parser: argparse.ArgumentParser, present_name: str, former_name: str, **options: Any) -> None:
    """Add a flag to a parser that also accepts its former name.

    Different values under the two names are an error of the command line.

    Args:
        parser: Parser of the command.
        present_name: Present name, such as `--max-concurrent`.
        former_name: Former name, such as `--concurrent`.
        **options: `is_switch=True` for a flag without a value, and options of `add_argument`.
    """
    action = parser.add_argument(present_name, former_name, action=_RenamedFlag, **options)
    action.option_strings = [present_name]  # what `--help` shows; the parser has registered both
