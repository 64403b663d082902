"""Scores of a table of segments, with the preparation, sequences and decoding of training."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import torch
from typing_extensions import deprecated

from rainbow_ray.bundle.bundle import Bundle
from rainbow_ray.data.batch import make_batch
from rainbow_ray.data.batching import MAX_EVAL_TOKENS, divide_sequences
from rainbow_ray.data.columns import Columns, Times
from rainbow_ray.data.examples import Examples
from rainbow_ray.data.normalize_rows import normalize_rows
from rainbow_ray.data.segment_columns import RUNNING_TIME
from rainbow_ray.data.segments import FURTHER_STEMS, NO_LENGTH, POSITION, SegmentExamples, SequenceIndex, merge_stems
from rainbow_ray.data.text_cells import NOT_UTF8, id_column, text_column
from rainbow_ray.data.time_units import check_times
from rainbow_ray.data.times import parse_values, time_type_problem
from rainbow_ray.inference.ensemble import EnsembleScorer, prepare_collates, score_batch
from rainbow_ray.inference.input_tables import Table, column_names, get_column
from rainbow_ray.inference.media_report import MODALITIES_READ, MediaReport
from rainbow_ray.inference.media_values import prepare_with_media, read_media_values
from rainbow_ray.inference.row_scores import NOVELTY
from rainbow_ray.metrics.segments import contiguous_pieces, merge
from rainbow_ray.modalities.rows import lengths, modalities_present
from rainbow_ray.modalities.spec import InputSpec
from rainbow_ray.tasks.scores import empty_scores
from rainbow_ray.tasks.segment_targets import SegmentTargets, song_slices
from rainbow_ray.tasks.segment_task import WEAK
from rainbow_ray.utils.errors import InputError, did_you_mean, first_line

ROW = "row"  # column: number of the row in the table of the caller
INTERVAL_COLUMNS = ["song", "start", "end", "prediction", "segments", WEAK]


@dataclass(frozen=True)
class SegmentScores:
    """Predictions for a table of segments.

    Attributes:
        segments: One row per segment: example_id, song, start and end (seconds, float32), text, prediction, scores,
            `novelty`, `weak` and `reason`, and, for models that read audio or MIDI, the modalities that were read.
        intervals: Neighboring segments with the same prediction, merged: song, start, end, prediction, number of
            segments, `weak`.
        unusable: Number of rows and segments that are in no interval, by reason.
        rows: Row of the table that each segment was read from, `(segments,)`, int64.
        media: Report on audio and MIDI files.
    """

    segments: pd.DataFrame
    intervals: pd.DataFrame
    unusable: dict[str, int]
    rows: np.ndarray
    media: MediaReport

    @property
    @deprecated("`stretches` is now called `intervals`")
    def stretches(self) -> pd.DataFrame:
        """Former name of `intervals`."""
        return self.intervals


def required_columns(bundle: Bundle) -> list[str]:
    """Return the columns that a table of segments must have.

    Args:
        bundle: The model.

    Returns:
        Names of the columns of song, text, start and end.
    """
    start, end, _ = bundle.info["times"]
    return [bundle.info["id_column"], *bundle.info["text_columns"], start, end]


def score_segments(
    bundle: Bundle,
    scorer: EnsembleScorer,
    input_spec: InputSpec,
    device: torch.device,
    table: Table,
    *,
    each_row: bool = False,
    check_unit: bool = False,
) -> SegmentScores:
    """Score all segments of a table.

    Args:
        bundle: The model.
        scorer: The bundle as a module.
        input_spec: Inputs that the model reads.
        device: Device of the model.
        table: Rows of segments and stems.
        each_row: Whether each row is a segment; otherwise rows with the same song, place and times are stems of one.
        check_unit: Whether to check that times are in seconds.

    Returns:
        Predictions of segments, in the order of songs and times, and of intervals.

    Raises:
        InputError: Columns are missing, have another type, or hold times that cannot be seconds.
    """
    names = column_names(table)
    missing = [name for name in required_columns(bundle) if name not in names]
    if missing:
        raise InputError(f"the table has no column {name!r}, which this model reads{did_you_mean(name, names)}"
                         for name in missing)  # fmt: skip
    plain, n_undecodable = _plain_table(bundle, table)
    if check_unit:
        _check_segment_times(bundle, plain)
    rows = normalize_rows(plain, _columns(bundle, names))
    rows = rows.append_column(ROW, pa.array(np.arange(len(rows))))
    if each_row:
        row_positions = pa.array(np.arange(len(rows), dtype=np.float64))
        rows = rows.set_column(rows.column_names.index(POSITION), POSITION, row_positions)
    values = read_media_values(table, bundle.info.get("media_columns", {}), input_spec.media, len(rows))
    rows = prepare_with_media(rows, values, input_spec)
    merged = merge_stems(rows, input_spec.media)
    n_segments = len(merged.table)
    unknown = np.full(n_segments, np.nan, dtype=np.float32)
    position = merged.table[POSITION].to_numpy().astype(np.float32)
    targets = SegmentTargets(unknown, unknown, unknown, position, merged.song.astype(np.float32)).to_array()
    scores, novelty = empty_scores(bundle.task, n_segments), np.full(n_segments, np.nan, dtype=np.float32)
    if n_segments:
        examples = Examples(merged.table, targets, np.ones(n_segments, dtype=np.float32))
        scores, novelty = _score(bundle, scorer, input_spec, device, examples)
    read = modalities_present(merged.table, bundle.model.modalities)
    segments, has_time = _segments_frame(bundle, merged, targets, scores, read if input_spec.media else None, novelty)
    unusable = _count_unusable(merged, int((~has_time).sum()), n_undecodable)
    media = MediaReport.of_rows(rows, input_spec.media, read)
    return SegmentScores(segments, merge_intervals(segments[has_time]), unusable, merged.table[ROW].to_numpy(), media)


def _segments_frame(
    bundle: Bundle,
    merged: SegmentExamples,
    targets: np.ndarray,
    scores: np.ndarray,
    read: list[str] | None,
    novelty: np.ndarray,
) -> tuple[pd.DataFrame, np.ndarray]:
    """Return the rows of `SegmentScores.segments`, and whether each has a time, `(segments,)`, bool."""
    task = bundle.task
    decoded = task.decode_scores(targets, scores)
    score_columns = scores.reshape(len(scores), len(task.score_names)).T
    # segments without a length were placed between their neighbors for scoring, but their time is unknown
    is_timeless = merged.masked == NO_LENGTH
    table = merged.table
    segments = pd.DataFrame(
        {
            "example_id": table["example_id"].to_pandas(),
            "song": table["song"].to_pandas(),
            "start": np.where(is_timeless, np.nan, table["start"].to_numpy()).astype(np.float32),
            "end": np.where(is_timeless, np.nan, table["end"].to_numpy()).astype(np.float32),
            "text": table["text"].to_pandas(),
            "prediction": pd.Series(task.decode_predictions(decoded) if len(scores) else [], dtype=object),
            **dict(zip(task.score_names, score_columns, strict=True)),
            **({} if bundle.novelty is None else {NOVELTY: novelty}),
            **({} if read is None else {MODALITIES_READ: pd.Series([names or None for names in read], dtype=object)}),
            WEAK: task.is_weakly_labeled,
            "reason": np.where(is_timeless, np.array(NO_LENGTH, dtype=object), np.array(None)),
        }
    )
    return segments, ~is_timeless


def _count_unusable(merged: SegmentExamples, n_timeless: int, n_undecodable: int) -> dict[str, int]:
    """Number of rows and segments that are in no interval, by reason."""
    counts = {reason: n for reason, n in merged.dropped.items() if reason != FURTHER_STEMS}
    if n_timeless:
        counts[NO_LENGTH] = n_timeless
    if n_undecodable:
        counts[f"{NOT_UTF8} (scored without it)"] = n_undecodable
    return counts


def merge_intervals(segments: pd.DataFrame) -> pd.DataFrame:
    """Merge neighboring segments with the same prediction, up to the next gap (`metrics.segments.GAP_TOLERANCE`).

    Args:
        segments: Segments with times, sorted by song and time: columns song, start, end, prediction, weak.

    Returns:
        Intervals with the columns song, start, end, prediction, segments (how many) and weak.
    """
    intervals = []
    for song, rows in segments.groupby("song", sort=False):
        codes, labels = pd.factorize(rows["prediction"])
        pieces = contiguous_pieces(rows["start"].to_numpy(), rows["end"].to_numpy())
        merged = merge(codes, np.ones(len(rows)), pieces)
        for code, first, stop in zip(merged.labels, merged.starts.astype(int), merged.ends.astype(int), strict=True):
            part = rows.iloc[first:stop]
            intervals.append((song, part["start"].min(), part["end"].max(), labels[code], len(part), part[WEAK].any()))
    return pd.DataFrame(intervals, columns=INTERVAL_COLUMNS)


@torch.inference_mode()
def _score(
    bundle: Bundle, scorer: EnsembleScorer, input_spec: InputSpec, device: torch.device, examples: Examples
) -> tuple[np.ndarray, np.ndarray]:
    """Uncalibrated scores of segments, `(segments,)` or `(segments, classes)`, and their novelty, `(segments,)`."""
    task = bundle.task
    limits = bundle.info["segments"]
    max_length = len(examples) if task.is_weakly_labeled else limits["max_sequence_length"]
    sequences = SequenceIndex.from_table(examples.table, max_length, limits["overlap"])
    collates = prepare_collates(bundle, input_spec, device, examples.table)
    songs = [np.arange(song.start, song.stop) for song in song_slices(examples.targets)]
    windows = [window for song in songs for window in sequences.scoring_sequences(song)]
    scores, texts = empty_scores(task, len(examples)), examples.texts
    novelty = np.full(len(examples), np.nan, dtype=np.float32)
    batches = divide_sequences(
        windows, lengths(examples.table, input_spec), max_examples=len(examples), max_tokens=MAX_EVAL_TOKENS
    )
    for part in batches:
        rows = part.indices
        batch = make_batch(examples, rows, collates, part.sequence_ids).to(device)
        scored = score_batch(bundle, scorer, batch, texts[rows].tolist())
        # of overlapping sequences, each segment keeps the score of the one that has most context for it
        is_center = np.concatenate([sequences.center_mask(sequence) for sequence in part.sequences])
        scores[rows[is_center]] = scored.scores[is_center]
        novelty[rows[is_center]] = scored.novelty[is_center]
    return scores, novelty


def _plain_table(bundle: Bundle, table: Table) -> tuple[pa.Table, int]:
    """Return songs, texts and times as Arrow, and the number of rows whose text is not UTF-8 (read as empty)."""
    info, names = bundle.info, column_names(table)
    columns: dict[str, Any] = {}
    for name in dict.fromkeys(name for name in (*info["times"], RUNNING_TIME) if name in names):
        column = get_column(table, name)
        if isinstance(column, pd.Series) and column.dtype == object:  # may mix numbers, text, times and durations
            column = _parse_times(column)
        try:
            columns[name] = pa.array(column, from_pandas=True) if isinstance(column, pd.Series) else column
        except (pa.ArrowInvalid, pa.ArrowTypeError) as error:
            raise InputError(f"column {name!r} has values other than times ({first_line(error)})") from error
    is_undecodable = np.zeros(len(table), dtype=bool)
    for name in info["text_columns"]:
        cleaned = text_column(get_column(table, name), name)
        columns[name] = cleaned.texts
        is_undecodable |= cleaned.undecodable
    columns[info["id_column"]] = id_column(get_column(table, info["id_column"]), info["id_column"])
    return pa.table(columns), int(is_undecodable.sum())


def _parse_times(values: pd.Series) -> pd.Series:
    """Return times of mixed types as float64; if one cannot be parsed, as text, so that a message can show it.

    A column of lists or bytes is returned unchanged: its type is reported instead.
    """
    parsed = parse_values(values.tolist())
    is_unreadable = np.array([reason is not None for reason in parsed.reasons], dtype=bool)
    if not is_unreadable.any():
        return pd.Series(parsed.seconds, index=values.index)
    holds_containers = all(isinstance(value, list | np.ndarray | dict | bytes) for value in values[is_unreadable])
    if holds_containers and not np.isfinite(parsed.seconds).any():
        return values
    texts = [None if np.isnan(seconds) else str(seconds) for seconds in parsed.seconds.tolist()]
    for i in np.flatnonzero(is_unreadable):
        value = values.iloc[i]
        texts[i] = value if isinstance(value, str) else f"{type(value).__name__} {value!r}"
    return pd.Series(texts, index=values.index, dtype=object)


def _check_segment_times(bundle: Bundle, table: pa.Table) -> None:
    """Warn of times that are doubtful; raise `InputError` for those that cannot be seconds."""
    start, end, _ = bundle.info["times"]
    song, text = bundle.info["id_column"], next(iter(bundle.info["text_columns"]), None)
    names = table.column_names
    problems = [f"the table: column {name!r} {problem}" for name in (start, end) if name in names
                and (problem := time_type_problem(table.schema.field(name).type)) is not None]  # fmt: skip
    if problems:
        raise InputError(problems)
    if not {start, end, song} <= set(names) or len(table) == 0 or pa.types.is_nested(table.schema.field(song).type):
        return  # reported where the columns are read
    notes = check_times(
        table, "the table", song=song, start=start, end=end, text=text if text in names else None,
        running=RUNNING_TIME if RUNNING_TIME in names else None,
    )  # fmt: skip
    for note in notes:
        warnings.warn(note, stacklevel=5)


def _columns(bundle: Bundle, names: list[str]) -> Columns:
    """Return columns of the bundle, as the preparation of training takes them."""
    info = bundle.info
    start, end, index = info["times"]
    return Columns(
        song=info["id_column"], text=tuple(info["text_columns"]), label=(info["id_column"], None), held_out=None,
        require_text=False, min_length=0, times=Times(start, end, index if index in names else None),
    )  # fmt: skip
