"""Timelines where there is no table of segments: made of the manifest's own structure, LRC files, or fixed windows."""

from __future__ import annotations

import functools
import hashlib
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from rainbow_ray.data.lrc import LyricsError, decode_lrc, merge_simultaneous, parse_lines, parse_lrc, read_lrc
from rainbow_ray.data.manifest import Manifest
from rainbow_ray.data.segment_columns import (
    LRC,
    LYRICS,
    NAME_FIELDS,
    RUNNING_TIME,
    STRUCTURE,
    TEXT_FIELDS,
    Part,
    TimelineColumns,
    first_field,
    parse_json_parts,
    part_times,
    read_timeline_columns,
)
from rainbow_ray.data.time_units import check_unit
from rainbow_ray.data.times import CLOCK, UnreadableTimeError, clock_seconds, clock_style, parse_seconds
from rainbow_ray.utils.errors import InputError
from rainbow_ray.utils.io import atomic_write

__all__ = ["Segment", "derive_segment_table", "derive_segments", "parse_lrc", "parse_structure"]

SECTION = re.compile(
    rf"^(?P<name>[^:\[\]]+?)\s*(?::\s*(?P<note>.*?))?,?\s*"
    rf"\[\s*(?P<start>{CLOCK})\s*\]\s*[-–—]\s*\[\s*(?P<end>{CLOCK})\s*\]\s*$",
    re.DOTALL,
)
SECTION_SECONDS = 20.0  # that a part of a song usually lasts
LAST_LINE = 5.0  # seconds that the last line of an LRC file is taken to last, where nothing else ends it
DERIVED_COLUMNS = ("segment_index", "start_seconds", "end_seconds", "lyric_text", "structure_section")
NAMED = 3  # files and parts that a message names


@dataclass(frozen=True)
class Segment:
    """Seconds, the words that are sung there (or what is said of it), and the name of the part."""

    start: float
    end: float
    text: str | None
    section: str | None


@dataclass(frozen=True)
class Structure:
    """The parts of a song that have times, and those (as written) whose times cannot be read."""

    segments: list[Segment]
    unreadable: list[str]


@dataclass(frozen=True)
class Timeline:
    """A song's segments, what they are made of, and what could not be used.

    `lyrics_trouble` is why its LRC file is not used, with the file's name; None where it is, or where none is named.
    """

    kind: str
    segments: list[Segment]
    unreadable_parts: list[str]
    lyrics_trouble: tuple[str, str] | None = None
    has_lyrics_file: bool = False


def parse_structure(text: str | None) -> list[Segment]:
    """`Name : description, [mm:ss.mmm]-[mm:ss.mmm] | …`; parts whose times cannot be read are left out."""
    return read_structure(text).segments


def read_structure(structure: str | Sequence[Part | None] | None) -> Structure:
    """Return the parts of a song.

    Args:
        structure: `Name : description, [mm:ss.mmm]-[mm:ss.mmm] | …` (`[h:mm:ss]` too), a list of parts with name, start
            and end, or the same list as JSON.
    """
    if structure is None or isinstance(structure, str):
        parts = parse_json_parts(structure or "")
        return _structure_of_text(structure or "") if parts is None else _structure_of_parts(parts)
    return _structure_of_parts(structure)


def derive_segments(
    structure: str | Sequence[Part | None] | None, lrc: str | None, running_time: Any, seconds: float
) -> tuple[str, list[Segment]]:
    """What a song's timeline is made of (`structure`, `lrc`, `windows` or `nothing`), and its segments."""
    try:
        running = parse_seconds(running_time)
    except UnreadableTimeError:
        running = 0.0
    return _choose_timeline(read_structure(structure).segments, lrc, running, seconds)


