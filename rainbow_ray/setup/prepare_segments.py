"""Preparation of segments as examples: sequences of segments by song, labels, and a split by song."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from rainbow_ray.data.dataset import InMemoryDataset
from rainbow_ray.data.examples import Examples, profile_examples
from rainbow_ray.data.normalize_rows import ID_MISSING
from rainbow_ray.data.raw_labels import LABEL_BROKEN, LABEL_MISSING
from rainbow_ray.data.segments import (
    FURTHER_STEMS,
    N_SEGMENTS,
    NO_LABELS,
    NO_LENGTH,
    POSITION,
    STEMS_DISAGREE,
    SegmentExamples,
    SequenceIndex,
    count_masked,
    merge_stems,
)
from rainbow_ray.modalities.rows import lengths
from rainbow_ray.setup.plan import RunPlan
from rainbow_ray.setup.prepared import (
    MIN_REPORTED_FRACTION,
    MIN_SONGS,
    PreparedData,
    data_warnings,
    describe,
    split_examples,
)
from rainbow_ray.setup.segment_table import TIMES as SECONDS
from rainbow_ray.setup.segment_table import UNKNOWN_SONG, SegmentTable, drop_unknown_songs
from rainbow_ray.tasks.base import Task
from rainbow_ray.tasks.segment_targets import SegmentTargets
from rainbow_ray.utils.errors import InputError


@dataclass(frozen=True)
class LabeledSegments:
    """Segments with targets, before they form a dataset.

    Attributes:
        task: The task, finalized by the labels.
        segments: The segments, with the reasons for missing targets.
        targets: Packed targets, `(segments, 5)`, see `SegmentTargets`.
        notes: Messages about labels.
    """

    task: Task
    segments: SegmentExamples
    targets: np.ndarray
    notes: tuple[str, ...] = ()


def prepare_segments(plan: RunPlan, rows: pa.Table, media_notes: Sequence[str]) -> PreparedData:
    """Prepare examples that are segments.

    Args:
        plan: The plan of the run.
        rows: Normalized rows, prepared for the encoders.
        media_notes: Messages about media that cannot be used.

    Returns:
        The data of the run.

    Raises:
        InputError: The labels cannot be learned from, or too few songs are left.
    """
    assert plan.segments is not None
    table = plan.segments
    known_rows = drop_unknown_songs(rows, table.songs)
    labeled = _label(plan, known_rows)
    task, segments = labeled.task, labeled.segments
    n_songs = _count_songs(segments)
    index = Examples(segments.table, labeled.targets, task.example_weights(labeled.targets))
    split, n_folds = split_examples(plan, task, index, n_songs)
    masked = count_masked(segments.masked)
    profile = describe(plan, task, index, split, profile_examples(index, n_songs, len(rows), segments.dropped))
    profile |= {"streamed": False, "segments": _describe_segments(segments, labeled.targets), "masked": masked}
    warnings = [
        *labeled.notes,
        *segments.notes,
        *media_notes,
        *(f"{n} segments are masked: {reason}" for reason, n in masked.items()),
        *_missing_songs(table, n_songs),
        *data_warnings(plan, task, split, n_folds, profile, index),
    ]
    config = plan.config.segments
    # with labels of songs only, all segments of a song are pooled, so sequences cannot be cut
    max_length = len(index) if task.is_weakly_labeled else config.max_sequence_length
    sequences = SequenceIndex.from_table(segments.table, max_length, config.overlap)
    dataset = InMemoryDataset(index, lengths(index.table, plan.input_spec), sequence_index=sequences)
    return PreparedData(task, dataset, index, index, split, profile, warnings)


def _label(plan: RunPlan, rows: pa.Table) -> LabeledSegments:
    """Merge stems and read labels. Raises `InputError` if too little is left, with the reasons and advice."""
    merged = merge_stems(rows, plan.input_spec.media, plan.columns.null_class)
    parsed: LabeledSegments | None = None
    try:
        parsed = _parse_labels(plan, merged)
        final = _finalize_labels(plan, parsed)
    except InputError as error:  # the reason, such as a single class, may be rows that were dropped before
        segments = parsed.segments if parsed is not None else merged
        raise InputError([*error.problems, *_explain_dropped(plan, segments, rows)]) from error
    result = _keep_labeled_songs(final)
    n_songs = _count_songs(result.segments)
    if n_songs < MIN_SONGS:
        reasons = _describe_reasons(final.segments) or "none left out"
        raise InputError(
            f"{plan.manifest}: {n_songs} songs with labelled segments are left of {len(rows)}"
            f" rows, and training needs {MIN_SONGS} ({reasons}){_advice(plan, final.segments, rows)}"
        )
    return result


def _usable(segments: SegmentExamples) -> np.ndarray:
    return np.array([reason is None for reason in segments.masked], dtype=bool)


def _parse_labels(plan: RunPlan, segments: SegmentExamples) -> LabeledSegments:
    """Convert raw labels to targets; labels that cannot be used mask their segments."""
    usable = _usable(segments)
    if not usable.any():
        cause = "" if _reasons(segments) else ": there are none"
        raise InputError(f"{plan.manifest}: no segment can be learned from{cause}")
    parsed = plan.task.parse(segments.label.filter(pa.array(usable)), plan.target, plan.config.data)
    labels = np.full(len(usable), np.nan, dtype=parsed.targets.dtype)
    labels[usable] = np.where(parsed.usable, parsed.targets, np.nan)
    masked = segments.masked.copy()
    masked[usable] = parsed.left_out
    table = segments.table
    targets = SegmentTargets(
        labels=labels,
        start=table["start"].to_numpy(),
        end=table["end"].to_numpy(),
        position=table[POSITION].to_numpy().astype(np.float32),
        song=segments.song.astype(np.float32),
    )
    segments = dataclasses.replace(segments, masked=masked)
    return LabeledSegments(parsed.task, segments, targets.to_array(), parsed.notes)


def _finalize_labels(plan: RunPlan, labeled: LabeledSegments) -> LabeledSegments:
    """Apply what depends on the number of songs of each class."""
    final = labeled.task.finalize_labels(labeled.targets, plan.target, plan.config)
    masked = labeled.segments.masked.copy()
    usable = _usable(labeled.segments)
    masked[usable] = final.left_out[usable]
    segments = dataclasses.replace(labeled.segments, masked=masked)
    return LabeledSegments(final.task, segments, final.targets, (*labeled.notes, *final.notes))


def _keep_labeled_songs(labeled: LabeledSegments) -> LabeledSegments:
    """Drop songs without a labeled segment."""
    segments = labeled.segments
    has_label = SegmentTargets.from_array(labeled.targets).has_label
    song_has_label = np.bincount(segments.song, weights=has_label) > 0
    keep = song_has_label[segments.song]
    dropped = dict(segments.dropped)
    if not keep.all():
        dropped[NO_LABELS] = int((~keep).sum())
    labeled_songs = dataclasses.replace(segments, dropped=dropped).keep(keep)
    return dataclasses.replace(labeled, segments=labeled_songs, targets=labeled.targets[keep])


def _count_songs(segments: SegmentExamples) -> int:
    return int(segments.song.max()) + 1 if len(segments.table) else 0


def _missing_songs(table: SegmentTable, n_songs: int) -> list[str]:
    n_missing = len(table.songs) - n_songs if table.songs is not None else 0
    return [f"{n_missing} songs of the manifest have no segments that can be used"] if n_missing > 0 else []


def _explain_dropped(plan: RunPlan, segments: SegmentExamples, rows: pa.Table) -> list[str]:
    """Return a message on dropped segments, with advice, if they exceed `MIN_REPORTED_FRACTION`."""
    if sum(_reasons(segments).values()) < MIN_REPORTED_FRACTION * len(segments.table):
        return []
    return [f"left out: {_describe_reasons(segments)}{_advice(plan, segments, rows)}"]


def _reasons(segments: SegmentExamples) -> dict[str, int]:
    """Return reasons why rows were dropped and segments masked, most frequent first; merged stems are not lost."""
    counts = {**segments.dropped, **count_masked(segments.masked)}
    lost = {reason: n for reason, n in counts.items() if reason != FURTHER_STEMS}
    return dict(sorted(lost.items(), key=lambda item: -item[1]))


def _describe_reasons(segments: SegmentExamples) -> str:
    return ", ".join(f"{n}: {reason}" for reason, n in _reasons(segments).items())


def _advice(plan: RunPlan, segments: SegmentExamples, rows: pa.Table) -> str:
    """Return advice on the most frequent reason."""
    reason = next(iter(_reasons(segments)), None)
    id_column = plan.config.data.id_column
    if reason == UNKNOWN_SONG:
        return f": ids in {id_column} (data.id_column) {_describe_unknown_song(plan, rows)}"
    if reason in (LABEL_MISSING, LABEL_BROKEN):
        has_some = segments.label.null_count < len(segments.label)
        amount = "has few labels" if has_some else "is null in all segments"
        return f": target {plan.target!r} {amount}; name another with data.target_column"
    if reason == ID_MISSING:
        return f": column {id_column} (data.id_column) must name the song of each row"
    if reason == NO_LENGTH:
        return f": {' and '.join(SECONDS)} must be seconds from the song's start, the end after the start"
    if reason == STEMS_DISAGREE:
        return f": name another target than {plan.target!r} with data.target_column"
    return ""


def _describe_unknown_song(plan: RunPlan, rows: pa.Table) -> str:
    assert plan.segments is not None
    is_unknown = pc.equal(rows["dropped"], UNKNOWN_SONG).fill_null(False)
    unknown_id = rows.filter(is_unknown)["song"][0].as_py()
    example_id = next(iter(sorted(plan.segments.songs or ())), None)
    manifest = "the manifest has no ids" if example_id is None else f"the manifest writes them as {example_id!r}"
    return f"such as {unknown_id!r} must be those of songs; {manifest}"


def _describe_segments(segments: SegmentExamples, targets: np.ndarray) -> dict[str, Any]:
    """Return the number of segments per song and their duration, for `data.json`."""
    sizes = segments.table[N_SEGMENTS].to_numpy()[segments.table[POSITION].to_numpy() == 0]
    columns = SegmentTargets.from_array(targets)
    return {
        "labelled": int(columns.has_label.sum()),
        "least": int(sizes.min()),
        "median": float(np.median(sizes)),
        "most": int(sizes.max()),
        "seconds": round(float((columns.end - columns.start).sum()), 1),
    }
