"""Whether times that are read as seconds can be seconds: the plausibility of a table's unit.

Rules, in this order, on songs of at least one segment with a length (stems of one segment count once):

1. Where a running time is known, songs that are 1,000 times as long (or another unit's factor, within 25%) are refused.
2. A song that ends after more than a day is refused.
3. Songs of more than 12 hours at the median are refused where their words, at under one in 100 seconds, would be sung
   at a usual rate in a smaller unit, unless the running time agrees.
4. Songs of several segments under 0.2 s at the median, or of more than 20 words a second, are refused: they may be
   days, hours or minutes.
5. Suspected, with a warning, unless the running time agrees: songs of more than 4 hours; segments of more than 15
   minutes with words as sparse as in 3; songs under 1 s, or under 10 s with four segments or more; more than 10 words a
   second; songs of a 60th of their running time; whole minutes only, in songs of more than half an hour without words.

So a set of three hours in seconds passes, with or without words.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

from rainbow_ray.data.text_cells import text_column
from rainbow_ray.data.times import DAY, SecondsColumn, seconds_column
from rainbow_ray.utils.errors import InputError

LONG_SONG, TOO_LONG_SONG = 4 * 3600.0, 12 * 3600.0
LONG_SEGMENT = 900.0
LONG_FOR_MINUTES = 1800.0  # songs whose times are whole minutes
TOO_SHORT_SONG, SHORT_SONG, SHORT_SONG_OF_SEVERAL = 0.2, 1.0, 10.0
SEVERAL = 4  # segments
FEW_WORDS, MANY_WORDS, TOO_MANY_WORDS = 0.01, 10.0, 20.0  # a second
USUAL_WORDS = (0.02, 10.0)  # a second, of a unit that is offered instead
USUAL_SONG, USUAL_RATE = 200.0, 1.5  # seconds, and words a second
TOLERANCE = 0.25  # of the ratio between a song's end and its running time
NAMED = 3

# how many of a unit make a second, and how to convert it
SMALLER_UNITS = {
    "milliseconds": (1e3, "divide by 1000"),
    "microseconds": (1e6, "divide by 1000000"),
    "nanoseconds": (1e9, "divide by 1000000000"),
    "samples": (44_100.0, "divide by the sample rate, 44100 say"),
}
LARGER_UNITS = {
    "minutes": (1 / 60, "multiply by 60"),
    "hours": (1 / 3600, "multiply by 3600"),
    "days": (1 / 86_400, "multiply by 86400"),
}
RATES = (8_000, 16_000, 22_050, 24_000, 32_000, 44_100, 48_000, 88_200, 96_000, 192_000)


@dataclass(frozen=True)
class UnitCheck:
    """Result of the check whether times are in seconds.

    Attributes:
        problem: Reason to reject the times, or None.
        warning: Reason to warn, or None.
    """

    problem: str | None = None
    warning: str | None = None


def check_unit(segments: pd.DataFrame) -> UnitCheck:
    """Judge whether times are in seconds.

    Args:
        segments: A row a segment: `song`, `start`, `end` (seconds), and, where they are known, `words` (how many are
            sung there) and `running` (seconds that the song lasts); NaN where unknown.

    Returns:
        A problem, a warning, or neither; see the module's docstring for the rules.
    """
    usable = segments[(segments["end"] > segments["start"]) & (segments["start"] >= 0)]
    usable = usable.drop_duplicates(["song", "start", "end"])
    if usable.empty:
        return UnitCheck()
    songs = usable.groupby("song", sort=False).agg(start=("start", "min"), end=("end", "max"), segments=("end", "size"))
    median = float(songs["end"].median())
    rate = _words_per_second(usable)
    ratio = _ratio_to_running_time(usable, songs)
    unit = _unit_of_ratio(ratio) or likely_unit(median, rate)
    problem = _too_long(songs, median, rate, ratio, unit) or _too_short(songs, median, rate, unit)
    if problem is not None:
        return UnitCheck(problem=f"{problem}; times are seconds from the song's start")
    warning = _suspicion(usable, songs, median, rate, ratio, unit)
    return UnitCheck(warning=warning and f"{warning}; times are read as seconds from the song's start")


def likely_unit(seconds: float, words_per_second: float = math.nan) -> str:
    """Return the unit in which the length of a song would be most usual, and how to convert it.

    Args:
        seconds: Length of the song, read as seconds.
        words_per_second: Rate of its words, with times read as seconds; NaN for a song without words.

    Returns:
        The name of the unit with advice, for messages.
    """
    units = SMALLER_UNITS if seconds > USUAL_SONG else LARGER_UNITS

    def distance(name: str) -> float:
        size = units[name][0]
        of_length = abs(math.log(max(seconds, 1e-12) / size / USUAL_SONG))
        of_words = abs(math.log(words_per_second * size / USUAL_RATE)) if words_per_second > 0 else 0.0
        return of_length + of_words

    name = min(units, key=distance)
    return f"likely {name}: {units[name][1]}"


def describe_length(seconds: float) -> str:
    """Format a duration in a suitable unit.

    Args:
        seconds: Duration in seconds.

    Returns:
        Text such as `3.2 hours`.
    """
    for unit, size in (("days", DAY), ("hours", 3600.0), ("minutes", 60.0)):
        if seconds >= 2 * size:
            return f"{seconds / size:,.1f} {unit}"
    return f"{seconds:.3g} s"


def read_times(table: pa.Table, name: str) -> tuple[SecondsColumn, str | None]:
    """Read a column of times.

    Args:
        table: Table with the column.
        name: Name of the column.

    Returns:
        The times, and a note on values that cannot be read (None where all can).

    Raises:
        InputError: No value can be read.
    """
    column = seconds_column(table[name])
    faulty = np.flatnonzero(np.array([reason is not None for reason in column.reasons], dtype=bool))
    if len(faulty) == 0:
        return column, None
    reason = column.reasons[faulty[0]]
    note = f"column {name!r}: {len(faulty)} values are not readable as times, such as {_shown(table[name][faulty[0]])}"
    note += f" in row {faulty[0]} ({reason})"
    if not np.isfinite(column.seconds).any():
        raise InputError(f"{note}; write seconds from the song's start, such as 83.5 or 1:23.5")
    return column, f"{note}; they count as missing"


def check_times(
    table: pa.Table, label: str, *, song: str, start: str, end: str, text: str | None = None, running: str | None = None
) -> list[str]:
    """Check the times of a table of segments before any of it is used.

    Args:
        table: A row a segment and stem.
        label: Name of the table in messages.
        song: Column that names the song of each row.
        start: Column of the segments' start.
        end: Column of the segments' end.
        text: Column of the lyrics, or None.
        running: Column of the running times of songs, or None.

    Returns:
        Warnings: values that cannot be read, a unit that is suspected.

    Raises:
        InputError: A column is unreadable as a whole, or the times cannot be in seconds.
    """
    problems: list[str] = []
    notes: list[str] = []
    columns: dict[str, np.ndarray] = {}
    for key, name in (("start", start), ("end", end)):
        try:
            column, note = read_times(table, name)
        except InputError as error:
            problems += [f"{label}: {problem}" for problem in error.problems]
            continue
        columns[key] = column.seconds
        notes += [f"{label}: {note}"] if note else []
    if problems:
        raise InputError(problems)
    segments = pd.DataFrame({"song": _codes(table[song]), **columns})
    segments["words"] = _count_words(table[text]) if text is not None else np.nan
    segments["running"] = seconds_column(table[running]).seconds if running is not None else np.nan
    verdict = check_unit(segments[segments["song"] >= 0])
    subject = f"{label}: columns {start!r} and {end!r}"
    if verdict.problem is not None:
        raise InputError(f"{subject}: {verdict.problem}")
    return [*notes, *([f"{subject}: {verdict.warning}"] if verdict.warning else [])]


def _words_per_second(usable: pd.DataFrame) -> float:
    """Return the median word rate of the segments with words; NaN if there are none."""
    if "words" not in usable or not (usable["words"] > 0).any():
        return math.nan
    sung = usable[usable["words"] > 0]
    return float((sung["words"] / (sung["end"] - sung["start"])).median())


def _ratio_to_running_time(usable: pd.DataFrame, songs: pd.DataFrame) -> float:
    """Return the median ratio of the end of songs to their running time; NaN if no running time is known."""
    if "running" not in usable:
        return math.nan
    running = usable.groupby("song", sort=False)["running"].max()
    ratio = (songs["end"] / running.where(running > 0)).dropna()
    return float(ratio.median()) if len(ratio) else math.nan


def _unit_of_ratio(ratio: float) -> str | None:
    """Return the smaller unit that explains a ratio to the running time, or None."""
    if math.isnan(ratio) or ratio <= 0:
        return None
    factors = {name: (size, remedy) for name, (size, remedy) in SMALLER_UNITS.items() if name != "samples"}
    factors |= {f"samples at {rate} Hz": (float(rate), f"divide by {rate}") for rate in RATES}
    factors["minutes and seconds that were read as hours and minutes"] = (60.0, "divide by 60")
    name = min(factors, key=lambda name: abs(math.log(ratio / factors[name][0])))
    size, remedy = factors[name]
    return f"likely {name}: {remedy}" if abs(ratio / size - 1) <= TOLERANCE else None


def _too_long(songs: pd.DataFrame, median: float, rate: float, ratio: float, unit: str) -> str | None:
    if _unit_of_ratio(ratio) is not None:
        return f"songs end {ratio:,.0f} times as late as their running time ({unit})"
    beyond = songs[songs["end"] > DAY]
    if len(beyond):
        if (songs["start"] / songs["end"]).median() > 0.99:
            unit = "likely clock times or samples of a longer recording: subtract when the song starts"
        longest = describe_length(float(beyond["end"].max()))
        return f"{len(beyond)} of {len(songs)} songs end after more than a day, the last after {longest} ({unit})"
    if median > TOO_LONG_SONG and not _agrees(ratio) and _is_sparse(rate, unit):
        return f"songs end after {describe_length(median)} at the median, at {rate:.2g} words a second ({unit})"
    return None


def _too_short(songs: pd.DataFrame, median: float, rate: float, unit: str) -> str | None:
    if median < TOO_SHORT_SONG and float(songs["segments"].median()) >= 2:  # a short sound alone may be one
        return f"songs end after {median:.2g} s at the median ({unit})"
    if rate > TOO_MANY_WORDS and median < USUAL_SONG:
        return f"segments have {rate:.0f} words a second at the median ({unit})"
    return None


def _suspicion(
    usable: pd.DataFrame, songs: pd.DataFrame, median: float, rate: float, ratio: float, unit: str
) -> str | None:
    if _agrees(ratio):
        return None
    if abs(60 * ratio - 1) <= TOLERANCE:
        return f"songs end after a 60th of their running time (likely minutes: {LARGER_UNITS['minutes'][1]})"
    length = float((usable["end"] - usable["start"]).median())
    are_minutes = len(usable) >= SEVERAL and bool((usable[["start", "end"]] % 60 == 0).to_numpy().all())
    if are_minutes and median > LONG_FOR_MINUTES and not rate >= FEW_WORDS:
        return (
            f"songs end after {describe_length(median)} at the median, and all times are whole minutes (a spreadsheet"
            " makes hours and minutes of 3:26: divide by 60 if so)"
        )
    if median > LONG_SONG:
        return f"songs end after {describe_length(median)} at the median ({unit}, if they are not seconds)"
    if length > LONG_SEGMENT and _is_sparse(rate, unit):
        return (
            f"segments last {describe_length(length)} at the median, at {rate:.2g} words a second ({unit}, if they are"
            " not seconds)"
        )
    has_several = float(songs["segments"].median()) >= SEVERAL
    if median < (SHORT_SONG_OF_SEVERAL if has_several else SHORT_SONG):
        return f"songs end after {median:.2g} s at the median ({unit}, if they are not seconds)"
    if rate > MANY_WORDS:
        return f"segments have {rate:.0f} words a second at the median ({unit}, if they are not seconds)"
    return None


def _agrees(ratio: float) -> bool:
    """Return whether a ratio to the running time confirms that times are in seconds."""
    return 1 - TOLERANCE <= ratio <= 1 + TOLERANCE


def _is_sparse(rate: float, unit: str) -> bool:
    """Return whether the word rate is too low for times in seconds, and usual for times in the likely unit."""
    size = next((size for name, (size, _) in SMALLER_UNITS.items() if f"likely {name}" in unit), None)
    min_rate, max_rate = USUAL_WORDS
    return size is not None and rate < FEW_WORDS and min_rate <= rate * size <= max_rate


def _codes(column: pa.ChunkedArray) -> np.ndarray:
    """Encode songs as integers; -1 for rows without a song."""
    return np.asarray(pd.factorize(column.to_pandas())[0])


def _count_words(column: pa.ChunkedArray) -> np.ndarray:
    """Count the words of each text; NaN for rows without a text."""
    if not (pa.types.is_string(column.type) or pa.types.is_large_string(column.type)):
        return np.full(len(column), np.nan)
    texts = text_column(column).texts  # some may not be UTF-8
    words = pc.list_value_length(pc.utf8_split_whitespace(pc.utf8_trim_whitespace(texts)))
    return np.where(column.is_valid().to_numpy(), pc.cast(words, pa.float64()).to_numpy(), np.nan)


def _shown(value: pa.Scalar) -> str:
    text = repr(value.as_py())
    return text if len(text) <= 40 else f"{text[:37]}..."
