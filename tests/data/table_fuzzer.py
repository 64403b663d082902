"""Seeded random tables of songs: column types, nulls, odd strings, file layouts and damage."""

from __future__ import annotations

import datetime
import decimal
import itertools
import json
import uuid
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from tests.song_tables import WORDS

ODD_STRINGS = ["", " ", "\t\n", "nan", "NaN", "None", "null", "N/A", "true", "0", "-0.0", "1e3", "1.0", "007", "é",
               "e\u0301", "\u200b", "\ufeffx", "\u202ertl", "😀", "a\0b", "[a, b]", "['a' 'b']", "{'a'}", '{"a": 1}',
               "a,b;c|d", "x" * 5000, "[red]bold[/]", "[/]", "a\nb\r\nc", "'; DROP", "\\N",
               "Ａ", "ﬁ", "İ", "\x1b[31m"]  # fmt: skip
INVALID = [b"caf\xe9", b"\xff\xfe", b"\x80abc", b"ok \xf0\x9f"]
COMPRESSIONS = ["none", "snappy", "gzip", "zstd", "brotli", "lz4"]
FILE_NAMES = [
    "songs.parquet",
    "which songs?.parquet",
    "a#b%20.parquet",
    "[x]{y}*.PARQUET",
    "two\nlines.pq",
    "ä.parquet",
]
TARGETS = {1: "has_rebracketing_markers", 2: "rebracketing_type", 4: "rebracketing_intensity"}


@dataclass(frozen=True)
class FuzzedTable:
    """A table on disk: its location, config keys to read it with, and the number of rows in its visible files.

    `rows` is None where the files may be damaged.
    """

    location: Path
    keys: dict[str, Any]
    rows: int | None
    description: str


def make_fuzzed_table(seed: int, folder: Path) -> FuzzedTable:
    """Write the table of a seed below a folder."""
    rng = np.random.default_rng(seed)
    phase = int(rng.choice([1, 2, 4]))
    rows = int(rng.choice([0, 1, 5, 12, 20, 30, 60], p=[0.02, 0.03, 0.1, 0.15, 0.3, 0.2, 0.2]))
    columns = _columns(rng, rows, phase)
    table = pa.table(columns)
    if rng.random() < 0.05:
        name = str(rng.choice(table.column_names))
        table = table.drop_columns([name])
    if rng.random() < 0.03:
        table = pa.Table.from_arrays(
            [*table.columns, table.column(0)], names=[*table.column_names, table.column_names[0]]
        )
    location, is_intact = _write(rng, table, folder)
    keys = _keys(rng, phase)
    types = ", ".join(f"{name}: {column.type}" for name, column in zip(table.column_names, table.columns, strict=True))
    return FuzzedTable(location, keys, rows if is_intact else None, f"seed {seed}, {rows} rows, {types}, {keys}")


def _keys(rng: np.random.Generator, phase: int) -> dict[str, Any]:
    keys: dict[str, Any] = {"phase": phase, "data__folds": 2}
    choices: dict[str, list[Any]] = {
        "data__split_by": ["id", "row", "album"],
        "data__min_concept_length": [50, 0],
        "data__require_concept": [True, False],
        "data__null_class": [None, "none"],
        "data__rare_classes": ["drop", "other", "error"],
    }
    for key, values in choices.items():
        if rng.random() < 0.3:
            keys[key] = values[int(rng.integers(len(values)))]
    if phase == 2 and rng.random() < 0.3:
        keys["data__multi_label"] = True
    return keys


def _columns(rng: np.random.Generator, rows: int, phase: int) -> dict[str, pa.Array]:
    numbers = np.arange(rows) // int(rng.integers(1, 3))
    ids = _matching_length(_choose(rng, IDS, 0.5)(rng, numbers), numbers)
    texts = [" ".join(rng.choice(WORDS, 14)) + f" song {i}" for i in numbers]
    text = _choose(rng, TEXTS, 0.6)(rng, _with_odd_strings(rng, texts))
    labels = _choose(rng, LABELS[phase], 0.3)(rng, numbers)
    columns = {"id": ids, "concept": text, "album": pa.array([f"album {i // 8}" for i in numbers])}
    if rng.random() < 0.2:
        columns["training_data"] = _in_training_data(rng, labels, TARGETS[phase])
    else:
        columns[TARGETS[phase]] = labels
    if rng.random() < 0.3:
        columns["extra"] = _choose(rng, [*IDS, *LABELS[2]], 0.1)(rng, numbers)
    return columns


