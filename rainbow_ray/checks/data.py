"""The songs: what would be trained on, how long the texts are, and what the labels really are."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from rainbow_ray.checks.result import CheckResult
from rainbow_ray.data.dataset import mean_score_per_song
from rainbow_ray.data.manifest import STRUCT_COLUMN
from rainbow_ray.data.normalize import decode_storage, id_column, is_bytes_type, is_string_type, plain_type
from rainbow_ray.data.raw_labels import read_labels
from rainbow_ray.data.reader import head
from rainbow_ray.data.streaming import size_in_memory
from rainbow_ray.setup.plan import RunPlan
from rainbow_ray.setup.prepare import summarize_labels
from rainbow_ray.setup.prepared import PreparedData

if TYPE_CHECKING:
    from rainbow_ray.checks.label_leakage import Kind

PROBED: dict[str, Kind] = {"binary": "binary", "multiclass": "multiclass", "regression": "regression"}
MOST_ROWS = 20_000  # of a manifest are looked at


def check_songs(plan: RunPlan, data: PreparedData) -> Iterator[CheckResult]:
    """Songs, labels, what was left out, leaks."""
    profile = data.profile
    part = f"{profile['rows']} rows"
    if profile["rows"] < plan.manifest.rows:
        part = f"{profile['rows']} of {plan.manifest.rows} rows, looked at here and there,"
    yield CheckResult("good", "songs", f"{profile['songs']} songs from {part} of {plan.manifest.shown};"
                f" {summarize_labels(profile['labels'])}")  # fmt: skip
    for reason, n in profile["dropped"].items():
        yield CheckResult("good", "songs", f"left out: {n} rows: {reason}")
    examples = f"{plan.unit}s"
    first, _ = mean_score_per_song(data.source, np.arange(len(data.source)), np.zeros(len(data.source)))
    rarest = min(np.unique(data.task.strata(data.source.targets[first]), return_counts=True)[1])
    if rarest < 10:
        yield CheckResult("word", "labels", f"the rarest label has {rarest} songs: intervals will be wide")
    train, val = data.split.train_val_indices(0)
    how = f"{data.split.n_folds} folds" if data.split.n_folds > 1 else "one split"
    yield CheckResult("good", "split", f"{how} by {data.split.split_by}: {len(train)} {examples} to train on,"
                      f" {len(val)} to score,"
                " at a time; songs with equal texts stay together")  # fmt: skip
    size, limit = size_in_memory(plan.manifest, plan.columns) / 2**20, plan.config.data.in_memory_limit_mb
    if size > limit:
        above = f"about {size:.0f} MB, above data.in_memory_limit_mb ({limit} MB)"
        yield CheckResult("word", "memory", f"the songs take {above}: they are read anew each epoch")
    for warning in [*plan.warnings, *data.warnings]:
        yield CheckResult("word", "leaks" if warning.startswith("LEAK") else "settings", warning)


def check_lengths(plan: RunPlan, data: PreparedData) -> CheckResult:
    """How long texts are in the encoder's tokens, and how many are cut."""
    tokens = data.examples.table["tokens"].to_numpy()
    middle, high, most = (int(np.quantile(tokens, q)) for q in (0.5, 0.95, 1.0))
    cut = float(np.mean(tokens > plan.reading.max_tokens))
    text = (
        f"{middle} tokens at the median, {high} at 95%, {most} at most; {cut:.0%} are cut at {plan.reading.max_tokens}"
    )
    if cut > 0.05:
        return CheckResult("word", "tokens", f"{text}: model.text_encoder.max_length, or an encoder that reads more")
    return CheckResult("good", "tokens", text)


def probe_songs(plan: RunPlan, data: PreparedData) -> Iterator[CheckResult]:
    """The label probe: what words, length and other columns tell of the label."""
    from rainbow_ray.checks.label_leakage import probe_labels

    rows, seed = _columns(plan).take(data.examples.table["row"]), plan.config.split_seed
    kind = PROBED.get(data.task.target_type) if not data.task.is_sequence_task else None
    if kind is None:
        of = "several classes" if plan.segments is None else "segments"
        yield CheckResult("word", "probe", f"labels of {of} are not probed")
        return
    labels = data.task.decode_targets(data.examples.targets) if kind == "multiclass" else None
    for finding in probe_labels(
        data.examples, rows, plan.target, folds=data.split.fold, seed=seed, kind=kind, labels=labels
    ):
        yield CheckResult("word" if finding.severity == "warn" else "good", "probe", finding.text)


def _columns(plan: RunPlan) -> pa.Table:
    """All columns of the manifest that can hold a label in disguise, `training_data` as a struct."""
    manifest = plan.manifest
    names = [field.name for field in manifest.schema if not _is_media(field.type)]
    raw = head(manifest, names, MOST_ROWS)
    table = pa.table([_readable(column, name) for name, column in zip(names, raw.columns, strict=True)], names=names)
    if STRUCT_COLUMN in names and not pa.types.is_struct(table.schema.field(STRUCT_COLUMN).type):
        place = names.index(STRUCT_COLUMN)
        table = table.set_column(place, STRUCT_COLUMN, _unpacked(table[STRUCT_COLUMN].to_pylist()))
    return table


def _readable(column: pa.ChunkedArray, name: str) -> pa.ChunkedArray | pa.Array:
    """A column that Python can read whatever its bytes are: text and ids as training has them, decimals as floats."""
    kind = plain_type(column.type)
    if pa.types.is_decimal(kind):
        return decode_storage(column).cast(pa.float64(), safe=False)
    if is_string_type(kind) or is_bytes_type(kind):
        return id_column(column, name)
    return read_labels(column, name, None)[0] if pa.types.is_nested(kind) else decode_storage(column)


def _is_media(kind: pa.DataType) -> bool:
    is_one_of = (pa.types.is_binary, pa.types.is_large_binary, pa.types.is_binary_view, pa.types.is_list,
                 pa.types.is_large_list)  # fmt: skip
    return any(is_one(kind) for is_one in is_one_of)


def _plain(values: list[Any]) -> pa.Array:
    """Numbers where all are, strings otherwise."""
    if all(value is None or (isinstance(value, int | float) and not isinstance(value, bool)) for value in values):
        return pa.array([None if value is None else float(value) for value in values], pa.float64())
    return pa.array([None if value is None else str(value) for value in values], pa.string())


def _unpacked(texts: list[str | None]) -> pa.Array:
    """JSON objects as a struct of their plain fields, as strings where they are no numbers."""
    found = []
    for text in texts:
        try:
            value = json.loads(text) if text else {}
        except ValueError:
            value = {}
        found.append(value if isinstance(value, dict) else {})
    names = dict.fromkeys(name for row in found for name, value in row.items() if not isinstance(value, list | dict))
    columns = [_plain([row.get(name) for row in found]) for name in names]
    return pa.StructArray.from_arrays(columns, names=list(names)) if columns else pa.nulls(len(texts), pa.string())
