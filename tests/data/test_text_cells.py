"""Text of cells of every type: equal for pyarrow and pandas, and distinct for distinct values."""

from __future__ import annotations

import datetime
import uuid
from decimal import Decimal

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest

from rainbow_ray.data.text_cells import bytes_text, id_column, label_name, label_names, scalar_text, text_column
from rainbow_ray.utils.errors import InputError

LATIN = [b"caf\xe9 1", None, b"caf\xe8 1"]
UUIDS = [uuid.UUID(int=2**127 + i * 2**100 + 0xFF) for i in range(3)] + [uuid.UUID(int=i, version=4) for i in range(3)]


def unchecked_strings(raw: list[bytes | None]) -> pa.Array:
    """Return a string column with these bytes, as read from a file that is not UTF-8."""
    array = pa.array(raw, pa.binary())
    return pa.Array.from_buffers(pa.string(), len(raw), array.buffers(), null_count=array.null_count)


@pytest.mark.parametrize("kind", [pa.decimal128(38, 0), pa.decimal256(60, 0), pa.int64(), pa.uint64(), pa.string()])
def test_large_numbers_have_distinct_exact_texts(kind):
    numbers = [10**17 + i for i in range(5)]
    texts = id_column(pa.array(numbers).cast(kind)).to_pylist()
    assert texts == [str(number) for number in numbers]


@pytest.mark.parametrize("column", [
    pa.array([7, None]), pa.array([7.0, None]), pa.array([7.0, float("nan")], pa.float32()),
    pa.array([7.0, None], pa.float16()), pa.array([Decimal("7.00"), None]), pa.array(["7", None]),
    pa.array(["7", None]).dictionary_encode(), pa.array([b"7", None], pa.binary_view()),
    pd.Series([7, None]), pd.Series([7, None], dtype="Int64"), pd.Series(["7", None], dtype="category"),
    pd.Series([Decimal("7.0"), pd.NA], dtype=object), pd.Series([np.float32(7), pd.NaT], dtype=object),
])  # fmt: skip
def test_an_id_has_the_same_text_for_every_type(column):
    assert id_column(column).to_pylist() == ["7", None]
    assert text_column(column).texts.to_pylist() == ["7", ""]


def test_fractions_keep_all_their_digits():
    assert id_column(pa.array([0.1, 1e300, 2.0**53 + 2])).to_pylist() == ["0.1", "1e+300", "9007199254740994"]
    assert id_column(pa.array([0.1], pa.float32())).to_pylist() == ["0.1"]
    assert id_column(pa.array([Decimal("0.00000001"), Decimal("-0.00000000")])).to_pylist() == ["0.00000001", "0"]


@pytest.mark.parametrize("kind", [pa.binary(), pa.large_binary(), pa.binary_view(), None])
def test_ids_that_are_not_utf8_stay_distinct(kind):
    column = unchecked_strings(LATIN) if kind is None else pa.array(LATIN, kind)
    assert id_column(column).to_pylist() == ["caf\\xe9 1", None, "caf\\xe8 1"]
    assert id_column(pa.chunked_array([column, column])).null_count == 2


def test_a_uuid_has_its_usual_text_in_every_storage():
    texts = [str(number) for number in UUIDS]
    raw = [number.bytes for number in UUIDS]
    for column in (pa.array(raw, pa.uuid()), pa.array(raw, pa.binary(16)), pa.array(raw, pa.binary()), pd.Series(raw),
                   pd.Series(UUIDS), pa.chunked_array([pa.array(raw, pa.uuid())])):  # fmt: skip
        assert id_column(column).to_pylist() == texts