def derive_segment_table(
    manifest: Manifest, folder: Path, id_column: str, seconds: float, root: Path, max_unusable: float | None = None
) -> tuple[Path, list[str]]:
    """Write a table of segments that is made of a manifest: a row a segment and stem, with all columns of the manifest.

    Args:
        manifest: Songs with a structure, LRC files, lyrics or a running time.
        folder: Where the table is written, under a name of its content, so that a run that goes on finds the same.
        id_column: Column of the songs' ids.
        seconds: Length of the windows of songs that have neither structure nor LRC.
        root: Folder that names of LRC files start from.
        max_unusable: Share of the songs with an LRC file that may be without a timeline for want of it; None: all.

    Returns:
        The table's path, and notes on what it is made of and what could not be used.

    Raises:
        InputError: No song has a timeline, a column is of the wrong type, times cannot be in seconds, or too many LRC
            files cannot be used.
    """
    where = str(manifest)
    table = manifest.read()
    columns = read_timeline_columns(table, id_column, where)
    known = np.isfinite(columns.running)
    running = pd.DataFrame({"song": pd.factorize(_hashable(columns.songs))[0], "start": 0.0, "end": columns.running})
    task, warning = _unit_of(running[known], f"{where}: column {RUNNING_TIME!r}")
    if task:
        raise InputError(task)
    timelines = _timelines(columns, root, seconds)
    rows = [(row, i, segment) for row, song in enumerate(columns.songs)
            for i, segment in enumerate(timelines[song].segments)]  # fmt: skip
    notes = _notes(timelines)
    if not rows:
        why = "".join(f"; {note}" for note in [*columns.notes, *notes[1:]])
        raise InputError(f"{where}: no song has a timeline: neither {STRUCTURE}, nor an LRC file"
                         f" ({LRC}), nor {RUNNING_TIME}; name a table of segments with --segments{why}")  # fmt: skip
    _check_lyrics(timelines, root, where, max_unusable)
    of_parts, suspicion = _unit_of(
        _lengths(timelines, columns), f"{where}: times of {STRUCTURE} and LRC ({LRC}, {LYRICS})"
    )
    if of_parts:
        raise InputError(of_parts)
    path = _write(manifest, table, rows, folder, seconds)
    return path, [*notes, *columns.notes, *filter(None, (warning, suspicion))]


def _structure_of_text(text: str) -> Structure:
    written = [" ".join(part.split()) for part in text.split("|")]  # runs of white space would take quadratic time
    matches = [SECTION.match(part) for part in written]
    clocks = [match[name] for match in matches if match for name in ("start", "end")]
    style = clock_style(clocks, SECTION_SECONDS)
    segments, unreadable = [], []
    for part, match in zip(written, matches, strict=True):
        try:
            if match is None:
                raise UnreadableTimeError("")
            start, end = clock_seconds(match["start"], style), clock_seconds(match["end"], style)
        except UnreadableTimeError:
            unreadable += [part] if part else []
            continue
        segments.append(Segment(start, end, (match["note"] or "").strip(" ,") or None, match["name"].strip()))
    return Structure(segments, unreadable)


def _structure_of_parts(parts: Sequence[Part | None]) -> Structure:
    segments, unreadable = [], []
    for part in parts:
        name, text = (first_field(part or {}, fields) for fields in (NAME_FIELDS, TEXT_FIELDS))
        try:
            start, end = part_times(part or {})
        except UnreadableTimeError:
            start = end = np.nan
        if np.isnan(start) or np.isnan(end):
            unreadable.append(str(name if name is not None else part))
        else:
            segments.append(
                Segment(start, end, None if text is None else str(text), None if name is None else str(name))
            )
    return Structure(segments, unreadable)


