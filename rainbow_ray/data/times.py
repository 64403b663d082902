"""Times within a song: one parser for every spelling and column type, in seconds.

Tables of segments, structures, LRC stamps, running times and requests to the server all read their times here.
"""

from __future__ import annotations

import datetime
import math
import re
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import Any, Literal

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

DAY = 86_400.0  # seconds; no song is longer
EXPECTED = "seconds from the song's start: numbers, times, durations, or text such as 83.5, 1:23.5, 1:02:03, 83.5s"

INFINITE = "infinite"
A_DATE = "a date, where a time from the song's start is needed"
TIME_ZONE = "a date with a time zone, where a time from the song's start is needed"
FRAMES = "a time code with frames, whose frame rate is not known"
SAMPLES = "a number of samples, whose sample rate is not known"
COMMA = "a comma that may separate thousands or decimals"
SIXTY = "minutes or seconds of 60 or more in a clock time"
UNKNOWN = "not a time"

ClockStyle = Literal["hours", "hundredths"]

# a clock of two to four parts, as it stands in brackets: 1:23, 1:23.5, 1:02:03, 1:02:03,456, 00:12:50
CLOCK = r"\d{1,6}(?::\d{1,9}){1,3}(?:[.,]\d{1,9})?"

_MISSING = frozenset({"", "-", "nan", "nat", "none", "null", "na", "n/a", "<na>"})
_ZERO_DATES = frozenset(
    {datetime.date(1970, 1, 1), datetime.date(1899, 12, 30), datetime.date(1899, 12, 31), datetime.date(1900, 1, 1)}
)  # what spreadsheets and parsers of "%M:%S" put in front of a time of day
_NUMBER = re.compile(r"[+-]?(?:\d+(?:[.,]\d*)?|[.,]\d+)(?:e[+-]?\d+)?")
_THOUSANDS = re.compile(r"[+-]?[1-9]\d{0,2}(?:,\d{3})+")
_CLOCK = re.compile(rf"(?:(?P<days>\d{{1,6}}) days?,?\s*)?(?P<clock>{CLOCK})(?:\s*min(?:ute)?s?)?")
_TIME_CODE = re.compile(r"\d+:\d+:\d+[:;]\d+")
_DATE = re.compile(r"\d{4}[-/.]\d{1,2}[-/.]\d{1,2}.*|\d{1,2}[-/.]\d{1,2}[-/.]\d{4}.*")
_ISO_DURATION = re.compile(r"p(?:(?P<d>\d+)d)?(?:t(?:(?P<h>\d+)h)?(?:(?P<m>\d+)m)?(?:(?P<s>\d+(?:[.,]\d+)?)s)?)?")
_PRIMES = re.compile(r"(?P<m>\d{1,6})\s*['′]\s*(?P<s>\d{1,2}(?:[.,]\d+)?)\s*(?:\"|″|'')?")  # 1'23"
_WITH_UNIT = re.compile(r"(\d+(?:[.,]\d+)?)\s*([a-zμ]+)[\s,]*")  # one piece of 1h 2min 3.5s
_UNIT_SECONDS = {
    **dict.fromkeys(("h", "hr", "hrs", "hour", "hours"), 3600.0),
    **dict.fromkeys(("m", "min", "mins", "minute", "minutes"), 60.0),
    **dict.fromkeys(("s", "sec", "secs", "second", "seconds"), 1.0),
    **dict.fromkeys(("ms", "msec", "msecs", "millisecond", "milliseconds"), 1e-3),
    **dict.fromkeys(("us", "μs", "usec", "usecs", "microsecond", "microseconds"), 1e-6),
    **dict.fromkeys(("ns", "nsec", "nanosecond", "nanoseconds"), 1e-9),
}
_PER_SECOND = {"s": 1, "ms": 1_000, "us": 1_000_000, "ns": 1_000_000_000}


class UnreadableTimeError(ValueError):
    """A value that cannot be read as a time.

    Args:
        reason: Cause, equal for all values with the same fault.
    """

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


@dataclass(frozen=True)
class SecondsColumn:
    """Times of a column.

    Attributes:
        seconds: float64, `(rows,)`; NaN where a time is missing or unreadable.
        reasons: object, `(rows,)`; why a value is unreadable, None where it is readable or missing.
    """

    seconds: np.ndarray
    reasons: np.ndarray


