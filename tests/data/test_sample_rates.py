"""Sample rates of any type are read as whole numbers of Hz or refused."""

from __future__ import annotations

import decimal

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest

from rainbow_ray.data.columns import Columns, MediaColumn
from rainbow_ray.data.normalize_rows import normalize_rows
from rainbow_ray.data.sample_rates import NOT_A_RATE, parse_sample_rate, sample_rate_column


@pytest.mark.parametrize(
    ("value", "rate"),
    [
        (44100, 44100), (np.int16(8000), 8000), (np.float32(22050), 22050), (16000.0, 16000), ("16000", 16000),
        (" 44100.0 ", 44100), (decimal.Decimal("48000.00"), 48000), (np.array(16000), 16000),
        (None, None), (float("nan"), None), (np.float32("nan"), None), (pd.NA, None), (pd.NaT, None), ("  ", None),
        (decimal.Decimal("NaN"), None),
        (0, NOT_A_RATE), ("16 kHz", NOT_A_RATE), ("nan", NOT_A_RATE), ([16000], NOT_A_RATE), (True, NOT_A_RATE),
        (np.bool_(True), NOT_A_RATE), (np.array([16000, 2]), NOT_A_RATE), (22050.5, NOT_A_RATE), ({}, NOT_A_RATE),
        (float("inf"), NOT_A_RATE), (b"16000", NOT_A_RATE), (10**400, NOT_A_RATE), (-16000, -1), (1e15, 2**31),
    ],
)  # fmt: skip
def test_a_cell_is_a_rate_or_missing_or_invalid(value, rate):
    assert parse_sample_rate(value) == rate


@pytest.mark.parametrize(
    ("column", "rates"),
    [
        (pa.array([16000, None]), [16000, None]),
        (pa.array([16000.0, float("nan")]), [16000, None]),
        (pa.array([decimal.Decimal("16000.0"), None]), [16000, None]),
        (pa.array(["16000", "x", None, ""]), [16000, 0, None, None]),
        (pa.array(["16000", None]).dictionary_encode(), [16000, None]),
        (pa.array([[16000], None]), [0, None]),
        (pa.array([b"\xff\xfe", None]).cast(pa.binary()), [0, None]),
        (pa.Array.from_buffers(pa.string(), 1, pa.array([b"\xff\xfe"]).buffers()), [0]),
        (pa.nulls(2), [None, None]),
    ],
)
def test_columns_of_any_type_are_parsed(column, rates):
    assert sample_rate_column(pa.chunked_array([column])).to_pylist() == rates


def test_training_reads_a_column_of_lists_without_a_traceback():
    block = pa.table({"id": ["a", "b"], "y": [1, 0], "sound": [b"....", b"...."], "rate": [[16000], None]})
    columns = Columns(
        song="id", text=(), label=("y", None), held_out=None, require_text=False, min_length=0,
        media=(MediaColumn("audio", "sound", "rate"),),
    )  # fmt: skip
    assert normalize_rows(block, columns)["raw_audio_rate"].to_pylist() == [0, None]
