"""Tables of segments derived from a manifest: from song structure, LRC files, or windows of fixed length."""

from __future__ import annotations

import functools
import hashlib
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from rainbow_ray.data.lrc import LyricsError, decode_lrc, merge_simultaneous, parse_lines, read_lrc
from rainbow_ray.data.manifest import Manifest
from rainbow_ray.data.segment_columns import (
    LRC,
    LYRICS,
    RUNNING_TIME,
    STRUCTURE,
    TimelineColumns,
    read_timeline_columns,
)
from rainbow_ray.data.song_structure import SectionFields, Segment, read_structure
from rainbow_ray.data.time_units import check_unit
from rainbow_ray.data.times import UnreadableTimeError, parse_seconds
from rainbow_ray.utils.errors import InputError
from rainbow_ray.utils.io import atomic_write

LAST_LINE_SECONDS = 5.0  # assumed duration of the last line of an LRC file, where nothing else ends it
DERIVED_COLUMNS = ("segment_index", "start_seconds", "end_seconds", "lyric_text", "structure_section")
MAX_EXAMPLES = 3  # files and sections that a message names
MAX_SHOWN = 40  # characters of a section that a message shows

Kind = Literal["structure", "lrc", "windows", "none"]  # what the segments of a song are derived from


@dataclass(frozen=True)
class Timeline:
    """Segments of a song, and what could not be used.

    Attributes:
        kind: What the segments are derived from.
        segments: Segments, in order.
        unreadable_sections: Sections of the structure, as written, whose times cannot be read.
        lrc_error: Reason why the LRC file of the song is not used, and the name of the file; None where it is used, or
            where the song has none.
        has_lrc_file: Whether the manifest has an LRC file for the song.
    """

    kind: Kind
    segments: list[Segment]
    unreadable_sections: list[str]
    lrc_error: tuple[str, str] | None = None
    has_lrc_file: bool = False


@dataclass(frozen=True)
class _SegmentRow:
    """A row of the derived table: row of the manifest, position of the segment in its song, and the segment."""

    manifest_row: int
    position: int
    segment: Segment


def derive_segments(
    structure: str | Sequence[SectionFields | None] | None, lrc: str | None, running_time: Any, seconds: float
) -> tuple[Kind, list[Segment]]:
    """Derive the segments of one song.

    Args:
        structure: Song structure, as `read_structure` reads it.
        lrc: Content of an LRC file.
        running_time: Duration of the song, in any form of a time.
        seconds: Duration of the windows where there is neither structure nor LRC.

    Returns:
        What the segments are derived from, and the segments.
    """
    try:
        running = parse_seconds(running_time)
    except UnreadableTimeError:
        running = 0.0
    return _choose_segments(read_structure(structure).segments, lrc, running, seconds)


def derive_segment_table(
    manifest: Manifest,
    folder: Path,
    id_column: str,
    seconds: float,
    root: Path,
    max_unreadable_fraction: float | None = None,
) -> tuple[Path, list[str]]:
    """Write a table of segments derived from a manifest: a row per segment and stem, with all columns of the manifest.

    Args:
        manifest: Songs with a structure, LRC files, lyrics or a running time.
        folder: Folder of the table, which is named by a hash of its content, so that a resumed run finds the same file.
        id_column: Column of the song ids.
        seconds: Duration of the windows of songs without structure and LRC.
        root: Folder that paths of LRC files are relative to.
        max_unreadable_fraction: Fraction of the songs with an LRC file that may be left without lyrics because the file
            is unusable; None allows all.

    Returns:
        Path of the table, and notes on what segments are derived from and what could not be used.

    Raises:
        InputError: No song has segments, a column has an unusable type, times are not in seconds, or too many LRC files
            are unusable.
    """
    label = str(manifest)
    table = manifest.read()
    columns = read_timeline_columns(table, id_column, label)
    running_warning = _check_unit(_running_times(columns), f"{label}: column {RUNNING_TIME!r}")
    timelines = _read_timelines(columns, root, seconds)
    rows = [
        _SegmentRow(row, position, segment)
        for row, song in enumerate(columns.songs)
        for position, segment in enumerate(timelines[song].segments)
    ]
    origin, unused = _origin_note(timelines), _unused_notes(timelines)
    if not rows:
        details = "".join(f"; {note}" for note in [*columns.notes, *unused])
        raise InputError(f"{label}: segments can be derived for no song: none has {STRUCTURE}, an LRC file ({LRC}) or"
                         f" {RUNNING_TIME}; give a table of segments with --segments{details}")  # fmt: skip
    _check_lrc_files(timelines, root, label, max_unreadable_fraction)
    segment_warning = _check_unit(
        _written_segments(timelines, columns), f"{label}: times of {STRUCTURE} and LRC ({LRC}, {LYRICS})"
    )
    path = _write_table(manifest, table, rows, folder, seconds)
    return path, [origin, *unused, *columns.notes, *filter(None, (running_warning, segment_warning))]


