"""Calls that run in a thread while this one waits for something else."""

from __future__ import annotations

import atexit
import contextlib
import os
import sys
import threading
from collections.abc import Callable
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from concurrent.futures import Future

_threads: list[threading.Thread] = []

T = TypeVar("T")


def run_in_background(function: Callable[[], T], name: str) -> Future[T]:
    """Run a function in a daemon thread, which does not keep an interrupted command from ending.

    Threads of `concurrent.futures.ThreadPoolExecutor` would: Python waits for them at its end.

    Args:
        function: The function.
        name: Name of the thread.

    Returns:
        The future, whose `result()` waits for the function, and raises what it raised.
    """
    from concurrent.futures import Future  # every command imports this module

    future: Future[T] = Future()

    def run() -> None:
        try:
            future.set_result(function())
        except BaseException as error:
            future.set_exception(error)

    thread = threading.Thread(target=run, name=name, daemon=True)
    _threads.append(thread)
    thread.start()
    return future


def has_calls() -> bool:
    """Return whether a call runs.

    Returns:
        False where all have ended.
    """
    return any(thread.is_alive() for thread in _threads)


def exit_despite_calls(code: int) -> int:
    """End the process at once if a call still runs, which an interrupted or failed command does not wait for.

    Python ends a daemon thread that wants to return from native code while it shuts down, and C++ libraries abort the
    process then, with a message of their own and another exit code.

    Args:
        code: The exit code.

    Returns:
        The same code, if no call runs.
    """
    if not has_calls():
        return code
    atexit._run_exitfuncs()
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(Exception):
            stream.flush()
    os._exit(code)
