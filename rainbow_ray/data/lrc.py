"""LRC files: lines of lyrics with the time at which each begins.

Reference: https://en.wikipedia.org/wiki/LRC_(file_format), the simple format and the enhanced one (`<mm:ss.xx>` before
each word or syllable). Only stamps at the start of a line begin a segment.
"""

from __future__ import annotations

import itertools
import os
import re
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from operator import itemgetter
from pathlib import Path

import numpy as np

from rainbow_ray.data.encodings import UndecodableError, decode_text
from rainbow_ray.data.times import CLOCK, ClockStyle, UnreadableTimeError, clock_seconds, clock_style

MAX_BYTES = 10 * 2**20  # the largest real files have some hundred kilobytes
LINE_SECONDS = 4.0  # typical time between the starts of two lines
WORD_SECONDS = 60.0  # maximum time from the start of the last line to one of its words
OVERLAP = 1.0  # maximum time from the start of the next line to a word of this line, in seconds

MISSING = "no such file"
EMPTY = "empty"
OUTSIDE = "a path that leaves the media root"
NOT_A_FILE = "not a file"
UNREADABLE = "cannot be read"
TOO_LARGE = f"larger than {MAX_BYTES // 2**20} MB, which no LRC file is"
NO_STAMPS = "no line begins with a time such as [01:23.45]"
FRAME_STAMPS = "times with frames ([hh:mm:ss:ff]), whose frame rate is not known"
MARKUP = "an HTML or XML page, not LRC"
BAD_OFFSET = "an [offset:] that is not a number of milliseconds"
OFFSET_BEYOND = "an [offset:] that is larger than its times"

_STAMP = re.compile(rf"\[\s*({CLOCK})\s*\]")
_START = re.compile(rf"\s*(?:\[\s*{CLOCK}\s*\]\s*)+")
_WORD_STAMP = re.compile(rf"<\s*({CLOCK})\s*>")
_CLOSING = re.compile(rf"[\[<]\s*({CLOCK})\s*[\]>]\s*$")
_OFFSET = re.compile(
    r"^\s*\[\s*offset\s*:\s*([+-]?\d{1,9}(?:[.,]\d{1,9})?)\s*(?:ms)?\s*\]", re.IGNORECASE | re.MULTILINE
)
_OFFSET_TAG = re.compile(r"^\s*\[\s*offset\s*:\s*[^\]\s]", re.IGNORECASE | re.MULTILINE)
_MARKUP = re.compile(r"\s*<(?:!doctype|html|head|body|\?xml|!--)", re.IGNORECASE)


class LyricsError(ValueError):
    """A file of lyrics that cannot be used.

    Args:
        reason: Cause, equal for all files with the same fault.
    """

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


@dataclass(frozen=True)
class LrcLine:
    """One line of lyrics.

    Attributes:
        start: Seconds at which it begins.
        text: Its words, without stamps; empty for a pause.
        end: Seconds at which it ends, where a stamp after the last word says so.
    """

    start: float
    text: str
    end: float | None = None


def parse_lrc(text: str | None) -> list[tuple[float, str]]:
    """Return the start and the words of each line of an LRC document.

    Args:
        text: The document, or None.

    Returns:
        Pairs of start (seconds) and words, in the order of time.
    """
    return [(line.start, line.text) for line in parse_lines(text)]


