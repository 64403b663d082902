"""What could be read of the audio and MIDI of a table that is scored, and whether that is enough.

Training counts files that cannot be used and ends where they are more than `data.max_unreadable_fraction`. Prediction
applies the same limit, which the bundle keeps: scores from text alone look like any others, and are worse.
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
    """Audio or MIDI of a table could not be read: rows are scored from what is left."""


@dataclass(frozen=True)
class Advice:
    """How a caller says where files lie, and that scores without them are wanted.

    Attributes:
        media_root: The option or argument that names the folder.
        allow_missing: The option or argument that goes on.
    """

    media_root: str
    allow_missing: str


IN_COMMAND = Advice("--media-root", "--allow-missing")
IN_PYTHON = Advice("media_root= of rainbow_ray.load", "allow_missing=True")


@dataclass(frozen=True)
class ModalityReport:
    """Files of one modality.

    Attributes:
        named: Cells that name or hold a file.
        reasons: How many of them are treated as missing, by reason.
        names: A few names of each reason.
        notes: How many of those that are used have something to be told of, by note.
        note_names: A few names of each note.
    """

    named: int = 0
    reasons: Mapping[str, int] = field(default_factory=dict)
    names: Mapping[str, Sequence[str]] = field(default_factory=dict)
    notes: Mapping[str, int] = field(default_factory=dict)
    note_names: Mapping[str, Sequence[str]] = field(default_factory=dict)

    @property
    def usable(self) -> int:
        """Cells whose file is read."""
        return self.named - sum(self.reasons.values())

    @property
    def unusable(self) -> int:
        """Cells that count against the limit: a stem that rests during a segment is missing, and does not."""
        return count_unusable(self.reasons)

    def __add__(self, other: ModalityReport) -> ModalityReport:
        return ModalityReport(
            self.named + other.named,
            _sum(self.reasons, other.reasons), _join(self.names, other.names),
            _sum(self.notes, other.notes), _join(self.note_names, other.note_names),
        )  # fmt: skip


def _sum(counts: Mapping[str, int], more: Mapping[str, int]) -> dict[str, int]:
    return dict((Counter(counts) + Counter(more)).most_common())


def _join(names: Mapping[str, Sequence[str]], more: Mapping[str, Sequence[str]]) -> dict[str, list[str]]:
    """A few names of each reason, those of the first part first."""
    return {
        reason: list(dict.fromkeys([*names.get(reason, ()), *more.get(reason, ())]))[:NAMED]
        for reason in dict.fromkeys([*names, *more])
    }


@dataclass(frozen=True)
class MediaReport:
    """What could be read of some rows' media.

    Attributes:
        modalities: A report of each modality that the model reads beside text.
        rows: How many rows were read, by the modalities that their score has read (`""`: none, so no score).
    """

    modalities: Mapping[str, ModalityReport] = field(default_factory=dict)
    rows: Mapping[str, int] = field(default_factory=dict)

    @classmethod
    def of_rows(cls, rows: pa.Table, modalities: Sequence[str], read: Iterable[str | None]) -> MediaReport:
        """Count the troubles of prepared rows.

        Args:
            rows: Rows as `prepare_with_media` gives them.
            modalities: Those that are read beside text.
            read: Of each scored row or segment, the modalities that its score has read.
        """
        counted = {}
        for name in modalities:
            reasons, names, named = count_media_errors(rows, name)
            counted[name] = ModalityReport(named, reasons, names, *count_notes(rows, name))
        return cls(counted, dict(Counter(one or "" for one in read).most_common()))

    def __add__(self, other: MediaReport) -> MediaReport:
        names = dict.fromkeys([*self.modalities, *other.modalities])
        nothing = ModalityReport()
        return MediaReport(
            {name: self.modalities.get(name, nothing) + other.modalities.get(name, nothing) for name in names},
            _sum(self.rows, other.rows),
        )

    def to_json(self) -> dict[str, Any]:
        return {"modalities": {name: vars(one) for name, one in self.modalities.items()}, "rows": dict(self.rows)}

    @classmethod
    def from_json(cls, document: Mapping[str, Any]) -> MediaReport:
        modalities = {name: ModalityReport(**one) for name, one in document.get("modalities", {}).items()}
        return cls(modalities, document.get("rows", {}))

    def exceeds(self, limit: float, rows: int) -> bool:
        """Return whether more files are unusable than any further rows could make up for.

        Args:
            limit: Share of the named files that may be unreadable.
            rows: How many cells can name a file in all.
        """
        return any(one.unusable > limit * rows for one in self.modalities.values())

    def problems(
        self, limit: float, root: Path, advice: Advice, *, partial: bool = False, absent: Collection[str] = ()
    ) -> list[str]:
        """Return a message for each modality of which too few files can be used.

        Args:
            limit: Share of the named files that may be unreadable (`data.max_unreadable_fraction` of the run).
            root: The folder that relative names start from.
            advice: What the caller can do.
            partial: Whether reading ended before all rows were read, because the limit is exceeded whatever they hold.
            absent: Modalities that the caller does not offer: no row is expected to name them.
        """
        is_one_row = sum(self.rows.values()) == 1  # a song that lacks a modality, as songs in training may
        unnamed = [] if partial or is_one_row else self._unnamed(absent)
        messages = [f"no row names {name}, which this model reads; score without {name} with {advice.allow_missing}"
                    for name in unnamed]  # fmt: skip
        for modality, one in self.modalities.items():
            usable, named, unusable = one.usable, one.named, one.unusable
            if not unusable or (usable and unusable <= limit * named):
                continue
            few = f"only {usable}" if usable else "none"
            so_far = " read so far" if partial else ""
            allowed = (
                f" (data.max_unreadable_fraction of the run lets {limit:.0%} be missing)" if usable or partial else ""
            )
            is_misplaced = any(reason in MEDIA_ROOT_REASONS for reason in one.reasons)
            where = f", under the media root {root}" if is_misplaced else ""
            help_first = f"name the folder that they lie in with {advice.media_root}, or " if is_misplaced else ""
            help_first += "correct the column of sample rates, which are in Hz, or " if BAD_RATE in one.reasons else ""
            messages.append(
                f"{few} of {named} {modality} files{so_far} can be used{allowed}{where}:"
                f" {'; '.join(describe_media_errors(modality, one.reasons, one.names))}; {help_first}"
                f"score without them with"
                f" {advice.allow_missing}"
            )
        return messages

    def notes(self, root: Path, *, absent: Collection[str] = ()) -> list[str]:
        """Return a line for each reason why files are treated as missing, and for each note on others.

        Args:
            root: The folder that relative names start from.
            absent: Modalities that the caller does not offer.
        """
        lines = [f"no row names {name}: the scores are made without it" for name in self._unnamed(absent)]
        for modality, one in self.modalities.items():
            for reason, line in zip(one.reasons, describe_media_errors(modality, one.reasons, one.names), strict=True):
                lines.append(f"{line}, under the media root {root}" if reason in MEDIA_ROOT_REASONS else line)
            lines += describe_notes(modality, one.notes, one.note_names)
        return lines

    def _unnamed(self, absent: Collection[str]) -> list[str]:
        """Modalities that no row of a table names, though it has a column for them."""
        if not sum(self.rows.values()):
            return []
        return [name for name, one in self.modalities.items() if not one.named and name not in absent]


def max_unreadable(info: Mapping[str, Any]) -> float:
    """Return the share of files that a bundle lets be unreadable; earlier bundles have the default one."""
    return float(info.get("max_bad_media", DataConfig().max_unreadable_fraction))


def missing_columns(
    media_columns: Mapping[str, Sequence[str | None]],
    names: Sequence[str],
    advice: Advice,
    others: Iterable[str] = (),
) -> list[str]:
    """Return a message for each column of audio or MIDI that a model reads and a table does not have.

    Args:
        media_columns: Of each modality its column and, or None, its column of sample rates.
        names: The table's columns.
        advice: What the caller can do.
        others: Further columns that the model reads: like those of its media, none of them can be the one meant.
    """
    own = {*others, *(name for pair in media_columns.values() for name in pair)}
    free = [name for name in names if name not in own]
    return [
        f"no column {column!r}, in which this model reads {modality}{did_you_mean(str(column), free)};"
        f" rename it, or score"
        f" without {modality} with {advice.allow_missing}"
        for modality, (column, *_) in media_columns.items()
        if column not in names
    ]


def encode(report: MediaReport) -> bytes:
    """Return a report as the metadata of a parquet file holds it."""
    return json.dumps(report.to_json()).encode()


def decode(text: bytes | None) -> MediaReport:
    """Return the report that `encode` wrote; an empty one for None."""
    return MediaReport.from_json(json.loads(text)) if text else MediaReport()
