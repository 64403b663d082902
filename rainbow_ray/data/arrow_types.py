"""Types of pyarrow columns: storage without encodings, and which types hold strings, bytes or text."""

from __future__ import annotations

from typing import Any

import pyarrow as pa
import pyarrow.compute as pc


def decode_storage(column: Any) -> Any:
    """Remove dictionary encoding, run-end encoding and extension types.

    Args:
        column: A pyarrow array, chunked or not.

    Returns:
        The same values as a plain array of the same kind.
    """
    if isinstance(column, pa.ChunkedArray):
        plain = [decode_storage(chunk) for chunk in column.chunks]
        kind = plain[0].type if plain else decode_storage(pa.array([], column.type)).type
        return pa.chunked_array(plain, kind)
    while True:
        if isinstance(column.type, pa.BaseExtensionType):
            column = column.storage
        elif pa.types.is_dictionary(column.type):
            column = column.dictionary_decode()
        elif pa.types.is_run_end_encoded(column.type):
            column = pc.run_end_decode(column)
        else:
            return column


def plain_type(kind: pa.DataType) -> pa.DataType:
    """Return the type of a column's values, without dictionaries, run-end encoding and extension types.

    Args:
        kind: Type of a column.

    Returns:
        The type of its values.
    """
    while True:
        if isinstance(kind, pa.BaseExtensionType):
            kind = kind.storage_type
        elif pa.types.is_dictionary(kind) or pa.types.is_run_end_encoded(kind):
            kind = kind.value_type
        else:
            return kind


def is_string_type(kind: pa.DataType) -> bool:
    """Return whether a type holds strings, in any layout.

    Args:
        kind: Type of a column.

    Returns:
        True for string, large string and string view.
    """
    return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind))


def is_bytes_type(kind: pa.DataType) -> bool:
    """Return whether a type holds bytes, in any layout.

    Args:
        kind: Type of a column.

    Returns:
        True for binary, large binary, binary view and fixed-size binary.
    """
    return bool(pa.types.is_binary(kind) or pa.types.is_large_binary(kind) or pa.types.is_binary_view(kind)
                or pa.types.is_fixed_size_binary(kind))  # fmt: skip


def holds_text(kind: pa.DataType) -> bool:
    """Return whether a text column may have a type.

    Args:
        kind: Type of a column.

    Returns:
        True for strings, and for numbers and dates, which are written as text.
    """
    plain = plain_type(kind)
    return not (pa.types.is_nested(plain) or is_bytes_type(plain))