def _matching_length(column: pa.Array, numbers: np.ndarray) -> pa.Array:
    return column if len(column) == len(numbers) else pa.array([str(i) for i in numbers])


def _choose(
    rng: np.random.Generator, makers: list[Callable[..., pa.Array]], probability: float
) -> Callable[..., pa.Array]:
    """Return one of the makers: the first with the given probability."""
    return makers[0] if rng.random() < probability else makers[int(rng.integers(len(makers)))]


def _with_odd_strings(rng: np.random.Generator, texts: list[str]) -> list[str | None]:
    """Replace some texts by nulls and odd strings."""
    odd_probability = float(rng.choice([0.0, 0.1, 0.5]))
    null_probability = float(rng.choice([0.0, 0.1]))
    values: list[str | None] = []
    for text in texts:
        draw = rng.random()
        values.append(
            None
            if draw < null_probability
            else str(rng.choice(ODD_STRINGS))
            if draw < null_probability + odd_probability
            else text
        )
    return values


def _nulls(rng: np.random.Generator, values: list[Any]) -> list[Any]:
    probability = float(rng.choice([0.0, 0.2]))
    return [None if rng.random() < probability else value for value in values]


def _unchecked_strings(values: list[bytes | None]) -> pa.Array:
    """Return a string column of unchecked bytes, as some writers store them."""
    raw = pa.array(values, pa.binary())
    return pa.Array.from_buffers(pa.string(), len(raw), raw.buffers(), raw.null_count)


def _with_invalid_bytes(rng: np.random.Generator, values: list[Any]) -> list[bytes | None]:
    return [
        None
        if value is None
        else INVALID[int(rng.integers(len(INVALID)))]
        if rng.random() < 0.2
        else str(value).encode()
        for value in values
    ]


