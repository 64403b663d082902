"""Timelines where there is no table of segments: made of the manifest's own structure, LRC files, or fixed windows."""

from __future__ import annotations

import functools
import hashlib
import re
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from rainbow_ray.data.manifest import Manifest
from rainbow_ray.errors import InputError
from rainbow_ray.files import write_safely

STRUCTURE, LRC, RUNNING_TIME = "song_structure", "lrc_file", "total_running_time"
LYRICS = "lrc_lyrics"
CLOCK = r"\[(\d+):(\d{1,2}(?:[.:]\d+)?)\]"
SECTION = re.compile(rf"^(?P<name>[^:\[\]]+?)\s*(?::\s*(?P<note>.*?))?,?\s*{CLOCK}\s*-\s*{CLOCK}\s*$", re.DOTALL)
STAMP = re.compile(CLOCK)
WORD_STAMP = re.compile(r"<\d+:\d{1,2}(?:[.:]\d+)?>")
OFFSET = re.compile(r"^\s*\[offset:\s*([+-]?\d+)\s*\]", re.IGNORECASE | re.MULTILINE)
LAST_LINE = 5.0  # seconds that the last line of an LRC file is taken to last, where nothing else ends it
MADE = ("segment_index", "start_seconds", "end_seconds", "lyric_text", "structure_section")


@dataclass(frozen=True)
class Segment:
    """Seconds, the words that are sung there (or what is said of it), and the name of the part."""

    start: float
    end: float
    text: str | None
    section: str | None


def parse_structure(text: str | None) -> list[Segment]:
    """`Name : description, [mm:ss.mmm]-[mm:ss.mmm] | …`; parts that are written otherwise are left out."""
    found = []
    for part in (text or "").split("|"):
        match = SECTION.match(part.strip())
        if match:
            start, end = _seconds(*match.group(3, 4)), _seconds(*match.group(5, 6))
            found.append(Segment(start, end, (match["note"] or "").strip(" ,") or None, match["name"].strip()))
    return found


def parse_lrc(text: str | None) -> list[tuple[float, str]]:
    """Lines of an LRC file with when they begin: `[mm:ss.xx] words`, several stamps a line allowed.

    A positive `[offset:]`, milliseconds, lets lines come sooner; stamps of single words (`<mm:ss.xx>`) are no words.
    """
    offset = OFFSET.search(text or "")
    sooner = int(offset[1]) / 1000 if offset else 0.0
    lines = []
    for line in (text or "").splitlines():
        stamps = STAMP.findall(line)
        words = " ".join(WORD_STAMP.sub(" ", STAMP.sub("", line)).split())
        lines += [(max(0.0, _seconds(*stamp) - sooner), words) for stamp in stamps]
    return sorted(lines)


def segments_of(
    structure: str | None, lrc: str | None, running_time: str | None, seconds: float
) -> tuple[str, list[Segment]]:
    """What a song's timeline is made of (`structure`, `lrc`, `windows` or `nothing`), and its segments."""
    parts, lines = parse_structure(structure), parse_lrc(lrc)
    whole = _running_time(running_time)
    if parts:
        if lines:  # words that are sung say more than what is said of a part
            parts = [
                Segment(
                    p.start, p.end, " ".join(w for at, w in lines if p.start <= at < p.end and w) or None, p.section
                )
                for p in parts
            ]
        return "structure", parts
    if lines:
        ends = [*(at for at, _ in lines[1:]), max(whole, lines[-1][0] + LAST_LINE)]
        return "lrc", [Segment(at, end, words or None, None) for (at, words), end in zip(lines, ends, strict=True)]
    if whole > 0:
        starts = [i * seconds for i in range(max(1, round(whole / seconds)))]
        ends = [*starts[1:], whole]
        return "windows", [Segment(a, b, None, None) for a, b in zip(starts, ends, strict=True)]
    return "nothing", []


def make_segments(
    manifest: Manifest, folder: Path, id_column: str, seconds: float, root: Path
) -> tuple[Path, list[str]]:
    """Write a table of segments, a row a segment and stem, with all columns of the manifest; and what it is made of.

    It lies in `folder` under a name of its content, so that a run that goes on finds the same. Raises `InputError`
    where no song has a timeline.
    """
    table = manifest.read()
    names = table.column_names

    def column(name: str) -> list[Any]:
        return table[name].to_pylist() if name in names else [None] * len(table)

    read = functools.cache(lambda name: _read_lrc(root, name))
    songs = column(id_column)
    facts: dict[Any, tuple[str, list[Segment]]] = {}
    for song, structure, file, lyrics, time in zip(
        songs, column(STRUCTURE), column(LRC), column(LYRICS), column(RUNNING_TIME), strict=True
    ):
        if song not in facts or not facts[song][1]:
            facts[song] = segments_of(structure, read(file) or lyrics, time, seconds)
    made = Counter(kind for kind, _ in facts.values())
    rows = [(row, i, segment) for row, song in enumerate(songs) for i, segment in enumerate(facts[song][1])]
    if not rows:
        raise InputError(f"{manifest}: no song has a timeline: neither {STRUCTURE}, nor an LRC file"
                         f" ({LRC}), nor {RUNNING_TIME}; name a table of segments with --segments")  # fmt: skip
    digest = hashlib.sha256(f"{manifest.location}\0{seconds}".encode())
    for name in names:  # labels too: who changes them must not find them as they were
        if not _is_heavy(table.schema.field(name).type):
            digest.update(f"{name}\0{table[name].to_pylist()}".encode())
    table = table.drop_columns([name for name in MADE if name in names]).take(pa.array([row for row, _, _ in rows]))
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
    write_safely(path, lambda file: pq.write_table(table, file))
    return path, _said(made)


def _is_heavy(kind: pa.DataType) -> bool:
    """Whether a column holds media rather than facts about songs."""
    return bool(pa.types.is_binary(kind) or pa.types.is_large_binary(kind) or pa.types.is_list(kind)
                or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind))  # fmt: skip


def _said(made: Counter[str]) -> list[str]:
    words = {"structure": f"{STRUCTURE}", "lrc": "LRC files", "windows": "windows of fixed length"}
    said = [f"{made[kind]} songs of {word}" for kind, word in words.items() if made[kind]]
    notes = [f"no table of segments is named (--segments): timelines are made of the manifest, {', '.join(said)}"]
    if made["nothing"]:
        notes.append(f"{made['nothing']} songs have no timeline, and are left out")
    return notes


def _read_lrc(root: Path, name: str | None) -> str | None:
    """The text of an LRC file, None where there is none."""
    if not name or ".." in Path(name).parts:
        return None
    try:
        return (root / name).read_text(encoding="utf-8-sig", errors="replace")
    except (OSError, ValueError):
        return None


def _seconds(minutes: str, seconds: str) -> float:
    return 60 * int(minutes) + float(seconds.replace(":", "."))


def _running_time(text: str | None) -> float:
    """`[mm:ss.mmm]`, `mm:ss` or seconds; 0 where it says nothing."""
    match = re.search(r"(\d+):(\d{1,2}(?:\.\d+)?)", str(text or ""))
    if match:
        return _seconds(match[1], match[2])
    try:
        return max(0.0, float(str(text)))
    except ValueError:
        return 0.0
