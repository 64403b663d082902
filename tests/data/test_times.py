"""Times of every format and column type are read as seconds."""

from __future__ import annotations

import datetime
import decimal

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest

from rainbow_ray.data import times
from rainbow_ray.data.times import UnreadableTimeError, clock_style, parse_seconds, parse_values, seconds_column


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        ("83.5", 83.5), ("83,5", 83.5), (" +3 ", 3), ("1e3", 1000), ("0,500", 0.5), ("1:23", 83), ("1:23.5", 83.5),
        ("1:23,5", 83.5), ("90:30", 5430), ("[01:23.500]", 83.5), ("1:23:45", 5025), ("01:23:45,678", 5025.678),
        ("1:2:3", 3723), ("03:26:016", 206.016), ("-0:03", -3), ("−3", -3), ("1：23", 83), ("3:26 min", 206),
        ("83.5s", 83.5), ("83500 ms", 83.5), ("83500ms", 83.5), ("250000µs", 0.25), ("1m23s", 83), ("3.5 min", 210),
        ("1h 2min 3.5 sec", 3723.5), ("PT1M23S", 83), ("P0DT0H1M23.5S", 83.5), ("1'23\"", 83),
        ("0 days 00:01:23.500000", 83.5), ("1 day, 0:01:23", 86_483), ("0.00096", 0.00096),
        (83, 83), (np.float32(2.5), 2.5), (decimal.Decimal("83.5"), 83.5), (datetime.time(0, 1, 23, 500_000), 83.5),
        (datetime.timedelta(seconds=83.5), 83.5), (np.timedelta64(83_500, "ms"), 83.5),
        (datetime.datetime(1900, 1, 1, 0, 1, 23), 83), (pd.Timestamp("1970-01-01 00:01:23"), 83),
    ],
)  # fmt: skip
def test_times_of_every_format_are_read(value, seconds):
    assert parse_seconds(value) == pytest.approx(seconds)


@pytest.mark.parametrize("value", [None, "", " ", "nan", "NaT", "None", "n/a", float("nan"), pd.NaT, pd.NA])
def test_a_missing_time_is_nan(value):
    assert np.isnan(parse_seconds(value))


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        ("soon", times.UNKNOWN), ("9" * 5000 + ":00", times.UNKNOWN), ("9" * 5000 + " s", times.INFINITE),
        ("1 000", times.UNKNOWN), ("1_000", times.UNKNOWN), (True, times.UNKNOWN),
        (b"83", times.UNKNOWN), ("1,234", times.COMMA), ("00:01:23:12", times.FRAMES), ("00:01:23;12", times.FRAMES),
        ("12 frames", times.FRAMES), ("44100 samples", times.SAMPLES), ("1:75", times.SIXTY), ("1:61:00", times.SIXTY),
        ("inf", times.INFINITE), ("-Infinity", times.INFINITE), (float("inf"), times.INFINITE),
        ("2024-03-31 02:30", times.A_DATE), (datetime.datetime(2024, 3, 31), times.A_DATE),
        (datetime.date(2024, 3, 31), times.A_DATE),
        (datetime.datetime(1970, 1, 1, 0, 1, tzinfo=datetime.UTC), times.TIME_ZONE),
    ],
)  # fmt: skip
def test_other_values_are_refused_with_a_reason(value, reason):
    with pytest.raises(UnreadableTimeError) as error:
        parse_seconds(value)
    assert error.value.reason == reason


