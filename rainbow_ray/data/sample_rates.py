"""Sample rates of audio as tables have them: numbers, decimals, strings, NaN, or nothing."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa

from rainbow_ray.data.arrow_types import decode_storage, is_string_type
from rainbow_ray.data.text_cells import text_column

NOT_A_RATE = 0  # which no sound has: the reader of audio refuses it with its reason
LARGEST_RATE = 2**31  # Hz; larger numbers count as this one, so that they fit into an integer column
ROUNDING = 1e-3  # Hz by which a whole rate may be off after arithmetic with floats


def parse_sample_rate(value: Any) -> int | None:
    """Return a sample rate in Hz as a whole number.

    Args:
        value: A cell of a table: a number of any type, a decimal, a string with a number, or anything else.

    Returns:
        The rate; None where there is none (None, NaN, NaT, NA, a blank string); `NOT_A_RATE` for what is not a whole
        number of Hz (a list, a word, 22050.5, infinity, True). Negative numbers become -1. Nothing is guessed: the
        reader of audio counts rates that no sound has as unusable.
    """
    if value is None or value is pd.NA or value is pd.NaT or (isinstance(value, str) and not value.strip()):
        return None
    if isinstance(value, bool | np.bool_ | bytes | bytearray):
        return NOT_A_RATE
    try:
        number = float(value)
    except (TypeError, ValueError, OverflowError):  # a list, a word, an integer beyond all floats
        return NOT_A_RATE
    if math.isnan(number):
        return NOT_A_RATE if isinstance(value, str) else None
    if not math.isfinite(number) or abs(number - round(number)) > ROUNDING:
        return NOT_A_RATE
    return max(-1, min(round(number), LARGEST_RATE))


def sample_rate_column(column: pa.ChunkedArray) -> pa.Array:
    """Parse the sample rates of a column of any type.

    Args:
        column: Cells as `parse_sample_rate` accepts them, `(rows,)`.

    Returns:
        Sample rates in Hz, int64, `(rows,)`; null where a cell is missing.
    """
    plain = decode_storage(column)
    if is_string_type(plain.type):  # some cells may not be UTF-8
        cleaned = text_column(plain)
        cells = np.where(cleaned.undecodable, "not UTF-8", np.array(cleaned.texts.to_pylist(), dtype=object)).tolist()
    else:
        cells = plain.to_pylist()
    return pa.array([parse_sample_rate(cell) for cell in cells], pa.int64())
