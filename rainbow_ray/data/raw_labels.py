"""Raw labels of a table: converted to one plain type, with the reason for each label that cannot be read.

`Task.parse` converts raw labels to targets.
"""

from __future__ import annotations

import json
import re
from decimal import Decimal
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from rainbow_ray.data.arrow_types import decode_storage, is_bytes_type, is_string_type, plain_type
from rainbow_ray.data.list_cells import ContainerError, load_json, parse_container
from rainbow_ray.data.text_cells import id_column, label_names, scalar_text, text_column
from rainbow_ray.utils.errors import InputError

LABEL_MISSING = "no label"
LABEL_BROKEN = "label not readable as JSON"
LABEL_NOT_UTF8 = "label that is not UTF-8"
HALF = r"\\u[dD][89a-fA-F]"  # the escape of one half of a surrogate pair
SURROGATE = re.compile(r"[\ud800-\udfff]")  # half a character, or a byte that is not UTF-8


def read_labels(column: pa.ChunkedArray, name: str, field: str | None) -> tuple[pa.ChunkedArray | pa.Array, pa.Array]:
    """Read the raw labels of a column.

    Args:
        column: A column of labels, of structs, or of JSON documents, `(rows,)`.
        name: Name of the column in messages.
        field: Field of the structs or documents with the label; None if the column itself has the labels.

    Returns:
        The labels, `(rows,)`, with strings normalized by `label_name`; and the reason for each label that cannot be
        read, null for the others.

    Raises:
        InputError: Structs have two fields of one name.
    """
    plain = decode_storage(column)
    repeated = _repeated_field(plain.type) if field is None else _repeated_field(plain.type, field)
    if repeated is not None:
        raise InputError(f"column {name!r} has structs with two fields {repeated!r}; rename one of them")
    if field is None or pa.types.is_struct(plain.type):
        labels = decode_storage(plain if field is None else pc.struct_field(plain, field))
        return _decoded_labels(labels, name)
    values_and_reasons = [_json_field(document, field) for document in _documents(plain)]
    values, reasons = [value for value, _ in values_and_reasons], [reason for _, reason in values_and_reasons]
    return label_names(pa.array(values, pa.string()), name), pa.array(reasons, pa.string())


def _repeated_field(kind: pa.DataType, label_field: str | None = None) -> str | None:
    """Return a name that two fields of one struct share, at any depth; of the outermost, only `label_field` is read."""
    if not pa.types.is_nested(kind):
        return None
    fields = [kind.field(i) for i in range(kind.num_fields)]
    names = [field.name for field in fields]
    if label_field is not None and pa.types.is_struct(kind):
        fields = [field for field in fields if field.name == label_field]
    repeated = [field.name for field in fields if names.count(field.name) > 1]
    inner = (_repeated_field(plain_type(field.type)) for field in fields)
    return repeated[0] if repeated else next((name for name in inner if name is not None), None)


def _documents(column: pa.ChunkedArray) -> list[str]:
    """Decode documents as UTF-8, with lone surrogates for invalid bytes and empty text for null."""
    raw = column.cast(pa.binary_view() if pa.types.is_string_view(column.type) else pa.large_binary())
    return [(document or b"").decode("utf-8", "surrogateescape").strip() for document in raw.to_pylist()]


def _decoded_labels(labels: pa.ChunkedArray, name: str) -> tuple[pa.ChunkedArray | pa.Array, pa.Array]:
    """Return labels of one plain type, the same for all blocks of a column, and the reasons for those not UTF-8."""
    kind = labels.type
    if pa.types.is_nested(kind):
        return _decoded_lists(_with_texts(labels, name))
    if is_bytes_type(kind):
        labels, kind = _bits_as_digits(labels), labels.type
    if pa.types.is_timestamp(kind) or pa.types.is_time(kind):
        return label_names(labels, name), pa.nulls(len(labels), pa.string())
    if pa.types.is_null(kind):
        return labels.cast(pa.string()), pa.nulls(len(labels), pa.string())
    if not is_string_type(kind) and not (is_bytes_type(kind) and not pa.types.is_fixed_size_binary(kind)):
        plain = label_names(labels, name) if pa.types.is_fixed_size_binary(kind) else labels
        return plain, pa.nulls(len(labels), pa.string())
    cleaned = text_column(labels, name)
    halves = pc.match_substring_regex(cleaned.texts, HALF).to_numpy()
    undecodable = cleaned.undecodable.copy()
    for row in np.flatnonzero(halves):
        undecodable[row] |= _spells_half(cleaned.texts[int(row)].as_py())
    reasons = [LABEL_NOT_UTF8 if not_text else None for not_text in undecodable.tolist()]
    return label_names(cleaned.texts, name), pa.array(reasons, pa.string())


def _bits_as_digits(labels: pa.ChunkedArray) -> pa.ChunkedArray:
    """Replace single bytes of value 0 or 1, as databases export bits, by the digits 0 and 1."""
    raw = labels.cast(pa.large_binary())
    for bit, digit in ((b"\0", b"0"), (b"\1", b"1")):
        is_bit = pc.equal(raw, pa.scalar(bit, pa.large_binary()))
        raw = pc.if_else(pc.fill_null(is_bit, False), pa.scalar(digit, pa.large_binary()), raw)
    if pa.types.is_fixed_size_binary(labels.type):
        return raw.cast(labels.type)
    return raw


