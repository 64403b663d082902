"""Scoring new songs' segments with a bundle: the same timelines, windows and decoding that training uses."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import torch

from rainbow_ray.bundle.bundle import Bundle
from rainbow_ray.data.batching import EVAL_TOKENS, divide_sequences
from rainbow_ray.data.examples import Examples
from rainbow_ray.data.manifest import Columns, Times, normalize_rows
from rainbow_ray.data.normalize import NOT_UTF8, id_column, text_column
from rainbow_ray.data.reader import make_batch
from rainbow_ray.data.segment_columns import RUNNING_TIME
from rainbow_ray.data.segments import FURTHER_STEMS, NO_LENGTH, SequenceIndex, merge_stems
from rainbow_ray.data.segments import PLACE as PLACE_IN_TABLE
from rainbow_ray.data.time_units import check_times
from rainbow_ray.data.times import parse_values, time_type_problem
from rainbow_ray.inference.ensemble import Scorer
from rainbow_ray.inference.input_tables import column_of, names_of
from rainbow_ray.inference.media_report import MODALITIES_READ, MediaReport
from rainbow_ray.inference.media_values import prepare_with_media, read_media_values
from rainbow_ray.metrics.segments import contiguous_pieces, merge
from rainbow_ray.modalities.spec import InputSpec, lengths, make_collates, modalities_present
from rainbow_ray.model.audio_features import AudioFeatureCache
from rainbow_ray.model.device import pick_precision
from rainbow_ray.tasks.base import empty_scores
from rainbow_ray.tasks.segment_targets import PLACE, SONG, song_slices
from rainbow_ray.tasks.segmentation import WEAK, Segmentation
from rainbow_ray.utils.errors import InputError, did_you_mean, first_line

ROW = "row"  # column: the row's place in the table that was given


@dataclass(frozen=True)
class SegmentScores:
    """Scores of a table of segments.

    Attributes:
        segments: A row a segment: song, start, end, text, prediction, scores, whether they are weak, what is wrong with
            it, and, of models that read audio or MIDI, which modalities its score has read.
        stretches: Neighbouring segments of one prediction as one.
        unusable: Rows and segments that are in no stretch, by reason.
        rows: The row of the table that stands for each segment, `(segments,)`.
        media: What could be read of audio and MIDI.
    """

    segments: pd.DataFrame
    stretches: pd.DataFrame
    unusable: dict[str, int]
    rows: np.ndarray
    media: MediaReport


def needed_columns(bundle: Bundle) -> list[str]:
    """Columns that a table of segments must have for this model."""
    start, end, _ = bundle.info["times"]
    return [bundle.info["id_column"], *bundle.info["text_columns"], start, end]


def _seconds_of(values: pd.Series) -> pd.Series:
    """Times of any mixture of types as float64; where one cannot be read all are text, so that it can be shown.

    A column of lists or bytes stays as it is: its type is what is wrong.
    """
    parsed = parse_values(values.tolist())
    unreadable = np.array([reason is not None for reason in parsed.reasons], dtype=bool)
    if not unreadable.any():
        return pd.Series(parsed.seconds, index=values.index)
    if (
        all(isinstance(value, list | np.ndarray | dict | bytes) for value in values[unreadable])
        and not np.isfinite(parsed.seconds).any()
    ):
        return values
    texts = [None if np.isnan(seconds) else str(seconds) for seconds in parsed.seconds.tolist()]
    for i in np.flatnonzero(unreadable):
        value = values.iloc[i]
        texts[i] = value if isinstance(value, str) else f"{type(value).__name__} {value!r}"
    return pd.Series(texts, index=values.index, dtype=object)


def warn_of_times(bundle: Bundle, table: pa.Table) -> None:
    """Warn of times that cannot be read, or seem to be no seconds.

    Raises:
        InputError: No time of a column can be read, or the times cannot be in seconds.
    """
    start, end, _ = bundle.info["times"]
    song, text = bundle.info["id_column"], next(iter(bundle.info["text_columns"]), None)
    names = table.column_names
    problems = [f"the table: column {name!r} {wrong}" for name in (start, end) if name in names
                and (wrong := time_type_problem(table.schema.field(name).type)) is not None]  # fmt: skip
    if problems:
        raise InputError(problems)
    if not {start, end, song} <= set(names) or len(table) == 0 or pa.types.is_nested(table.schema.field(song).type):
        return  # what is missing is said where columns are read
    notes = check_times(
        table, "the table", song=song, start=start, end=end, text=text if text in names else None,
        running=RUNNING_TIME if RUNNING_TIME in names else None,
    )  # fmt: skip
    for note in notes:
        warnings.warn(note, stacklevel=3)


def score_segments(
    bundle: Bundle,
    scorer: Scorer,
    reading: InputSpec,
    device: torch.device,
    table: pd.DataFrame | pa.Table,
    *,
    each_row: bool = False,
    check_unit: bool = False,
) -> SegmentScores:
    """Return scores of all segments of a table.

    Args:
        bundle: The model's bundle.
        scorer: The bundle as a module.
        reading: What the model reads.
        device: Where it runs.
        table: Rows of segments and stems.
        each_row: Whether each row is a segment of its own; otherwise rows of one song, place and time are its stems.
        check_unit: Whether to check that times can be in seconds.

    Raises:
        InputError: Columns are missing, hold something else, or hold times that cannot be in seconds.
    """
    names = names_of(table)
    missing = [name for name in needed_columns(bundle) if name not in names]
    if missing:
        raise InputError(f"the table has no column {name!r}, which this model reads{did_you_mean(name, names)}"
                         for name in missing)  # fmt: skip
    task = bundle.task
    assert isinstance(task, Segmentation)
    plain, undecodable = _plain_table(bundle, table)
    if check_unit:
        warn_of_times(bundle, plain)
    rows = normalize_rows(plain, _columns(bundle, names))
    rows = rows.append_column(ROW, pa.array(np.arange(len(rows))))
    if each_row:
        places = pa.array(np.arange(len(rows), dtype=np.float64))
        rows = rows.set_column(rows.column_names.index(PLACE_IN_TABLE), PLACE_IN_TABLE, places)
    values = read_media_values(table, bundle.info.get("media_columns", {}), reading.media, len(rows))
    rows = prepare_with_media(rows, values, reading)
    folded = merge_stems(rows, reading.media)
    size = len(folded.table)
    targets = np.full((size, SONG + 1), np.nan, dtype=np.float32)
    targets[:, PLACE], targets[:, SONG] = folded.table["place"].to_numpy(), folded.song
    scores = empty_scores(task, size)
    if size:
        scores = _score(
            bundle, scorer, reading, device, Examples(folded.table, targets, np.ones(size, dtype=np.float32))
        )
    decided = task.decode(targets, scores)
    columns = scores.reshape(size, len(task.score_names)).T
    timeless = folded.masked == NO_LENGTH  # a place was made for them among their neighbours: nobody knows their time
    read = modalities_present(folded.table, bundle.model.modalities)
    segments = pd.DataFrame(
        {
            "example_id": folded.table["example_id"].to_pandas(),
            "song": folded.table["song"].to_pandas(),
            "start": np.where(timeless, np.nan, folded.table["start"].to_numpy()).astype(np.float32),
            "end": np.where(timeless, np.nan, folded.table["end"].to_numpy()).astype(np.float32),
            "text": folded.table["text"].to_pandas(),
            "prediction": pd.Series(task.decode_predictions(decided) if size else [], dtype=object),
            **dict(zip(task.score_names, columns, strict=True)),
            **({MODALITIES_READ: pd.Series([one or None for one in read], dtype=object)} if reading.media else {}),
            WEAK: bool(task.weak),
            "reason": np.where(timeless, np.array(NO_LENGTH, dtype=object), np.array(None)),
        }
    )
    unusable = {why: n for why, n in folded.dropped.items() if why != FURTHER_STEMS}
    unusable |= {NO_LENGTH: int(timeless.sum())} if timeless.any() else {}
    unusable |= {f"{NOT_UTF8} (its words are left out)": undecodable} if undecodable else {}
    return SegmentScores(
        segments, stretches_of(segments[~timeless]), unusable, folded.table[ROW].to_numpy(),
        MediaReport.of_rows(rows, reading.media, read),
    )  # fmt: skip


def _plain_table(bundle: Bundle, table: pd.DataFrame | pa.Table) -> tuple[pa.Table, int]:
    """The columns of ids, words and times, and how many rows have words that are not UTF-8 (now empty)."""
    info, names = bundle.info, names_of(table)
    song, size = info["id_column"], len(table)
    columns: dict[str, Any] = {}
    undecodable = np.zeros(size, dtype=bool)
    for name in dict.fromkeys(name for name in (*info["times"], RUNNING_TIME) if name in names):
        column = column_of(table, name)
        if isinstance(column, pd.Series) and column.dtype == object:  # which may mix numbers, text, times, durations
            column = _seconds_of(column)
        try:
            columns[name] = pa.array(column, from_pandas=True) if isinstance(column, pd.Series) else column
        except (pa.ArrowInvalid, pa.ArrowTypeError) as error:
            raise InputError(f"column {name!r} does not hold times alone ({first_line(error)})") from error
    for name in info["text_columns"]:
        cleaned = text_column(column_of(table, name), name)
        columns[name] = cleaned.texts
        undecodable |= cleaned.undecodable
    columns[song] = id_column(column_of(table, song), song)
    return pa.table(columns), int(undecodable.sum())


def stretches_of(segments: pd.DataFrame) -> pd.DataFrame:
    """Neighbouring segments of one prediction as one, up to the next gap between segments (`GAP_TOLERANCE`).

    Columns: song, start, end, prediction, how many segments, whether weak.
    """
    found = []
    for song, rows in segments.groupby("song", sort=False):
        codes, names = pd.factorize(rows["prediction"])
        pieces = contiguous_pieces(rows["start"].to_numpy(), rows["end"].to_numpy())
        merged = merge(codes, np.ones(len(rows)), pieces)
        for code, first, stop in zip(merged.labels, merged.starts.astype(int), merged.ends.astype(int), strict=True):
            part = rows.iloc[first:stop]
            found.append((song, part["start"].min(), part["end"].max(), names[code], len(part), part[WEAK].any()))
    return pd.DataFrame(found, columns=["song", "start", "end", "prediction", "segments", WEAK])


def _columns(bundle: Bundle, names: list[str]) -> Columns:
    info = bundle.info
    start, end, index = info["times"]
    return Columns(
        song=info["id_column"], text=tuple(info["text_columns"]), label=(info["id_column"], None), held_out=None,
        require_text=False, min_length=0, times=Times(start, end, index if index in names else None),
    )  # fmt: skip


@torch.inference_mode()
def _score(bundle: Bundle, scorer: Scorer, reading: InputSpec, device: torch.device, examples: Examples) -> np.ndarray:
    task = bundle.task
    assert isinstance(task, Segmentation)
    cut = bundle.info["segments"]
    together = len(examples) if task.weak else cut["together"]
    neighbours = SequenceIndex.of(examples.table, together, cut["overlap"])
    heard = AudioFeatureCache(bundle.model, reading, device, pick_precision("off", device)[0])
    heard.prepare(
        [window for row in examples.table["audio"].to_pylist() for window in row] if "audio" in reading.media else []
    )
    collates = make_collates(reading, heard.find)
    songs = [np.arange(song.start, song.stop) for song in song_slices(examples.targets)]
    windows = [window for song in songs for window in neighbours.scored_windows(song)]
    scores = empty_scores(task, len(examples))
    batches = divide_sequences(
        windows, lengths(examples.table, reading), max_examples=len(examples), max_tokens=EVAL_TOKENS
    )
    for part in batches:
        rows = part.indices
        batch = make_batch(examples, rows, collates, part.run).to(device)
        found = scorer(batch).cpu().numpy()
        kept = np.concatenate([neighbours.kept(run) for run in part.runs])
        scores[rows[kept]] = found[kept]
    return scores
