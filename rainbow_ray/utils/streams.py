"""Standard output and error: whatever their encoding, a character that it lacks is replaced and never raises."""

from __future__ import annotations

import codecs
import os
import sys

ERRORS = "rainbow_ray.replace"
# what our own messages use beyond ASCII; anything else becomes "?"
ASCII = {
    "✓": "+", "✗": "x", "×": "x", "–": "-", "—": "-", "−": "-", "…": "...", "→": "->", "≥": ">=", "≤": "<=", "±": "+-",
    "·": "*", "•": "*", "“": '"', "”": '"', "‘": "'", "’": "'", "µ": "u", "Σ": "sum", "\xa0": " ",
    "━": "-", "╸": "-", "╺": "-", "─": "-", "│": "|", "┃": "|", "█": "#",
}  # fmt: skip
# Control characters of a terminal (colours, cursor, bell) that a name or a text may hold; new lines and tabs stay.
CONTROLS = {code: f"\\x{code:02x}" for code in (*range(32), *range(127, 160)) if chr(code) not in "\n\t"}


def replace_unencodable(error: UnicodeError) -> tuple[str, int]:
    """Error handler for `codecs`: an ASCII look-alike where there is one, else a question mark."""
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
    """Return the text with control characters written out, so that a name cannot steer the terminal."""
    return text.translate(CONTROLS)


def print_error(message: str) -> None:
    """Print one line of an error to standard error."""
    print(printable(f"error: {message}"), file=sys.stderr)


def close_output() -> None:
    """Send further output nowhere: nobody reads standard output any more (`… | head`)."""
    try:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except (OSError, ValueError, AttributeError):  # replaced by something without a file descriptor
        sys.stdout = open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115, PTH123
