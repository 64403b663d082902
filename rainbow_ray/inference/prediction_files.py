"""Tables of scores: rows as Arrow, what each part counts, parts as one file."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from rainbow_ray.evaluation.summary import PREDICTION_TYPES
from rainbow_ray.inference.media_report import MODALITIES_READ, MediaReport, decode
from rainbow_ray.inference.predictor import REASON
from rainbow_ray.tasks.base import Task, score_dtype
from rainbow_ray.tasks.segmentation import WEAK, base_task_of
from rainbow_ray.utils.io import atomic_write

UNUSABLE, MEDIA = b"unusable", b"media"  # metadata of a part's files
ROWS = 16_384  # joined at once


def to_table(
    found: pd.DataFrame, task: Task, score_names: Sequence[str], song: str | None, songs: pa.Array | None
) -> pa.Table:
    """What `Predictor.predict` gave, each column of one type whatever the rows, the song in front."""
    kind = PREDICTION_TYPES[base_task_of(task).name]
    said = [None if value is None or (isinstance(value, float) and np.isnan(value)) else value
            for value in found["prediction"]]  # fmt: skip
    columns = {song: songs} if song is not None and songs is not None else {}
    read = {MODALITIES_READ: pa.array(found[MODALITIES_READ], pa.string(), from_pandas=True)} if (
        MODALITIES_READ in found
    ) else {}  # fmt: skip
    return pa.table(
        {
            **columns,
            "prediction": pa.array(said, kind),
            **{name: pa.array(found[name].to_numpy(dtype=score_dtype(task)), from_pandas=True) for name in score_names},
            **read,
            REASON: pa.array(found[REASON], pa.string(), from_pandas=True),
        }
    )


@dataclass(frozen=True)
class Tally:
    """Rows, how many have no score by reason, whether they are weak, and what is in no stretch by reason.

    `media` is what could be read of audio and MIDI.
    """

    rows: int
    reasons: dict[str, int]
    weak: bool
    unusable: dict[str, int]
    media: MediaReport


def note_unusable(stretches: pa.Table, unusable: Mapping[str, int]) -> pa.Table:
    """A part's stretches, with a word on what is in none of them."""
    return stretches.replace_schema_metadata({UNUSABLE: json.dumps(unusable)})


def tally(files: Sequence[Path], stretches: Sequence[Path] = ()) -> Tally:
    """What there is in some parts, and in those of their stretches."""
    unusable = Counter[str]()
    for file in stretches:
        unusable.update(json.loads((pq.read_schema(file).metadata or {}).get(UNUSABLE, b"{}")))
    rows, reasons, weak, media = 0, Counter[str](), False, MediaReport()
    for file in files:
        part = pq.ParquetFile(file)
        rows += part.metadata.num_rows
        media += read_media_report(file)
        wanted = [name for name in (REASON, WEAK) if name in part.schema_arrow.names]
        table = part.read(columns=wanted)
        if REASON in wanted and not stretches:
            reasons.update(said for said in table[REASON].to_pylist() if said is not None)
        weak = weak or (WEAK in wanted and bool(pc.any(table[WEAK]).as_py()))
    return Tally(rows, dict(reasons.most_common()), weak, dict(unusable.most_common()), media)


def read_media_report(file: Path) -> MediaReport:
    """Return what a part's scorer could read of audio and MIDI."""
    return decode((pq.read_metadata(file).metadata or {}).get(MEDIA))


def join_parts(files: Sequence[Path], out: Path) -> None:
    """Parts as one file, in their order, of the kind that its name says; some rows at a time."""
    atomic_write(out, lambda file: _WRITE[out.suffix](files, file))


def _batches(files: Sequence[Path]) -> Iterator[pa.RecordBatch]:
    for file in files:
        yield from pq.ParquetFile(file).iter_batches(ROWS)


def _schema(files: Sequence[Path]) -> pa.Schema:
    """Of all parts: a part in which nothing has a score may not know of which type it would be."""
    schema = pa.unify_schemas([pq.read_schema(file) for file in files], promote_options="permissive")
    return schema.with_metadata({k: v for k, v in (schema.metadata or {}).items() if k not in (UNUSABLE, MEDIA)})


def _parquet(files: Sequence[Path], out: Path) -> None:
    schema = _schema(files)
    with pq.ParquetWriter(out, schema) as writer:
        for batch in _batches(files):
            writer.write_table(pa.Table.from_batches([batch]).cast(schema))


def _csv(files: Sequence[Path], out: Path) -> None:
    with out.open("w", encoding="utf-8", newline="") as opened:
        _plain(_schema(files).empty_table().to_pandas()).to_csv(opened, index=False)
        for batch in _batches(files):
            _plain(batch.to_pandas(integer_object_nulls=True)).to_csv(opened, index=False, header=False)


def _jsonl(files: Sequence[Path], out: Path) -> None:
    with out.open("w", encoding="utf-8") as opened:
        for batch in _batches(files):
            batch.to_pandas(integer_object_nulls=True).to_json(opened, orient="records", lines=True, force_ascii=False)


def _plain(table: pd.DataFrame) -> pd.DataFrame:
    """Several labels as one cell."""

    def told(said: object) -> object:
        return ", ".join(map(str, said)) if isinstance(said, tuple | list | np.ndarray) else said

    return table.assign(prediction=table["prediction"].map(told)) if "prediction" in table else table


_WRITE = {".parquet": _parquet, ".csv": _csv, ".jsonl": _jsonl}
