"""The task that fits the values of a column, where `data.target_type` names none."""

from __future__ import annotations

import pyarrow as pa
import pyarrow.compute as pc

MAX_INTEGER_CLASSES = 20  # distinct integers that are read as classes


def infer_task(labels: pa.ChunkedArray | pa.Array | None, target: str) -> tuple[str, list[str]]:
    """Return the task that fits the values of a column.

    Args:
        labels: Labels as the table has them, `(rows,)`; None for names of classes.
        target: Name of the column, for messages.

    Returns:
        Name of the task of a single example, and a note where another one fits too.
    """
    if labels is None or pa.types.is_nested(labels.type):
        return "multiclass", []
    if pa.types.is_boolean(labels.type):
        return "binary", []
    is_integer = pa.types.is_integer(labels.type) or (pa.types.is_decimal(labels.type) and labels.type.scale == 0)
    if pa.types.is_floating(labels.type) or (pa.types.is_decimal(labels.type) and not is_integer):
        return "regression", []
    distinct = pc.unique(labels.drop_null())
    if is_integer:
        return _infer_integer_task(target, len(distinct))
    few_names = distinct.to_pylist() if len(distinct) <= MAX_INTEGER_CLASSES else []
    names = {str(name).strip().lower() for name in few_names}
    return "binary" if names and names <= {"true", "false"} else "multiclass", []


def _infer_integer_task(target: str, n_distinct: int) -> tuple[str, list[str]]:
    values = f"{target} holds {n_distinct} different integers"
    if n_distinct > MAX_INTEGER_CLASSES:
        return "regression", [f"{values}, read as numbers: data.target_type=multiclass for classes"]
    return "multiclass", [f"{values}, read as classes: data.target_type=regression for numbers"]
