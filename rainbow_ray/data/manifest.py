"""The manifest: a parquet table of songs and stems, checked and brought to one plain layout.

`parquet_table.py` opens and reads it; `normalize_rows` is row-local, so that Ray Data can run it on any block. Labels
stay raw here: a problem's `parse` owns them.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

from rainbow_ray.config.schema import DataConfig
from rainbow_ray.data.arrow_types import decode_storage, holds_text, is_bytes_type, is_string_type, plain_type
from rainbow_ray.data.normalize import NOT_UTF8, id_column, label_names, text_column
from rainbow_ray.data.parquet_table import Manifest as Manifest
from rainbow_ray.data.parquet_table import open_manifest as open_manifest
from rainbow_ray.data.raw_labels import (
    LABEL_BROKEN,
    LABEL_MISSING,
    LABEL_NOT_UTF8,
    fill_missing,
    is_missing,
    read_labels,
)
from rainbow_ray.data.sample_rates import sample_rate_column
from rainbow_ray.data.times import seconds_column
from rainbow_ray.utils.errors import InputError, did_you_mean

STRUCT_COLUMN = "training_data"
DEMO = "demo"

SECTION_KINDS = {
    **{kind: kind for kind in ("intro", "verse", "chorus", "bridge", "interlude", "outro", "vamp", "reprise", "coda",
                               "solo", "breakdown", "theme", "jam", "drone")},
    "opening": "intro", "introduction": "intro", "refrain": "chorus", "hook": "chorus", "prechorus": "chorus",
    "instrumental": "interlude", "break": "breakdown", "ending": "outro", "jams": "jam", "bridging": "bridge",
}  # fmt: skip
OTHER_SECTION = "other"
ID_MISSING = "no id"
SEGMENT_LABELS = ("segment_rebracketing_", "segment_has_rebracketing_")  # such columns begin so
TEXT_MISSING = "no text"
TEXT_SHORT = "text under {} characters"
UNDECODABLE = "undecodable"  # column: some of a row's text is not UTF-8, and is left out


@dataclass(frozen=True)
class ColumnRequest:
    """Which columns of a manifest may hold a modality.

    Attributes:
        modality: Name of the modality.
        name: Column of paths, of encoded files, or of other values.
        key: Config key that names this column.
        preferred: Column of files or samples that is read in its place if there is one.
        rate: Column of sample rates that `preferred` needs; None if it holds files.
        is_media: Whether cells are paths or files; otherwise their values are passed on as they are.
    """

    modality: str
    name: str
    key: str
    preferred: str | None = None
    rate: str | None = None
    is_media: bool = True


@dataclass(frozen=True)
class MediaColumn:
    """The column of a manifest that holds a modality.

    Attributes:
        modality: Name of the modality.
        name: Column of paths, files, samples, or other values.
        rate: Column with the sample rate of samples; None for files.
        is_media: Whether cells are paths or files.
    """

    modality: str
    name: str
    rate: str | None = None
    is_media: bool = True


@dataclass(frozen=True)
class Times:
    """Columns that say where a row lies in its song: start and end in seconds, and its number, where there is one."""

    start: str
    end: str
    index: str | None = None


@dataclass(frozen=True)
class Columns:
    """Which columns of a manifest are read, and how. `label` is (column, field inside it or None)."""

    song: str
    text: tuple[str, ...]
    label: tuple[str, str | None]
    held_out: str | None
    require_text: bool
    min_length: int
    null_class: str | None = None  # what a missing label stands for
    media: tuple[MediaColumn, ...] = ()
    times: Times | None = None  # of a table of segments
    section: bool = False  # the label is the name of a song's part, of which the kind is meant

    @property
    def projection(self) -> list[str]:
        """Top-level columns to read from the files."""
        names = [self.song, *self.text, self.label[0]] + ([self.held_out] if self.held_out else [])
        names += [name for column in self.media for name in (column.name, column.rate) if name is not None]
        if self.times is not None:
            names += [self.times.start, self.times.end, *([self.times.index] if self.times.index else [])]
        return list(dict.fromkeys(names))


def find_columns(
    manifest: Manifest, config: DataConfig, target: str, requests: Sequence[ColumnRequest] = (), *,
    reads_text: bool = True,
) -> Columns:  # fmt: skip
    """Return which columns of a manifest are read.

    Args:
        manifest: The table.
        config: Names of columns.
        target: Name of the label.
        requests: Columns of the modalities besides text.
        reads_text: Whether the model reads text. If it does not, text columns may be missing: only baselines read them.

    Raises:
        InputError: Columns are missing, or hold values of another type.
    """
    names = manifest.schema.names
    wanted = [name for name in config.text_columns if reads_text or name in names]
    media, wrong = _find_media(manifest, requests)
    split_column = config.split_by if config.split_by not in ("id", "row") else None
    problems = [
        f"{manifest}: no column {name!r} ({key}){did_you_mean(name, names)}"
        for key, name in [
            ("data.id_column", config.id_column),
            *(("data.text_columns", name) for name in wanted),
            *((("--split-by", split_column),) if split_column else ()),
        ]
        if name not in names
    ]
    problems += wrong
    label = _find_label(manifest.schema, target)
    if label is None:
        offered = did_you_mean(target, [*names, *_fields(manifest.schema)])
        problems.append(f"{manifest}: no label {target!r} (data.target_column), neither a column"
                        f" nor a field of {STRUCT_COLUMN}{offered}")  # fmt: skip
    readable = {config.id_column: "data.id_column", **dict.fromkeys(wanted, "data.text_columns")}
    readable |= {split_column: "--split-by"} if split_column else {}
    for name, key in readable.items():
        kind = manifest.schema.field(name).type if name in names else pa.string()
        if pa.types.is_nested(plain_type(kind)) or (key == "data.text_columns" and not holds_text(kind)):
            problems.append(f"{manifest}: column {name!r} ({key}) holds {kind}, not text")
    for name in wanted:
        told = name.partition(".")[0] == STRUCT_COLUMN or name.startswith(SEGMENT_LABELS)
        if name == target or told or (label is not None and name == label[0]):
            problems.append(f"data.text_columns: {name!r} is a label or computed from one, and cannot be an input")
    if problems or label is None:
        raise InputError(problems)
    return Columns(
        song=config.id_column,
        text=tuple(wanted),
        label=label,
        held_out=split_column,
        # null: whoever reads audio or MIDI does without
        require_text=not media if config.require_concept is None else config.require_concept,
        min_length=config.min_concept_length,
        null_class=config.null_class,
        media=media,
    )


def _find_media(manifest: Manifest, requests: Sequence[ColumnRequest]) -> tuple[tuple[MediaColumn, ...], list[str]]:
    """The columns of modalities besides text, and what is wrong with them."""
    names, columns, problems = manifest.schema.names, [], []
    for request in requests:
        if request.preferred in names and (request.rate is None or request.rate in names):
            columns.append(MediaColumn(request.modality, str(request.preferred), request.rate, request.is_media))
        elif request.name not in names:
            problems.append(f"{manifest}: no column {request.name!r} ({request.key})"
                            f"{did_you_mean(request.name, names)}; or leave {request.modality} out of"
                            " --modalities")  # fmt: skip
        else:
            columns.append(MediaColumn(request.modality, request.name, is_media=request.is_media))
    for column in columns:
        kind = manifest.schema.field(column.name).type
        if column.is_media and not (is_string_type(kind) or is_bytes_type(kind) or pa.types.is_null(kind)):
            problems.append(f"{manifest}: column {column.name!r} holds {kind}, neither paths nor"
                            " files")  # fmt: skip
    return tuple(columns), problems


def normalize_rows(block: pa.Table, columns: Columns) -> pa.Table:
    """One block as `song, text, label, held_out, dropped`: strings, the label as it came, the reason of a drop.

    A dropped row keeps its place, so that drops can be counted; a null `dropped` means that the row is used.
    """
    song = _ids(block[columns.song], columns.song)
    texts = [text_column(block[name], name) for name in columns.text]
    empty = pa.chunked_array([pa.array([""] * len(block), pa.string())])
    text = _join([column.texts for column in texts]) if texts else empty
    undecodable = pa.array(np.any([np.zeros(len(block), dtype=bool), *(one.undecodable for one in texts)], axis=0))
    label, unreadable = read_labels(block[columns.label[0]], *columns.label)
    if columns.section:
        label = pa.array([section_kind(name) for name in label_names(label, columns.label[0]).to_pylist()], pa.string())
    if columns.null_class is not None and columns.times is None:  # of segments, once their stems are folded
        label = fill_missing(label, columns.null_class)
    nothing = pa.nulls(len(block), pa.string())
    held_out = label_names(block[columns.held_out], columns.held_out) if columns.held_out else nothing

    # in rising order of precedence: the last reason written is the one that is counted
    of_label = [(is_missing(label), LABEL_MISSING), *((pc.equal(unreadable, why).fill_null(False), why)
                for why in (LABEL_BROKEN, LABEL_NOT_UTF8))]  # fmt: skip
    of_text = _short_of_text(text, undecodable, columns)
    no_id = (pc.is_null(song), ID_MISSING)
    # a segment without a label is not dropped: its neighbours see it
    dropped = _last_reason([*of_label, *of_text, no_id] if columns.times is None else [no_id], len(block))
    plain = {"song": song, "text": text, "label": label, "held_out": held_out, "dropped": dropped,
             UNDECODABLE: undecodable}  # fmt: skip
    for column in columns.media:
        values = block[column.name]
        plain[f"raw_{column.modality}"] = _media(values) if column.is_media else values
        if column.rate is not None:
            plain[f"raw_{column.modality}_rate"] = sample_rate_column(block[column.rate])
    if columns.times is not None:
        plain["unlabelled"] = _last_reason(of_label, len(block))
        plain |= {"start": _seconds(block[columns.times.start]), "end": _seconds(block[columns.times.end])}
        plain["position"] = (
            _numbers(block[columns.times.index]) if columns.times.index else pa.nulls(len(block), pa.float64())
        )
    return pa.table(plain)


def _short_of_text(text: pa.ChunkedArray, undecodable: pa.Array, columns: Columns) -> list[tuple[pa.Array, str]]:
    """What speaks against a row's text, as masks with their reasons."""
    reasons = []
    no_text = pc.equal(text, "")
    if columns.require_text or not columns.media:
        short = pc.less(pc.utf8_length(text), columns.min_length)
        reasons.append((pc.and_(short, pc.invert(no_text)), TEXT_SHORT.format(columns.min_length)))
    if columns.require_text:
        reasons.append((no_text, TEXT_MISSING))
        reasons.append((pc.and_(no_text, undecodable), NOT_UTF8))
    return reasons


