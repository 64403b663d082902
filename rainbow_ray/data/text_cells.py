"""Cells of any type as text: one cleaning for ids, texts and names of classes.

Training, `check`, `predict`, loaded models and joins of tables call these functions, so that a cell has the same text
wherever it is read. They accept pyarrow arrays (columns of a file) and pandas Series (columns of a caller's table).
"""

from __future__ import annotations

import datetime
import decimal
import re
import unicodedata
import uuid
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

from rainbow_ray.data.arrow_types import decode_storage, is_bytes_type, is_string_type
from rainbow_ray.utils.errors import InputError

NOT_UTF8 = "text that is not UTF-8"  # the reason of a row whose text cannot be decoded
LARGEST_INTEGER = 2**64  # whole floats below it are written as integers
LEGACY_SHARE = 0.5  # of printable ASCII, from which on bytes count as text in another encoding
CONTAINERS = (list, tuple, dict, set, frozenset, np.ndarray, pa.Array, pd.Series)
LATIN_END = 0x2FF  # the last code point of the Latin letters and their modifiers
ESCAPE = re.compile(r"\\x[0-9a-f]{2}")  # how a byte that is no text is spelled out
JOINERS = "\u200c\u200d"  # which scripts other than Latin, and emoji, need


@dataclass(frozen=True)
class DecodedText:
    """A text column after cleaning.

    Attributes:
        texts: Stripped strings, `(rows,)`, empty where a cell is missing or cannot be decoded. A pyarrow array, or a
            chunked array where one was given.
        undecodable: Cells whose bytes are not UTF-8, `(rows,)`, bool.
    """

    texts: pa.Array | pa.ChunkedArray
    undecodable: np.ndarray


def text_column(column: pa.Array | pa.ChunkedArray | pd.Series, name: str = "text") -> DecodedText:
    """Return the texts of a column: stripped strings, numbers and dates as text, and which cells cannot be decoded.

    Args:
        column: Cells of any type that is not nested, `(rows,)`. Bytes are decoded as UTF-8.
        name: What messages call the column.

    Returns:
        The texts and the mask of undecodable cells, in the order of the column.

    Raises:
        InputError: A cell holds a list, a mapping or another container.
    """
    if isinstance(column, pd.Series):
        return _text_series(column, name)
    if isinstance(column, pa.ChunkedArray):
        parts = [text_column(chunk, name) for chunk in column.chunks]
        texts = pa.chunked_array([part.texts for part in parts], pa.string())
        return DecodedText(texts, np.concatenate([np.array([], dtype=bool), *(part.undecodable for part in parts)]))
    plain = decode_storage(column)
    undecodable = np.zeros(len(plain), dtype=bool)
    if is_string_type(plain.type) or is_bytes_type(plain.type):
        texts = _valid_strings(plain)
        if texts is None:
            decoded = [_decode(raw) for raw in plain.cast(_bytes_like(plain.type)).to_pylist()]
            undecodable = np.array([text is None for text in decoded], dtype=bool) & plain.is_valid().to_numpy(False)
            texts = pa.array(decoded, pa.string())
    else:
        texts = id_column(plain, name)
    return DecodedText(pc.utf8_trim_whitespace(pc.fill_null(texts, "")), undecodable)


def id_column(column: pa.Array | pa.ChunkedArray | pd.Series, name: str = "id") -> Any:
    """Return the exact text of each cell: different values never share one, whatever their type.

    Whole numbers are written without a fraction or an exponent, so that `7`, `7.0` and the decimal `7.00` are one id.
    Bytes that are not text are written as a UUID or with escapes (see `bytes_text`).

    Args:
        column: Cells of any type that is not nested, `(rows,)`.
        name: What messages call the column.

    Returns:
        Strings, `(rows,)`, null where a cell is null or NaN: a pyarrow array, or a chunked array where one was given.

    Raises:
        InputError: A cell holds a list, a mapping or another container.
    """
    if isinstance(column, pd.Series):
        return _id_series(column, name)
    if isinstance(column, pa.ChunkedArray):
        return pa.chunked_array([id_column(chunk, name) for chunk in column.chunks], pa.string())
    if isinstance(column.type, pa.UuidType):
        return pa.array([None if cell is None else str(cell) for cell in column.to_pylist()], pa.string())
    plain = decode_storage(column)
    kind = plain.type
    if pa.types.is_nested(kind):
        raise InputError(f"column {name!r} holds {kind}; text or numbers are needed")
    if is_string_type(kind) or is_bytes_type(kind):
        texts = _valid_strings(plain) if is_string_type(kind) else None
        return (
            texts
            if texts is not None
            else _map_distinct(
                plain.cast(_bytes_like(kind)), partial(bytes_text, padded=pa.types.is_fixed_size_binary(kind))
            )
        )
    if pa.types.is_floating(kind):
        codes, values = pd.factorize(plain.to_numpy(zero_copy_only=False))  # NaN, and so null, has no code
        return pa.array([scalar_text(value) for value in values], pa.string()).take(pa.array(codes, mask=codes < 0))
    if pa.types.is_decimal(kind):
        return _map_distinct(plain, scalar_text)
    if pa.types.is_duration(kind):
        return _map_distinct(plain.cast(pa.int64()), lambda count: f"{count} {kind.unit}")
    return _plain_text(plain)