def parse_lines(text: str | None) -> list[LrcLine]:
    """Return the lines of an LRC document, in the order of time.

    Time stamps at the start of a line, `[mm:ss.xx]`, `[mm:ss:xx]`, `[hh:mm:ss]` or `[hh:mm:ss.xx]` (also with `,`
    instead of `.`), give its start; several stamps repeat the line. Stamps inside a line are removed from its words; a
    stamp after the last word gives its end. A clock time that does not lie within the line is part of the words. A
    positive `[offset:]`, in milliseconds, moves lines to earlier times.

    Args:
        text: The document; lines without a time stamp are skipped.

    Returns:
        The lines, one for each time stamp at the start of a line.
    """
    rows = [row for row in re.split(r"\r\n|\r|\n", text or "") if _START.match(row)]
    stamps = [_STAMP.findall(_START.match(row)[0]) for row in rows]  # type: ignore[index]
    style = clock_style(list(itertools.chain.from_iterable(stamps)), LINE_SECONDS)
    parsed_stamps = [[_seconds(stamp, style) for stamp in group] for group in stamps]
    starts = [[seconds for seconds in group if seconds is not None] for group in parsed_stamps]
    line_starts = np.unique(np.array(list(itertools.chain.from_iterable(starts)), dtype=np.float64))
    has_fractions = any("." in stamp or "," in stamp for group in stamps for stamp in group)
    offset = _offset_of(text or "")
    lines: list[tuple[float, LrcLine]] = []
    for row, own_starts in zip(rows, starts, strict=True):
        if not own_starts:
            continue
        i_next = int(np.searchsorted(line_starts, own_starts[0], side="right"))
        latest = float(line_starts[i_next]) + OVERLAP if i_next < len(line_starts) else own_starts[0] + WORD_SECONDS
        words, closing = _split_words(_START.sub("", row, count=1), own_starts[0], latest, style, has_fractions)
        end = closing if closing is not None and len(own_starts) == 1 and closing > own_starts[0] else None
        for start in own_starts:
            moved_end = None if end is None else max(0.0, end - offset)
            lines.append((start, LrcLine(max(0.0, start - offset), words, moved_end)))
    # lines of one time stay in the order of the file, and those before 0 in the order of their times
    return [line for _, line in sorted(lines, key=itemgetter(0))]


def read_lrc(root: Path, name: str) -> str:
    """Return the text of an LRC file that has lines with times.

    Args:
        root: Folder that relative names start from.
        name: Path relative to `root`, as the table has it.

    Returns:
        The decoded text.

    Raises:
        LyricsError: The file is missing, outside the root, unreadable, too large, or not an LRC file.
    """
    path = find_file(root, name)
    try:
        if path.stat().st_size > MAX_BYTES:
            raise LyricsError(TOO_LARGE)
        return decode_lrc(path.read_bytes())
    except OSError as error:
        raise LyricsError(f"{UNREADABLE} ({os.strerror(error.errno) if error.errno else error})") from error


def decode_lrc(data: bytes) -> str:
    """Return the text of the bytes of an LRC file.

    Args:
        data: Content of the file.

    Returns:
        The decoded text.

    Raises:
        LyricsError: The bytes are empty, are not text, have an ambiguous encoding, or have no line with a time.
    """
    if not data.strip():
        raise LyricsError(EMPTY)
    try:
        text = decode_text(data)
    except UndecodableError as error:
        raise LyricsError(error.reason) from error
    check_lrc(text)
    return text


def check_lrc(text: str) -> None:
    """Check that a document is an LRC document.

    Args:
        text: The document.

    Raises:
        LyricsError: The document is empty, is markup (HTML or XML), or has no line with a time.
    """
    if not text.strip():
        raise LyricsError(EMPTY)
    lines = parse_lines(text)
    if lines:
        if _OFFSET_TAG.search(text) and not _OFFSET.search(text):
            raise LyricsError(BAD_OFFSET)
        if _offset_of(text) > 0 and not any(line.start for line in lines):
            raise LyricsError(OFFSET_BEYOND)
        if any(_has_frames(row) for row in re.split(r"\r\n|\r|\n", text)):
            raise LyricsError(FRAME_STAMPS)
        return
    if _MARKUP.match(text):
        raise LyricsError(MARKUP)
    raise LyricsError(FRAME_STAMPS if any(map(_START.match, text.splitlines())) else NO_STAMPS)


