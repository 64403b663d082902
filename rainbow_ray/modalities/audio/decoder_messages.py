"""Suppression of what libmpg123 prints on standard error."""

from __future__ import annotations

import contextlib
import os
import tempfile
import threading
from collections.abc import Iterator
from typing import IO

_STDERR = threading.RLock()


@contextlib.contextmanager
def hold_back_stderr(is_needed: bool = True) -> Iterator[None]:
    """Suppress the messages of libmpg123, which name no file; what matters of them is a `MediaError`.

    Args:
        is_needed: False does nothing.

    Yields:
        None.
    """
    if not is_needed:
        yield
        return
    with _STDERR, contextlib.ExitStack() as stack:
        with contextlib.suppress(OSError):  # there is no standard error, or no room for what is held back
            held = stack.enter_context(tempfile.TemporaryFile())
            own = os.dup(2)
            stack.callback(os.close, own)
            os.dup2(held.fileno(), 2)
            stack.callback(_pass_on, held, own)
        yield


def _pass_on(held: IO[bytes], own: int) -> None:
    """Give standard error back, and what other threads wrote meanwhile."""
    os.dup2(own, 2)
    held.seek(0)
    lines = [line for line in held if not _is_of_decoder(line)]
    with contextlib.suppress(OSError):
        os.write(2, b"".join(lines))


def _is_of_decoder(line: bytes) -> bool:
    return not line.strip() or b"mpg123" in line or line.startswith((b"Warning: ", b"Note: ", b"error: "))
