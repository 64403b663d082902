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
    """Suppress the messages of libmpg123, which name no file; failures are reported as `MediaError`.

    Args:
        is_needed: Whether to suppress them; False does nothing.

    Yields:
        None.
    """
    if not is_needed:
        yield
        return
    with _STDERR, contextlib.ExitStack() as stack:
        with contextlib.suppress(OSError):  # standard error may be closed, and the temporary folder full
            captured = stack.enter_context(tempfile.TemporaryFile())
            stderr_copy = os.dup(2)
            stack.callback(os.close, stderr_copy)
            os.dup2(captured.fileno(), 2)
            stack.callback(_restore_stderr, captured, stderr_copy)
        yield


def _restore_stderr(captured: IO[bytes], stderr_copy: int) -> None:
    """Restore standard error, and write the captured lines of other threads to it."""
    os.dup2(stderr_copy, 2)
    captured.seek(0)
    lines = [line for line in captured if not _is_of_decoder(line)]
    with contextlib.suppress(OSError):
        os.write(2, b"".join(lines))


def _is_of_decoder(line: bytes) -> bool:
    return not line.strip() or b"mpg123" in line or line.startswith((b"Warning: ", b"Note: ", b"error: "))