def parse_seconds(value: object) -> float:
    """Return one time in seconds.

    Args:
        value: A number of seconds, a time of day (from midnight), a duration, or text: `83.5`, `83,5`, `1:23.5`,
            `[01:23.500]`, `1:02:03`, `83.5s`, `83500 ms`, `1m23s`, `PT1M23S`, `1'23"`.

    Returns:
        Seconds, NaN for a missing value (None, NaN, empty text, `n/a`). Signs are kept.

    Raises:
        UnreadableTimeError: The value is no time, or its unit is not known (frames, samples).
    """
    try:
        return _parse_value(value)
    except UnreadableTimeError:
        raise
    except (ArithmeticError, ValueError, NotImplementedError) as error:  # numbers and dates beyond all limits
        raise UnreadableTimeError(UNKNOWN) from error


def _parse_value(value: object) -> float:
    if value is None or value is pd.NaT or value is pd.NA:
        return math.nan
    if isinstance(value, str):
        return _parse_text(value)
    if isinstance(value, bool | np.bool_):
        raise UnreadableTimeError(UNKNOWN)
    if isinstance(value, int | float | Decimal | np.number) and not isinstance(value, np.timedelta64):
        return _finite(float(value))
    if isinstance(value, np.datetime64 | np.timedelta64):
        if np.datetime_data(value.dtype)[0] == "generic":
            raise UnreadableTimeError(UNKNOWN)
        value = pd.Timestamp(value) if isinstance(value, np.datetime64) else pd.Timedelta(value)
        return parse_seconds(value)
    if isinstance(value, datetime.timedelta):
        return value.total_seconds()
    if isinstance(value, datetime.datetime):
        return _time_of_day(value)
    if isinstance(value, datetime.time):
        return _since_midnight(value)
    raise UnreadableTimeError(A_DATE if isinstance(value, datetime.date) else UNKNOWN)


def seconds_column(column: pa.Array | pa.ChunkedArray) -> SecondsColumn:
    """Return the times of a whole column.

    Args:
        column: Numbers (seconds), times of day, durations, timestamps on a spreadsheet's zero date, or text.

    Returns:
        Seconds, and the reason for every value that is unreadable. A column of another type is unreadable as a whole.
    """
    chunked = column if isinstance(column, pa.ChunkedArray) else pa.chunked_array([column])
    kind = chunked.type
    if pa.types.is_dictionary(kind):
        return seconds_column(chunked.cast(kind.value_type))
    if pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_decimal(kind) or pa.types.is_null(kind):
        return _without_infinite(chunked.cast(pa.float64(), safe=False).to_numpy())
    if pa.types.is_duration(kind) or pa.types.is_time(kind):
        chunked = chunked.cast(pa.int32()) if pa.types.is_time32(kind) else chunked
        ticks = chunked.cast(pa.int64()).cast(pa.float64(), safe=False)
        return _without_infinite(ticks.to_numpy() / _PER_SECOND[kind.unit])
    if time_type_problem(kind) is not None:
        missing = pc.is_null(chunked).to_numpy()
        return SecondsColumn(np.full(len(chunked), np.nan), _reason_where(~missing, UNKNOWN))
    if pa.types.is_timestamp(kind):
        return _timestamps(chunked)
    text = _valid_text(chunked)
    numbers = pd.to_numeric(text.to_pandas(), errors="coerce").to_numpy(dtype=np.float64)
    text_indices = np.flatnonzero(~np.isfinite(numbers))
    parsed = _parse_distinct(text.take(pa.array(text_indices, pa.int64())))
    seconds, reasons = numbers.copy(), np.full(len(numbers), None, dtype=object)
    seconds[text_indices], reasons[text_indices] = parsed.seconds, parsed.reasons
    return SecondsColumn(seconds, reasons)


def parse_values(values: Sequence[Any]) -> SecondsColumn:
    """Parse Python values of any mixture of types as times.

    Args:
        values: Values as `parse_seconds` accepts them.

    Returns:
        Seconds (NaN where a value is missing or unreadable) and the reasons of unreadable values.
    """
    seconds, reasons = np.full(len(values), np.nan), np.full(len(values), None, dtype=object)
    for i, value in enumerate(values):
        try:
            seconds[i] = parse_seconds(value)
        except UnreadableTimeError as error:
            reasons[i] = error.reason
    return SecondsColumn(seconds, reasons)


def time_type_problem(kind: pa.DataType) -> str | None:
    """Check whether a column of times may have a type.

    Args:
        kind: Type of the column.

    Returns:
        What is wrong with the type, or None where its values can be read.
    """
    if pa.types.is_dictionary(kind):
        return time_type_problem(kind.value_type)
    accepted = (
        pa.types.is_integer, pa.types.is_floating, pa.types.is_decimal, pa.types.is_null, pa.types.is_duration,
        pa.types.is_time, pa.types.is_timestamp, pa.types.is_string, pa.types.is_large_string, pa.types.is_string_view,
    )  # fmt: skip
    return None if any(accepts(kind) for accepts in accepted) else f"holds {kind}; expected: {EXPECTED}"


