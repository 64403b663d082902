"""Progress of a known number of items: a bar with the time left on a terminal, lines now and then elsewhere."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TimeRemainingColumn

from rainbow_ray.utils.console import is_live, text_column


@contextlib.contextmanager
def count_progress(
    console: Console, label: str, total: int, unit: str, *, completed: int = 0, seconds_between_lines: float = 10.0,
    ends_with_line: bool = False,
) -> Iterator[Callable[[int], None]]:  # fmt: skip
    """Show how many items are done while a `with` statement runs.

    Args:
        console: Where progress is shown.
        label: What is done with the items, such as `reading`.
        total: Number of items.
        unit: Name of the items, in the plural.
        completed: Number of items that were done before.
        seconds_between_lines: Least time between lines where there is no terminal.
        ends_with_line: Whether there is a line for the last item, however short the time.

    Yields:
        A function to call with the number of further items that are done. Nothing is shown before its first call.
    """
    began = printed = time.monotonic()
    n_done = 0
    columns = (text_column(label), BarColumn(), MofNCompleteColumn(), text_column("{task.fields[rate]}"),
               TimeRemainingColumn())  # fmt: skip
    bar = Progress(*columns, console=console) if is_live(console) else None
    task = bar.add_task("", total=total, completed=completed, rate="") if bar else None

    def advance(n_items: int) -> None:
        nonlocal n_done, printed
        n_done += n_items
        now = time.monotonic()
        rate = max(n_done, 1e-9) / max(now - began, 1e-9)
        shown_rate = f"{rate:,.0f} {unit}/s" if rate >= 1 else f"{1 / rate:,.1f} s each"
        if bar is not None and task is not None:
            bar.start()
            bar.update(task, completed=completed + n_done, rate=shown_rate)
            return
        n_left = total - completed - n_done
        if now - printed > seconds_between_lines or (ends_with_line and not n_left):
            printed = now
            remaining = f", about {n_left / rate:.0f} s left" if n_left > 0 else ""
            console.print(f"{label}: {completed + n_done} of {total} {unit}, {shown_rate}{remaining}")

    try:
        yield advance
    finally:
        if bar is not None and n_done:
            bar.stop()
