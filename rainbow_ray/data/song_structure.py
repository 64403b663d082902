"""The structure of a song as manifests write it: sections with a name, times and a note.

Three forms are read: text, `Name : note, [mm:ss.mmm]-[mm:ss.mmm] | …`; a list of objects with name, start and end; and
the same list as JSON.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from rainbow_ray.data.times import CLOCK, UnreadableTimeError, clock_seconds, clock_style, parse_seconds

# names that the fields of a section may have, in order of preference
NAME_FIELDS = ("name", "section", "label", "type", "title")
START_FIELDS = ("start", "start_seconds", "start_time", "begin")
END_FIELDS = ("end", "end_seconds", "end_time", "stop")
TEXT_FIELDS = ("text", "description", "note", "lyrics")

SECTION = re.compile(
    rf"^(?P<name>[^:\[\]]+?)\s*(?::\s*(?P<note>.*?))?,?\s*"
    rf"\[\s*(?P<start>{CLOCK})\s*\]\s*[-–—]\s*\[\s*(?P<end>{CLOCK})\s*\]\s*$",
    re.DOTALL,
)
TYPICAL_SECTION_SECONDS = 20.0

SectionFields = Mapping[str, Any]


@dataclass(frozen=True)
class Segment:
    """A segment of a song.

    Attributes:
        start: Start, in seconds from the start of the song.
        end: End, in seconds.
        text: Lyrics of the segment, or a note about it; None without either.
        section: Name of the section of the song; None where it is unknown.
    """

    start: float
    end: float
    text: str | None
    section: str | None


@dataclass(frozen=True)
class SongStructure:
    """Sections of a song.

    Attributes:
        segments: Sections with readable times, in the order in which they are written.
        unreadable: Sections, as written, whose times cannot be read.
    """

    segments: list[Segment]
    unreadable: list[str]


def read_structure(structure: str | Sequence[SectionFields | None] | None) -> SongStructure:
    """Read the structure of a song.

    Args:
        structure: Text, `Name : note, [mm:ss.mmm]-[mm:ss.mmm] | …` (`[h:mm:ss]` too), a list of sections with name,
            start and end, or the same list as JSON. None gives no sections.

    Returns:
        The sections.
    """
    if structure is None or isinstance(structure, str):
        sections = parse_json_sections(structure or "")
        return _read_text(structure or "") if sections is None else _read_sections(sections)
    return _read_sections(structure)


def parse_structure(text: str | None) -> list[Segment]:
    """Read the structure of a song, without sections whose times cannot be read.

    Args:
        text: Structure as text or JSON.

    Returns:
        The sections with readable times.
    """
    return read_structure(text).segments


def parse_json_sections(text: str) -> list[SectionFields] | None:
    """Parse a structure in JSON.

    Args:
        text: Text that may be JSON.

    Returns:
        The fields of each section, or None where `text` is not a non-empty JSON list of objects.
    """
    if not text.lstrip().startswith("["):
        return None
    try:
        sections = json.loads(text)
    except (ValueError, RecursionError):  # not JSON, or a number with thousands of digits
        return None
    is_list = isinstance(sections, list) and bool(sections) and all(isinstance(item, dict) for item in sections)
    return sections if is_list else None


def first_field(section: SectionFields, names: tuple[str, ...]) -> Any:
    """Return the first field of a section that has a value.

    Args:
        section: Fields of the section.
        names: Names of the field, in order of preference.

    Returns:
        The value, or None where no field has one.
    """
    return next((section[name] for name in names if section.get(name) is not None), None)


def section_times(section: SectionFields) -> tuple[float, float]:
    """Return the times of a section.

    Args:
        section: Fields of the section.

    Returns:
        Start and end in seconds; NaN for a missing one.

    Raises:
        UnreadableTimeError: The start or the end is not a time.
    """
    return parse_seconds(first_field(section, START_FIELDS)), parse_seconds(first_field(section, END_FIELDS))


def _read_text(text: str) -> SongStructure:
    """Read a structure written as text."""
    sections = [" ".join(section.split()) for section in text.split("|")]  # the pattern is quadratic in white space
    matches = [SECTION.match(section) for section in sections]
    clocks = [match[name] for match in matches if match for name in ("start", "end")]
    style = clock_style(clocks, TYPICAL_SECTION_SECONDS)
    segments, unreadable = [], []
    for section, match in zip(sections, matches, strict=True):
        try:
            if match is None:
                raise UnreadableTimeError("")
            start, end = clock_seconds(match["start"], style), clock_seconds(match["end"], style)
        except UnreadableTimeError:
            unreadable += [section] if section else []
            continue
        segments.append(Segment(start, end, (match["note"] or "").strip(" ,") or None, match["name"].strip()))
    return SongStructure(segments, unreadable)


def _read_sections(sections: Sequence[SectionFields | None]) -> SongStructure:
    """Read a structure written as a list of sections."""
    segments, unreadable = [], []
    for section in sections:
        name, text = (first_field(section or {}, fields) for fields in (NAME_FIELDS, TEXT_FIELDS))
        try:
            start, end = section_times(section or {})
        except UnreadableTimeError:
            start = end = np.nan
        if np.isnan(start) or np.isnan(end):
            unreadable.append(str(name if name is not None else section))
        else:
            segments.append(
                Segment(start, end, None if text is None else str(text), None if name is None else str(name))
            )
    return SongStructure(segments, unreadable)
