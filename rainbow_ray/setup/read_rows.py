"""Reading of all rows of a table, prepared for the encoders, with checks of media and texts."""

from __future__ import annotations

import functools
from collections.abc import Callable

import pyarrow as pa
import pyarrow.compute as pc

from rainbow_ray.config.schema import Config
from rainbow_ray.data.columns import Columns
from rainbow_ray.data.manifest import Manifest
from rainbow_ray.data.normalize_rows import UNDECODABLE
from rainbow_ray.data.reader import Prepare
from rainbow_ray.data.streaming import read_index
from rainbow_ray.data.text_cells import NOT_UTF8
from rainbow_ray.modalities.media_counts import check_media_errors
from rainbow_ray.modalities.midi.reader import describe_cut_windows
from rainbow_ray.modalities.rows import lengths, prepare
from rainbow_ray.setup.plan import RunPlan
from rainbow_ray.utils.errors import InputError

NOTHING_TO_READ = "neither text nor audio nor MIDI"

# Of the columns that are read. One process reads and tokenizes about 1.3 MB of distinct texts per second, and Ray Data
# takes about 10 s to start: above, its tasks on several CPUs are quicker.
DRIVER_MAX_MB = 16

ReadRows = Callable[[Manifest, Columns, Prepare], pa.Table]

# messages about windows that were read, by modality
_READING_NOTES: dict[str, Callable[[pa.Table, Config], list[str]]] = {
    "midi": lambda rows, config: describe_cut_windows(rows, config.model.midi_encoder.max_notes),
}


def reads_in_driver(plan: RunPlan, size_mb: float) -> bool:
    """Return whether the process of the command reads the rows, so that Ray need not run.

    Args:
        plan: The plan of the run.
        size_mb: Size of the columns that are read, uncompressed, in MB.

    Returns:
        False where Ray Data reads them, into memory or, above `data.in_memory_limit_mb`, anew each epoch.
    """
    reader = plan.config.data.reader
    if size_mb > plan.config.data.in_memory_limit_mb:
        return False
    return reader == "driver" or (reader == "auto" and size_mb <= DRIVER_MAX_MB and not plan.input_spec.media)


def read_prepared_rows(plan: RunPlan, read: ReadRows, *, streams: bool) -> tuple[pa.Table, list[str]]:
    """Read all rows and prepare them for the encoders.

    Args:
        plan: The plan of the run.
        read: Reads rows into memory.
        streams: Whether only the index is kept, since rows exceed the limit of memory.

    Returns:
        The rows, and messages about media that cannot be used.

    Raises:
        InputError: Too many media files cannot be used, or the rows cannot be streamed.
    """
    if streams and plan.input_spec.media and plan.unit == "song":
        limit = f"data.in_memory_limit_mb ({plan.config.data.in_memory_limit_mb} MB)"
        raise InputError(
            "data.example_level: songs with all their stems cannot be read anew each epoch, and the"
            f" columns hold more than {limit}; set it higher, or read stems"
        )
    if streams:
        read = functools.partial(read_index, length_of=functools.partial(lengths, input_spec=plan.input_spec))
    prepare_rows = functools.partial(prepare, input_spec=plan.input_spec)
    return _check_media(plan, read(plan.manifest, plan.columns, prepare_rows))


def undecodable_texts(rows: pa.Table) -> list[str]:
    """Return a warning about rows that are used although some of their text is not UTF-8.

    Args:
        rows: Normalized rows.

    Returns:
        One warning, or none.
    """
    used = pc.and_(rows[UNDECODABLE], pc.is_null(rows["dropped"]))
    n_rows = pc.sum(used).as_py() or 0
    note = f"{n_rows} rows have {NOT_UTF8}: what cannot be decoded is left out; save the table as UTF-8"
    return [note] if n_rows else []


def _check_media(plan: RunPlan, rows: pa.Table) -> tuple[pa.Table, list[str]]:
    """Return rows, of which those without anything to read are marked as dropped, and messages about media."""
    input_spec, config = plan.input_spec, plan.config
    if input_spec.media_reader is None and not input_spec.values:
        return rows, []
    notes: list[str] = []
    if input_spec.media_reader is not None:
        root = input_spec.media_reader.root
        notes += check_media_errors(rows, input_spec.media, config.data.max_unreadable_fraction, root)
    for name in input_spec.media:
        if name in _READING_NOTES:
            notes += _READING_NOTES[name](rows, config)
    if plan.segments is not None:  # a segment without anything to read is still part of its song's sequence
        return rows, notes
    is_readable = functools.reduce(pc.or_, [spec.is_present(rows) for spec in input_spec.specs])
    reasons = pc.if_else(pc.or_(is_readable, pc.is_valid(rows["dropped"])), rows["dropped"], NOTHING_TO_READ)
    return rows.set_column(rows.column_names.index("dropped"), "dropped", reasons), notes