def _choose_timeline(
    parts: list[Segment], lrc: str | None, running: float, seconds: float
) -> tuple[str, list[Segment]]:
    """The best timeline that a song has. `running` is in seconds, NaN or 0 where unknown."""
    lines = merge_simultaneous(parse_lines(lrc))
    whole = running if running > 0 else 0.0
    if parts:
        if lines:  # words that are sung say more than what is said of a part
            sung = [(line.start, line.text) for line in lines if line.text]
            words = [" ".join(text for at, text in sung if part.start <= at < part.end) for part in parts]
            parts = [
                Segment(part.start, part.end, text or None, part.section)
                for part, text in zip(parts, words, strict=True)
            ]
        return "structure", parts
    if lines:
        last = lines[-1].end or max(whole, lines[-1].start + LAST_LINE)
        following = [*(line.start for line in lines[1:]), last]
        ends = [after if line.end is None else min(line.end, after)
                for line, after in zip(lines, following, strict=True)]  # fmt: skip
        return "lrc", [Segment(line.start, end, line.text or None, None) for line, end in zip(lines, ends, strict=True)]
    if whole > 0:
        starts = [i * seconds for i in range(max(1, round(whole / seconds)))]
        ends = [*starts[1:], whole]
        return "windows", [Segment(a, b, None, None) for a, b in zip(starts, ends, strict=True)]
    return "nothing", []


def _timelines(columns: TimelineColumns, root: Path, seconds: float) -> dict[Any, Timeline]:
    """The timeline of each song: that of the first of its rows that has one."""

    @functools.cache
    def read(file: str | bytes) -> tuple[str | None, str | None]:
        try:
            if isinstance(file, bytes):
                return decode_lrc(file), None
            return (file, None) if parse_lines(file) else (read_lrc(root, file), None)  # the cell may hold LRC itself
        except LyricsError as error:
            return None, error.reason

    timelines: dict[Any, Timeline] = {}
    rows = zip(columns.songs, columns.structures, columns.files, columns.lyrics, columns.running.tolist(), strict=True)
    for song, structure, file, lyrics, running in rows:
        if song in timelines and timelines[song].segments:
            continue
        is_named = file is not None and bool(file.strip())
        text, reason = read(file) if file is not None and is_named else (None, None)
        parts = read_structure(structure)
        kind, segments = _choose_timeline(parts.segments, text or lyrics, running, seconds)
        shown = file.strip() if isinstance(file, str) else f"of song {song}"
        trouble = (reason, shown) if reason is not None else None
        timelines[song] = Timeline(kind, segments, parts.unreadable, trouble, is_named)
    return timelines


def _check_lyrics(timelines: dict[Any, Timeline], root: Path, where: str, limit: float | None) -> None:
    """Raises `InputError` where too many songs with an LRC file have no timeline of words because it is not usable."""
    named = [timeline for timeline in timelines.values() if timeline.has_lyrics_file]
    lost = [t for t in named if t.lyrics_trouble is not None and t.kind in ("windows", "nothing")]
    if limit is None or not lost or len(lost) <= limit * len(named):
        return
    raise InputError(f"{where}: of {len(named)} songs with an LRC file ({LRC}), {len(lost)} would be cut to windows"
                     f" without words, since theirs cannot be used, under the media root {root}; see --media-root, mend"
                     f" the files, or raise data.max_unreadable_fraction ({limit:.0%})."
                     f" {'; '.join(_lyrics_notes(named))}"
                     )  # fmt: skip


def _lyrics_notes(timelines: Sequence[Timeline]) -> list[str]:
    """A line for each reason for which LRC files are not used."""
    troubles = [timeline.lyrics_trouble for timeline in timelines if timeline.lyrics_trouble is not None]
    counts = Counter(reason for reason, _ in troubles)
    notes = []
    for reason, n in counts.most_common():
        names = list(dict.fromkeys(name for other, name in troubles if other == reason))
        shown = ", ".join(names[:NAMED]) + (", …" if len(names) > NAMED else "")
        notes.append(f"LRC files of {n} {'song is' if n == 1 else 'songs are'} not used: {reason} ({shown})")
    return notes