def _choose_segments(
    sections: list[Segment], lrc: str | None, running: float, seconds: float
) -> tuple[Kind, list[Segment]]:
    """Return the best segments of a song: sections, lines of lyrics, or windows; `running` is NaN or 0 if unknown."""
    lines = merge_simultaneous(parse_lines(lrc))
    duration = running if running > 0 else 0.0
    if sections:
        if lines:  # lyrics are more informative than the notes of a structure
            lyrics = [(line.start, line.text) for line in lines if line.text]
            texts = [" ".join(text for t, text in lyrics if s.start <= t < s.end) for s in sections]
            sections = [
                Segment(section.start, section.end, text or None, section.section)
                for section, text in zip(sections, texts, strict=True)
            ]
        return "structure", sections
    if lines:
        last = lines[-1].end or max(duration, lines[-1].start + LAST_LINE_SECONDS)
        next_starts = [*(line.start for line in lines[1:]), last]
        ends = [next_start if line.end is None else min(line.end, next_start)
                for line, next_start in zip(lines, next_starts, strict=True)]  # fmt: skip
        return "lrc", [Segment(line.start, end, line.text or None, None) for line, end in zip(lines, ends, strict=True)]
    if duration > 0:
        starts = [i * seconds for i in range(max(1, round(duration / seconds)))]
        ends = [*starts[1:], duration]
        return "windows", [Segment(start, end, None, None) for start, end in zip(starts, ends, strict=True)]
    return "none", []


def _read_timelines(columns: TimelineColumns, root: Path, seconds: float) -> dict[Any, Timeline]:
    """Return the timeline of each song, from the first of its rows that has one."""

    @functools.cache
    def read(file: str | bytes) -> tuple[str | None, str | None]:
        try:
            if isinstance(file, bytes):
                return decode_lrc(file), None
            return (file, None) if parse_lines(file) else (read_lrc(root, file), None)  # a cell may hold LRC itself
        except LyricsError as error:
            return None, error.reason

    timelines: dict[Any, Timeline] = {}
    rows = zip(columns.songs, columns.structures, columns.files, columns.lyrics, columns.running.tolist(), strict=True)
    for song, structure, file, lyrics, running in rows:
        if song in timelines and timelines[song].segments:
            continue
        has_file = file is not None and bool(file.strip())
        text, reason = read(file) if file is not None and has_file else (None, None)
        sections = read_structure(structure)
        kind, segments = _choose_segments(sections.segments, text or lyrics, running, seconds)
        name = file.strip() if isinstance(file, str) else f"of song {song}"
        error = (reason, name) if reason is not None else None
        timelines[song] = Timeline(kind, segments, sections.unreadable, error, has_file)
    return timelines


def _check_lrc_files(timelines: dict[Any, Timeline], root: Path, label: str, limit: float | None) -> None:
    """Raise `InputError` where too many songs with an LRC file get no lyrics because the file is unusable."""
    with_file = [timeline for timeline in timelines.values() if timeline.has_lrc_file]
    without_lyrics = [t for t in with_file if t.lrc_error is not None and t.kind in ("windows", "none")]
    if limit is None or not without_lyrics or len(without_lyrics) <= limit * len(with_file):
        return
    raise InputError(f"{label}: of {len(with_file)} songs with an LRC file ({LRC}), {len(without_lyrics)} would be"
                     f" divided into windows without lyrics, since their files under the media root {root} cannot be"
                     " used; check --media-root, correct the files, or raise data.max_unreadable_fraction"
                     f" ({limit:.0%}). {'; '.join(_lrc_notes(with_file))}"
                     )  # fmt: skip


def _lrc_notes(timelines: Sequence[Timeline]) -> list[str]:
    """Return a note for each reason for which LRC files are not used."""
    errors = [timeline.lrc_error for timeline in timelines if timeline.lrc_error is not None]
    notes = []
    for reason, n in Counter(reason for reason, _ in errors).most_common():
        names = list(dict.fromkeys(name for file_reason, name in errors if file_reason == reason))
        listed = ", ".join(names[:MAX_EXAMPLES]) + (", …" if len(names) > MAX_EXAMPLES else "")
        songs = "1 song is" if n == 1 else f"{n} songs are"
        notes.append(f"LRC files of {songs} not used: {reason} ({listed})")
    return notes


