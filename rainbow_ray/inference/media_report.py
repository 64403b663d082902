"""Counts of readable and unreadable audio and MIDI files during prediction, and the limit on unreadable ones.

Training ends where more files than `data.max_unreadable_fraction` cannot be read. Prediction applies the same limit,
which the bundle stores, because scores from text alone look like any others and are less accurate.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa

from rainbow_ray.config.schema import DataConfig
from rainbow_ray.modalities.media_counts import (
    NAMED,
    count_media_errors,
    count_notes,
    count_unusable,
    describe_media_errors,
    describe_notes,
)
from rainbow_ray.modalities.media_source import BAD_RATE, LEAVES_ROOT, NO_FILE
from rainbow_ray.utils.errors import did_you_mean

MODALITIES_READ = "modalities"  # column: which modalities a row's score has read, joined by +
MEDIA_ROOT_REASONS = (NO_FILE, LEAVES_ROOT)


class MediaWarning(UserWarning):
    """Audio or MIDI of a table could not be read, so that rows are scored from their other inputs."""


@dataclass(frozen=True)
class Advice:
    """Names of the options that a message recommends.

    Attributes:
        media_root: Option or argument that names the folder of media files.
        allow_missing: Option or argument that allows unreadable files.
    """

    media_root: str
    allow_missing: str


IN_COMMAND = Advice("--media-root", "--allow-missing")
IN_PYTHON = Advice("media_root= of rainbow_ray.load", "allow_missing=True")


@dataclass(frozen=True)
class ModalityReport:
    """Counts of the files of one modality.

    Attributes:
        named: Number of cells that name or hold a file.
        reasons: Number of files that cannot be used, by reason.
        names: A few file names for each reason.
        notes: Number of files that are used with a remark, by remark.
        note_names: A few file names for each remark.
    """

    named: int = 0
    reasons: Mapping[str, int] = field(default_factory=dict)
    names: Mapping[str, Sequence[str]] = field(default_factory=dict)
    notes: Mapping[str, int] = field(default_factory=dict)
    note_names: Mapping[str, Sequence[str]] = field(default_factory=dict)

    @property
    def usable(self) -> int:
        """Number of cells whose file is read."""
        return self.named - sum(self.reasons.values())

    @property
    def unusable(self) -> int:
        """Number of cells that count against the limit; a stem that is silent during a segment does not."""
        return count_unusable(self.reasons)

    def __add__(self, other: ModalityReport) -> ModalityReport:
        return ModalityReport(
            self.named + other.named,
            _sum(self.reasons, other.reasons), _join(self.names, other.names),
            _sum(self.notes, other.notes), _join(self.note_names, other.note_names),
        )  # fmt: skip


def _sum(first: Mapping[str, int], second: Mapping[str, int]) -> dict[str, int]:
    return dict((Counter(first) + Counter(second)).most_common())


def _join(first: Mapping[str, Sequence[str]], second: Mapping[str, Sequence[str]]) -> dict[str, list[str]]:
    """Return a few names for each reason, those of the first report first."""
    return {
        reason: list(dict.fromkeys([*first.get(reason, ()), *second.get(reason, ())]))[:NAMED]
        for reason in dict.fromkeys([*first, *second])
    }


@dataclass(frozen=True)
class MediaReport:
    """Counts of the media files of some rows.

    Attributes:
        modalities: A report for each modality of the model other than text.
        rows: Number of rows, by the modalities that their score was computed from (`""`: none, so no score).
    """

    modalities: Mapping[str, ModalityReport] = field(default_factory=dict)
    rows: Mapping[str, int] = field(default_factory=dict)

    @classmethod
    def of_rows(cls, rows: pa.Table, modalities: Sequence[str], read: Iterable[str | None]) -> MediaReport:
        """Count the unreadable files of prepared rows.

        Args:
            rows: Rows as `prepare_with_media` returns them.
            modalities: Modalities of the model other than text.
            read: Modalities that the score of each row or segment was computed from.

        Returns:
            The report.
        """
        reports = {}
        for name in modalities:
            reasons, names, n_named = count_media_errors(rows, name)
            reports[name] = ModalityReport(n_named, reasons, names, *count_notes(rows, name))
        return cls(reports, dict(Counter(names or "" for names in read).most_common()))

    def __add__(self, other: MediaReport) -> MediaReport:
        names = dict.fromkeys([*self.modalities, *other.modalities])
        empty = ModalityReport()
        return MediaReport(
            {name: self.modalities.get(name, empty) + other.modalities.get(name, empty) for name in names},
            _sum(self.rows, other.rows),
        )

    def to_json(self) -> dict[str, Any]:
        """Return the report as JSON.

        Returns:
            A dictionary that `from_json` reads.
        """
        modalities = {name: vars(report) for name, report in self.modalities.items()}
        return {"modalities": modalities, "rows": dict(self.rows)}

    @classmethod
    def from_json(cls, document: Mapping[str, Any]) -> MediaReport:
        """Read a report.

        Args:
            document: Result of `to_json`.

        Returns:
            The report.
        """
        modalities = {name: ModalityReport(**fields) for name, fields in document.get("modalities", {}).items()}
        return cls(modalities, document.get("rows", {}))

    def exceeds(self, limit: float, n_rows: int) -> bool:
        """Return whether the limit is exceeded even if all further rows can be read.

        Args:
            limit: Fraction of the named files that may be unreadable.
            n_rows: Rows of the whole table, each of which can name a file.

        Returns:
            Whether a modality exceeds the limit.
        """
        return any(report.unusable > limit * n_rows for report in self.modalities.values())

    def problems(
        self, limit: float, root: Path, advice: Advice, *, partial: bool = False, absent: Collection[str] = ()
    ) -> list[str]:
        """Return a message for each modality with too few readable files.

        Args:
            limit: Fraction of the named files that may be unreadable (`data.max_unreadable_fraction` of the run).
            root: Folder that relative paths start from.
            advice: Options that the messages recommend.
            partial: Whether reading ended early, because the limit is exceeded even if all further rows can be read.
            absent: Modalities that the table has no column for, so that no row is expected to name them.

        Returns:
            Messages.
        """
        is_one_row = sum(self.rows.values()) == 1  # a song may lack a modality, as in training
        unnamed = [] if partial or is_one_row else self._unnamed(absent)
        messages = [f"no row names {name}, which this model reads; score without {name} with {advice.allow_missing}"
                    for name in unnamed]  # fmt: skip
        for modality, report in self.modalities.items():
            exceeds_limit = not report.usable or report.unusable > limit * report.named
            if report.unusable and exceeds_limit:
                messages.append(_limit_message(modality, report, limit, root, advice, partial=partial))
        return messages

    def notes(self, root: Path, *, absent: Collection[str] = ()) -> list[str]:
        """Return a line for each reason why files cannot be used, and for each remark on other files.

        Args:
            root: Folder that relative paths start from.
            absent: Modalities that the table has no column for.

        Returns:
            Lines to print or warn of.
        """
        lines = [f"no row names {name}: the scores are computed without it" for name in self._unnamed(absent)]
        for modality, report in self.modalities.items():
            descriptions = describe_media_errors(modality, report.reasons, report.names)
            for reason, line in zip(report.reasons, descriptions, strict=True):
                lines.append(f"{line}, under the media root {root}" if reason in MEDIA_ROOT_REASONS else line)
            lines += describe_notes(modality, report.notes, report.note_names)
        return lines

    def _unnamed(self, absent: Collection[str]) -> list[str]:
        """Return modalities that no row of a table names, although it has a column for them."""
        if not sum(self.rows.values()):
            return []
        return [name for name, report in self.modalities.items() if not report.named and name not in absent]


def _limit_message(
    modality: str, report: ModalityReport, limit: float, root: Path, advice: Advice, *, partial: bool
) -> str:
    """Return the message on a modality with too few readable files."""
    count = f"only {report.usable}" if report.usable else "none"
    files = f"{modality} files read so far" if partial else f"{modality} files"
    allowed = f" (data.max_unreadable_fraction of the run allows {limit:.0%} to be missing)"
    allowed = allowed if report.usable or partial else ""
    is_misplaced = any(reason in MEDIA_ROOT_REASONS for reason in report.reasons)
    root_note = f", under the media root {root}" if is_misplaced else ""
    reasons = "; ".join(describe_media_errors(modality, report.reasons, report.names))
    remedies = [f"name the folder of these files with {advice.media_root}"] if is_misplaced else []
    remedies += ["correct the column of sample rates, which are in Hz"] if BAD_RATE in report.reasons else []
    remedies.append(f"score without them with {advice.allow_missing}")
    return f"{count} of {report.named} {files} can be used{allowed}{root_note}: {reasons}; {', or '.join(remedies)}"


def max_unreadable(info: Mapping[str, Any]) -> float:
    """Return the fraction of media files that may be unreadable.

    Args:
        info: Description of a bundle.

    Returns:
        The limit of the run; the default for bundles without one.
    """
    return float(info.get("max_unreadable_fraction", DataConfig().max_unreadable_fraction))


def missing_columns(
    media_columns: Mapping[str, Sequence[str | None]],
    names: Sequence[str],
    advice: Advice,
    other_columns: Iterable[str] = (),
) -> list[str]:
    """Return a message for each column of audio or MIDI that a model reads and a table does not have.

    Args:
        media_columns: For each modality, its column and its column of sample rates (or None).
        names: Columns of the table.
        advice: Options that the messages recommend.
        other_columns: Further columns that the model reads, which are not suggested as the missing one.

    Returns:
        Messages.
    """
    model_columns = {*other_columns, *(name for pair in media_columns.values() for name in pair)}
    unread_columns = [name for name in names if name not in model_columns]
    return [
        f"no column {column!r}, in which this model reads {modality}{did_you_mean(str(column), unread_columns)};"
        f" rename it, or score without {modality} with {advice.allow_missing}"
        for modality, (column, *_) in media_columns.items()
        if column not in names
    ]


def encode(report: MediaReport) -> bytes:
    """Encode a report for the metadata of a parquet file.

    Args:
        report: The report.

    Returns:
        JSON, UTF-8.
    """
    return json.dumps(report.to_json()).encode()


def decode(text: bytes | None) -> MediaReport:
    """Decode a report.

    Args:
        text: Result of `encode`, or None.

    Returns:
        The report; an empty one for None.
    """
    return MediaReport.from_json(json.loads(text)) if text else MediaReport()