def _notes(timelines: dict[Any, Timeline]) -> list[str]:
    made = Counter(timeline.kind for timeline in timelines.values())
    words = {"structure": STRUCTURE, "lrc": "LRC files", "windows": "windows of fixed length"}
    kinds = [f"{made[kind]} songs of {word}" for kind, word in words.items() if made[kind]]
    notes = [f"no table of segments is named (--segments): timelines are made of the manifest, {', '.join(kinds)}"]
    if made["nothing"]:
        notes.append(f"{made['nothing']} songs have no timeline, and are left out")
    notes += _lyrics_notes(list(timelines.values()))
    unreadable = [part for timeline in timelines.values() for part in timeline.unreadable_parts]
    if unreadable:
        shown = ", ".join(repr(part[:40]) for part in dict.fromkeys(unreadable[:NAMED]))
        notes.append(f"{len(unreadable)} parts of {STRUCTURE} have no times that can be read, such as"
                     f" [mm:ss.mmm]-[mm:ss.mmm], and are left out: {shown}{', …' if len(unreadable) > NAMED else ''}"
                     )  # fmt: skip
    return notes


def _lengths(timelines: dict[Any, Timeline], columns: TimelineColumns) -> pd.DataFrame:
    """Segments whose times the manifest says, with how many words are sung, for `check_unit`."""
    running = {song: seconds for song, seconds in zip(columns.songs, columns.running.tolist(), strict=True)
               if np.isfinite(seconds)}  # fmt: skip
    rows = [
        (number, one.start, one.end, len((one.text or "").split()) if timeline.kind == "lrc" else np.nan,
         running.get(song, np.nan))
        for number, (song, timeline) in enumerate(timelines.items())
        if timeline.kind in ("structure", "lrc")
        for one in timeline.segments
    ]  # fmt: skip
    return pd.DataFrame(rows, columns=["song", "start", "end", "words", "running"])


def _unit_of(segments: pd.DataFrame, where: str) -> tuple[str | None, str | None]:
    """The problem with the unit of some times, and what is only suspected of it."""
    verdict = check_unit(segments)
    return (verdict.problem and f"{where}: {verdict.problem}", verdict.warning and f"{where}: {verdict.warning}")


def _hashable(songs: list[Any]) -> pd.Series:
    return pd.Series(songs, dtype=object)


def _write(
    manifest: Manifest, table: pa.Table, rows: Sequence[tuple[int, int, Segment]], folder: Path, seconds: float
) -> Path:
    """Write the table of segments; `rows` are the manifest's row, the segment's place in its song, and the segment."""
    names = table.column_names
    digest = hashlib.sha256(f"{manifest.location}\0{seconds}".encode())
    for name in names:  # labels too: who changes them must not find them as they were
        if not _is_heavy(table.schema.field(name).type):
            digest.update(f"{name}\0".encode() + _content(table[name]))
    table = table.drop_columns([name for name in DERIVED_COLUMNS if name in names]).take(
        pa.array([row for row, _, _ in rows])
    )
    columns: dict[str, pa.Array] = {
        "segment_index": pa.array([i for _, i, _ in rows], pa.int64()),
        "start_seconds": pa.array([s.start for _, _, s in rows], pa.float64()),
        "end_seconds": pa.array([s.end for _, _, s in rows], pa.float64()),
        "lyric_text": pa.array([s.text for _, _, s in rows], pa.string()),
        "structure_section": pa.array([s.section for _, _, s in rows], pa.string()),
    }
    for name, values in columns.items():
        table = table.append_column(name, values)
    for name in columns:
        digest.update(str(table[name].to_pylist()).encode())
    path = folder / f"{digest.hexdigest()[:16]}.parquet"
    folder.mkdir(parents=True, exist_ok=True)
    atomic_write(path, lambda file: pq.write_table(table, file))
    return path


def _content(column: pa.ChunkedArray) -> bytes:
    """Bytes that are the same for equal columns."""
    try:
        return str(column.to_pylist()).encode()
    except UnicodeDecodeError:  # text that is not UTF-8, which Arrow keeps as it is
        sink = pa.BufferOutputStream()
        table = pa.table({"column": column}).combine_chunks()
        with pa.ipc.new_stream(sink, table.schema) as writer:
            writer.write_table(table)
        return bytes(sink.getvalue())


def _is_heavy(kind: pa.DataType) -> bool:
    """Whether a column holds media rather than facts about songs."""
    return bool(pa.types.is_binary(kind) or pa.types.is_large_binary(kind) or pa.types.is_list(kind)
                or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind))  # fmt: skip