def _origin_note(timelines: dict[Any, Timeline]) -> str:
    """Return a note on what segments are derived from."""
    counts = Counter(timeline.kind for timeline in timelines.values())
    sources: dict[Kind, str] = {"structure": STRUCTURE, "lrc": "LRC files", "windows": "windows of fixed length"}
    songs = ", ".join(f"{counts[kind]} songs from {source}" for kind, source in sources.items() if counts[kind])
    return f"no table of segments is given (--segments): segments are derived from the manifest, {songs}"


def _unused_notes(timelines: dict[Any, Timeline]) -> list[str]:
    """Return notes on songs, LRC files and sections that cannot be used."""
    notes = []
    n_without = sum(timeline.kind == "none" for timeline in timelines.values())
    if n_without:
        notes.append(f"{n_without} songs have no segments, and are left out")
    notes += _lrc_notes(list(timelines.values()))
    unreadable = [section for timeline in timelines.values() for section in timeline.unreadable_sections]
    if unreadable:
        examples = ", ".join(repr(section[:MAX_SHOWN]) for section in dict.fromkeys(unreadable[:MAX_EXAMPLES]))
        ellipsis = ", …" if len(unreadable) > MAX_EXAMPLES else ""
        notes.append(f"{len(unreadable)} sections of {STRUCTURE} have no readable times, such as"
                     f" [mm:ss.mmm]-[mm:ss.mmm], and are left out: {examples}{ellipsis}")  # fmt: skip
    return notes


def _running_times(columns: TimelineColumns) -> pd.DataFrame:
    """Return the known running times as segments from 0, for `check_unit`."""
    codes = pd.factorize(pd.Series(columns.songs, dtype=object))[0]
    is_known = np.isfinite(columns.running)
    return pd.DataFrame({"song": codes[is_known], "start": 0.0, "end": columns.running[is_known]})


def _written_segments(timelines: dict[Any, Timeline], columns: TimelineColumns) -> pd.DataFrame:
    """Return the segments whose times the manifest holds, and the number of sung words, for `check_unit`."""
    running = {song: seconds for song, seconds in zip(columns.songs, columns.running.tolist(), strict=True)
               if np.isfinite(seconds)}  # fmt: skip
    rows = []
    for number, (song, timeline) in enumerate(timelines.items()):
        if timeline.kind not in ("structure", "lrc"):
            continue
        for segment in timeline.segments:
            n_words = len((segment.text or "").split()) if timeline.kind == "lrc" else np.nan
            rows.append((number, segment.start, segment.end, n_words, running.get(song, np.nan)))
    return pd.DataFrame(rows, columns=["song", "start", "end", "words", "running"])


def _check_unit(segments: pd.DataFrame, label: str) -> str | None:
    """Return a warning where times may not be in seconds; raise `InputError` where they cannot be."""
    result = check_unit(segments)
    if result.problem:
        raise InputError(f"{label}: {result.problem}")
    return result.warning and f"{label}: {result.warning}"


def _write_table(
    manifest: Manifest, table: pa.Table, rows: Sequence[_SegmentRow], folder: Path, seconds: float
) -> Path:
    """Write the table of segments under a hash of its content."""
    names = table.column_names
    digest = hashlib.sha256(f"{manifest.location}\0{seconds}".encode())
    for name in names:  # with labels, so that a manifest with other labels gets a table of its own
        if not _is_large(table.schema.field(name).type):
            digest.update(f"{name}\0".encode() + _content(table[name]))
    table = table.drop_columns([name for name in DERIVED_COLUMNS if name in names]).take(
        pa.array([row.manifest_row for row in rows])
    )
    segments = [row.segment for row in rows]
    columns: dict[str, pa.Array] = {
        "segment_index": pa.array([row.position for row in rows], pa.int64()),
        "start_seconds": pa.array([segment.start for segment in segments], pa.float64()),
        "end_seconds": pa.array([segment.end for segment in segments], pa.float64()),
        "lyric_text": pa.array([segment.text for segment in segments], pa.string()),
        "structure_section": pa.array([segment.section for segment in segments], pa.string()),
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
    """Return bytes that are equal for equal columns."""
    try:
        return str(column.to_pylist()).encode()
    except UnicodeDecodeError:  # Arrow also holds strings that are not valid UTF-8
        sink = pa.BufferOutputStream()
        table = pa.table({"column": column}).combine_chunks()
        with pa.ipc.new_stream(sink, table.schema) as writer:
            writer.write_table(table)
        return bytes(sink.getvalue())


def _is_large(data_type: pa.DataType) -> bool:
    """Return whether a column holds media, which are not hashed, rather than metadata of songs."""
    return bool(pa.types.is_binary(data_type) or pa.types.is_large_binary(data_type) or pa.types.is_list(data_type)
                or pa.types.is_large_list(data_type) or pa.types.is_fixed_size_list(data_type))  # fmt: skip
