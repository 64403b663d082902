"""SIGINT (Ctrl-C) and SIGTERM: one way for every command to end in order.

A command is in one of two modes. While it has nothing to tidy up (interpreter start, imports, reading a config) a
signal ends the process at once: a `KeyboardInterrupt` inside an import would leave a traceback, and some libraries
turn it into other errors. Inside `raise_on_signal()` a signal raises `Interrupted`, so that `finally` blocks run.

This module is imported before anything else of a command, so it imports only what Python has loaded by then.
"""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import time
from collections.abc import Callable, Iterator
from types import FrameType

TYPE_CHECKING = False  # as in `typing`, which takes a while to import
if TYPE_CHECKING:
    from typing import Any

SIGNALS = (signal.SIGINT, signal.SIGTERM)
VERBS = {signal.SIGINT: "interrupted", signal.SIGTERM: "terminated"}
# Wrappers such as make and timeout pass on a Ctrl-C that the terminal has sent to the whole process group already.
REPEAT_SECONDS = 2.0
RESEND_SECONDS = 0.02
SHOW_CURSOR = b"\x1b[?25h"  # a live display hides it

_received_at: float | None = None  # when the signal that is being handled arrived
_received: int = signal.SIGINT  # which one it is: Ray raises a plain KeyboardInterrupt in place of `Interrupted`

Handler = Callable[[int, FrameType | None], object]


class Interrupted(KeyboardInterrupt):
    """A signal asks the command to end. Notes (`add_note`) say how to continue.

    Args:
        signal_number: SIGINT or SIGTERM.
    """

    def __init__(self, signal_number: int = signal.SIGINT) -> None:
        super().__init__(signal_number)
        self.signal_number = signal_number


def exit_code(error: KeyboardInterrupt) -> int:
    """Return the shell's exit code of a command that a signal ended.

    Args:
        error: The exception that the signal raised.

    Returns:
        130 for SIGINT, 143 for SIGTERM.
    """
    return 128 + _number_of(error)


def describe(error: KeyboardInterrupt) -> str:
    """Return the last line that an interrupted command prints.

    Args:
        error: The exception that the signal raised.

    Returns:
        What happened, and the notes of the exception, such as how to continue.
    """
    verb = VERBS[signal.Signals(_number_of(error))]
    return "; ".join([verb, *getattr(error, "__notes__", [])])


def _number_of(error: KeyboardInterrupt) -> int:
    return int(getattr(error, "signal_number", _received))


def is_command(package: str) -> bool:
    """Return whether this process runs a module of a package with `python -m`, and is still looking for it.

    Python imports the package first, with `sys.argv[0]` set to "-m".

    Args:
        package: Name of the package.

    Returns:
        Whether the command is one of the package's modules.

    Reference:
        https://docs.python.org/3/using/cmdline.html#cmdoption-m
    """
    names = (argument.removeprefix("-m") for argument in sys.orig_argv[1:])
    return sys.argv[:1] == ["-m"] and any(name == package or name.startswith(f"{package}.") for name in names)


def exit_on_signal() -> None:
    """Let SIGINT and SIGTERM end the process at once, with one line and the exit code of the signal."""
    _install(_exit_now)


@contextlib.contextmanager
def raise_on_signal() -> Iterator[Callable[[], None]]:
    """Let SIGINT and SIGTERM raise `Interrupted` inside the block; a second one ends the process at once.

    Yields:
        A function that installs the handlers again, for use after a library has installed its own.
    """
    global _received_at, _received
    previous = {number: signal.getsignal(number) for number in SIGNALS}
    if previous[signal.SIGINT] is not _raise_interrupted:  # the outermost block
        _received_at, _received = None, signal.SIGINT
    hook = sys.unraisablehook
    sys.unraisablehook = _resend_lost_signals(hook)
    _install(_raise_interrupted)
    try:
        yield lambda: _install(_raise_interrupted, previous)
    finally:
        sys.unraisablehook = hook
        _restore(previous)


class DeferredSignal:
    """The first signal that arrived inside `defer_signals()`; `signal_number` is None before."""

    def __init__(self) -> None:
        self.signal_number: int | None = None
        self.arrived_at = 0.0

    def __call__(self, signal_number: int, frame: FrameType | None) -> None:  # noqa: ARG002
        """Record the first signal, and raise for a later one.

        Args:
            signal_number: SIGINT or SIGTERM.
            frame: The interrupted frame; not used.

        Raises:
            Interrupted: A signal was recorded at least `REPEAT_SECONDS` before.
        """
        if self.signal_number is None:
            self.signal_number, self.arrived_at = signal_number, time.monotonic()
        elif time.monotonic() - self.arrived_at >= REPEAT_SECONDS:
            raise Interrupted(signal_number)


@contextlib.contextmanager
def defer_signals() -> Iterator[DeferredSignal]:
    """Record the first SIGINT or SIGTERM inside the block instead of raising; a later one raises `Interrupted`.

    Yields:
        The record, which the block checks.
    """
    previous = {number: signal.getsignal(number) for number in SIGNALS}
    deferred = DeferredSignal()
    _install(deferred)
    try:
        yield deferred
    finally:
        _restore(previous)


def _restore(handlers: dict[Any, Any]) -> None:
    for number, handler in handlers.items():
        with contextlib.suppress(ValueError, TypeError):  # not the main thread; not installed from Python
            signal.signal(number, handler)


def _install(handler: Handler, previous: dict[Any, Any] | None = None) -> None:
    """Install a handler, except for signals that were ignored when the process began (`nohup`, `command &`)."""
    for number in SIGNALS:
        current = previous[number] if previous is not None else signal.getsignal(number)
        if current is not signal.SIG_IGN:
            with contextlib.suppress(ValueError):  # not the main thread
                signal.signal(number, handler)


def _is_repeated() -> bool:
    return _received_at is not None and time.monotonic() - _received_at < REPEAT_SECONDS


def _exit_now(signal_number: int, frame: FrameType | None) -> None:  # noqa: ARG001
    if _is_repeated():  # the first one is being handled
        return
    with contextlib.suppress(Exception):
        if os.isatty(1):
            os.write(1, SHOW_CURSOR)
        os.write(2, f"{VERBS[signal.Signals(signal_number)]}\n".encode())
    os._exit(128 + signal_number)


def _raise_interrupted(signal_number: int, frame: FrameType | None) -> None:
    global _received_at, _received
    if _received_at is not None:
        _exit_now(signal_number, frame)
        return
    _received_at, _received = time.monotonic(), signal_number
    raise Interrupted(signal_number)


def _resend_lost_signals(hook: Callable[[Any], Any]) -> Callable[[Any], Any]:
    """Return an `unraisablehook` that sends a signal again whose exception got lost in a callback or destructor."""

    def resend(unraisable: Any) -> None:
        global _received_at
        if not issubclass(unraisable.exc_type, KeyboardInterrupt):
            hook(unraisable)
            return
        import threading

        _received_at = None
        number = _number_of(unraisable.exc_value or KeyboardInterrupt())
        timer = threading.Timer(RESEND_SECONDS, os.kill, (os.getpid(), number))
        timer.daemon = True
        timer.start()

    return resend
