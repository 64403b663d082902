"""Normalization of the rows of a manifest to one layout, whatever the types of its columns.

`manifest.py` opens and reads a manifest, and `columns.py` finds its columns. `normalize_rows` treats each row
alone, so that Ray Data can run it on any block. Labels stay raw here: tasks parse them.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

from rainbow_ray.data.arrow_types import decode_storage, is_bytes_type, is_string_type, plain_type
from rainbow_ray.data.columns import Columns
from rainbow_ray.data.raw_labels import (
    LABEL_BROKEN,
    LABEL_MISSING,
    LABEL_NOT_UTF8,
    fill_missing,
    is_missing,
    read_labels,
)
from rainbow_ray.data.sample_rates import sample_rate_column
from rainbow_ray.data.text_cells import NOT_UTF8, id_column, label_names, text_column
from rainbow_ray.data.times import seconds_column

SECTION_KINDS = {
    **{kind: kind for kind in ("intro", "verse", "chorus", "bridge", "interlude", "outro", "vamp", "reprise", "coda",
                               "solo", "breakdown", "theme", "jam", "drone")},
    "opening": "intro", "introduction": "intro", "refrain": "chorus", "hook": "chorus", "prechorus": "chorus",
    "instrumental": "interlude", "break": "breakdown", "ending": "outro", "jams": "jam", "bridging": "bridge",
}  # fmt: skip
OTHER_SECTION = "other"
ID_MISSING = "no id"
TEXT_MISSING = "no text"
TEXT_SHORT = "text under {} characters"
UNDECODABLE = "undecodable"  # column: some text of the row is not valid UTF-8, and is left out


def normalize_rows(block: pa.Table, columns: Columns) -> pa.Table:
    """Normalize a block of rows.

    Args:
        block: Rows of a manifest, with the columns `columns.projection`.
        columns: Columns to read.

    Returns:
        A row for each row of the block, with the columns `song`, `text` and `held_out` (strings), `label` (raw),
        `dropped` (the reason why the row is not used, or null) and `undecodable` (bool). Each modality adds
        `raw_<modality>` and, for samples, `raw_<modality>_rate`. A table of segments adds `unlabelled` (the reason why
        the label cannot be used, or null), and `start`, `end` (seconds) and `position`, float64.
    """
    song = _normalize_ids(block[columns.song], columns.song)
    texts = [text_column(block[name], name) for name in columns.text]
    empty = pa.chunked_array([pa.array([""] * len(block), pa.string())])
    text = _join_texts([column.texts for column in texts]) if texts else empty
    masks = [np.zeros(len(block), dtype=bool), *(column.undecodable for column in texts)]
    undecodable = pa.array(np.any(masks, axis=0))
    label, unreadable = read_labels(block[columns.label[0]], *columns.label)
    if columns.section:
        label = pa.array([section_kind(name) for name in label_names(label, columns.label[0]).to_pylist()], pa.string())
    if columns.null_class is not None and columns.times is None:  # for segments, after their stems are merged
        label = fill_missing(label, columns.null_class)
    missing = pa.nulls(len(block), pa.string())
    held_out = label_names(block[columns.held_out], columns.held_out) if columns.held_out else missing

    # in ascending order of precedence: the last reason is counted
    label_reasons = [(is_missing(label), LABEL_MISSING), *((pc.equal(unreadable, reason).fill_null(False), reason)
                     for reason in (LABEL_BROKEN, LABEL_NOT_UTF8))]  # fmt: skip
    text_reasons = _text_reasons(text, undecodable, columns)
    id_reason = (pc.is_null(song), ID_MISSING)
    # a segment without a label is not dropped: it is context of its neighbors
    reasons = [*label_reasons, *text_reasons, id_reason] if columns.times is None else [id_reason]
    rows = {"song": song, "text": text, "label": label, "held_out": held_out,
            "dropped": _last_reason(reasons, len(block)), UNDECODABLE: undecodable}  # fmt: skip
    for column in columns.media:
        values = block[column.name]
        rows[f"raw_{column.modality}"] = _normalize_media(values) if column.is_media else values
        if column.rate is not None:
            rows[f"raw_{column.modality}_rate"] = sample_rate_column(block[column.rate])
    if columns.times is not None:
        index = columns.times.index
        rows["unlabelled"] = _last_reason(label_reasons, len(block))
        rows["start"], rows["end"] = _seconds(block[columns.times.start]), _seconds(block[columns.times.end])
        rows["position"] = _numbers(block[index]) if index else pa.nulls(len(block), pa.float64())
    return pa.table(rows)


def _text_reasons(text: pa.ChunkedArray, undecodable: pa.Array, columns: Columns) -> list[tuple[pa.Array, str]]:
    """Return masks of rows whose text cannot be used, with the reason of each mask."""
    reasons = []
    is_empty = pc.equal(text, "")
    if columns.require_text or not columns.media:
        is_short = pc.less(pc.utf8_length(text), columns.min_length)
        reasons.append((pc.and_(is_short, pc.invert(is_empty)), TEXT_SHORT.format(columns.min_length)))
    if columns.require_text:
        reasons.append((is_empty, TEXT_MISSING))
        reasons.append((pc.and_(is_empty, undecodable), NOT_UTF8))
    return reasons


def _last_reason(masks: Sequence[tuple[pa.Array, str]], n_rows: int) -> pa.Array:
    """Return the last reason whose mask is set for a row; null where none is."""
    reasons = pa.nulls(n_rows, pa.string())
    for mask, reason in masks:
        reasons = pc.if_else(mask, reason, reasons)
    return reasons


def section_kind(name: str | None) -> str | None:
    """Return the kind of a section of a song from its name.

    Args:
        name: Name of the section, such as `"Verse 2 - Bridging"`.

    Returns:
        The kind of the first known word of the name (here `"verse"`), `"other"` where no word is known, or None for a
        name without words.
    """
    words = re.findall(r"[a-z]+", name.lower()) if name else []
    return next((SECTION_KINDS[word] for word in words if word in SECTION_KINDS), OTHER_SECTION if words else None)


def _numbers(column: pa.ChunkedArray) -> pa.Array:
    """Return numbers as float64, NaN for other values."""
    if is_string_type(plain_type(column.type)):
        column = text_column(column).texts  # some text may not be valid UTF-8
    return pa.array(pd.to_numeric(column.to_pandas(), errors="coerce").astype("float64").to_numpy())


def _seconds(column: pa.ChunkedArray) -> pa.Array:
    """Return times in seconds as float64, NaN for other values."""
    return pa.array(seconds_column(column).seconds)


def _normalize_media(column: pa.ChunkedArray) -> pa.ChunkedArray:
    """Return paths as strings, or files as bytes."""
    plain = decode_storage(column)
    return plain.cast(pa.large_binary()) if is_bytes_type(plain.type) else id_column(plain)


def _normalize_ids(column: pa.ChunkedArray, name: str) -> pa.ChunkedArray:
    """Return the exact text of ids; null for null, NaN and blank ones."""
    names = id_column(column, name)
    return pc.if_else(pc.equal(pc.utf8_trim_whitespace(names), ""), None, names)


def _join_texts(texts: Sequence[pa.ChunkedArray]) -> pa.ChunkedArray:
    """Join the texts of a row by a blank line; empty texts leave no gap."""
    joined = texts[0]
    for text in texts[1:]:
        needs_gap = pc.and_(pc.not_equal(joined, ""), pc.not_equal(text, ""))
        joined = pc.binary_join_element_wise(joined, text, pc.if_else(needs_gap, "\n\n", ""))
    return joined
