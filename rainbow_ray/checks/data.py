"""Checks of the data: songs, labels, splits, lengths of texts, and columns that give the label away."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import numpy as np
import pyarrow as pa

from rainbow_ray.checks.result import CheckResult
from rainbow_ray.data.arrow_types import decode_storage, is_bytes_type, is_string_type, plain_type
from rainbow_ray.data.columns import STRUCT_COLUMN
from rainbow_ray.data.dataset import mean_score_per_song
from rainbow_ray.data.raw_labels import read_labels
from rainbow_ray.data.reader import read_sample
from rainbow_ray.data.streaming import size_in_memory
from rainbow_ray.data.text_cells import id_column
from rainbow_ray.setup.plan import RunPlan
from rainbow_ray.setup.prepare import summarize_labels
from rainbow_ray.setup.prepared import PreparedData

MAX_ROWS = 20_000  # of a manifest are checked
MIN_SONGS_PER_LABEL = 10  # below, confidence intervals are wide
MAX_TRUNCATED_FRACTION = 0.05


def check_songs(plan: RunPlan, data: PreparedData) -> Iterator[CheckResult]:
    """Report songs, labels, dropped rows, the split, and warnings such as leaks.

    Args:
        plan: Plan of the run.
        data: Prepared data.

    Yields:
        The results.
    """
    profile = data.profile
    rows = f"{profile['rows']} rows"
    if profile["rows"] < plan.manifest.rows:
        rows = f"a sample of {profile['rows']} of {plan.manifest.rows} rows"
    labels = summarize_labels(profile["labels"])
    yield CheckResult("ok", "songs", f"{profile['songs']} songs from {rows} of {plan.manifest.shown}; {labels}")
    for reason, n in profile["dropped"].items():
        yield CheckResult("ok", "songs", f"{n} rows left out: {reason}")
    first, _ = mean_score_per_song(data.source, np.arange(len(data.source)), np.zeros(len(data.source)))
    n_rarest = min(np.unique(data.task.strata(data.source.targets[first]), return_counts=True)[1])
    if n_rarest < MIN_SONGS_PER_LABEL:
        yield CheckResult("warning", "labels", f"the rarest label has {n_rarest} songs: its intervals will be wide")
    yield _describe_split(plan, data)
    size_mb, limit_mb = size_in_memory(plan.manifest, plan.columns) / 2**20, plan.config.data.in_memory_limit_mb
    if size_mb > limit_mb:
        size = f"about {size_mb:.0f} MB, above data.in_memory_limit_mb ({limit_mb} MB)"
        yield CheckResult("warning", "memory", f"the songs take {size}: they are read again in each epoch")
    for warning in [*plan.warnings, *data.warnings]:
        yield CheckResult("warning", "leaks" if warning.startswith("LEAK") else "settings", warning)


def _describe_split(plan: RunPlan, data: PreparedData) -> CheckResult:
    train, val = data.split.train_val_indices(0)
    folds = f"{data.split.n_folds} folds" if data.split.n_folds > 1 else "one split"
    sizes = f"{len(train)} {plan.unit}s to train on and {len(val)} to score at a time"
    return CheckResult(
        "ok", "split", f"{folds} by {data.split.split_by}: {sizes}; songs with equal texts stay together"
    )


def check_lengths(plan: RunPlan, data: PreparedData) -> CheckResult:
    """Report the lengths of texts in tokens of the encoder, and how many texts are truncated.

    Args:
        plan: Plan of the run.
        data: Prepared data.

    Returns:
        The result.
    """
    tokens, max_tokens = data.examples.table["tokens"].to_numpy(), plan.input_spec.max_tokens
    median, high, longest = (int(np.quantile(tokens, q)) for q in (0.5, 0.95, 1.0))
    truncated = float(np.mean(tokens > max_tokens))
    text = (
        f"{median} tokens at the median, {high} at the 95% quantile, {longest} at most; {truncated:.0%} of the texts"
        f" are truncated at {max_tokens}"
    )
    if truncated > MAX_TRUNCATED_FRACTION:
        advice = "increase model.text_encoder.max_length, or choose an encoder for longer texts"
        return CheckResult("warning", "tokens", f"{text}: {advice}")
    return CheckResult("ok", "tokens", text)


def check_labels(plan: RunPlan, data: PreparedData) -> Iterator[CheckResult]:
    """Report how well words, length and other columns predict the label.

    Args:
        plan: Plan of the run.
        data: Prepared data.

    Yields:
        The results of the label probe.
    """
    from rainbow_ray.checks.label_leakage import probe_labels

    rows, seed = _columns(plan).take(data.examples.table["row"]), plan.config.split_seed
    if not data.task.supports_label_probe:
        labels = "several classes per song" if plan.segments is None else "segments"
        yield CheckResult("warning", "probe", f"labels of {labels} are not probed")
        return
    names = data.task.decode_targets(data.examples.targets) if data.task.has_classes else None
    findings = probe_labels(data.examples, rows, plan.target, folds=data.split.fold, seed=seed, labels=names)
    for finding in findings:
        yield CheckResult(finding.status, "probe", finding.text)


def _columns(plan: RunPlan) -> pa.Table:
    """Read all columns that may contain the label in another form, with `training_data` as a struct."""
    manifest = plan.manifest
    names = [field.name for field in manifest.schema if not _is_media(field.type)]
    raw = read_sample(manifest, names, MAX_ROWS)
    table = pa.table(
        [_decode_column(column, name) for name, column in zip(names, raw.columns, strict=True)], names=names
    )
    if STRUCT_COLUMN in names and not pa.types.is_struct(table.schema.field(STRUCT_COLUMN).type):
        structs = _parse_json(table[STRUCT_COLUMN].to_pylist())
        table = table.set_column(names.index(STRUCT_COLUMN), STRUCT_COLUMN, structs)
    return table


def _decode_column(column: pa.ChunkedArray, name: str) -> pa.ChunkedArray | pa.Array:
    """Convert a column to values that Python can read: text and ids as in training, decimals as floats."""
    kind = plain_type(column.type)
    if pa.types.is_decimal(kind):
        return decode_storage(column).cast(pa.float64(), safe=False)
    if is_string_type(kind) or is_bytes_type(kind):
        return id_column(column, name)
    return read_labels(column, name, None)[0] if pa.types.is_nested(kind) else decode_storage(column)


def _is_media(kind: pa.DataType) -> bool:
    types = pa.types
    predicates = (types.is_binary, types.is_large_binary, types.is_binary_view, types.is_list, types.is_large_list)
    return any(predicate(kind) for predicate in predicates)


def _make_array(values: list[Any]) -> pa.Array:
    """Return numbers where all values are numbers, otherwise strings."""
    if all(value is None or (isinstance(value, int | float) and not isinstance(value, bool)) for value in values):
        return pa.array([None if value is None else float(value) for value in values], pa.float64())
    return pa.array([None if value is None else str(value) for value in values], pa.string())


def _parse_json(texts: list[str | None]) -> pa.Array:
    """Parse JSON objects into a struct of their fields that are neither lists nor objects."""
    objects = []
    for text in texts:
        try:
            value = json.loads(text) if text else {}
        except ValueError:
            value = {}
        objects.append(value if isinstance(value, dict) else {})
    names = dict.fromkeys(
        name for item in objects for name, value in item.items() if not isinstance(value, list | dict)
    )
    columns = [_make_array([item.get(name) for item in objects]) for name in names]
    return pa.StructArray.from_arrays(columns, names=list(names)) if columns else pa.nulls(len(texts), pa.string())
