"""The table of segments, before any row is read: where it is, its columns of times, and what is predicted."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from rainbow_ray.config.load import Resolved
from rainbow_ray.config.phases import get_phase
from rainbow_ray.config.schema import Config, DataConfig
from rainbow_ray.data.columns import Columns, Times, label_type, read_target_labels
from rainbow_ray.data.derive_segments import derive_segment_table
from rainbow_ray.data.manifest import DEMO, Manifest, open_manifest
from rainbow_ray.data.segment_columns import RUNNING_TIME
from rainbow_ray.data.text_cells import id_column as exact_ids
from rainbow_ray.data.time_units import check_times
from rainbow_ray.data.times import time_type_problem
from rainbow_ray.tasks.base import Task
from rainbow_ray.tasks.infer_task import infer_task
from rainbow_ray.tasks.registry import make_task
from rainbow_ray.utils.cache_dir import make_cache_dir
from rainbow_ray.utils.errors import InputError, did_you_mean
from rainbow_ray.utils.paths import folder_of, resolve_path

# columns of a table of segments
TIMES = ("start_seconds", "end_seconds")
INDEX = "segment_index"
SONG, TEXT, AUDIO = "song_id", "lyric_text", "source_audio_file"
SECTION = "structure_section"

SONG_TARGET = "rebracketing_type"  # target where segments have no label of their own
MAX_ROWS_WITH_TEXT = 200_000  # of larger tables, times are checked without the text
UNKNOWN_SONG = "segment of a song that the manifest lacks"


@dataclass(frozen=True)
class SegmentTable:
    """A table of segments and what is predicted of them.

    Attributes:
        location: File or URL of the table.
        task: The task of a sequence of segments.
        target: Column of the labels.
        media_root: Folder that relative paths of media start from; None: that of the table.
        times: Columns of times.
        column_names: Values of keys of `data` that the user did not set: the table's names of columns.
        songs: Ids of the songs of the manifest, or None where no manifest was named.
        notes: Warnings about the table.
    """

    location: str
    task: Task
    target: str
    media_root: Path | None
    times: Times
    column_names: Mapping[str, Any] = field(default_factory=dict)
    songs: frozenset[str] | None = None
    notes: tuple[str, ...] = ()

    def columns_of(self, columns: Columns) -> Columns:
        """Return the columns of the table with those of times.

        Args:
            columns: Columns as they are found in a table of songs.

        Returns:
            Columns of segments, which need no text.
        """
        section = columns.label[0] == SECTION
        return dataclasses.replace(columns, times=self.times, section=section, require_text=False)


@dataclass(frozen=True)
class _OpenedTable:
    """A table of segments, the songs of its manifest, and the folder of their media."""

    table: Manifest
    media_root: Path | None = None
    songs: frozenset[str] | None = None
    notes: tuple[str, ...] = ()


def find_segments(resolved: Resolved, location: str, write_songs: Callable[[], str], *, demo: bool) -> SegmentTable:
    """Open the table of segments, or derive one from the manifest.

    Args:
        resolved: The config as the user wrote it.
        location: File, folder or URL of the manifest, or `demo`.
        write_songs: Writes the built-in songs and returns the path of their manifest.
        demo: Whether the built-in segments are read because no table was named.

    Returns:
        The table and the task of its segments.

    Raises:
        InputError: The table cannot be opened or derived, or its times or labels cannot be read.
    """
    opened = _open(resolved.config, location, write_songs, demo=demo)
    table, names = opened.table, opened.table.schema.names
    column_names = _resolve_column_names(resolved.config.data, resolved.user_keys, names)
    config = resolved.config.with_values(column_names)
    problems = check_time_columns(table)
    if problems:
        raise InputError(problems)
    target, target_notes = _choose_target(config, names, demo=demo)
    task, task_notes = _make_task(config, table, target)
    notes = [*opened.notes, *_check_named_table(table, config), *target_notes, *task_notes]
    reads_derived_text = config.segments.path is None and not demo and config.data.text_columns == [TEXT]
    if reads_derived_text and target.endswith(SECTION):
        notes.append(
            "segments of songs without LRC files have the text of the song's structure, which may name the section:"
            " such a label is learned from its own name"
        )
    times = Times(*TIMES, INDEX if INDEX in names else None)
    return SegmentTable(table.written, task, target, opened.media_root, times, column_names, opened.songs, tuple(notes))


def drop_unknown_songs(rows: pa.Table, songs: Collection[str] | None) -> pa.Table:
    """Mark rows of songs that the manifest lacks as dropped.

    Args:
        rows: Normalized rows, with the columns `song` and `dropped`.
        songs: Ids of the manifest's songs; None where there is no manifest.

    Returns:
        The rows with `dropped` filled in.
    """
    if songs is None:
        return rows
    is_known = pc.is_in(rows["song"], value_set=pa.array(sorted(songs), pa.string()))
    reasons = pc.if_else(pc.or_(is_known, pc.is_valid(rows["dropped"])), rows["dropped"], UNKNOWN_SONG)
    return rows.set_column(rows.column_names.index("dropped"), "dropped", reasons)


def check_time_columns(table: Manifest) -> list[str]:
    """Return what is wrong with the columns of times.

    Args:
        table: A table of segments.

    Returns:
        A message for each column that is missing or whose type holds no times.
    """
    problems, names = [], table.schema.names
    for name in TIMES:
        if name not in names:
            problems.append(f"{table}: no column {name!r}, which says when a segment is{did_you_mean(name, names)}")
            continue
        problem = time_type_problem(table.schema.field(name).type)
        if problem is not None:
            problems.append(f"{table}: column {name!r} {problem}")
    return problems


def check_table_times(table: Manifest, song: str, text: str) -> list[str]:
    """Check that times of a table of segments can be read and can be in seconds.

    Args:
        table: A table that has the columns of times.
        song: Column that identifies the song of each row.
        text: Column of the lyrics.

    Returns:
        Warnings: values that cannot be read, and a unit that is suspected.

    Raises:
        InputError: No value of a column can be read, or the times cannot be in seconds.
    """
    names = table.schema.names
    if song not in names or pa.types.is_nested(table.schema.field(song).type):
        return []  # `find_columns` reports it
    optional = [name for name in (text, RUNNING_TIME) if name in names and table.rows <= MAX_ROWS_WITH_TEXT]
    rows = table.read(list(dict.fromkeys([song, *TIMES, *optional])))
    return check_times(
        rows, str(table), song=song, start=TIMES[0], end=TIMES[1],
        text=text if text in optional else None, running=RUNNING_TIME if RUNNING_TIME in optional else None,
    )  # fmt: skip


def _open(config: Config, location: str, write_songs: Callable[[], str], *, demo: bool) -> _OpenedTable:
    """Open the built-in table, the one that the config names, or one that is derived from the manifest."""
    if demo:
        from rainbow_ray.data.demo.segments import write_demo_segments

        root = Path(write_songs()).parent
        return _OpenedTable(open_manifest(str(write_demo_segments(root)), "segments"), root)
    if config.segments.path is None:
        return _derive_table(config, write_songs() if location == DEMO else location)
    table = open_manifest(config.segments.path, "segments")
    if location == DEMO:
        return _OpenedTable(table)
    manifest = open_manifest(location)
    songs = _song_ids(manifest, config.data.id_column)
    return _OpenedTable(table, folder_of(location), songs, tuple(manifest.notes))


def _derive_table(config: Config, location: str) -> _OpenedTable:
    manifest = open_manifest(location)
    id_column = config.data.id_column
    if id_column not in manifest.schema.names:
        raise InputError(f"{manifest}: no column {id_column!r} (data.id_column)"
                         f"{did_you_mean(id_column, manifest.schema.names)}")  # fmt: skip
    root = folder_of(manifest.location)
    lrc_root = resolve_path(config.data.media_root) if config.data.media_root else root or Path.cwd()
    path, notes = derive_segment_table(
        manifest,
        make_cache_dir("segments"),
        id_column,
        config.segments.seconds,
        lrc_root,
        config.data.max_unreadable_fraction,
    )
    return _OpenedTable(open_manifest(str(path), "segments"), root, None, (*notes, *manifest.notes))


def _song_ids(manifest: Manifest, id_column: str) -> frozenset[str]:
    names = manifest.schema.names
    if id_column not in names and id_column == SONG:  # the name in tables of segments; manifests have their own
        id_column = DataConfig().id_column
    if id_column not in names:
        raise InputError(f"{manifest}: no column {id_column!r} (data.id_column){did_you_mean(id_column, names)}")
    column = manifest.read([id_column])[id_column]
    return frozenset(pc.unique(exact_ids(column, id_column)).drop_null().to_pylist())


def _resolve_column_names(data: DataConfig, user_keys: Collection[str], names: Collection[str]) -> dict[str, Any]:
    """Return values of keys that the user did not set: names of columns in tables of segments."""
    result: dict[str, Any] = {}
    for key, name in {"id_column": SONG, "audio_column": AUDIO}.items():
        if f"data.{key}" not in user_keys and (name in names or getattr(data, key) not in names):
            result[f"data.{key}"] = name
    if "data.text_columns" not in user_keys and (TEXT in names or not set(data.text_columns) <= set(names)):
        result["data.text_columns"] = [TEXT]
    return result


def _check_named_table(table: Manifest, config: Config) -> list[str]:
    """Return warnings about times of a table that the user names; those of a derived one are checked with it."""
    if config.segments.path is None:
        return []
    return check_table_times(table, config.data.id_column, next(iter(config.data.text_columns), ""))


def _choose_target(config: Config, names: Collection[str], *, demo: bool) -> tuple[str, list[str]]:
    """Return the column of the labels, and a note where it is that of songs."""
    if config.data.target_column is not None:
        return config.data.target_column, []
    target = get_phase(config.phase).target
    if target in names or demo:
        return target, []
    return SONG_TARGET, [f"{target} is not in the segments: {SONG_TARGET}, the songs' own label, takes its place"]


def _make_task(config: Config, table: Manifest, target: str) -> tuple[Task, list[str]]:
    label_kind = label_type(table.schema, target)
    if label_kind is not None and pa.types.is_nested(label_kind):
        raise InputError(f"{table}: column {target!r} (data.target_column) holds {label_kind}, and a segment has one"
                         " label")  # fmt: skip
    base_name, notes = (config.data.target_type, []) if config.data.target_type else _infer_task(table, target)
    options = config.segments
    task = make_task(
        get_phase(config.phase).task,
        base_task=make_task(base_name),
        decoding=options.decoding,
        filter_width=options.filter_width,
    )
    return task, notes


def _infer_task(table: Manifest, target: str) -> tuple[str, list[str]]:
    """Return the task that fits the values of a column, and a note where another one fits too."""
    labels = read_target_labels(table, target)
    return infer_task(None if target == SECTION else labels, target)  # names of sections are classes, numbers too