def _with_texts(labels: pa.ChunkedArray, name: str) -> pa.ChunkedArray:
    """Convert times and bytes of fixed size in lists to text, because Python's types cannot represent all of them."""
    kind = labels.type
    if not (pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind)):
        return labels
    inner = plain_type(kind.value_type)
    if not (pa.types.is_temporal(inner) or pa.types.is_fixed_size_binary(inner)):
        return labels
    chunks = []
    for chunk in labels.chunks:
        lengths = pc.fill_null(pc.list_value_length(chunk), 0).to_numpy(zero_copy_only=False)
        offsets = pa.array(np.append(0, np.cumsum(lengths)), pa.int64())
        texts = id_column(chunk.flatten(), name)
        chunks.append(pa.LargeListArray.from_arrays(offsets, texts, mask=chunk.is_null()))
    return pa.chunked_array(chunks, pa.large_list(pa.string()))


def _spells_half(text: str) -> bool:
    """Return whether an item of a container that is written as text has an unpaired surrogate."""
    try:
        return _has_half(parse_container(text))
    except ContainerError:
        return False


def _has_half(value: Any) -> bool:
    if isinstance(value, str):
        return SURROGATE.search(value) is not None
    items = [*value, *value.values()] if isinstance(value, dict) else value if isinstance(value, list) else []
    return any(_has_half(item) for item in items)


def _json_values(value: Any) -> Any:
    """Convert a value to one that JSON can represent: decimals to text."""
    if isinstance(value, dict):
        return {scalar_text(key) or "": _json_values(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [_json_values(item) for item in value]
    return scalar_text(value) if isinstance(value, Decimal) else value


def _decoded_lists(labels: pa.ChunkedArray) -> tuple[pa.ChunkedArray | pa.Array, pa.Array]:
    """Nested labels; those in which something is not UTF-8 become null."""
    try:
        labels.validate(full=True)
        return labels, pa.nulls(len(labels), pa.string())
    except pa.ArrowInvalid:
        pass
    rows: list[Any] = []
    reasons: list[str | None] = []
    for cell in labels:
        try:
            rows.append(cell.as_py())
            reasons.append(None)
        except UnicodeDecodeError:
            rows.append(None)
            reasons.append(LABEL_NOT_UTF8)
    return pa.array(rows, labels.type), pa.array(reasons, pa.string())


def _json_field(document: str, field: str) -> tuple[str | None, str | None]:
    """Return the text of a field, None if it is missing; and the reason if it cannot be read.

    NaN, as Python's `json` writes what is missing, is missing. A container is written as JSON again. Mappings in the
    spelling of Python are read too.
    """
    if not document:
        return None, None
    try:
        fields = load_json(document)
    except (ValueError, RecursionError):
        fields = _python_mapping(document)
        if fields is None:
            return None, LABEL_BROKEN
    if fields is None or fields != fields:  # `null` or `NaN` in the place of a document
        return None, None
    if not isinstance(fields, dict):
        return None, LABEL_BROKEN
    value: Any = fields.get(field)
    text = json.dumps(_json_values(value), ensure_ascii=False) if isinstance(value, list | dict) else value
    if isinstance(text, str) and SURROGATE.search(text):
        return None, LABEL_NOT_UTF8
    return scalar_text(text), None


def _python_mapping(document: str) -> Any:
    try:
        return parse_container(document)
    except ContainerError:
        return None


def fill_missing(label: pa.Array | pa.ChunkedArray, name: str) -> pa.Array | pa.ChunkedArray:
    """Replace missing labels by a class.

    Args:
        label: Labels of any type, `(rows,)`.
        name: Name of the class.

    Returns:
        Labels as text: names, or lists of names written as JSON.
    """
    missing = is_missing(label)
    if not pa.types.is_nested(label.type):
        return pc.if_else(missing, name, id_column(pa.chunked_array(label)))
    cells = zip(label.to_pylist(), missing.to_pylist(), strict=True)
    filled = [[name] if is_null else cell for cell, is_null in cells]
    # lists of numbers and mappings too: as JSON all have one type
    return pa.array([json.dumps(cell, ensure_ascii=False, default=scalar_text) for cell in filled], pa.string())


def is_missing(label: pa.ChunkedArray | pa.Array) -> pa.ChunkedArray | pa.Array:
    """Return which labels are missing.

    Args:
        label: Labels of any type, `(rows,)`.

    Returns:
        Booleans of the same kind, `(rows,)`: True for null, NaN, blank text, and lists of nothing else.
    """
    missing = pc.is_null(label, nan_is_null=True)
    if is_string_type(label.type):
        return pc.or_(missing, pc.equal(pc.utf8_trim_whitespace(pc.fill_null(label, "")), ""))
    if pa.types.is_list(label.type) or pa.types.is_large_list(label.type) or pa.types.is_fixed_size_list(label.type):
        return pc.or_(missing, pa.array([_holds_nothing(cell) for cell in label.to_pylist()], pa.bool_()))
    return missing


def _holds_nothing(cell: Any) -> bool:
    """Return whether a list has items, all of which are missing."""
    return bool(cell) and all(
        not isinstance(item, list | tuple | dict | set) and (scalar_text(item) or "").strip() == "" for item in cell
    )