@pytest.mark.parametrize(
    "column",
    [
        pa.array([83, None]), pa.array([83.0, np.nan]), pa.array([83, None], pa.uint64()),
        pa.array(np.array([83, np.nan], np.float16)), pa.array([83, None], pa.float32()),
        pa.array([decimal.Decimal("83.00"), None]), pa.array([83, None], pa.time32("s")),
        pa.array([83_000, None], pa.time32("ms")), pa.array([83_000_000, None], pa.time64("us")),
        pa.array([83 * 10**9, None], pa.time64("ns")), pa.array([83, None], pa.duration("s")),
        pa.array([83_000, None], pa.duration("ms")), pa.array([83_000, None], pa.timestamp("ms")),
        pa.array(["1:23", None]), pa.array(["83", ""], pa.large_string()), pa.array(["1:23", None], pa.string_view()),
        pa.array(["1:23", None]).dictionary_encode(),
    ],
    ids=lambda column: str(column.type),
)  # fmt: skip
def test_columns_of_every_time_type_are_read(column):
    result = seconds_column(pa.chunked_array([column]))
    assert result.seconds[0] == 83
    assert np.isnan(result.seconds[1])
    assert result.reasons.tolist() == [None, None]
    assert times.time_type_problem(column.type) is None


@pytest.mark.parametrize(
    "column",
    [pa.array([[1.0]]), pa.array([b"1"]), pa.array([True]), pa.array([{"s": 1}]), pa.array([1], pa.date32())],
    ids=lambda column: str(column.type),
)
def test_columns_that_hold_no_times_are_named(column):
    assert str(column.type) in times.time_type_problem(column.type)
    assert seconds_column(column).reasons.tolist() == [times.UNKNOWN]


def test_text_that_is_not_utf8_is_not_a_time():
    raw = pa.array([b"1:23", b"\xff\xfe", None], pa.binary()).view(pa.string())
    result = seconds_column(raw)
    assert result.seconds[0] == 83
    assert result.reasons.tolist() == [None, times.UNKNOWN, None]


def test_a_column_and_its_values_are_read_alike():
    values = ["83.5", "83,5", "1:23", "1:23:45", "83500 ms", "soon", "inf", "1e3", ".5", "5.", "1,234", None, "n/a"]
    from_values, from_column = parse_values(values), seconds_column(pa.array(values))
    np.testing.assert_array_equal(from_values.seconds, from_column.seconds)
    assert from_values.reasons.tolist() == from_column.reasons.tolist()


@pytest.mark.parametrize(
    ("clocks", "style"),
    [
        (["00:59:58", "01:00:02"], "hours"),  # steps of 4 s, not of 0.44 s
        (["00:00:05", "00:00:10", "00:03:20"], "hours"),
        (["00:12:50", "00:17:20"], "hundredths"),  # steps of 4.7 s, not of 290 s
        (["00:12:50"], "hundredths"),
        (["00:00:05"], "hours"),
        (["00:12:50", "00:17:80"], "hundredths"),  # 80 is not a number of seconds
        (["00:12:50", "01:00:02.50"], "hours"),  # a clock with a fraction is unambiguous
        (["59:58.00", "1:00:02"], "hours"),  # only then do times increase
        (["00:30.00", "01:02:50"], "hundredths"),
        (["00:12.50", "00:20.00"], "hours"),
    ],
)
def test_clocks_of_three_parts_are_interpreted_by_their_document(clocks, style):
    assert clock_style(clocks, 4.0) == style


@pytest.mark.parametrize("value", [
    10**400, decimal.Decimal("sNaN"), np.timedelta64(5, "Y"), np.timedelta64(5), np.datetime64("30000-01-01"), 1 + 2j,
])  # fmt: skip
def test_values_beyond_all_limits_are_unreadable(value):
    with pytest.raises(UnreadableTimeError):
        parse_seconds(value)


@pytest.mark.parametrize("column", [
    pa.array([1_700_000_000_000_000], pa.timestamp("ms")), pa.array([2**60], pa.timestamp("s")),
    pa.array([0], pa.timestamp("s", "Foo/Bar")), pa.array([0], pa.timestamp("us", "UTC")),
])  # fmt: skip
def test_timestamps_outside_the_calendar_are_unreadable(column):
    result = seconds_column(column)
    assert np.isnan(result.seconds).all()
    assert result.reasons[0] is not None
    assert seconds_column(pa.array([None, 61], pa.timestamp("s"))).seconds[1] == 61
