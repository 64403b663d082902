"""Consoles of rich that print names, paths and labels as they are, without reading markup."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import IO, Any

from rich.console import Console
from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn
from rich.table import Column
from rich.text import Text

from rainbow_ray.utils.streams import printable


class _PlainConsole(Console):
    """A console whose strings are printed character by character."""

    def render_str(self, text: str, **options: Any) -> Text:
        return super().render_str(printable(text), **{**options, "markup": False, "emoji": False})


def make_console(file: IO[str] | None = None, *, quiet: bool = False) -> Console:
    """Return a console that reads no markup and no emoji codes, highlights nothing and does not wrap lines.

    Args:
        file: Where it prints; None is standard output.
        quiet: Whether it prints nothing.

    Returns:
        The console.
    """
    return _PlainConsole(file=file, quiet=quiet, markup=False, emoji=False, highlight=False, soft_wrap=True)


def text_column(text_format: str, *, takes_the_rest: bool = False) -> TextColumn:
    """Return a column of a progress bar that reads no markup.

    Args:
        text_format: Format of the text, with the fields of `task`.
        takes_the_rest: Whether it takes the width that the other columns leave, and is truncated there
            (`Progress(expand=True)`).

    Returns:
        The column.
    """
    column = Column(ratio=1, no_wrap=True, overflow="ellipsis") if takes_the_rest else None
    return TextColumn(text_format, markup=False, table_column=column)


@contextlib.contextmanager
def show_activity(console: Console, text: str) -> Iterator[None]:
    """Show on a terminal what a `with` statement does, and for how long; nothing elsewhere, and nothing after its end.

    Args:
        console: Where it is shown.
        text: What is done.

    Yields:
        Nothing.
    """
    if not is_live(console):
        yield
        return
    with Progress(SpinnerColumn(), text_column(text), TimeElapsedColumn(), console=console, transient=True) as progress:
        progress.add_task("", total=None)
        yield


def is_live(console: Console) -> bool:
    """Return whether lines can be redrawn in place, as on a terminal that can move its cursor.

    `Console.is_terminal` alone is also true for a pipe where FORCE_COLOR is set.

    Args:
        console: The console.

    Returns:
        Whether it is an interactive terminal.
    """
    return bool(console.is_interactive and console.file.isatty())
