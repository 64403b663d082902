"""Standard output and error of any encoding: characters that it lacks are replaced, and never raise an error."""

from __future__ import annotations

import codecs
import contextlib
import os
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator
from typing import IO

ERRORS = "rainbow_ray.replace"
# what our own messages use beyond ASCII; anything else becomes "?"
ASCII = {
    "✓": "+", "✗": "x", "×": "x", "–": "-", "—": "-", "−": "-", "…": "...", "→": "->", "≥": ">=", "≤": "<=", "±": "+-",
    "·": "*", "•": "*", "“": '"', "”": '"', "‘": "'", "’": "'", "µ": "u", "Σ": "sum", "\xa0": " ",
    "━": "-", "╸": "-", "╺": "-", "─": "-", "│": "|", "┃": "|", "█": "#",
}  # fmt: skip
_STDERR = threading.RLock()
# Control characters of a terminal (colours, cursor, bell) that a name or a text may hold; new lines and tabs stay.
CONTROLS = {code: f"\\x{code:02x}" for code in (*range(32), *range(127, 160)) if chr(code) not in "\n\t"}


def replace_unencodable(error: UnicodeError) -> tuple[str, int]:
    """Replace characters that an encoding lacks (error handler for `codecs`).

    Args:
        error: The error of the codec.

    Returns:
        An ASCII replacement, or question marks, and the position after the characters.

    Raises:
        UnicodeError: The error is not one of encoding.
    """
    if not isinstance(error, UnicodeEncodeError):
        raise error
    return "".join(ASCII.get(character, "?") for character in error.object[error.start : error.end]), error.end


def protect_streams() -> None:
    """Let standard output and error replace what their encoding lacks. Streams without an encoding stay as they are."""
    codecs.register_error(ERRORS, replace_unencodable)
    for stream in (sys.stdout, sys.stderr):
        reconfigure = getattr(stream, "reconfigure", None)
        if reconfigure is not None:
            reconfigure(errors=ERRORS)


def printable(text: str) -> str:
    """Escape control characters, so that a name cannot control the terminal.

    Args:
        text: Any text.

    Returns:
        The text; line ends and tabs are kept.
    """
    return text.translate(CONTROLS)


def print_error(message: str) -> None:
    """Print one line of an error to standard error.

    Args:
        message: The message.
    """
    print(printable(f"error: {message}"), file=sys.stderr)


def print_note(message: str) -> None:
    """Print one line of a note to standard error.

    Args:
        message: The note.
    """
    print(printable(f"Note: {message}"), file=sys.stderr)


def close_output() -> None:
    """Discard further output, when standard output was closed by its reader (`… | head`)."""
    try:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except (OSError, ValueError, AttributeError):  # replaced by something without a file descriptor
        sys.stdout = open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115, PTH123


@contextlib.contextmanager
def hold_back_stderr(is_dropped: Callable[[bytes], bool]) -> Iterator[None]:
    """Drop lines that C and C++ libraries print on standard error, and write the others at the end of the block.

    Args:
        is_dropped: Returns whether a line is dropped.

    Yields:
        None.
    """
    with _STDERR, contextlib.ExitStack() as stack:
        with contextlib.suppress(OSError):  # standard error may be closed, and the temporary folder full
            captured = stack.enter_context(tempfile.TemporaryFile())
            stderr_copy = os.dup(2)
            stack.callback(os.close, stderr_copy)
            os.dup2(captured.fileno(), 2)
            stack.callback(_restore_stderr, captured, stderr_copy, is_dropped)
        yield


def _restore_stderr(captured: IO[bytes], stderr_copy: int, is_dropped: Callable[[bytes], bool]) -> None:
    os.dup2(stderr_copy, 2)
    captured.seek(0)
    lines = [line for line in captured if not is_dropped(line)]
    with contextlib.suppress(OSError):
        os.write(2, b"".join(lines))
