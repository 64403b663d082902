"""Scoring new songs' segments with a bundle: the same timelines, windows and decoding that training uses."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd
import pyarrow as pa
import torch

from rainbow_ray.data.examples import Examples
from rainbow_ray.data.manifest import Columns, MediaColumn, Times, plain_rows
from rainbow_ray.data.stream import make_batch
from rainbow_ray.data.timelines import FURTHER_STEMS, NO_LENGTH, Neighbours, fold_timelines
from rainbow_ray.errors import InputError, nearest
from rainbow_ray.modalities import Reading, lengths, make_collates, prepare
from rainbow_ray.problems import no_scores
from rainbow_ray.problems.segmentation import PLACE, SONG, WEAK, Segmentation, songs_of
from rainbow_ray.problems.stretches import merge
from rainbow_ray.results.bundle import Bundle
from rainbow_ray.results.scoring import Scorer
from rainbow_ray.training.batches import EVAL_TOKENS, divide_runs
from rainbow_ray.training.device import pick_precision
from rainbow_ray.training.heard import Heard


@dataclass(frozen=True)
class SegmentScores:
    """A row a segment: song, start, end, text, prediction, scores, whether they are weak, and what is wrong with it.

    `stretches` are what has merged. `unusable` counts rows and segments that are in no stretch, by reason.
    """

    segments: pd.DataFrame
    stretches: pd.DataFrame
    unusable: dict[str, int]


def needed_columns(bundle: Bundle) -> list[str]:
    """Columns that a table of segments must have for this model."""
    start, end, _ = bundle.info["times"]
    return [bundle.info["id_column"], *bundle.info["text_columns"], start, end]


def score_segments(
    bundle: Bundle, scorer: Scorer, reading: Reading, device: torch.device, table: pa.Table
) -> SegmentScores:
    """Scores of all segments of a table, a row a segment and stem. Raises `InputError` for columns that are missing."""
    names = table.column_names
    missing = [name for name in needed_columns(bundle) if name not in names]
    if missing:
        raise InputError(f"the table has no column {name!r}, which this model reads{nearest(name, names)}"
                         for name in missing)  # fmt: skip
    problem = bundle.problem
    assert isinstance(problem, Segmentation)
    rows = prepare(plain_rows(table, _columns(bundle, names)), reading=reading)
    folded = fold_timelines(rows, reading.media)
    size = len(folded.table)
    targets = np.full((size, SONG + 1), np.nan, dtype=np.float32)
    targets[:, PLACE], targets[:, SONG] = folded.table["place"].to_numpy(), folded.song
    scores = no_scores(problem, size)
    if size:
        scores = _score(
            bundle, scorer, reading, device, Examples(folded.table, targets, np.ones(size, dtype=np.float32))
        )
    decided = problem.decode(targets, scores)
    columns = scores.reshape(size, len(problem.score_names)).T
    timeless = folded.masked == NO_LENGTH  # a place was made for them among their neighbours: nobody knows their time
    segments = pd.DataFrame(
        {
            "example_id": folded.table["example_id"].to_pandas(),
            "song": folded.table["song"].to_pandas(),
            "start": np.where(timeless, np.nan, folded.table["start"].to_numpy()).astype(np.float32),
            "end": np.where(timeless, np.nan, folded.table["end"].to_numpy()).astype(np.float32),
            "text": folded.table["text"].to_pandas(),
            "prediction": pd.Series(problem.decide(decided) if size else [], dtype=object),
            **dict(zip(problem.score_names, columns, strict=True)),
            WEAK: bool(problem.weak),
            "reason": np.where(timeless, np.array(NO_LENGTH, dtype=object), np.array(None)),
        }
    )
    unusable = {why: n for why, n in folded.dropped.items() if why != FURTHER_STEMS}
    unusable |= {NO_LENGTH: int(timeless.sum())} if timeless.any() else {}
    return SegmentScores(segments, stretches_of(segments[~timeless]), unusable)


def stretches_of(segments: pd.DataFrame) -> pd.DataFrame:
    """Neighbouring segments of one prediction as one: song, start, end, prediction, how many segments, whether weak."""
    found = []
    for song, rows in segments.groupby("song", sort=False):
        codes, names = pd.factorize(rows["prediction"])
        merged = merge(codes, np.ones(len(rows)))
        for code, first, stop in zip(merged.labels, merged.starts.astype(int), merged.ends.astype(int), strict=True):
            part = rows.iloc[first:stop]
            found.append((song, part["start"].min(), part["end"].max(), names[code], len(part), part[WEAK].any()))
    return pd.DataFrame(found, columns=["song", "start", "end", "prediction", "segments", WEAK])


def _columns(bundle: Bundle, names: list[str]) -> Columns:
    info = bundle.info
    start, end, index = info["times"]
    media = [
        MediaColumn(modality, name, rate if rate in names else None)
        for modality, (name, rate) in info.get("media_columns", {}).items()
        if name in names
    ]
    return Columns(
        song=info["id_column"], text=tuple(info["text_columns"]), label=(info["id_column"], None), held_out=None,
        require_text=False, min_length=0, media=tuple(media),
        times=Times(start, end, index if index in names else None),
    )  # fmt: skip


@torch.inference_mode()
def _score(bundle: Bundle, scorer: Scorer, reading: Reading, device: torch.device, examples: Examples) -> np.ndarray:
    problem = bundle.problem
    assert isinstance(problem, Segmentation)
    cut = bundle.info["segments"]
    together = len(examples) if problem.weak else cut["together"]
    neighbours = Neighbours.of(examples.table, together, cut["overlap"])
    heard = Heard(bundle.model, reading, device, pick_precision("off", device)[0])
    heard.prepare(
        [window for row in examples.table["audio"].to_pylist() for window in row] if "audio" in reading.media else []
    )
    collates = make_collates(reading, heard.find)
    songs = [np.arange(song.start, song.stop) for song in songs_of(examples.targets)]
    windows = [window for song in songs for window in neighbours.scored_windows(song)]
    scores = no_scores(problem, len(examples))
    batches = divide_runs(windows, lengths(examples.table, reading), max_examples=len(examples), max_tokens=EVAL_TOKENS)
    for part in batches:
        rows = part.indices
        batch = make_batch(examples, rows, collates, part.run).to(device)
        found = scorer(batch).cpu().numpy()
        kept = np.concatenate([neighbours.kept(run) for run in part.runs])
        scores[rows[kept]] = found[kept]
    return scores
