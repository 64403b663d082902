"""The two errors whose messages are for users. Every other exception is a defect and keeps its traceback."""

from __future__ import annotations

import difflib
import unicodedata
from collections.abc import Iterable, Mapping, Sequence

UNPRINTABLE = ("Cc", "Cs", "Zl", "Zp")  # Unicode's categories of control characters, surrogates, separators of lines


# exit codes of every command
EXIT_SUCCESS, EXIT_FAILURE, EXIT_INPUT_ERROR = 0, 1, 2


class InputError(Exception):
    """The input or the config is wrong: exit code 2.

    Args:
        problems: One message, or all messages that could be collected, one line each. Control characters are escaped.
    """

    def __init__(self, problems: str | Iterable[str]) -> None:
        # names of files, columns and classes may hold anything, line ends and escape sequences too
        self.problems = [printable(problem) for problem in ([problems] if isinstance(problems, str) else problems)]
        super().__init__(self.problems)

    def __str__(self) -> str:
        return "\n".join(self.problems)

    def __reduce__(self) -> tuple[type[InputError], tuple[list[str]]]:
        return type(self), (self.problems,)  # not `args`: Ray Data appends to them what it tried


class TrainingError(Exception):
    """The work failed for a known reason, such as a loss that is not finite: exit code 1.

    Args:
        message: What failed, and what to do.
    """

    def __init__(self, message: str) -> None:
        self.message = message
        super().__init__(message)

    def __str__(self) -> str:
        return self.message

    def __reduce__(self) -> tuple[type[TrainingError], tuple[str]]:
        return type(self), (self.message,)


def printable(text: str) -> str:
    """Return a text on one line: control characters and unpaired surrogates as escapes.

    Args:
        text: Any text.

    Returns:
        The text with escapes.
    """
    return "".join(
        character.encode("unicode_escape").decode() if unicodedata.category(character) in UNPRINTABLE else character
        for character in text
    )


def first_line(error: BaseException) -> str:
    """Return the first line of another library's error, with the next one if the first only introduces it.

    Args:
        error: The error.

    Returns:
        At most 200 characters of its message, or the name of its type.
    """
    lines = [line.strip() for line in str(error).strip().splitlines() if line.strip()] or [type(error).__name__]
    return (" ".join(lines[:2]) if lines[0].endswith(":") else lines[0])[:200]


def format_names(names: Sequence[str], max_shown: int = 3, *, count_rest: bool = False) -> str:
    """Return the first of several names, for a message.

    Args:
        names: Names of files, classes or similar.
        max_shown: Maximum number of names that are shown.
        count_rest: Whether the number of further names is given, instead of an ellipsis.

    Returns:
        The names, separated by commas; `", …"` or `" and N more"` follows where there are more.
    """
    rest = f" and {len(names) - max_shown} more" if count_rest else ", …"
    return ", ".join(names[:max_shown]) + (rest if len(names) > max_shown else "")


def did_you_mean(
    name: str, known: Iterable[str], max_suggestions: int = 3, renamed: Mapping[str, str] | None = None
) -> str:
    """Return a suggestion for a name that does not exist.

    Args:
        name: The name.
        known: Names that exist.
        max_suggestions: Maximum number of suggestions.
        renamed: Present name of each former name. Former names are matched, too, and present ones are suggested.

    Returns:
        `" (did you mean X or Y?)"`, or an empty text where no name is similar.
    """
    renamed = renamed or {}
    names = [*known, *renamed]
    by_lower = {candidate.lower(): candidate for candidate in names}
    matches = difflib.get_close_matches(name.lower(), list(by_lower), n=max_suggestions, cutoff=0.5)
    similar = [by_lower[match] for match in matches]
    inside = [candidate for candidate in names if name.lower() in candidate.lower() and candidate not in similar]
    offered = list(dict.fromkeys(renamed.get(match, match) for match in similar + inside))[:max_suggestions]
    return f" (did you mean {' or '.join(offered)}?)" if offered else ""


def check_choice(key: str, value: str, known: Iterable[str]) -> list[str]:
    """Check a value that must be one of several names.

    Args:
        key: Key of the config, for the message.
        value: The value.
        known: Allowed names.

    Returns:
        One message, or none.
    """
    names = list(known)
    if value in names:
        return []
    return [f"{key}: {value!r} is unknown{did_you_mean(value, names)}; one of: {', '.join(names)}"]