IDS: list[Callable[[np.random.Generator, np.ndarray], pa.Array]] = [
    lambda _, n: pa.array([f"song {i}" for i in n]),
    lambda r, n: pa.array(_with_odd_strings(r, [f"song {i}" for i in n]), pa.string()),
    lambda _, n: pa.array([f"song {i}" for i in n], pa.large_string()),
    lambda _, n: pa.array([f"song {i}" for i in n], pa.string_view()),
    lambda r, n: pa.array(_nulls(r, [f"song {i}" for i in n]), pa.string()).dictionary_encode(),
    lambda r, n: pa.array(_nulls(r, n.tolist()), pa.int64()),
    lambda _, n: pa.array((n + 2**53).tolist(), pa.int64()),
    lambda _, n: pa.array([2**64 - 1 - int(i) for i in n], pa.uint64()),
    lambda r, n: pa.array([float("nan") if r.random() < 0.1 else float(i) for i in n]),
    lambda _, n: pa.array([decimal.Decimal(10**20 + int(i)) for i in n], pa.decimal128(30, 2)),
    lambda _, n: pa.array([f"song {i}".encode() for i in n], pa.binary()),
    lambda r, n: pa.array(_with_invalid_bytes(r, n.tolist()), pa.binary_view()),
    lambda r, n: _unchecked_strings(_with_invalid_bytes(r, n.tolist())),
    lambda _, n: pa.array([int(i).to_bytes(16, "big") for i in n], pa.binary(16)),
    lambda _, n: pa.ExtensionArray.from_storage(
        pa.uuid(), pa.array([uuid.UUID(int=int(i)).bytes for i in n], pa.binary(16))
    ),
    lambda _, n: pa.array([i % 2 == 0 for i in n]),
    lambda _, n: pa.array([datetime.date(2000, 1, 1) + datetime.timedelta(int(i)) for i in n], pa.date32()),
    lambda _, n: pa.array(
        [datetime.datetime(2000, 1, 1) + datetime.timedelta(int(i)) for i in n], pa.timestamp("us", "UTC")
    ),
    lambda _, n: pa.nulls(len(n)),
    lambda _, n: pa.array([[f"song {i}"] for i in n], pa.list_(pa.string())),
    lambda _, n: pa.array([{"a": int(i)} for i in n], pa.struct([("a", pa.int64())])),
]
TEXTS: list[Callable[[np.random.Generator, list[str | None]], pa.Array]] = [
    lambda _, t: pa.array(t, pa.string()),
    lambda _, t: pa.array(t, pa.large_string()),
    lambda _, t: pa.array(t, pa.string_view()),
    lambda _, t: pa.array(t, pa.string()).dictionary_encode(),
    lambda r, t: _unchecked_strings(_with_invalid_bytes(r, t)),
    lambda r, t: pa.array(_with_invalid_bytes(r, t), pa.binary()),
    lambda _, t: pa.array([None if x is None else [x] for x in t], pa.list_(pa.string())),
    lambda _, t: pa.array(list(range(len(t))), pa.int32()),
    lambda _, t: pa.nulls(len(t)),
    lambda _, t: pa.array([None if x is None else {"text": x} for x in t], pa.struct([("text", pa.string())])),
    lambda _, t: pa.array([None if x is None else float(len(x)) for x in t], pa.float64()),
]
_NO_NUMBERS = [float("nan"), float("inf"), None]
_KINDS = ["spatial", "temporal", "causal"]
LABELS: dict[int, list[Callable[[np.random.Generator, np.ndarray], pa.Array]]] = {
    1: [
        lambda _, n: pa.array([i % 2 == 0 for i in n], pa.bool_()),
        lambda r, n: pa.array(_nulls(r, [bool(i % 2) for i in n]), pa.bool_()),
        lambda r, n: pa.array(_nulls(r, [str(i % 2 == 0) for i in n]), pa.string()),
        lambda _, n: pa.array(["yes" if i % 2 else "no" for i in n], pa.string()),
        lambda _, n: pa.array((n % 2).tolist(), pa.int8()),
        lambda r, n: pa.array([float("nan") if r.random() < 0.1 else float(i % 2) for i in n], pa.float64()),
        lambda r, n: pa.array(_with_odd_strings(r, [str(i % 2) for i in n]), pa.string()).dictionary_encode(),
        lambda _, n: pa.array([decimal.Decimal(int(i % 2)) for i in n], pa.decimal128(5, 1)),
        lambda _, n: pa.array([str(i % 2).encode() for i in n], pa.binary()),
        lambda _, n: pa.nulls(len(n)),
        lambda _, n: pa.array([[bool(i % 2)] for i in n], pa.list_(pa.bool_())),
    ],
    2: [
        lambda _, n: pa.array([_KINDS[i % 3] for i in n], pa.string()),
        lambda r, n: pa.array(_with_odd_strings(r, [_KINDS[i % 3] for i in n]), pa.string()),
        lambda r, n: pa.array(_nulls(r, [_KINDS[i % 2] for i in n]), pa.string()).dictionary_encode(),
        lambda r, n: pa.array([[_KINDS[i % 3], "loud"][: int(r.integers(0, 3))] for i in n], pa.list_(pa.string())),
        lambda _, n: pa.array([str([_KINDS[i % 3], "loud"]) for i in n], pa.string()),
        lambda _, n: pa.array((n % 3).tolist(), pa.int16()),
        lambda r, n: pa.array([float("inf") if r.random() < 0.1 else float(i % 3) for i in n], pa.float64()),
        lambda r, n: _unchecked_strings(_with_invalid_bytes(r, [_KINDS[i % 3] for i in n])),
        lambda _, n: pa.array([_KINDS[i % 3].encode() for i in n], pa.binary()),
        lambda _, n: pa.array([[(_KINDS[i % 3], 1)] for i in n], pa.map_(pa.string(), pa.int64())),
        lambda _, n: pa.array([{"kind": _KINDS[i % 3]} for i in n], pa.struct([("kind", pa.string())])),
        lambda _, n: pa.array([i % 2 == 0 for i in n], pa.bool_()),
        lambda _, n: pa.array([datetime.date(2000, 1, 1 + int(i % 3)) for i in n], pa.date32()),
        lambda _, n: pa.nulls(len(n)),
    ],
    4: [
        lambda _, n: pa.array((n % 7).astype(float), pa.float64()),
        lambda r, n: pa.array([_NO_NUMBERS[i % 3] if r.random() < 0.2 else i / 7 for i in n], pa.float64()),
        lambda _, n: pa.array((n % 7).astype(np.float16), pa.float16()),
        lambda _, n: pa.array((2**60 + n).tolist(), pa.int64()),
        lambda _, n: pa.array([decimal.Decimal(int(i)) / 8 for i in n], pa.decimal128(20, 5)),
        lambda r, n: pa.array(_with_odd_strings(r, [f"{i / 3:.4f}" for i in n]), pa.string()),
        lambda _, n: pa.array([f"{i},5" for i in n], pa.string()),
        lambda _, n: pa.array([i % 2 == 0 for i in n], pa.bool_()),
        lambda _, n: pa.array([1e-300 * int(i) for i in n], pa.float64()),
        lambda _, n: pa.array([1e300 * int(i) for i in n], pa.float64()),
        lambda _, n: pa.array([datetime.timedelta(seconds=int(i)) for i in n], pa.duration("s")),
        lambda _, n: pa.array([[float(i)] for i in n], pa.list_(pa.float64())),
        lambda _, n: pa.nulls(len(n)),
    ],
}  # fmt: skip