def clock_seconds(clock: str, style: ClockStyle) -> float:
    """Return the seconds of a clock time without brackets.

    Args:
        clock: Two parts are `m:ss`, three are `h:mm:ss` or `mm:ss:xx`; the last may have a decimal fraction.
        style: Meaning of three whole parts of two digits: with hours first, or with hundredths of a second last.

    Returns:
        Seconds from 0:00.

    Raises:
        UnreadableTimeError: A time code with frames, or 60 or more minutes or seconds after hours.
    """
    *parts, last = clock.replace(",", ".").split(":")
    if len(parts) == 1:
        return 60.0 * int(parts[0]) + float(last)
    if len(parts) > 2:
        raise UnreadableTimeError(FRAMES)
    is_fraction = "." not in last and (len(last) != 2 or style == "hundredths")
    if is_fraction:  # mm:ss:xx, where the last part is a fraction of a second whatever its width
        return 60.0 * int(parts[0]) + float(f"{parts[1]}.{last}")
    if int(parts[1]) >= 60 or float(last) >= 60:
        raise UnreadableTimeError(SIXTY)
    return 3600.0 * int(parts[0]) + 60.0 * int(parts[1]) + float(last)


def clock_style(clocks: Sequence[str], typical_gap: float) -> ClockStyle:
    """Decide whether clock times of three parts, `a:b:c`, are `h:mm:ss` or `mm:ss:xx`, for all of a document alike.

    A third part with a fraction follows hours; one of 60 or more is hundredths. Otherwise clock times of two parts
    decide, by the interpretation that increases with them; without such times, the interpretation whose steps are
    closer to `typical_gap` is used.

    Args:
        clocks: All clock times of the document, in its order, without brackets.
        typical_gap: Usual difference between consecutive times, in seconds.

    Returns:
        `hours` or `hundredths`.
    """
    thirds = [parts[2] for parts in (clock.replace(",", ".").split(":") for clock in clocks) if len(parts) == 3]
    if not thirds or any("." in third for third in thirds):
        return "hours"
    if any(len(third) == 2 and int(third) >= 60 for third in thirds):
        return "hundredths"
    readings = {style: _read_all(clocks, style) for style in ("hours", "hundredths")}
    if len(thirds) < len(clocks):
        rising = {style: seconds == sorted(seconds) for style, seconds in readings.items()}
        return "hours" if rising["hours"] and not rising["hundredths"] else "hundredths"
    distance = {style: _distance(seconds, typical_gap) for style, seconds in readings.items()}
    return "hours" if distance["hours"] <= distance["hundredths"] else "hundredths"


def _read_all(clocks: Sequence[str], style: Any) -> list[float]:
    seconds = []
    for clock in clocks:
        try:
            seconds.append(clock_seconds(clock, style))
        except UnreadableTimeError:
            continue
    return seconds


def _distance(seconds: Sequence[float], typical_gap: float) -> float:
    """Return the mean log-ratio of the steps between times to the usual step; of a single time, that of the time."""
    distinct = np.unique(seconds)
    steps = np.diff(distinct) if len(distinct) > 1 else distinct
    return float(np.abs(np.log(np.maximum(steps, 1e-3) / typical_gap)).mean()) if len(steps) else math.inf


def _parse_text(text: str) -> float:
    plain = unicodedata.normalize("NFKC", text).replace("−", "-").strip().lower()
    if plain in _MISSING:
        return math.nan
    if plain.lstrip("+-") in ("inf", "infinity"):
        raise UnreadableTimeError(INFINITE)
    if plain[:1] + plain[-1:] in ("[]", "<>", "()"):
        plain = plain[1:-1].strip()
    if _THOUSANDS.fullmatch(plain):
        raise UnreadableTimeError(COMMA)
    if _NUMBER.fullmatch(plain):
        return _finite(float(plain.replace(",", ".")))
    sign = -1.0 if plain.startswith("-") else 1.0
    return sign * _finite(_parse_positive(plain.lstrip("+-").strip()))


