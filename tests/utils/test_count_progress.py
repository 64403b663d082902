"""Progress of a number of items."""

from __future__ import annotations

import io

import pytest
from rich.console import Console

from rainbow_ray.utils.console import make_console
from rainbow_ray.utils.count_progress import count_progress


@pytest.fixture
def clock(monkeypatch):
    """Set the time by `clock.append(seconds)`."""
    times = [0.0]
    monkeypatch.setattr("rainbow_ray.utils.count_progress.time.monotonic", lambda: times[-1])
    return times


def test_a_pipe_gets_a_line_now_and_then(clock):
    output = io.StringIO()
    with count_progress(make_console(output), "reading", 100, "rows", completed=10) as advance:
        for now in (4.0, 8.0, 12.0, 16.0):
            clock.append(now)
            advance(20)
    assert output.getvalue() == "reading: 70 of 100 rows, 5 rows/s, about 6 s left\n"


def test_the_last_line_may_be_asked_for(clock):
    output = io.StringIO()
    with count_progress(make_console(output), "scoring", 2, "rows", ends_with_line=True) as advance:
        for now in (4.0, 8.0):
            clock.append(now)
            advance(1)
    assert output.getvalue() == "scoring: 2 of 2 rows, 4.0 s each\n"


def test_nothing_done_is_not_an_error(clock):
    output = io.StringIO()
    with count_progress(make_console(output), "reading", 2, "rows") as advance:
        advance(0)
    assert output.getvalue() == ""


def test_a_terminal_gets_a_bar(monkeypatch):
    monkeypatch.setattr("rainbow_ray.utils.count_progress.is_live", lambda console: True)
    file = io.StringIO()
    console = Console(file=file, force_terminal=True, width=100)
    with count_progress(console, "encoding", 4, "windows") as advance:
        assert file.getvalue() == ""
        advance(1)
        advance(3)
    output = file.getvalue()
    assert "encoding" in output
    assert "4/4" in output