def _last_reason(masks: Sequence[tuple[pa.Array, str]], rows: int) -> pa.Array:
    """The reason that comes last among those that hold of a row; null where none does."""
    found = pa.nulls(rows, pa.string())
    for mask, reason in masks:
        found = pc.if_else(mask, reason, found)
    return found


def section_kind(name: str | None) -> str | None:
    """The kind of a song's part: the first known word of its name (`Verse 2 - Bridging` is a verse); None for none."""
    words = re.findall(r"[a-z]+", name.lower()) if name else []
    return next((SECTION_KINDS[word] for word in words if word in SECTION_KINDS), OTHER_SECTION if words else None)


def _numbers(column: pa.ChunkedArray) -> pa.Array:
    """Numbers as float64, NaN for what is none."""
    if is_string_type(plain_type(column.type)):
        column = text_column(column).texts  # some may not be UTF-8
    return pa.array(pd.to_numeric(column.to_pandas(), errors="coerce").astype("float64").to_numpy())


def _seconds(column: pa.ChunkedArray) -> pa.Array:
    """Times in seconds as float64, NaN for what is none."""
    return pa.array(seconds_column(column).seconds)


def _media(column: pa.ChunkedArray) -> pa.ChunkedArray:
    """Paths or bytes of one plain type."""
    plain = decode_storage(column)
    return plain.cast(pa.large_binary()) if is_bytes_type(plain.type) else id_column(plain)