def _parse_positive(plain: str) -> float:
    if _TIME_CODE.fullmatch(plain):
        raise UnreadableTimeError(FRAMES)
    match = _CLOCK.fullmatch(plain)
    if match:
        return DAY * int(match["days"] or 0) + _strict_clock(match["clock"])
    if re.fullmatch(r"\d{1,6} days?", plain):
        return DAY * int(plain.split()[0])
    match = _ISO_DURATION.fullmatch(plain)
    if match and any(match.groups()):
        days, hours, minutes, seconds = (float((part or "0").replace(",", ".")) for part in match.groups())
        return DAY * days + 3600 * hours + 60 * minutes + seconds
    match = _PRIMES.fullmatch(plain)
    if match:
        return 60 * int(match["m"]) + float(match["s"].replace(",", "."))
    pieces = _WITH_UNIT.findall(plain)
    if pieces and not _WITH_UNIT.sub("", plain) and all(unit in _UNIT_SECONDS for _, unit in pieces):
        return sum(float(number.replace(",", ".")) * _UNIT_SECONDS[unit] for number, unit in pieces)
    if re.fullmatch(r"[\d.,]+\s*(?:samples?|smp)", plain):
        raise UnreadableTimeError(SAMPLES)
    if re.fullmatch(r"[\d.,]+\s*(?:frames?|f)", plain):
        raise UnreadableTimeError(FRAMES)
    raise UnreadableTimeError(A_DATE if _DATE.fullmatch(plain) else UNKNOWN)


def _strict_clock(clock: str) -> float:
    """Return the seconds of a clock time in a cell: three parts are hours, minutes and seconds, of at most 59 each."""
    *front, last = clock.replace(",", ".").split(":")
    is_thousandths = len(front) == 2 and len(last) >= 3 and "." not in last  # mm:ss:mmm
    if len(front) == 2 and len(last) == 1:
        last = f"0{last}"  # 1:2:3
    has_sixty_minutes = len(front) == 2 and int(front[-1]) >= 60
    if has_sixty_minutes or (float(last) >= 60 and not is_thousandths):
        raise UnreadableTimeError(SIXTY)
    return clock_seconds(":".join([*front, last]), "hours")


def _finite(number: float) -> float:
    if math.isinf(number):
        raise UnreadableTimeError(INFINITE)
    return number


def _since_midnight(time: datetime.time) -> float:
    return 3600.0 * time.hour + 60.0 * time.minute + time.second + time.microsecond / 1e6


def _time_of_day(moment: datetime.datetime) -> float:
    """Return the time of day of a moment on a spreadsheet's zero date; other dates are not times in a song."""
    if moment.tzinfo is not None:
        raise UnreadableTimeError(TIME_ZONE)
    if moment.year > datetime.MAXYEAR or moment.date() not in _ZERO_DATES:
        raise UnreadableTimeError(A_DATE)
    return _since_midnight(moment.time())


def _timestamps(column: pa.ChunkedArray) -> SecondsColumn:
    """Return the times of day of a column, as `_time_of_day`, including dates outside of Python's range."""
    missing = pc.is_null(column).to_numpy()
    if column.type.tz is not None:
        return SecondsColumn(np.full(len(column), np.nan), _reason_where(~missing, TIME_ZONE))
    ticks = pc.fill_null(column.cast(pa.int64()), 0).to_numpy()
    per_second = _PER_SECOND[column.type.unit]
    days, ticks_of_day = np.divmod(ticks, int(DAY) * per_second)
    zero_days = [(date - datetime.date(1970, 1, 1)).days for date in _ZERO_DATES]
    dated = ~np.isin(days, zero_days) & ~missing
    return SecondsColumn(np.where(dated | missing, np.nan, ticks_of_day / per_second), _reason_where(dated, A_DATE))


def _without_infinite(seconds: np.ndarray) -> SecondsColumn:
    infinite = np.isinf(seconds)
    return SecondsColumn(np.where(infinite, np.nan, seconds), _reason_where(infinite, INFINITE))


def _reason_where(mask: np.ndarray, reason: str) -> np.ndarray:
    reasons = np.full(len(mask), None, dtype=object)
    reasons[mask] = reason
    return reasons


def _valid_text(column: pa.ChunkedArray) -> pa.ChunkedArray:
    """Return text of one type; bytes that are not UTF-8 are replaced, because no time contains them."""
    try:
        text = column.cast(pa.string())
        text.validate(full=True)
        return text
    except pa.ArrowInvalid:
        values = column.cast(pa.large_binary()).to_pylist()
        decoded = [None if value is None else value.decode("utf-8", "replace") for value in values]
        return pa.chunked_array([pa.array(decoded, pa.string())])


def _parse_distinct(column: pa.ChunkedArray) -> SecondsColumn:
    """Parse each distinct value once."""
    codes, distinct = pd.factorize(column.to_pandas().astype(object), use_na_sentinel=True)
    parsed = parse_values(list(distinct))
    return SecondsColumn(
        np.append(parsed.seconds, np.nan)[codes], np.append(parsed.reasons, np.array([None], dtype=object))[codes]
    )
