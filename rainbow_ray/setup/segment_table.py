"""Segments before any row is read: which table holds them, what is predicted, which columns say when they are."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc

from rainbow_ray.config.load import Resolved
from rainbow_ray.config.phases import get_phase
from rainbow_ray.config.schema import Config, DataConfig
from rainbow_ray.data.derive_segments import derive_segment_table
from rainbow_ray.data.manifest import DEMO, Columns, Manifest, Times, label_type, open_manifest, read_target_labels
from rainbow_ray.data.normalize import id_column as exact_ids
from rainbow_ray.data.segment_columns import RUNNING_TIME
from rainbow_ray.data.time_units import check_times
from rainbow_ray.data.times import time_type_problem
from rainbow_ray.tasks.base import Task
from rainbow_ray.tasks.registry import make_task
from rainbow_ray.utils.cache_dir import make_cache_dir
from rainbow_ray.utils.errors import InputError, did_you_mean
from rainbow_ray.utils.paths import folder_of, resolve_path

SEGMENTATION = "segmentation"
TIMES = ("start_seconds", "end_seconds")
INDEX = "segment_index"
SONG, TEXT, AUDIO = "song_id", "lyric_text", "source_audio_file"
SECTION = "structure_section"
MOST_CHECKED = 200_000  # rows; of larger tables the times are checked without the words
MOST_INTEGERS = 20  # different ones that are still classes
SONG_TARGET = "rebracketing_type"  # where segments have no label of their own
UNKNOWN_SONG = "segment of a song that the manifest lacks"


@dataclass(frozen=True)
class SegmentTable:
    """Where the segments are and what is predicted of them. `songs` are the manifest's ids, where one was named too."""

    location: str
    task: Task
    target: str
    media_root: Path | None
    times: Times
    songs: frozenset[str] | None = None
    notes: list[str] = field(default_factory=list)

    def columns_of(self, columns: Columns) -> Columns:
        """The columns of a table of songs, with times; text is not required."""
        section = columns.label[0] == SECTION
        return dataclasses.replace(columns, times=self.times, section=section, require_text=False)


def find_segments(resolved: Resolved, location: str, demo_songs: Callable[[], str], *, demo: bool) -> SegmentTable:
    """Open the table of segments, or make one of the manifest. Raises `InputError` with what is wrong.

    Column names that nobody set become those of tables of segments.
    """
    config = resolved.config
    songs: frozenset[str] | None = None
    root: Path | None = None
    notes: list[str] = []
    if demo:
        root = Path(demo_songs()).parent
        from rainbow_ray.data.demo.segments import write_demo_segments

        table = open_manifest(str(write_demo_segments(root)), "segments")
    elif config.segments.path is not None:
        table = open_manifest(config.segments.path, "segments")
        if location != DEMO:
            named = open_manifest(location)
            songs, root = _songs(named, config.data.id_column), folder_of(location)
            notes += named.notes
    else:
        table, root, notes = _make_table(config, demo_songs() if location == DEMO else location)
    names = table.schema.names
    _settle_columns(config.data, resolved.user_keys, names)
    wrong = wrong_times(table)
    if wrong:
        raise InputError(wrong)
    notes += _check_named_table(table, config)
    target = config.data.target_column
    if target is None:
        target = get_phase(config.phase).target
        if target not in names and not demo:
            target, before = SONG_TARGET, target
            notes.append(f"{before} is not in the segments: {target}, the songs' own label, takes its place")
    label_kind = label_type(table.schema, target)
    if label_kind is not None and pa.types.is_nested(label_kind):
        raise InputError(f"{table}: column {target!r} (data.target_column) holds {label_kind}, and a segment has one"
                         " label")  # fmt: skip
    kind, told = (config.data.target_type, []) if config.data.target_type else _kind(table, target)
    notes += told
    segments = config.segments
    task = make_task(
        SEGMENTATION, base_task=make_task(kind), decoding=segments.decoding, filter_width=segments.filter_width
    )
    if segments.path is None and not demo and target.endswith(SECTION) and config.data.text_columns == [TEXT]:
        notes.append("texts of segments without LRC files are what the structure says of them, and may name the part:"
                     " such a label is learned from its own name")  # fmt: skip
    times = Times(*TIMES, INDEX if INDEX in names else None)
    return SegmentTable(table.written, task, target, root, times, songs, notes)


def idle_by_labels(config: Config, task: Task) -> dict[str, str]:
    """Keys that say nothing, and why, once it is known whether segments have labels of their own."""
    if not task.is_weakly_labeled:
        return {"segments.mil_pooling": "segments have labels of their own"} if task.has_classes else {}
    keys = {"segments.decoding", "segments.max_sequence_length", "segments.overlap", "training.tmse_weight",
            "training.boundary_loss_weight",
            "training.tmse_clip"}  # fmt: skip
    if config.segments.decoding == "median":  # otherwise that is said before
        keys.add("segments.filter_width")
    return dict.fromkeys(sorted(keys), "only songs have labels, and a song's segments are learned from as one")