@pytest.mark.parametrize("kind", [pa.binary(), pa.large_binary(), pa.binary_view()])
def test_different_bytes_have_different_texts(kind):
    raw = [b"song1", b"song1\0", b"song1\0\0", b"", b"\0", b"\x05", b"05", rb"\x05", rb"\\x05", b"caf\xe9", rb"caf\xe9",
           rb"caf\\xe9", b"caf\\\xe9", b"\xc8c9", b"\xc8\xc9", b"c8c9", rb"\xc8\xc9", b"C:\\songs\\1"]  # fmt: skip
    texts = id_column(pa.array(raw, kind)).to_pylist()
    assert len(set(texts)) == len(raw)
    assert texts[0] == "song1"
    assert texts[-1] == "C:\\songs\\1"


def test_times_in_an_unknown_zone_are_written_in_utc():
    column = pa.array([0, None, 60], pa.timestamp("s", "Foo/Bar"))
    expected = ["1970-01-01 00:00:00Z", None, "1970-01-01 00:01:00Z"]
    assert id_column(column).to_pylist() == expected
    assert text_column(column).texts.to_pylist() == [expected[0], "", expected[2]]


def test_fixed_size_bytes_are_text_or_escapes():
    assert bytes_text(b"ab\0\0", padded=True) == "ab"
    assert id_column(pa.array([b"ab\0\0"], pa.binary(4))).to_pylist() == ["ab"]
    assert bytes_text(b"\xc8\xc9\xca\xcb") == r"\xc8\xc9\xca\xcb"
    assert bytes_text(b"\0\0", padded=True) == r"\x00\x00"
    assert len({bytes_text(bytes([200 + i]) * 4) for i in range(50)}) == 50


@pytest.mark.parametrize("unit", ["s", "ms", "us", "ns"])
def test_a_time_has_one_text_in_every_unit(unit):
    column = pa.array([datetime.datetime(2020, 1, 2)]).cast(pa.timestamp(unit))
    assert id_column(column).to_pylist() == ["2020-01-02 00:00:00"]
    assert scalar_text(pd.Timestamp("2020-01-02")) == "2020-01-02 00:00:00"


@pytest.mark.parametrize("column", [
    unchecked_strings([b"caf\xe9", b" x ", None]), unchecked_strings([b"caf\xe9", b" x ", None]).dictionary_encode(),
    pa.array([b"caf\xe9", b"x", None], pa.large_binary()), pd.Series([b"caf\xe9", "x\n", None], dtype=object),
    pa.chunked_array([unchecked_strings([b"caf\xe9", b" x ", None])]),
])  # fmt: skip
def test_undecodable_text_is_marked(column):
    cleaned = text_column(column)
    assert cleaned.texts.to_pylist() == ["", "x", ""]
    assert cleaned.undecodable.tolist() == [True, False, False]


@pytest.mark.parametrize("cell", [["a", "b"], ["a"], ("a",), {"a"}, {"a": 1}, np.array(["a"])])
def test_containers_are_refused_as_text(cell):
    for clean in (text_column, id_column):
        with pytest.raises(InputError, match=rf"'concept' has a {type(cell).__name__}.* in 1 rows.* row 1"):
            clean(pd.Series(["door", cell], dtype=object), "concept")


def test_a_lone_surrogate_is_replaced():
    assert text_column(pd.Series(["\ud800z"], dtype=object)).texts.to_pylist() == ["?z"]


@pytest.mark.parametrize("name", ["cafe\u0301", "caf\u00e9", "ca\u200bf\u00e9", "\ufeffcaf\u00e9", "caf\u00e9\0",
                                     " caf\u00e9\u00a0", "c\u200da\u00adf\u00e9", "\u202acaf\u00e9\u202c"])  # fmt: skip
def test_names_are_normalized(name):
    assert label_name(name) == "caf\u00e9"


@pytest.mark.parametrize("name", ["\U0001f468\u200d\U0001f469", "\u0645\u06cc\u200c\u062e"])
def test_joiners_that_a_script_needs_are_unchanged(name):
    assert label_name(name) == name


def test_invisible_names_are_missing():
    column = pa.array(["\u200b", " ", "a\u200b", None, "\ufeff"])
    assert label_names(column, "x").to_pylist() == [None, None, "a", None, None]