def scalar_text(value: Any) -> str | None:
    """Return the exact text of one value, as `id_column` writes it.

    Args:
        value: A Python, numpy or pandas scalar.

    Returns:
        The text, or None for a missing value (None, NaN, NaT, NA).
    """
    if isinstance(value, str):
        return value.encode("utf-8", "replace").decode()  # half of a surrogate pair is no character
    if isinstance(value, bytes | bytearray | memoryview):
        return bytes_text(bytes(value))
    if isinstance(value, bool | np.bool_):
        return "true" if value else "false"
    if isinstance(value, decimal.Decimal):
        return _decimal_text(value)
    if isinstance(value, float | np.floating):
        return _float_text(value)
    if value is None or value is pd.NA or value is pd.NaT:
        return None
    if isinstance(value, datetime.datetime):
        return str(id_column(pa.array([value]))[0])
    return str(value)


def bytes_text(raw: bytes, *, padded: bool = False) -> str:
    r"""Return an exact text for bytes: decoded where they are UTF-8, otherwise spelled out.

    Bytes that are text in another encoding keep their ASCII characters and have escapes for the rest (`caf\xe9`).
    Sixteen other bytes are written as a UUID, anything else with an escape for each byte (`\x05`). Backslashes are
    doubled where there are escapes, and in texts that look as if they had some, so that different bytes have
    different texts; only a UUID has one text for its bytes and for its usual spelling.

    Args:
        raw: The bytes.
        padded: Whether they come from a column of fixed size, whose texts are filled up with NULs.

    Returns:
        The text.

    Reference:
        RFC 9562 (universally unique identifiers), section 4.
    """
    stripped = raw.rstrip(b"\0") if padded else raw
    text = _decode(stripped)
    if text is not None and (stripped or not raw) and not any(map(_is_control, text)):
        return text.replace("\\", "\\\\") if ESCAPE.search(text) else text
    is_uuid = len(raw) == 16 and 1 <= raw[6] >> 4 <= 8 and raw[8] >> 6 == 0b10
    printable = sum(32 <= byte < 127 for byte in raw)
    if text is None and not is_uuid and printable >= LEGACY_SHARE * len(raw) and not _has_control(raw):
        return raw.replace(b"\\", b"\\\\").decode("utf-8", "backslashreplace")
    return str(uuid.UUID(bytes=raw)) if len(raw) == 16 else "".join(f"\\x{byte:02x}" for byte in raw)


def label_name(text: str) -> str:
    """Return the normalized form of a class name, or of a group that a split keeps whole.

    Canonically equivalent forms of Unicode are composed (NFC), and invisible characters are removed: zero-width spaces,
    directional marks and control characters. Joiners stay between characters that need them.

    Args:
        text: A name as the table has it.

    Returns:
        The normalized name, possibly empty.

    Reference:
        Unicode Standard Annex #15 (normalization forms).
    """
    if text.isascii() and text.isprintable():
        return text.strip()
    characters = unicodedata.normalize("NFC", text)
    visible = [
        character
        for i, character in enumerate(characters)
        if character.isspace() or unicodedata.category(character) not in ("Cf", "Cc") or _joins(characters, i)
    ]
    return unicodedata.normalize("NFC", "".join(visible)).strip()


def label_names(column: pa.Array | pa.ChunkedArray, name: str) -> Any:
    """Return `label_name` of each cell.

    Args:
        column: Column of any type, `(rows,)`.
        name: Name of the column, for messages.

    Returns:
        A string array of the same kind (chunked or not), null where a cell is missing or blank.
    """
    texts = id_column(column, name)
    if isinstance(texts, pa.ChunkedArray):
        return pa.chunked_array([_map_distinct(chunk, _name_or_none) for chunk in texts.chunks], pa.string())
    return _map_distinct(texts, _name_or_none)


def _text_series(column: pd.Series, name: str) -> DecodedText:
    if not _holds_objects(column):
        return text_column(_to_arrow(column), name)
    _refuse_containers(column, name)
    cells = [_decode(bytes(cell)) if isinstance(cell, bytes | bytearray | memoryview) else scalar_text(cell)
             for cell in column]  # fmt: skip
    is_bytes = [isinstance(cell, bytes | bytearray | memoryview) for cell in column]
    undecodable = np.array([of_bytes and cell is None for of_bytes, cell in zip(is_bytes, cells, strict=True)],
                           dtype=bool)  # fmt: skip
    return DecodedText(pc.utf8_trim_whitespace(pc.fill_null(pa.array(cells, pa.string()), "")), undecodable)


