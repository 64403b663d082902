"""Tables whose times are in another unit than seconds are refused; tables in seconds are accepted."""

from __future__ import annotations

import datetime

import numpy as np
import pandas as pd
import pytest

from rainbow_ray.data.time_units import check_unit
from rainbow_ray.utils.errors import InputError
from tests.helpers import data_of, plan_of


def timelines(factor=1.0, segments=6, seconds=10.0, words=4.0, running=np.nan):
    rows = [(song, i * seconds * factor, (i + 1) * seconds * factor, words, running)
            for song in range(6) for i in range(segments)]  # fmt: skip
    return pd.DataFrame(rows, columns=["song", "start", "end", "words", "running"])


@pytest.mark.parametrize(
    ("table", "unit"),
    [
        (timelines(1e3), "milliseconds: divide by 1000"),
        (timelines(1e3, segments=20, words=np.nan), "milliseconds"),
        (timelines(1e6), "microseconds: divide by 1000000"),
        (timelines(1e9), "nanoseconds"),
        (timelines(44_100), "samples: divide by the sample rate"),
        (timelines(1 / 60), "minutes: multiply by 60"),
        (timelines(1 / 3600, words=np.nan), "hours"),
        (timelines(1 / 86_400, words=np.nan), "days: multiply by 86400"),
        (timelines(1e3, words=np.nan, running=60.0), "milliseconds"),
        (timelines(16_000, words=np.nan, running=60.0), "samples at 16000 Hz: divide by 16000"),
        (timelines(60, words=np.nan, running=60.0), "read as hours and minutes: divide by 60"),
        (timelines().assign(start=lambda t: t["start"] + 1.7e9, end=lambda t: t["end"] + 1.7e9), "clock times"),
    ],
)
def test_another_unit_is_refused_and_named(table, unit):
    assert unit in check_unit(table).problem


@pytest.mark.parametrize(
    ("table", "unit"),
    [
        (timelines(1e3, words=np.nan), "milliseconds"),
        (timelines(1 / 60, segments=20, words=np.nan), "minutes"),
        (timelines(1 / 60, words=np.nan, running=60.0), "minutes"),
        (timelines(60, segments=20, words=np.nan), "divide by 60"),
        (timelines(segments=8, seconds=0.1, words=np.nan), "minutes"),  # possibly single drum hits
        (timelines(segments=20, seconds=0.3), "minutes"),
        (timelines(segments=6, seconds=3599, words=4.0), "milliseconds"),
    ],
)
def test_a_suspected_unit_is_a_warning(table, unit):
    result = check_unit(table)
    assert result.problem is None
    assert unit in result.warning


@pytest.mark.parametrize(
    "table",
    [
        timelines(),
        timelines(segments=36, seconds=301, words=2.0),  # a live set of three hours with 36 songs
        timelines(segments=3, seconds=3590, words=np.nan),
        timelines(segments=3, seconds=3600, words=np.nan, running=10_800.0),
        timelines(segments=10, seconds=1800, words=4500.0, running=18_000.0),  # an audiobook of five hours
        timelines(segments=20, seconds=3, words=24.0),  # fast words
        timelines(segments=1, seconds=2.0),
        timelines().iloc[:0],
        timelines().assign(end=np.nan),
        timelines().assign(end=lambda t: t["start"] - 1),
    ],
)
def test_times_in_seconds_are_accepted(table):
    result = check_unit(table)
    assert (result.problem, result.warning) == (None, None)


@pytest.fixture
def plan(write_table, tiny_encoder):
    """Return a plan over a table of segments whose times are `format_time(seconds)`."""

    def make_plan(format_time):
        rows = [
            (
                f"s{i:02d}",
                j,
                format_time(10.0 * j),
                format_time(10.0 * j + 10.0),
                f"some words {i} {j}",
                "abc"[(i + j) % 3],
            )
            for i in range(12)
            for j in range(6)
        ]
        names = ["song_id", "segment_index", "start_seconds", "end_seconds", "lyric_text", "segment_rebracketing_type"]
        columns = {name: list(values) for name, values in zip(names, zip(*rows, strict=True), strict=True)}
        path = write_table(columns, "segments.parquet")
        return plan_of("demo", tiny_encoder("bert"), phase=5, segments__path=str(path))

    return make_plan


def clock(seconds):
    return f"{int(seconds // 60)}:{seconds % 60:04.1f}"


@pytest.mark.parametrize(
    "format_time",
    [clock, lambda s: f"0:{clock(s)}", lambda s: f"{s * 1000:.0f} ms", lambda s: datetime.timedelta(seconds=s),
     lambda s: datetime.time(0, int(s // 60), int(s % 60)), lambda s: f"{s:.1f}".replace(".", ",")],
    ids=["m:ss", "h:mm:ss", "ms", "duration", "time", "comma"],
)  # fmt: skip
def test_training_reads_times_in_every_format(plan, format_time):
    data = data_of(plan(format_time))
    ends = data.source.targets[:6, 2]
    assert ends.tolist() == [10, 20, 30, 40, 50, 60]
    assert data.profile["masked"] == {}
    assert not [warning for warning in data.warnings if "times" in warning]


@pytest.mark.parametrize(
    ("format_time", "message"),
    [
        (lambda s: s * 1000, "likely milliseconds: divide by 1000"),
        (lambda s: int(s * 1_000_000), "likely microseconds"),
        (lambda s: s * 44_100, "likely samples"),
        (lambda s: s / 86_400, "likely days"),
        (lambda s: f"00:00:{int(s):02d}:12", "frames.*write seconds from the song's start"),
        (lambda s: float("inf"), "infinite"),
        (lambda s: datetime.datetime(2024, 3, 31, 2, 30) + datetime.timedelta(seconds=s), "a date"),
        (lambda s: [s], "'start_seconds' holds list<.*expected: seconds"),
        (lambda s: str(s).encode(), "'start_seconds' holds binary; expected: seconds"),
    ],
    ids=["ms", "us", "samples", "days", "frames", "infinite", "dates", "lists", "bytes"],
)
def test_another_unit_or_type_is_refused_with_advice(plan, format_time, message):
    with pytest.raises(InputError, match=message):
        plan(format_time)


def test_single_unreadable_times_cause_a_warning_and_are_masked(plan):
    run_plan = plan(lambda s: "soon" if s == 50.0 else clock(s))
    assert any("values are not readable as times, such as 'soon' in row 5" in warning for warning in run_plan.warnings)
    data = data_of(run_plan)
    assert sum(data.profile["masked"].values()) == 24
