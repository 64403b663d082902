"""The one place that makes rich consoles: names, paths and labels are printed as they are, never read as markup."""

from __future__ import annotations

from typing import IO, Any

from rich.console import Console
from rich.progress import TextColumn
from rich.table import Column
from rich.text import Text

from rainbow_ray.utils.streams import printable


class _PlainConsole(Console):
    """A console whose strings are printed character by character."""

    def render_str(self, text: str, **options: Any) -> Text:
        return super().render_str(printable(text), **{**options, "markup": False, "emoji": False})


def make_console(file: IO[str] | None = None, *, quiet: bool = False) -> Console:
    """Return a console that reads no markup and no emoji codes, highlights nothing and breaks no line on its own.

    Args:
        file: Where it prints; None is standard output.
        quiet: Whether it prints nothing.
    """
    return _PlainConsole(file=file, quiet=quiet, markup=False, emoji=False, highlight=False, soft_wrap=True)


def text_column(text_format: str, *, takes_the_rest: bool = False) -> TextColumn:
    """Return a column of a progress bar that reads no markup.

    Args:
        text_format: Format of the text, with the fields of `task`.
        takes_the_rest: Whether it takes the width that the others leave, and is cut there (`Progress(expand=True)`).
    """
    column = Column(ratio=1, no_wrap=True, overflow="ellipsis") if takes_the_rest else None
    return TextColumn(text_format, markup=False, table_column=column)


def is_live(console: Console) -> bool:
    """Return whether something can be redrawn in place: on a terminal that can move its cursor, and nowhere else.

    `Console.is_terminal` alone is also true on a pipe where FORCE_COLOR is set.
    """
    return bool(console.is_interactive and console.file.isatty())
