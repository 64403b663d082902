"""Files of predictions: Arrow tables of scores, counts over the files of chunks, and their merging."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from rainbow_ray.inference.media_report import MODALITIES_READ, MediaReport, decode
from rainbow_ray.inference.row_scores import NOVELTY, REASON
from rainbow_ray.tasks.base import Task
from rainbow_ray.tasks.segment_task import WEAK
from rainbow_ray.utils.io import atomic_write

UNUSABLE, MEDIA = b"unusable", b"media"  # keys of the parquet metadata of a chunk's files
MERGE_ROWS = 16_384  # rows in memory while files are merged


def predictions_table(
    predictions: pd.DataFrame, task: Task, score_names: Sequence[str], song: str | None, songs: pa.Array | None
) -> pa.Table:
    """Convert predictions to Arrow, with column types that do not depend on the rows.

    Args:
        predictions: Result of `Predictor.predict`, `(rows, columns)`.
        task: Task of the model.
        score_names: Columns of scores.
        song: Name of the column of songs, which comes first; None: no such column.
        songs: Song of each row, `(rows,)`, or None.

    Returns:
        The table.
    """
    prediction_type = task.prediction_type
    values = [None if value is None or (isinstance(value, float) and np.isnan(value)) else value
              for value in predictions["prediction"]]  # fmt: skip
    columns: dict[str, Any] = {song: songs} if song is not None and songs is not None else {}
    columns["prediction"] = pa.array(values, prediction_type)
    for name in score_names:
        columns[name] = pa.array(predictions[name].to_numpy(dtype=task.score_dtype), from_pandas=True)
    if NOVELTY in predictions:
        columns[NOVELTY] = pa.array(predictions[NOVELTY].to_numpy(dtype=np.float32), from_pandas=True)
    for name in (MODALITIES_READ, REASON):
        if name in predictions:
            columns[name] = pa.array(predictions[name], pa.string(), from_pandas=True)
    return pa.table(columns)


@dataclass(frozen=True)
class PredictionCounts:
    """Counts over files of predictions.

    Attributes:
        n_rows: Rows in all files.
        reasons: Number of rows without a score, by reason.
        weak: Whether predictions of segments were learned from labels of songs alone.
        unusable: Number of rows and segments that are in no interval, by reason.
        media: Report on media files.
    """

    n_rows: int
    reasons: dict[str, int]
    weak: bool
    unusable: dict[str, int]
    media: MediaReport


def with_unusable_counts(intervals: pa.Table, unusable: Mapping[str, int]) -> pa.Table:
    """Store the counts of unusable segments in the metadata of a table of intervals.

    Args:
        intervals: Intervals of a chunk.
        unusable: Number of rows and segments that are in no interval, by reason.

    Returns:
        The table with the metadata that `count_predictions` reads.
    """
    return intervals.replace_schema_metadata({UNUSABLE: json.dumps(unusable)})


def count_predictions(files: Sequence[Path], interval_files: Sequence[Path] = ()) -> PredictionCounts:
    """Count rows, reasons and media over the files of chunks.

    Args:
        files: Files of predictions.
        interval_files: Files of intervals; empty for models that do not predict segments.

    Returns:
        Counts over all files.
    """
    unusable = Counter[str]()
    for file in interval_files:
        unusable.update(json.loads((pq.read_schema(file).metadata or {}).get(UNUSABLE, b"{}")))
    n_rows, reasons, weak, media = 0, Counter[str](), False, MediaReport()
    for file in files:
        parquet = pq.ParquetFile(file)
        n_rows += parquet.metadata.num_rows
        media += read_media_report(file)
        present = [name for name in (REASON, WEAK) if name in parquet.schema_arrow.names]
        table = parquet.read(columns=present)
        if REASON in present and not interval_files:
            reasons.update(reason for reason in table[REASON].to_pylist() if reason is not None)
        weak = weak or (WEAK in present and bool(pc.any(table[WEAK]).as_py()))
    return PredictionCounts(n_rows, dict(reasons.most_common()), weak, dict(unusable.most_common()), media)


def read_media_report(file: Path) -> MediaReport:
    """Read the report on media files of a chunk.

    Args:
        file: File of predictions of the chunk.

    Returns:
        The report; an empty one where the file has none.
    """
    return decode((pq.read_metadata(file).metadata or {}).get(MEDIA))


def merge_files(files: Sequence[Path], out: Path) -> None:
    """Merge parquet files into one file, in their order and without reading them into memory as a whole.

    Args:
        files: Files to merge.
        out: File to write; its suffix (`.parquet`, `.csv`, `.jsonl`) selects the format.
    """
    atomic_write(out, lambda file: _WRITERS[out.suffix](files, file))


def _batches(files: Sequence[Path]) -> Iterator[pa.RecordBatch]:
    for file in files:
        yield from pq.ParquetFile(file).iter_batches(MERGE_ROWS)


def _schema(files: Sequence[Path]) -> pa.Schema:
    """Return the schema of all files. They may differ: columns of a chunk without any score have the type null."""
    schema = pa.unify_schemas([pq.read_schema(file) for file in files], promote_options="permissive")
    return schema.with_metadata({k: v for k, v in (schema.metadata or {}).items() if k not in (UNUSABLE, MEDIA)})


def _write_parquet(files: Sequence[Path], out: Path) -> None:
    schema = _schema(files)
    with pq.ParquetWriter(out, schema) as writer:
        for batch in _batches(files):
            writer.write_table(pa.Table.from_batches([batch]).cast(schema))


def _write_csv(files: Sequence[Path], out: Path) -> None:
    with out.open("w", encoding="utf-8", newline="") as stream:
        _join_labels(_schema(files).empty_table().to_pandas()).to_csv(stream, index=False)
        for batch in _batches(files):
            _join_labels(batch.to_pandas(integer_object_nulls=True)).to_csv(stream, index=False, header=False)


def _write_jsonl(files: Sequence[Path], out: Path) -> None:
    with out.open("w", encoding="utf-8") as stream:
        for batch in _batches(files):
            rows = batch.to_pandas(integer_object_nulls=True)
            rows.to_json(stream, orient="records", lines=True, force_ascii=False)


def _join_labels(table: pd.DataFrame) -> pd.DataFrame:
    """Join several labels into one cell."""

    def join(prediction: object) -> object:
        if isinstance(prediction, tuple | list | np.ndarray):
            return ", ".join(map(str, prediction))
        return prediction

    return table.assign(prediction=table["prediction"].map(join)) if "prediction" in table else table


_WRITERS: dict[str, Callable[[Sequence[Path], Path], None]] = {
    ".parquet": _write_parquet,
    ".csv": _write_csv,
    ".jsonl": _write_jsonl,
}
