"""Tables of scores: texts that may not be text, rows as Arrow, parts as one file."""

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

from rainbow_ray.files import write_safely
from rainbow_ray.problems import Problem, score_type
from rainbow_ray.problems.segmentation import WEAK, plain
from rainbow_ray.results.inference import REASON
from rainbow_ray.results.summary import PREDICTION_TYPES

NOT_UTF8 = "text that is not UTF-8"
UNUSABLE = b"unusable"
ROWS = 16_384  # joined at once


def clean(batch: pa.RecordBatch, texts: Sequence[str], song: str | None) -> tuple[pa.RecordBatch, np.ndarray]:
    """A batch whose texts are strings as training reads them, and which rows had text that is no UTF-8 (now null).

    Numbers that name songs stay numbers; other names become strings too, with a mark for what is no character.
    """
    torn = np.zeros(len(batch), dtype=bool)
    columns = dict(zip(batch.schema.names, batch.columns, strict=True))
    for name in texts:
        columns[name], wrong = _as_strings(columns[name], errors="strict")
        torn |= wrong
    if song is not None and not (pa.types.is_integer(columns[song].type) or pa.types.is_floating(columns[song].type)):
        columns[song], _ = _as_strings(columns[song], errors="replace")
    return pa.RecordBatch.from_pydict(columns), torn


def _as_strings(values: pa.Array, errors: str) -> tuple[pa.Array, np.ndarray]:
    plain = values.dictionary_decode() if pa.types.is_dictionary(values.type) else values
    wrong = np.zeros(len(plain), dtype=bool)
    try:
        found = plain.cast(pa.string())
        found.validate(full=True)
        return found, wrong
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError):
        pass
    decoded: list[str | None] = []
    for i, raw in enumerate(plain.cast(pa.large_binary()).to_pylist()):
        try:
            decoded.append(raw.decode("utf-8", errors) if raw is not None else None)
        except UnicodeDecodeError:
            decoded.append(None)
            wrong[i] = True
    return pa.array(decoded, pa.string()), wrong


def to_table(
    found: pd.DataFrame, problem: Problem, score_names: Sequence[str], song: str | None, songs: pa.Array | None
) -> pa.Table:
    """What `Predictor.predict` gave, each column of one type whatever the rows, the song in front."""
    kind = PREDICTION_TYPES[plain(problem).name]
    said = [None if value is None or (isinstance(value, float) and np.isnan(value)) else value
            for value in found["prediction"]]  # fmt: skip
    columns = {song: songs} if song is not None and songs is not None else {}
    return pa.table(
        {
            **columns,
            "prediction": pa.array(said, kind),
            **{
                name: pa.array(found[name].to_numpy(dtype=score_type(problem)), from_pandas=True)
                for name in score_names
            },
            REASON: pa.array(found[REASON], pa.string(), from_pandas=True),
        }
    )


@dataclass(frozen=True)
class Tally:
    """Rows, how many have no score by reason, whether they are weak, and what is in no stretch by reason."""

    rows: int
    reasons: dict[str, int]
    weak: bool
    unusable: dict[str, int]


def note_unusable(stretches: pa.Table, unusable: Mapping[str, int]) -> pa.Table:
    """A part's stretches, with a word on what is in none of them."""
    return stretches.replace_schema_metadata({UNUSABLE: json.dumps(unusable)})


def tally(files: Sequence[Path], stretches: Sequence[Path] = ()) -> Tally:
    """What there is in some parts, and in those of their stretches."""
    unusable = Counter[str]()
    for file in stretches:
        unusable.update(json.loads((pq.read_schema(file).metadata or {}).get(UNUSABLE, b"{}")))
    rows, reasons, weak = 0, Counter[str](), False
    for file in files:
        part = pq.ParquetFile(file)
        rows += part.metadata.num_rows
        wanted = [name for name in (REASON, WEAK) if name in part.schema_arrow.names]
        table = part.read(columns=wanted)
        if REASON in wanted and not stretches:
            reasons.update(said for said in table[REASON].to_pylist() if said is not None)
        weak = weak or (WEAK in wanted and bool(pc.any(table[WEAK]).as_py()))
    return Tally(rows, dict(reasons.most_common()), weak, dict(unusable.most_common()))


def join_parts(files: Sequence[Path], out: Path) -> None:
    """Parts as one file, in their order, of the kind that its name says; some rows at a time."""
    write_safely(out, lambda file: _WRITE[out.suffix](files, file))


def _batches(files: Sequence[Path]) -> Iterator[pa.RecordBatch]:
    for file in files:
        yield from pq.ParquetFile(file).iter_batches(ROWS)


def _schema(files: Sequence[Path]) -> pa.Schema:
    """Of all parts: a part in which nothing has a score may not know of which type it would be."""
    return pa.unify_schemas([pq.read_schema(file) for file in files], promote_options="permissive")


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