def drop_unknown_songs(rows: pa.Table, songs: frozenset[str] | None) -> pa.Table:
    """Rows of songs that the manifest lacks are dropped, where there is one."""
    if songs is None:
        return rows
    known = pc.is_in(rows["song"], value_set=pa.array(sorted(songs), pa.string()))
    reasons = pc.if_else(pc.or_(known, pc.is_valid(rows["dropped"])), rows["dropped"], UNKNOWN_SONG)
    return rows.set_column(rows.column_names.index("dropped"), "dropped", reasons)


def _make_table(config: Config, location: str) -> tuple[Manifest, Path | None, list[str]]:
    """A table of segments made of a manifest, the manifest's folder, and notes. Raises `InputError` where it cannot."""
    manifest = open_manifest(location)
    id_column = config.data.id_column
    if id_column not in manifest.schema.names:
        raise InputError(f"{manifest}: no column {id_column!r} (data.id_column)"
                         f"{did_you_mean(id_column, manifest.schema.names)}")  # fmt: skip
    root = folder_of(manifest.location)
    lrc_root = resolve_path(config.data.media_root) if config.data.media_root else root or Path.cwd()
    made, notes = derive_segment_table(
        manifest,
        make_cache_dir("segments"),
        id_column,
        config.segments.seconds,
        lrc_root,
        config.data.max_unreadable_fraction,
    )
    return open_manifest(str(made), "segments"), root, [*notes, *manifest.notes]


def _check_named_table(table: Manifest, config: Config) -> list[str]:
    """Warnings about the times of a table that the user names; one that is made of a manifest was checked with it."""
    if config.segments.path is None:
        return []
    return check_table_times(table, config.data.id_column, next(iter(config.data.text_columns), ""))


def wrong_times(table: Manifest) -> list[str]:
    """Columns of times that are missing, or of a type that holds no times."""
    problems, names = [], table.schema.names
    for name in TIMES:
        if name not in names:
            problems.append(f"{table}: no column {name!r}, which says when a segment is{did_you_mean(name, names)}")
            continue
        wrong = time_type_problem(table.schema.field(name).type)
        if wrong is not None:
            problems.append(f"{table}: column {name!r} {wrong}")
    return problems


def check_table_times(table: Manifest, song: str, text: str) -> list[str]:
    """Check that times of a table of segments can be read and can be in seconds.

    Args:
        table: Its columns of times are there and of types that hold times.
        song: Column that names the song of each row.
        text: Column of the words that are sung.

    Returns:
        Warnings: values that cannot be read, and a unit that is suspected.

    Raises:
        InputError: No value of a column can be read, or the times cannot be in seconds.
    """
    names = table.schema.names
    if song not in names or pa.types.is_nested(table.schema.field(song).type):
        return []  # that is said where columns are looked for
    further = [name for name in (text, RUNNING_TIME) if name in names and table.rows <= MOST_CHECKED]
    rows = table.read(list(dict.fromkeys([song, *TIMES, *further])))
    return check_times(
        rows, str(table), song=song, start=TIMES[0], end=TIMES[1],
        text=text if text in further else None, running=RUNNING_TIME if RUNNING_TIME in further else None,
    )  # fmt: skip


def _settle_columns(data: DataConfig, user_keys: frozenset[str], names: list[str]) -> None:
    own = {"id_column": SONG, "audio_column": AUDIO}
    for key, name in own.items():
        if f"data.{key}" not in user_keys and (name in names or getattr(data, key) not in names):
            setattr(data, key, name)
    if "data.text_columns" not in user_keys and (TEXT in names or not set(data.text_columns) <= set(names)):
        data.text_columns = [TEXT]


def _kind(table: Manifest, target: str) -> tuple[str, list[str]]:
    """The problem that a column speaks for, and what is to be told of that; classes where nothing is known of it."""
    labels = read_target_labels(table, target)
    if labels is None or target == SECTION or pa.types.is_nested(labels.type):
        return "multiclass", []
    if pa.types.is_boolean(labels.type):
        return "binary", []
    is_whole = pa.types.is_integer(labels.type) or (pa.types.is_decimal(labels.type) and labels.type.scale == 0)
    if pa.types.is_floating(labels.type) or (pa.types.is_decimal(labels.type) and not is_whole):
        return "regression", []
    different = pc.unique(labels.drop_null())
    if is_whole:
        many = len(different) > MOST_INTEGERS
        what = ("numbers", "multiclass for classes") if many else ("classes", "regression for numbers")
        said = f"{target} holds {len(different)} different integers, read as {what[0]}: data.target_type={what[1]}"
        return "regression" if many else "multiclass", [said]
    words = {str(one).strip().lower() for one in different.to_pylist()} if len(different) <= MOST_INTEGERS else set()
    return "binary" if words and words <= {"true", "false"} else "multiclass", []


def _songs(manifest: Manifest, id_column: str) -> frozenset[str]:
    names = manifest.schema.names
    if id_column not in names and id_column == SONG:  # settled by the segments: a manifest of songs has its own
        id_column = DataConfig().id_column
    if id_column not in names:
        raise InputError(f"{manifest}: no column {id_column!r} (data.id_column){did_you_mean(id_column, names)}")
    column = manifest.read([id_column])[id_column]
    return frozenset(pc.unique(exact_ids(column, id_column)).drop_null().to_pylist())
