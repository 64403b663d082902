"""From rows of segments to what can be trained: timelines, labels where there are any, a split of whole songs."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from rainbow_ray.config.schema import Config
from rainbow_ray.data.dataset import InMemoryDataset
from rainbow_ray.data.examples import Examples, profile_examples
from rainbow_ray.data.manifest import ID_MISSING
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
from rainbow_ray.data.splits import make_split
from rainbow_ray.modalities.spec import lengths
from rainbow_ray.setup.plan import RunPlan
from rainbow_ray.setup.prepared import DEFAULT_FOLDS, FOLDS_BELOW, MIN_SONGS, PreparedData, data_warnings, describe
from rainbow_ray.setup.segment_table import TIMES as SECONDS
from rainbow_ray.setup.segment_table import UNKNOWN_SONG, drop_unknown_songs, idle_by_labels
from rainbow_ray.tasks.base import Task
from rainbow_ray.tasks.segment_targets import LABEL
from rainbow_ray.utils.errors import InputError

MUCH = 0.2  # of the segments: where as many were left out, that may be why nothing can be learned


def prepare_segments(plan: RunPlan, rows: pa.Table, said: list[str]) -> PreparedData:
    """The data of a run over segments. Raises `InputError` where they cannot be trained on."""
    config, segments = plan.config, plan.segments
    assert segments is not None
    n_rows = len(rows)
    known = drop_unknown_songs(rows, segments.songs)
    folded = merge_stems(known, plan.reading.media, plan.columns.null_class)
    read = folded
    try:
        task, targets, folded, notes = _labels(plan, folded)
    except InputError as error:  # one class only, say: what was left out before is then most of the reason
        much = sum(_reasons(read).values()) >= MUCH * len(read.table)
        more = [f"left out: {_left_out(read)}{_advice(plan, read, known)}"] if much else []
        raise InputError([*error.problems, *more]) from error
    songs = int(folded.song.max()) + 1 if len(folded.table) else 0
    if songs < MIN_SONGS:
        why = _left_out(read) or "none left out"
        raise InputError(f"{plan.manifest}: {songs} songs with labelled segments are left of {n_rows}"
                         f" rows, and training needs {MIN_SONGS} ({why}){_advice(plan, read, known)}")  # fmt: skip
    index = Examples(folded.table, targets, task.example_weights(targets))
    folds = config.data.folds or (DEFAULT_FOLDS if songs < FOLDS_BELOW else 1)
    split = make_split(
        index, task.strata(targets), n_folds=folds, val_fraction=config.data.val_split, split_by=config.data.split_by,
        seed=config.split_seed, saved_split=plan.known_split,
    )  # fmt: skip
    masked = count_masked(folded.masked)
    described = describe(plan, task, index, split, profile_examples(index, songs, n_rows, folded.dropped))
    described |= {"streamed": False, "segments": _described(folded, targets), "masked": masked}
    together = len(index) if task.is_weakly_labeled else config.segments.max_sequence_length  # a song is one bag
    warnings = [*notes, *folded.notes, *said]
    warnings += [f"{n} segments are masked: {reason}" for reason, n in masked.items()]
    without = len(segments.songs) - songs if segments.songs is not None else 0
    if without > 0:
        warnings.append(f"{without} songs of the manifest have no segments that can be used")
    idle, default = idle_by_labels(config, task), Config()
    warnings += [f"{key} has no effect: {why}" for key, why in idle.items() if config.at(key) != default.at(key)]
    warnings += data_warnings(plan, split, folds, described, index)
    neighbours = SequenceIndex.from_table(folded.table, together, config.segments.overlap)
    source = InMemoryDataset(index, lengths(index.table, plan.reading), sequence_index=neighbours)
    return PreparedData(task, source, index, index, split, described, warnings)


def _labels(plan: RunPlan, folded: SegmentExamples) -> tuple[Task, np.ndarray, SegmentExamples, tuple[str, ...]]:
    """The problem as the labels have it, targets `(segments, 5)`, and the timelines of songs that have any label.

    Raises `InputError` where none has.
    """
    masked = folded.masked
    good = np.array([reason is None for reason in masked], dtype=bool)
    if not good.any():
        none = "" if _left_out(folded) else ": there are none"
        raise InputError(f"{plan.manifest}: no segment can be learned from{none}")
    parsed = plan.task.parse(folded.label.filter(pa.array(good)), plan.target, plan.config.data)
    label = np.full(len(masked), np.nan, dtype=parsed.targets.dtype)
    label[good] = np.where(parsed.usable, parsed.targets, np.nan)
    masked[good] = parsed.left_out
    table = folded.table
    targets = np.stack([
        label, table["start"].to_numpy(), table["end"].to_numpy(), table[POSITION].to_numpy().astype(np.float32),
        folded.song.astype(np.float32),
    ], axis=1)  # fmt: skip
    settled = parsed.task.finalize_labels(targets, plan.target, plan.config)
    masked[good] = np.where([reason is None for reason in masked[good]], settled.left_out[good], masked[good])
    targets = settled.targets
    has_any = np.bincount(folded.song, weights=~np.isnan(targets[:, LABEL])) > 0
    kept = has_any[folded.song]
    dropped = dict(folded.dropped)
    if not kept.all():
        dropped[NO_LABELS] = int((~kept).sum())
    folded = dataclasses.replace(folded, dropped=dropped).keep(kept)
    return settled.task, targets[kept], folded, (*parsed.notes, *settled.notes)


def _reasons(folded: SegmentExamples) -> dict[str, int]:
    """Why rows and segments were left out, most frequent first; stems of one segment lose nothing."""
    found = {**folded.dropped, **count_masked(folded.masked)}
    return dict(sorted(((why, n) for why, n in found.items() if why != FURTHER_STEMS), key=lambda item: -item[1]))


def _left_out(folded: SegmentExamples) -> str:
    return ", ".join(f"{n}: {reason}" for reason, n in _reasons(folded).items())


def _advice(plan: RunPlan, folded: SegmentExamples, rows: pa.Table) -> str:
    """What to do about the most frequent reason."""
    why = next(iter(_reasons(folded)), None)
    id_column = plan.config.data.id_column
    if why == UNKNOWN_SONG:
        assert plan.segments is not None
        lost = rows.filter(pc.equal(rows["dropped"], UNKNOWN_SONG).fill_null(False))["song"][0].as_py()
        known = next(iter(sorted(plan.segments.songs or ())), None)
        there = "the manifest has no ids" if known is None else f"the manifest writes them as {known!r}"
        return f": ids in {id_column} (data.id_column) such as {lost!r} must be those of songs; {there}"
    if why in (LABEL_MISSING, LABEL_BROKEN):
        much = "has few labels" if folded.label.null_count < len(folded.label) else "is null in all segments"
        return f": target {plan.target!r} {much}; name another with data.target_column"
    if why == ID_MISSING:
        return f": column {id_column} (data.id_column) must name the song of each row"
    if why == NO_LENGTH:
        return f": {' and '.join(SECONDS)} must be seconds from the song's start, the end after the start"
    if why == STEMS_DISAGREE:
        return f": name another target than {plan.target!r} with data.target_column"
    return ""


def _described(folded: SegmentExamples, targets: np.ndarray) -> dict[str, Any]:
    """How many segments songs have, for `data.json`."""
    sizes = folded.table[N_SEGMENTS].to_numpy()[folded.table[POSITION].to_numpy() == 0]
    return {
        "labelled": int((~np.isnan(targets[:, LABEL])).sum()),
        "least": int(sizes.min()),
        "median": float(np.median(sizes)),
        "most": int(sizes.max()),
        "seconds": round(float((targets[:, 2] - targets[:, 1]).sum()), 1),
    }