def _find_label(schema: pa.Schema, target: str) -> tuple[str, str | None] | None:
    for name in (target, f"{STRUCT_COLUMN}.{target}", f"{STRUCT_COLUMN}_{target}"):
        if name in schema.names:
            return name, None
    column, _, field = target.rpartition(".")
    column = column or STRUCT_COLUMN
    if column not in schema.names:
        return None
    kind = schema.field(column).type
    if pa.types.is_struct(kind):
        return (column, field) if field in {f.name for f in kind} else None
    # a JSON string says what it holds only row by row: rows without the field count as "no label"
    return (column, field) if is_string_type(plain_type(kind)) else None


def read_target_labels(manifest: Manifest, target: str) -> pa.ChunkedArray | pa.Array | None:
    """All raw labels of a target, as `normalize_rows` has them; None where there is no such column."""
    found = _find_label(manifest.schema, target)
    if found is None:
        return None
    return read_labels(manifest.read([found[0]])[found[0]], *found)[0]


def label_type(schema: pa.Schema, target: str) -> pa.DataType | None:
    """The type of a target's raw labels, of JSON documents strings; None where there is no such column."""
    found = _find_label(schema, target)
    if found is None:
        return None
    kind = plain_type(schema.field(found[0]).type)
    return plain_type(kind.field(found[1]).type) if pa.types.is_struct(kind) and found[1] is not None else kind


def _fields(schema: pa.Schema) -> list[str]:
    if STRUCT_COLUMN in schema.names and pa.types.is_struct(schema.field(STRUCT_COLUMN).type):
        return [field.name for field in schema.field(STRUCT_COLUMN).type]
    return []


def _ids(column: pa.ChunkedArray, name: str) -> pa.ChunkedArray:
    """The exact text of ids, null where there is none: null, NaN or blank."""
    names = id_column(column, name)
    return pc.if_else(pc.equal(pc.utf8_trim_whitespace(names), ""), None, names)


def _join(texts: Sequence[pa.ChunkedArray]) -> pa.ChunkedArray:
    """Texts of a row, joined by a blank line; empty ones leave no gap."""
    joined = texts[0]
    for text in texts[1:]:
        both = pc.and_(pc.not_equal(joined, ""), pc.not_equal(text, ""))
        joined = pc.binary_join_element_wise(joined, text, pc.if_else(both, "\n\n", ""))
    return joined
