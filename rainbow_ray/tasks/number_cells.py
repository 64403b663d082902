"""Cells of a numeric target column: numbers that are written as text, and warnings about lost digits."""

from __future__ import annotations

from decimal import Context, Decimal

import numpy as np
import pyarrow as pa

from rainbow_ray.data.arrow_types import is_string_type
from rainbow_ray.data.text_cells import id_column
from rainbow_ray.tasks.label_cells import single_labels, without_missing_words
from rainbow_ray.utils.errors import InputError

SHOWN = 5
MAX_EXACT = 2.0**53  # float64 represents all integers below
MAX_DIGITS = 100


def parse_numbers(labels: pa.ChunkedArray, column: str) -> tuple[np.ndarray, tuple[str, ...]]:
    """Parse numbers that are written as text.

    Args:
        labels: Texts or bytes, `(rows,)`.
        column: Name of the target column, for messages.

    Returns:
        Numbers, float64, `(rows,)`, NaN where there is none; and notes for the user.

    Raises:
        InputError: A text is not a number.
    """
    cells = without_missing_words(single_labels(labels, column), column)
    numbers = [_parse_number(name) for name in cells.names]
    invalid = sorted(name for name, number in zip(cells.names, numbers, strict=True) if number is None)
    if invalid:
        suffix = f" and {len(invalid) - SHOWN} more" if len(invalid) > SHOWN else ""
        raise InputError(f"target {column!r} is not a number: {', '.join(map(repr, invalid[:SHOWN]))}{suffix}; name"
                         " another with data.target_column")  # fmt: skip
    return np.array([*numbers, np.nan], dtype=np.float64)[cells.codes], cells.notes  # -1 is a missing one


def narrowing_warnings(targets: np.ndarray, column: str) -> tuple[str, ...]:
    """Return a warning if float32, in which the model learns, merges different targets.

    Args:
        targets: Numbers that are learned without a transform, float64, `(examples,)`.
        column: Name of the target column.

    Returns:
        At most one message.
    """
    n_values, n_distinct = len(np.unique(targets)), len(np.unique(targets.astype(np.float32)))
    if n_distinct == n_values:
        return ()
    return (f"training.target_transform: none learns {column!r} in float32, in which {n_values} different values are"
            f" {n_distinct}; standardize keeps them apart",)  # fmt: skip


def rounding_warnings(labels: pa.Array, targets: np.ndarray, column: str) -> tuple[str, ...]:
    """Return a warning if float64 merges different labels.

    Args:
        labels: Labels as the table has them, `(rows,)`.
        targets: The same as float64, `(rows,)`.
        column: Name of the target column.

    Returns:
        At most one message.
    """
    if pa.types.is_floating(labels.type) or (np.abs(targets) < MAX_EXACT).all():
        return ()
    texts = set(id_column(labels).drop_null().to_pylist())
    if is_string_type(labels.type):
        texts = {str(_normalize_decimal(text)) for text in texts}
    n_distinct = len(np.unique(targets))
    if len(texts) <= n_distinct:
        return ()
    return (f"target {column!r} has {len(texts)} different values, of which {n_distinct} are left in float64; subtract"
            " a constant from it",)  # fmt: skip


def _normalize_decimal(text: str) -> Decimal | str:
    try:
        return Decimal(text).normalize(Context(prec=MAX_DIGITS))
    except ArithmeticError:
        return text


def _parse_number(text: str) -> float | None:
    try:
        return None if "_" in text else float(text)
    except ValueError:
        return None