def _in_training_data(rng: np.random.Generator, labels: pa.Array, target: str) -> pa.Array:
    """Return labels as a field of a struct, or of JSON documents, some of which are malformed."""
    if rng.random() < 0.5:
        return pa.StructArray.from_arrays([labels], names=[target])
    documents = []
    for value in _values(labels):
        draw = rng.random()
        document = json.dumps({target: value}, default=str)
        documents.append(None if draw < 0.05 else document[:-3] if draw < 0.1 else document)
    return pa.array(documents, pa.string())


def _values(labels: pa.Array) -> list[Any]:
    try:
        return labels.to_pylist()
    except (UnicodeDecodeError, ValueError):
        return [None] * len(labels)


def _write(rng: np.random.Generator, table: pa.Table, folder: Path) -> tuple[Path, bool]:
    """Write a table as one file or a folder; return its location and whether it is intact."""
    options: dict[str, Any] = {
        "compression": str(rng.choice(COMPRESSIONS)),
        "use_dictionary": bool(rng.random() < 0.5),
        "row_group_size": int(rng.choice([1, 7, 1000])),
        "data_page_version": str(rng.choice(["1.0", "2.0"])),
        "write_page_checksum": bool(rng.random() < 0.3),
    }
    folder.mkdir(parents=True, exist_ok=True)
    if rng.random() < 0.5:
        path = folder / str(rng.choice(FILE_NAMES))
        pq.write_table(table, path, **options)
        return path, not _maybe_damage(rng, path)
    directory, is_intact = folder / "folder of songs", True
    cuts = [0, *sorted(rng.integers(0, len(table) + 1, int(rng.integers(0, 4))).tolist()), len(table)]
    partitioned = rng.random() < 0.15
    for i, (start, stop) in enumerate(itertools.pairwise(cuts)):
        part = table.slice(start, stop - start)
        if i and rng.random() < 0.15:
            part = _alter_part(rng, part)
        path = (
            directory
            / (f"era={i % 2}" if partitioned else "")
            / f"part-{i}{rng.choice(['.parquet', '.PARQUET', '.pq'])}"
        )
        path.parent.mkdir(parents=True, exist_ok=True)
        pq.write_table(part, path, **options)
        is_intact = not _maybe_damage(rng, path) and is_intact
    if rng.random() < 0.3:
        (directory / ".ipynb_checkpoints").mkdir()
        pq.write_table(table, directory / ".ipynb_checkpoints" / "part-0-checkpoint.parquet")
        (directory / "._part-0.parquet").write_bytes(b"\x00\x05\x16\x07 Mac OS X")
        (directory / "_SUCCESS").touch()
    return directory, is_intact


def _alter_part(rng: np.random.Generator, part: pa.Table) -> pa.Table:
    """Change the order of columns, remove a column, or change the type of one."""
    if len(set(part.column_names)) < len(part.column_names):
        return part
    change = int(rng.integers(3))
    if change == 0:
        return part.select(part.column_names[::-1])
    name = part.column_names[int(rng.integers(part.num_columns))]
    if change == 1:
        return part.drop_columns([name])
    position = part.column_names.index(name)
    return part.set_column(
        position, name, pa.nulls(len(part)) if rng.random() < 0.5 else pa.array(range(len(part)), pa.int32())
    )


def _maybe_damage(rng: np.random.Generator, path: Path) -> bool:
    """Damage a file with a small probability; return whether it was damaged."""
    if rng.random() > 0.04:
        return False
    content = bytearray(path.read_bytes())
    if rng.random() < 0.3:
        path.write_bytes(content[: int(rng.integers(len(content)))])
        return True
    for _ in range(int(rng.integers(1, 20))):
        content[int(rng.integers(4, max(5, len(content) - 12)))] = int(rng.integers(256))
    path.write_bytes(content)
    return True
