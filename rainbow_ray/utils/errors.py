"""The two errors that a person is meant to read; every other exception is a defect of ours and keeps its traceback."""

from __future__ import annotations

import difflib
import unicodedata
from collections.abc import Iterable

UNPRINTABLE = ("Cc", "Cs", "Zl", "Zp")  # Unicode's categories of control characters, surrogates, separators of lines


# exit codes of every command
EXIT_SUCCESS, EXIT_FAILURE, EXIT_INPUT_ERROR = 0, 1, 2


class InputError(Exception):
    """The input or the config is wrong: exit code 2. Holds every problem that could be known at once, a line each."""

    def __init__(self, problems: str | Iterable[str]) -> None:
        # names of files, columns and classes may hold anything, line ends and escape sequences too
        self.problems = [printable(problem) for problem in ([problems] if isinstance(problems, str) else problems)]
        super().__init__(self.problems)

    def __str__(self) -> str:
        return "\n".join(self.problems)

    def __reduce__(self) -> tuple[type[InputError], tuple[list[str]]]:
        return type(self), (self.problems,)  # not `args`: Ray Data appends to them what it tried


class TrainingError(Exception):
    """The work itself failed in a way that we understand: exit code 1."""

    def __init__(self, message: str) -> None:
        self.message = message
        super().__init__(message)

    def __str__(self) -> str:
        return self.message

    def __reduce__(self) -> tuple[type[TrainingError], tuple[str]]:
        return type(self), (self.message,)


def printable(text: str) -> str:
    """Return a text on one line: control characters and unpaired surrogates as escapes."""
    return "".join(
        character.encode("unicode_escape").decode() if unicodedata.category(character) in UNPRINTABLE else character
        for character in text
    )


def first_line(error: BaseException) -> str:
    """The gist of another library's error."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:200]


def did_you_mean(name: str, known: Iterable[str], how_many: int = 3) -> str:
    """`" (did you mean X or Y?)"` for a name that is not known, or nothing when none is near."""
    names = list(known)
    by_lower = {candidate.lower(): candidate for candidate in names}
    found = [by_lower[m] for m in difflib.get_close_matches(name.lower(), list(by_lower), n=how_many, cutoff=0.5)]
    inside = [candidate for candidate in names if name.lower() in candidate.lower() and candidate not in found]
    offered = (found + inside)[:how_many]
    return f" (did you mean {' or '.join(offered)}?)" if offered else ""


def check_choice(key: str, value: str, known: Iterable[str]) -> list[str]:
    """The problem, if any, of a config key whose value must be one of a few names."""
    names = list(known)
    if value in names:
        return []
    return [f"{key}: {value!r} is unknown{did_you_mean(value, names)}; one of: {', '.join(names)}"]
