"""Which unlabeled songs to label next: those that are uncertain, and unlike the labeled songs and each other.

Songs are chosen one after the other. Each maximizes the product of its uncertainty and its distance to the nearest song
that is labeled or was chosen before: the greedy k-center method, weighted by uncertainty.

Reference:
    Sener & Savarese 2018, "Active learning for convolutional neural networks: a core-set approach", algorithm 1, and
    Lewis & Gale 1994, "A sequential algorithm for training text classifiers" (uncertainty sampling).
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
from rich.console import Console
from rich.table import Table as RichTable

from rainbow_ray.bundle.novelty import Novelty
from rainbow_ray.data.text_cells import id_column
from rainbow_ray.inference.media_report import IN_COMMAND, MediaReport, max_unreadable
from rainbow_ray.inference.predict_table import TableRequest, make_job, open_table
from rainbow_ray.inference.predict_texts import format_prediction, shorten, write_rows
from rainbow_ray.inference.predictor import Predictor
from rainbow_ray.inference.row_scores import NOVELTY
from rainbow_ray.utils.errors import InputError

MIN_PROBABILITY = 1e-6
COLUMNS = ("rank", "text", "prediction", "uncertainty", NOVELTY, "value")  # besides the id
CHUNK_ROWS = 256  # rows whose media are in memory


def uncertainty(predictor: Predictor, predictions: pd.DataFrame) -> np.ndarray:
    """Return how uncertain predictions are.

    Args:
        predictor: The model.
        predictions: Table of `Predictor.predict`.

    Returns:
        The entropy of the classes relative to its maximum, of several labels the mean of theirs, `(rows,)`, from 0 to
        1. Of numbers, 1: their scores do not tell.
    """
    task = predictor.bundle.task
    if not task.has_classes:
        return np.ones(len(predictions))
    p = np.clip(predictions[predictor.score_names].to_numpy(dtype=np.float64), MIN_PROBABILITY, 1 - MIN_PROBABILITY)
    if task.has_exclusive_classes:
        p /= p.sum(axis=1, keepdims=True)
        return np.asarray(-np.sum(p * np.log(p), axis=1) / np.log(p.shape[1]))
    return np.asarray(-np.mean(p * np.log(p) + (1 - p) * np.log(1 - p), axis=1) / np.log(2))


def choose(weights: np.ndarray, novelty: np.ndarray, points: np.ndarray, n: int) -> tuple[list[int], list[float]]:
    """Choose rows one after the other.

    Args:
        weights: Uncertainty of each row, `(rows,)`.
        novelty: Distance of each row to the labeled songs, `(rows,)`; NaN for rows that cannot be chosen.
        points: Features of the rows in the unit of `novelty`, `(rows, width)`.
        n: Number of rows to choose.

    Returns:
        Indices of the rows, best first, and the product of uncertainty and distance when each was chosen.
    """
    distances, chosen, values = novelty.astype(np.float64), list[int](), list[float]()
    distances[np.isnan(distances)] = -np.inf
    for _ in range(min(n, int(np.isfinite(distances).sum()))):
        gains = np.where(np.isfinite(distances), weights * distances, -np.inf)
        best = int(np.argmax(gains))
        chosen.append(best)
        values.append(float(gains[best]))
        distances = np.minimum(distances, np.linalg.norm(points - points[best], axis=1))
        distances[best] = -np.inf
    return chosen, values


def suggest(predictor: Predictor, request: TableRequest, n: int, console: Console, out: Path | None) -> None:
    """Rank the songs of a table by what labeling them should teach, print the best and write them.

    Args:
        predictor: The model.
        request: The table.
        n: Number of songs.
        console: Where they are printed.
        out: File to write, or None.

    Raises:
        InputError: The model predicts segments or has no training songs to compare with, the table lacks columns, or,
            without `allow_missing`, more files cannot be read than the run allows.
    """
    novelty = _novelty_of(predictor)
    manifest, notes = open_table(predictor, request.manifest, request.media_root)
    job = make_job(predictor, manifest, request)
    table = manifest.read(job.columns)
    name_of_ids = predictor.bundle.info.get("id_column", "id")
    shown_id = f"{name_of_ids}_id" if name_of_ids in COLUMNS else name_of_ids
    has_ids = name_of_ids in table.column_names
    ids = id_column(table[name_of_ids], name_of_ids).to_pylist() if has_ids else [None] * len(table)
    predictions, features, report = _predict_in_chunks(predictor, table)
    if not request.allow_missing:
        _check_media(predictor, report, request.media_root)
    notes += report.notes(request.media_root)
    weights, distances = uncertainty(predictor, predictions), predictions[NOVELTY].to_numpy(copy=True)
    if features:
        is_known = novelty.is_training_song(features)
        if is_known.any():
            notes.append(f"{int(is_known.sum())} rows are training songs of this model, and left out")
        distances[is_known] = np.nan
        if novelty.is_sample:
            notes.append("the model keeps a sample of its training songs to compare with: others may be among the rows")
    distances[_further_stems(ids, distances)] = np.nan
    points = novelty.points(features) if features else np.zeros((len(table), 1))
    chosen, values = choose(weights, distances, points, n)
    if len(chosen) < n:
        notes.append(f"--suggest {n}: the table has {len(chosen)} songs that can be suggested; all are ranked")
    texts = _texts_of(predictor, table, chosen)
    rows = [
        {
            "rank": rank,
            shown_id: f"row {i}" if ids[i] is None else ids[i],
            "text": text,
            "prediction": predictions["prediction"].iloc[i],
            "uncertainty": float(weights[i]),
            NOVELTY: float(predictions[NOVELTY].iloc[i]),
            "value": value,
        }
        for rank, (i, value, text) in enumerate(zip(chosen, values, texts, strict=True), 1)
    ]
    _print_rows(rows, shown_id, console)
    for note in notes:
        console.print(f"Note: {note}")
    if out is not None and rows:
        write_rows(rows, out)
        console.print(f"{len(rows)} songs in {out}")


def _novelty_of(predictor: Predictor) -> Novelty:
    novelty = predictor.bundle.novelty
    if predictor.reads_segments or novelty is None:
        reason = "predicts segments" if predictor.reads_segments else "keeps no training songs to compare with"
        raise InputError(f"--suggest: ranks songs to label, and this model {reason}")
    return novelty


def _check_media(predictor: Predictor, report: MediaReport, media_root: Path) -> None:
    """Raise `InputError` where more files cannot be read than the run allows."""
    problems = report.problems(max_unreadable(predictor.bundle.info), media_root, IN_COMMAND)
    if problems:
        raise InputError(problems)


def _predict_in_chunks(
    predictor: Predictor, table: pa.Table
) -> tuple[pd.DataFrame, dict[str, np.ndarray], MediaReport]:
    """Return `Predictor.predict_with_features` of a table, with the media of a chunk in memory at a time."""
    frames, parts, report = [], list[dict[str, np.ndarray]](), MediaReport()
    for start in range(0, max(1, len(table)), CHUNK_ROWS):
        frame, features, chunk_report = predictor.predict_with_features(table.slice(start, CHUNK_ROWS))
        frames.append(frame)
        parts.append(features)
        report += chunk_report
    widths = {key: values.shape[1] for part in parts for key, values in part.items()}
    joined = {
        key: np.concatenate(
            [
                part.get(key, np.zeros((len(frame), width), np.float32))
                for part, frame in zip(parts, frames, strict=True)
            ]
        )
        for key, width in widths.items()
    }
    return pd.concat(frames, ignore_index=True), joined, report


def _further_stems(ids: list[object], distances: np.ndarray) -> np.ndarray:
    """Return which rows are not the first row of their song that can be chosen, `(rows,)`, bool."""
    seen, is_further = set[object](), np.zeros(len(ids), dtype=bool)
    for row in np.flatnonzero(~np.isnan(distances)):
        if ids[row] is not None:
            is_further[row] = ids[row] in seen
            seen.add(ids[row])
    return is_further


def _texts_of(predictor: Predictor, table: pa.Table, rows: list[int]) -> list[str]:
    columns = [
        table[name].take(pa.array(rows, pa.int64())).to_pylist() for name in predictor.bundle.info["text_columns"]
    ]
    return [" ".join(str(cell) for cell in cells if cell) for cells in zip(*columns, strict=True)] or [""] * len(rows)


def _print_rows(rows: list[dict[str, object]], id_column: str, console: Console) -> None:
    table = RichTable(title="Songs to label next", title_justify="left")
    for name in ("", id_column, "prediction", "uncertainty", NOVELTY, "text"):
        table.add_column(name)
    for row in rows:
        numbers = [f"{row[name]:.2f}" for name in ("uncertainty", NOVELTY)]
        table.add_row(
            str(row["rank"]),
            str(row[id_column]),
            format_prediction(row["prediction"]),
            *numbers,
            shorten(str(row["text"])),
        )
    console.print(table)
