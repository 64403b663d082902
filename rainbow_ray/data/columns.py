"""Columns of a manifest that a run reads: song ids, text, labels, media and times."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import pyarrow as pa

from rainbow_ray.config.schema import DataConfig
from rainbow_ray.data.arrow_types import holds_text, is_bytes_type, is_string_type, plain_type
from rainbow_ray.data.manifest import Manifest
from rainbow_ray.data.raw_labels import read_labels
from rainbow_ray.utils.errors import InputError, did_you_mean

STRUCT_COLUMN = "training_data"
SEGMENT_LABEL_PREFIXES = ("segment_rebracketing_", "segment_has_rebracketing_")


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
    """Columns with the times of segments.

    Attributes:
        start: Column of the start, a time from the start of the song.
        end: Column of the end.
        index: Column of the position of the segment in its song; None without such a column.
    """

    start: str
    end: str
    index: str | None = None


@dataclass(frozen=True)
class Columns:
    """Columns of a manifest that a run reads, and how it reads them.

    Attributes:
        song: Column of song ids.
        text: Columns of text, which are joined.
        label: Column of the label, and the field of a struct or of a JSON document in it, or None.
        held_out: Column that splits hold out by; None where splits use song ids or rows.
        require_text: Whether rows without text are dropped.
        min_length: Number of characters below which a text is too short.
        null_class: Class of rows without a label; None drops these rows.
        media: Columns of the modalities other than text.
        times: Columns of the times of segments; None for a table of songs.
        section: Whether the label is the name of a section, of which the kind is predicted (see `section_kind`).
    """

    song: str
    text: tuple[str, ...]
    label: tuple[str, str | None]
    held_out: str | None
    require_text: bool
    min_length: int
    null_class: str | None = None
    media: tuple[MediaColumn, ...] = ()
    times: Times | None = None
    section: bool = False

    @property
    def projection(self) -> list[str]:
        """Names of the top-level columns to read."""
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

    Returns:
        The columns.

    Raises:
        InputError: Columns are missing, or hold values of another type; all of them are named.
    """
    names = manifest.schema.names
    text = tuple(name for name in config.text_columns if reads_text or name in names)
    split_column = config.split_by if config.split_by not in ("id", "row") else None
    keys = [("data.id_column", config.id_column), *(("data.text_columns", name) for name in text)]
    keys += [("--split-by", split_column)] if split_column else []
    problems = [
        f"{manifest}: no column {name!r} ({key}){did_you_mean(name, names)}" for key, name in keys if name not in names
    ]
    media, media_problems = _find_media(manifest, requests)
    problems += media_problems
    label = _find_label(manifest.schema, target)
    if label is None:
        suggestion = did_you_mean(target, [*names, *_struct_fields(manifest.schema)])
        problems.append(f"{manifest}: no label {target!r} (data.target_column), neither a column"
                        f" nor a field of {STRUCT_COLUMN}{suggestion}")  # fmt: skip
    problems += _check_text_types(manifest, {name: key for key, name in keys})
    problems += _check_leaks(text, target, label)
    if problems or label is None:
        raise InputError(problems)
    return Columns(
        song=config.id_column,
        text=text,
        label=label,
        held_out=split_column,
        # null: text is optional where another modality is read
        require_text=not media if config.require_concept is None else config.require_concept,
        min_length=config.min_concept_length,
        null_class=config.null_class,
        media=media,
    )


def _check_text_types(manifest: Manifest, keys: dict[str, str]) -> list[str]:
    """Return problems with the types of columns that are read as text; `keys` are config keys by column."""
    problems = []
    for name, key in keys.items():
        data_type = manifest.schema.field(name).type if name in manifest.schema.names else pa.string()
        if pa.types.is_nested(plain_type(data_type)) or (key == "data.text_columns" and not holds_text(data_type)):
            problems.append(f"{manifest}: column {name!r} ({key}) holds {data_type}, not text")
    return problems


def _check_leaks(text: Sequence[str], target: str, label: tuple[str, str | None] | None) -> list[str]:
    """Return problems with text columns that are labels, or computed from labels."""
    problems = []
    for name in text:
        is_computed = name.partition(".")[0] == STRUCT_COLUMN or name.startswith(SEGMENT_LABEL_PREFIXES)
        if name == target or is_computed or (label is not None and name == label[0]):
            problems.append(f"data.text_columns: {name!r} is a label or computed from one, and cannot be an input")
    return problems


def _find_media(manifest: Manifest, requests: Sequence[ColumnRequest]) -> tuple[tuple[MediaColumn, ...], list[str]]:
    """Return the columns of modalities besides text, and problems with them."""
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
        data_type = manifest.schema.field(column.name).type
        if column.is_media and not (
            is_string_type(data_type) or is_bytes_type(data_type) or pa.types.is_null(data_type)
        ):
            problems.append(f"{manifest}: column {column.name!r} holds {data_type}, neither paths nor files")
    return tuple(columns), problems


def _find_label(schema: pa.Schema, target: str) -> tuple[str, str | None] | None:
    """Return the column of a target, and the field inside it or None; None where the table has no such label."""
    for name in (target, f"{STRUCT_COLUMN}.{target}", f"{STRUCT_COLUMN}_{target}"):
        if name in schema.names:
            return name, None
    column, _, field = target.rpartition(".")
    column = column or STRUCT_COLUMN
    if column not in schema.names:
        return None
    data_type = schema.field(column).type
    if pa.types.is_struct(data_type):
        return (column, field) if field in {f.name for f in data_type} else None
    # the fields of JSON text are known only row by row: rows without the field count as "no label"
    return (column, field) if is_string_type(plain_type(data_type)) else None


def read_target_labels(manifest: Manifest, target: str) -> pa.ChunkedArray | pa.Array | None:
    """Read the labels of a target.

    Args:
        manifest: Table to read.
        target: Name of the label.

    Returns:
        All raw labels, as `normalize_rows` returns them, or None where the table has no such label.
    """
    label = _find_label(manifest.schema, target)
    if label is None:
        return None
    return read_labels(manifest.read([label[0]])[label[0]], *label)[0]


def label_type(schema: pa.Schema, target: str) -> pa.DataType | None:
    """Return the type of the labels of a target.

    Args:
        schema: Schema of the table.
        target: Name of the label.

    Returns:
        Arrow type of the raw labels (that of the text, for fields of JSON), or None where there is no such label.
    """
    label = _find_label(schema, target)
    if label is None:
        return None
    data_type = plain_type(schema.field(label[0]).type)
    is_field = pa.types.is_struct(data_type) and label[1] is not None
    return plain_type(data_type.field(label[1]).type) if is_field else data_type


def _struct_fields(schema: pa.Schema) -> list[str]:
    """Return the names of the labels in the struct column."""
    if STRUCT_COLUMN in schema.names and pa.types.is_struct(schema.field(STRUCT_COLUMN).type):
        return [field.name for field in schema.field(STRUCT_COLUMN).type]
    return []