def _id_series(column: pd.Series, name: str) -> pa.Array:
    if not _holds_objects(column):
        return id_column(_to_arrow(column), name)
    _refuse_containers(column, name)
    return pa.array([scalar_text(cell) for cell in column], pa.string())


def _holds_objects(column: pd.Series) -> bool:
    """Return whether cells are Python objects of any types; pandas' own strings may contain unpaired surrogates too."""
    kind = column.dtype
    if isinstance(kind, pd.CategoricalDtype):
        kind = kind.categories.dtype
    return pd.api.types.is_object_dtype(kind) or (isinstance(kind, pd.StringDtype) and kind.storage == "python")


def _to_arrow(column: pd.Series) -> pa.Array:
    dense = column.astype(column.dtype.subtype) if isinstance(column.dtype, pd.SparseDtype) else column
    array = pa.array(dense, from_pandas=True)
    return array.combine_chunks() if isinstance(array, pa.ChunkedArray) else array


def _refuse_containers(column: pd.Series, name: str) -> None:
    rows = [i for i, cell in enumerate(column) if isinstance(cell, CONTAINERS)]
    if rows:
        kind = type(column.iloc[rows[0]]).__name__
        raise InputError(f"column {name!r} has a {kind}, not text, in {len(rows)} rows, the first of which is row"
                         f" {rows[0]}: join its parts to one text")  # fmt: skip


def _plain_text(column: pa.Array) -> pa.Array:
    """Return values that Arrow formats: times have the same text in each unit, and an unknown time zone means UTC."""
    kind = column.type
    try:
        texts = column.cast(pa.string())
    except pa.ArrowInvalid:
        if not pa.types.is_timestamp(kind) or kind.tz is None:
            raise
        return _plain_text(column.cast(pa.timestamp(kind.unit, "UTC")))
    if pa.types.is_timestamp(kind) or pa.types.is_time(kind):
        texts = pc.replace_substring_regex(texts, r"(\.\d*?)0+(Z?)$", r"\1\2")
        texts = pc.replace_substring_regex(texts, r"\.(Z?)$", r"\1")
    return texts


def _valid_strings(column: pa.Array) -> pa.Array | None:
    """Return strings of one layout; None where some bytes are not UTF-8."""
    try:
        texts = column.cast(pa.string())
        texts.validate(full=True)
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError):
        return None
    return texts


def _bytes_like(kind: pa.DataType) -> pa.DataType:
    """Return the binary type that a column of strings or bytes can be cast to without validation."""
    return pa.binary_view() if pa.types.is_string_view(kind) or pa.types.is_binary_view(kind) else pa.large_binary()


def _map_distinct(column: pa.Array, text_of: Callable[[Any], str | None]) -> pa.Array:
    """Return the text of each cell, computed once for each distinct value."""
    texts: dict[Any, str | None] = {}
    cells: Sequence[Any] = column.to_pylist()
    for cell in cells:
        if cell is not None and cell not in texts:
            texts[cell] = text_of(cell)
    return pa.array([texts.get(cell) for cell in cells], pa.string())


def _name_or_none(text: str) -> str | None:
    return label_name(text) or None


def _float_text(value: float | np.floating[Any]) -> str | None:
    if np.isnan(value):
        return None
    is_integer = np.isfinite(value) and float(value).is_integer() and abs(float(value)) < LARGEST_INTEGER
    return str(int(value)) if is_integer else str(value)


def _decimal_text(value: decimal.Decimal) -> str | None:
    if not value.is_finite():
        return None if value.is_nan() else str(float(value))
    text = format(value, "f")
    text = text.rstrip("0").rstrip(".") if "." in text else text
    return "0" if text == "-0" else text


def _decode(raw: bytes | None) -> str | None:
    try:
        return raw.decode("utf-8") if raw is not None else None
    except UnicodeDecodeError:
        return None


def _is_control(character: str) -> bool:
    return unicodedata.category(character) == "Cc" and not character.isspace()


def _has_control(raw: bytes) -> bool:
    return any((byte < 32 and byte not in b"\t\n\r") or byte == 127 for byte in raw)


def _joins(characters: str, i: int) -> bool:
    """Return whether a character is a joiner between two that are not Latin."""
    is_inner = 0 < i < len(characters) - 1
    return (
        is_inner
        and characters[i] in JOINERS
        and ord(characters[i - 1]) > LATIN_END
        and ord(characters[i + 1]) > LATIN_END
    )