def _offset_of(text: str) -> float:
    """Return the `[offset:]` of a document in seconds; a positive offset moves lines to earlier times."""
    match = _OFFSET.search(text)
    return float(match[1].replace(",", ".")) / 1000 if match else 0.0


def _has_frames(row: str) -> bool:
    """Return whether all stamps at the start of a line have four parts."""
    start = _START.match(row)
    stamps = _STAMP.findall(start[0]) if start else []
    return bool(stamps) and all(stamp.count(":") == 3 for stamp in stamps)


def find_file(root: Path, name: str) -> Path:
    """Return the file of a name within a folder, whichever Unicode normalization form its name has on disk.

    Args:
        root: Folder that relative names start from.
        name: Path relative to `root`, as the table has it.

    Returns:
        The path of an existing file.

    Raises:
        LyricsError: There is no such file, or it lies outside the folder.
    """
    stem = name.strip()
    if ".." in re.split(r"[/\\]", stem) or "\x00" in stem:
        raise LyricsError(OUTSIDE if "\x00" not in stem else MISSING)
    folder = root.resolve()
    spellings = dict.fromkeys([stem, *(unicodedata.normalize(form, stem) for form in ("NFC", "NFD"))])
    for spelling in [*spellings, *(spelling.replace("\\", "/") for spelling in spellings if "\\" in spelling)]:
        path = folder / spelling
        try:
            if not path.exists():
                continue
            if not path.resolve().is_relative_to(folder):
                raise LyricsError(OUTSIDE)
        except OSError as error:  # a name that is too long, a folder that may not be entered
            raise LyricsError(f"{UNREADABLE} ({os.strerror(error.errno) if error.errno else error})") from error
        if not path.is_file():
            raise LyricsError(NOT_A_FILE)
        return path
    is_absolute = Path(stem).is_absolute() and not Path(stem).is_relative_to(folder)
    raise LyricsError(OUTSIDE if is_absolute else MISSING)


def _seconds(stamp: str, style: ClockStyle) -> float | None:
    try:
        return clock_seconds(stamp, style)
    except UnreadableTimeError:
        return None


def _split_words(
    text: str, start: float, latest: float, style: ClockStyle, has_fractions: bool
) -> tuple[str, float | None]:
    """Return the words of a line after its leading stamps, and its end in seconds if a closing stamp gives it.

    Args:
        text: The line without its leading stamps.
        start: Start of the line in seconds.
        latest: Latest time at which a word of the line can start, in seconds.
        style: How clocks of three parts are read.
        has_fractions: Whether stamps of the document have decimals; a clock without decimals is then part of the text.
    """

    def is_stamp(clock: str) -> bool:
        start_of_word = _seconds(clock, style)
        is_written_alike = "." in clock or "," in clock or not has_fractions
        return start_of_word is not None and is_written_alike and start <= start_of_word <= latest

    def keep(match: re.Match[str]) -> str:
        return "" if is_stamp(match[1]) else match[0]

    closing = _CLOSING.search(text)
    end = _seconds(closing[1], style) if closing and (closing[0][0] == "<" or is_stamp(closing[1])) else None
    words = " ".join(_WORD_STAMP.sub("", _STAMP.sub(keep, text)).split())
    return words, end


def merge_simultaneous(lines: Sequence[LrcLine]) -> list[LrcLine]:
    """Merge lines that start at the same time, such as a line and its translation.

    Args:
        lines: Lines in the order of time.

    Returns:
        Lines with distinct starts; the words of merged lines are joined by a space.
    """
    merged: list[LrcLine] = []
    for line in lines:
        if merged and merged[-1].start == line.start:
            previous = merged.pop()
            ends = [end for end in (previous.end, line.end) if end is not None]
            text = " ".join(filter(None, (previous.text, line.text)))
            merged.append(LrcLine(line.start, text, max(ends) if len(ends) == 2 else None))
        else:
            merged.append(line)
    return merged
