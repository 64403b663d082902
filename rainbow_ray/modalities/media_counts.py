"""Counts of media files that are treated as missing, by reason, and the limit of such files.

Training, checks, prediction and segments count alike.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path

import pyarrow as pa

from rainbow_ray.modalities.media_source import BAD_RATE, BESIDE_OTHER, IN_SEGMENT, LEAVES_ROOT, NO_FILE, NOTE, TROUBLE
from rainbow_ray.utils.errors import InputError

NAMED = 3  # files per reason whose names are shown


def count_media_errors(rows: pa.Table, modality: str) -> tuple[dict[str, int], dict[str, list[str]], int]:
    """Count the files of a modality that are treated as missing.

    Args:
        rows: Rows that a `MediaReader` has read.
        modality: Name of a windowed modality.

    Returns:
        The number of files per reason, the most frequent reason first; some of their names per reason; and the number
        of all files, whether they have windows or a reason.
    """
    counts, names = _count(rows[f"{modality}{TROUBLE}"])
    n_read = sum(1 for windows in rows[modality].to_pylist() if windows)
    return counts, names, n_read + sum(counts.values())


def count_unusable(counts: Mapping[str, int]) -> int:
    """Return the number of files that count against `data.max_unreadable_fraction`.

    Args:
        counts: Files per reason.

    Returns:
        Their number without files that are only silent in a segment, or beside their stem's other file.
    """
    return sum(n for reason, n in counts.items() if not reason.endswith((IN_SEGMENT, BESIDE_OTHER)))


def describe_media_errors(modality: str, counts: Mapping[str, int], names: Mapping[str, Sequence[str]]) -> list[str]:
    """Describe the files that are treated as missing.

    Args:
        modality: Name of the modality.
        counts: Files per reason.
        names: Some of their names per reason.

    Returns:
        A line per reason.
    """
    return [
        f"{_files(n, modality)} treated as missing: {reason} {_examples(names[reason], n)}"
        for reason, n in counts.items()
    ]


def count_notes(rows: pa.Table, modality: str) -> tuple[dict[str, int], dict[str, list[str]]]:
    """Count the notes on files that are used.

    Args:
        rows: Rows that a `MediaReader` has read.
        modality: Name of a windowed modality.

    Returns:
        The number of files per note, and some of their names.
    """
    return _count(rows[f"{modality}{NOTE}"])


def describe_notes(modality: str, counts: Mapping[str, int], names: Mapping[str, Sequence[str]]) -> list[str]:
    """Describe the notes on files that are used.

    Args:
        modality: Name of the modality.
        counts: Files per note.
        names: Some of their names per note.

    Returns:
        A line per note.
    """
    return [f"{_files(n, modality)} used, but: {note} {_examples(names[note], n)}" for note, n in counts.items()]


def describe_media_notes(rows: pa.Table, modality: str) -> list[str]:
    """Count and describe the notes on files that are used.

    Args:
        rows: Rows that a `MediaReader` has read.
        modality: Name of a windowed modality.

    Returns:
        A line per note.
    """
    return describe_notes(modality, *count_notes(rows, modality))


def check_media_errors(rows: pa.Table, modalities: Sequence[str], max_fraction: float, root: Path) -> list[str]:
    """Check that enough files of each modality can be used.

    Args:
        rows: Rows that a `MediaReader` has read.
        modalities: Names of windowed modalities.
        max_fraction: Fraction of files that may be missing (`data.max_unreadable_fraction`).
        root: The media root, for messages.

    Returns:
        A line for each reason why files are treated as missing, and for each note.

    Raises:
        InputError: Too many files cannot be used, or a modality has none.
    """
    lines, problems = [], []
    for modality in modalities:
        counts, names, total = count_media_errors(rows, modality)
        reasons = describe_media_errors(modality, counts, names)
        n_usable = total - sum(counts.values())
        if total == 0:
            problems.append(f"no row names {modality}: see data.{modality}_column, or leave {modality} out of"
                            " --modalities")  # fmt: skip
        elif n_usable == 0 or count_unusable(counts) > max_fraction * total:
            number = f"only {n_usable}" if n_usable else "none"
            allowed = f" (data.max_unreadable_fraction lets {max_fraction:.0%} be missing)" if n_usable else ""
            advice = _advice(counts, root)
            if n_usable:
                advice.append("set data.max_unreadable_fraction higher if this is as it should be")
            problems.append(f"{number} of {total} {modality} files can be used{allowed}. {'; '.join(reasons)}."
                            f" What helps: {'; '.join(advice)}; or leave {modality} out of --modalities")  # fmt: skip
        lines += reasons + describe_media_notes(rows, modality)
    if problems:
        raise InputError(problems)
    return lines


def _advice(counts: Mapping[str, int], root: Path) -> list[str]:
    """Return what to do about the reasons, each advice once."""
    advice = []
    if any(reason in counts for reason in (NO_FILE, LEAVES_ROOT)):
        advice.append(f"name the folder that paths start from with --media-root (it is {root})")
    if BAD_RATE in counts:
        advice.append("correct the column of sample rates, which are in Hz")
    if any(reason not in (NO_FILE, LEAVES_ROOT, BAD_RATE) for reason in counts):
        advice.append("replace or convert these files")
    return advice


def _count(column: pa.ChunkedArray) -> tuple[dict[str, int], dict[str, list[str]]]:
    """Return the number of files per reason, most frequent first, and some of their names."""
    messages = [text.split("\n") for text in column.drop_null().to_pylist()]
    counts = dict(Counter(reason for reason, *_ in messages).most_common())
    names: dict[str, list[str]] = {reason: [] for reason in counts}
    for reason, name, *_ in messages:
        if len(names[reason]) < NAMED and name not in names[reason]:
            names[reason].append(name)
    return counts, names


def _files(n: int, modality: str) -> str:
    return f"{n} {modality} {'file is' if n == 1 else 'files are'}"


def _examples(names: Sequence[str], n: int) -> str:
    return f"({', '.join(names)}{', …' if n > len(names) else ''})"
