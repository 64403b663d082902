"""Unification of the column types of a table whose files store a column with different types.

Files without rows do not affect the type. Types are unified where no value changes: integers of different widths,
decimals of different scales, strings of different encodings, and integers with floats, whose conversion pyarrow checks
value by value. Decimals with floats, and floats of several widths, are rejected, because values would be rounded
silently.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence

import pyarrow as pa

from rainbow_ray.utils.errors import InputError

ADVICE = "write it with one type in all files"
DIGITS = {pa.int8(): 3, pa.uint8(): 3, pa.int16(): 5, pa.uint16(): 5, pa.int32(): 10, pa.uint32(): 10, pa.int64(): 19,
          pa.uint64(): 20}  # fmt: skip
INTEGERS_AS_DECIMALS = {kind: pa.decimal128(digits, 0) for kind, digits in DIGITS.items()}


def common_schema(
    schemas: Sequence[pa.Schema], rows: Sequence[int], file_names: Sequence[str], label: str
) -> tuple[pa.Schema, dict[str, str]]:
    """Return the columns of all files.

    Args:
        schemas: The columns of each file.
        rows: Number of rows of each file.
        file_names: Name of each file in messages.
        label: Name of the table in messages.

    Returns:
        The schema; and for each column with several types, the types with a file of each, as text for messages.

    Raises:
        InputError: A file has a name twice, or the types of a column do not agree.
    """
    problems: list[str] = []
    types: dict[str, dict[pa.DataType, str]] = {}  # the types of a column, each with the first file that has it
    empty: dict[str, dict[pa.DataType, str]] = {}  # the same of files without rows
    for schema, count, file_name in zip(schemas, rows, file_names, strict=True):
        repeated = [name for name in dict.fromkeys(schema.names) if schema.names.count(name) > 1]
        problems += [f"{label}: {file_name} has column {name!r} twice; rename one of them" for name in repeated]
        for column in schema:
            types.setdefault(column.name, {})
            (types if count else empty).setdefault(column.name, {}).setdefault(plain_type(column.type), file_name)
    fields, mixed = [], {}
    for name, of_rows in types.items():
        candidates = of_rows or empty[name]
        description = " and ".join(f"{kind} in {file_name}" for kind, file_name in candidates.items())
        if len(candidates) > 1:
            mixed[name] = description
        unified = _unified(candidates)
        if unified is None:
            problems.append(f"{label}: column {name!r} holds {description}; {ADVICE}")
        else:
            fields.append(pa.field(name, unified))
    if problems:
        raise InputError(dict.fromkeys(problems))
    return pa.schema(fields), mixed


def plain_type(kind: pa.DataType) -> pa.DataType:
    """Return a type without the encodings in which files of one table may differ.

    Args:
        kind: Type of a column, possibly dictionary-encoded or a view type.

    Returns:
        The type of its values.
    """
    if pa.types.is_dictionary(kind):
        return plain_type(kind.value_type)
    if pa.types.is_string_view(kind):
        return pa.string()
    if pa.types.is_binary_view(kind):
        return pa.binary()
    return kind


def _unified(types: Mapping[pa.DataType, str]) -> pa.DataType | None:
    """Return the common type of several types; None if there is none, or if it would change values silently."""
    if _loses_values(types):
        return None
    try:
        has_decimals = any(map(pa.types.is_decimal, types))
        # pyarrow's own type for decimals with integers is a digit too short for its conversion of the integers
        kinds = [INTEGERS_AS_DECIMALS.get(kind, kind) if has_decimals else kind for kind in types]
        parts = [pa.schema([pa.field("column", kind)]) for kind in kinds]
        return pa.unify_schemas(parts, promote_options="permissive").field(0).type
    except pa.ArrowException:
        return None


def _loses_values(types: Mapping[pa.DataType, str]) -> bool:
    """Return whether the types combine decimals with floats, or floats of several widths, at any depth."""
    leaves: dict[str, set[pa.DataType]] = defaultdict(set)
    for kind in types:
        for path, leaf in _leaves(kind):
            leaves[path].add(leaf)
    for leaf_types in leaves.values():
        floats = sum(pa.types.is_floating(leaf) for leaf in leaf_types)
        if floats > 1 or (floats and any(pa.types.is_decimal(leaf) for leaf in leaf_types)):
            return True
    return False


def _leaves(kind: pa.DataType, path: str = "") -> Iterator[tuple[str, pa.DataType]]:
    """Yield the types inside a type that are not nested, each with its path."""
    if pa.types.is_struct(kind):
        for field in kind:
            yield from _leaves(field.type, f"{path}.{field.name}")
    elif pa.types.is_map(kind):
        yield from _leaves(kind.key_type, f"{path}.keys")
        yield from _leaves(kind.item_type, f"{path}.values")
    elif pa.types.is_nested(kind) and hasattr(kind, "value_type"):
        yield from _leaves(kind.value_type, f"{path}[]")
    else:
        yield path, plain_type(kind)


def check_names(schema: pa.Schema) -> None:
    """Check that the names of all columns and nested fields are UTF-8.

    Args:
        schema: Schema of a parquet file.

    Raises:
        UnicodeDecodeError: A name is not UTF-8.
    """
    for column in schema:
        _ = column.name
        for _ in _leaves(column.type):
            pass


def path_value(value: str | int | None, kind: pa.DataType) -> object:
    """Return the value of a partition column that the name of a folder spells.

    Args:
        value: Text after `=` in the name of the folder, or None for a null partition.
        kind: Type of the column.

    Returns:
        The value as a Python object, or None.

    Raises:
        pyarrow.lib.ArrowException: The text is not a value of this type.
    """
    return None if value is None else pa.scalar(str(value)).cast(kind).as_py()
