"""Advice about dropped rows, by the reason for which they were dropped."""

from __future__ import annotations

from collections.abc import Mapping

from rainbow_ray.config.schema import DataConfig
from rainbow_ray.data.examples import LABELS_DISAGREE, SAME_SONG
from rainbow_ray.data.normalize_rows import ID_MISSING, TEXT_MISSING, TEXT_SHORT
from rainbow_ray.data.raw_labels import LABEL_BROKEN, LABEL_MISSING, LABEL_NOT_UTF8
from rainbow_ray.data.text_cells import NOT_UTF8
from rainbow_ray.tasks.class_labels import MAPPED_AWAY, RARE, UNKNOWN

MIN_FRACTION = 0.05  # of the dropped rows: no advice is given about rarer reasons


def advise(dropped: Mapping[str, int], data: DataConfig, target: str) -> list[str]:
    """Return advice about the reasons for which rows were dropped, the most frequent one first.

    Args:
        dropped: Number of rows by reason.
        data: The section of the config that determines which rows are dropped.
        target: Column or field of the label.

    Returns:
        One sentence for each frequent reason that has a remedy.
    """
    remedies = _remedies(data, target)
    total = sum(n for reason, n in dropped.items() if reason != SAME_SONG)
    frequent = [reason for reason, n in sorted(dropped.items(), key=lambda item: -item[1]) if n >= MIN_FRACTION * total]
    if total == 0:
        return [remedies[SAME_SONG]] if SAME_SONG in dropped else []
    return list(dict.fromkeys(remedies[reason] for reason in frequent if reason != SAME_SONG and reason in remedies))


def _remedies(data: DataConfig, target: str) -> dict[str, str]:
    text = ", ".join(data.text_columns)
    another = "name another with data.target_column"
    return {
        ID_MISSING: f"column {data.id_column!r} (data.id_column) must name the song of each row",
        TEXT_MISSING: f"text is read from {text} (data.text_columns); is that the right column?",
        TEXT_SHORT.format(data.min_concept_length): f"data.min_concept_length is {data.min_concept_length} characters",
        LABEL_MISSING: f"target {target!r} is null there: {another}",
        NOT_UTF8: f"write {text} (data.text_columns) as UTF-8",
        LABEL_NOT_UTF8: f"write target {target!r} as UTF-8",
        LABEL_BROKEN: f"target {target!r} must hold JSON there: correct it, or {another}",
        LABELS_DISAGREE: f"all rows of a song must have the same {target!r}: correct them, or {another}",
        SAME_SONG: f"column {data.id_column!r} (data.id_column) names too few songs: is that the right column?",
        UNKNOWN: "data.class_mapping lacks these labels: add them, or see data.unknown_classes",
        MAPPED_AWAY: "data.class_mapping leaves these labels out",
        RARE: "data.rare_classes and data.min_songs_per_class decide about classes of few songs",
    }
