"""From rows to examples that are songs or stems: labels, dropped rows, a split, and the dataset."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from rainbow_ray.data.dataset import InMemoryDataset
from rainbow_ray.data.examples import (
    SAME_SONG,
    Examples,
    build_examples,
    count_reasons,
    first_per_song,
    mark_dropped,
    profile_examples,
    song_weights,
    usable_labels,
)
from rainbow_ray.data.raw_labels import LABEL_MISSING
from rainbow_ray.data.splits import group_ids
from rainbow_ray.data.streaming import make_streaming_dataset
from rainbow_ray.modalities.rows import lengths, prepare
from rainbow_ray.setup.drop_advice import advise
from rainbow_ray.setup.plan import RunPlan
from rainbow_ray.setup.prepared import (
    MIN_REPORTED_FRACTION,
    MIN_SONGS,
    PreparedData,
    data_warnings,
    describe,
    split_examples,
)
from rainbow_ray.setup.read_rows import ReadRows, read_prepared_rows, undecodable_texts
from rainbow_ray.tasks.base import Task
from rainbow_ray.utils.errors import InputError


@dataclass(frozen=True)
class LabeledSongs:
    """Examples with targets, on their way from rows to a dataset.

    Attributes:
        task: The task, finalized by the labels.
        table: Examples, one row each.
        targets: Targets, `(examples, …)`.
        dropped: Number of dropped rows by reason.
        n_rows: Number of rows of the manifest.
        n_songs: Number of songs.
        has_stems: Whether examples are stems, of which several can be of one song.
        label_notes: Messages about labels.
        read_notes: Messages about texts and media.
    """

    task: Task
    table: pa.Table
    targets: np.ndarray
    dropped: Mapping[str, int]
    n_rows: int
    n_songs: int
    has_stems: bool
    label_notes: tuple[str, ...] = ()
    read_notes: tuple[str, ...] = ()


def prepare_songs(plan: RunPlan, read: ReadRows, size_mb: float, *, streams: bool) -> PreparedData:
    """Read and prepare examples that are songs or stems.

    Args:
        plan: The plan of the run.
        read: Reads rows into memory.
        size_mb: Size of the columns that are read, uncompressed, in MB.
        streams: Whether rows are read anew each epoch, since they exceed the limit of memory.

    Returns:
        The data of the run.

    Raises:
        InputError: The labels cannot be learned from, or too few songs are left.
    """
    parsed = _parse_songs(plan, read, streams=streams)
    pa.default_memory_pool().release_unused()  # the rows, which can be millions
    songs = _finalize_labels(plan, parsed)
    codes, index = _index(songs)
    split, n_folds = split_examples(plan, songs.task, index, songs.n_songs)
    counts = profile_examples(index, songs.n_songs, songs.n_rows, songs.dropped)
    profile = {**describe(plan, songs.task, index, split, counts), "streamed": streams}
    warnings = [*songs.label_notes, *songs.read_notes, *data_warnings(plan, songs.task, split, n_folds, profile, index)]
    if not streams:
        dataset = InMemoryDataset(index, lengths(index.table, plan.input_spec), codes)
        return PreparedData(songs.task, dataset, index, index, split, profile, warnings)
    limit_mb = plan.config.data.in_memory_limit_mb
    warnings.append(
        f"the manifest's columns hold {size_mb:.0f} MB, above data.in_memory_limit_mb ({limit_mb} MB):"
        " songs are read anew each epoch, with Ray Data"
        + ("; data.reader: driver has no effect" if plan.config.data.reader == "driver" else "")
    )
    groups = group_ids(index, plan.config.data.split_by)
    pa.default_memory_pool().release_unused()  # of the pass over all rows
    prepare_rows = functools.partial(prepare, input_spec=plan.input_spec)
    streaming = make_streaming_dataset(
        plan.manifest, plan.columns, prepare_rows, index, groups, seed=plan.config.split_seed
    )
    streaming = dataclasses.replace(streaming, songs=codes)
    return PreparedData(songs.task, streaming, index, streaming.sample, split, profile, warnings)


def describe_dropped(dropped: Mapping[str, int]) -> str:
    """Return the numbers of dropped rows as a text.

    Args:
        dropped: Number of rows by reason.

    Returns:
        Numbers and reasons, separated by commas.
    """
    return ", ".join(f"{n} rows: {reason}" for reason, n in dropped.items()) or "none left out"


def _parse_songs(plan: RunPlan, read: ReadRows, *, streams: bool) -> LabeledSongs:
    """Read rows, parse their labels, and merge rows to examples."""
    config = plan.config
    rows, media_notes = read_prepared_rows(plan, read, streams=streams)
    read_notes = (*media_notes, *undecodable_texts(rows))
    labels = usable_labels(rows)
    if len(labels) == 0 and count_reasons(rows["dropped"]).keys() == {LABEL_MISSING}:
        raise InputError(
            f"target {plan.target!r} is null in all {len(rows)} rows; name another with data.target_column"
        )
    parsed = plan.task.parse(labels, plan.target, config.data)
    usable = parsed.usable
    if not usable.all():
        rows = mark_dropped(rows, parsed.left_out)
    # a split by row separates stems of a song, so that each is scored for itself
    has_stems = plan.unit == "stem" and config.data.split_by != "row"
    table, targets, dropped = build_examples(
        rows, parsed.targets[usable], by_row=config.data.split_by == "row" or has_stems,
        sort_by="row" if streams else "example_id", join=plan.input_spec.media, agree=has_stems,
    )  # fmt: skip
    return LabeledSongs(
        task=parsed.task,
        table=table,
        targets=targets,
        dropped=dropped,
        n_rows=len(rows),
        n_songs=_count_songs(table),
        has_stems=has_stems,
        label_notes=parsed.notes,
        read_notes=read_notes,
    )


def _finalize_labels(plan: RunPlan, songs: LabeledSongs) -> LabeledSongs:
    """Apply what depends on the number of songs of each class. Raises `InputError` if too little is left."""
    if len(songs.targets) == 0:
        raise _too_few_songs(plan, songs)
    first, song_of = first_per_song(songs.table) if songs.has_stems else (np.arange(len(songs.targets)),) * 2
    try:
        final = songs.task.finalize_labels(songs.targets[first], plan.target, plan.config)
    except InputError as error:  # the reason, such as a single class, may be rows that were dropped before
        raise InputError([*error.problems, *_explain_dropped(plan, songs)]) from error
    keep = final.usable[song_of]
    dropped, table = dict(songs.dropped), songs.table
    if not keep.all():
        for reason in final.left_out[song_of][~keep]:
            dropped[reason] = dropped.get(reason, 0) + 1
        table = table.filter(pa.array(keep))
    result = dataclasses.replace(
        songs,
        task=final.task,
        table=table,
        targets=final.targets[song_of][keep],
        dropped=dropped,
        n_songs=_count_songs(table),
        label_notes=(*songs.label_notes, *final.notes),
    )
    if result.n_songs < MIN_SONGS:
        raise _too_few_songs(plan, result)
    return result


def _index(songs: LabeledSongs) -> tuple[np.ndarray | None, Examples]:
    """Return the song of each stem, None where examples are songs, and the examples with their weights."""
    index = Examples(songs.table, songs.targets, np.ones(len(songs.targets), dtype=np.float32))
    if not songs.has_stems:
        return None, index
    codes = index.codes("song")
    return codes, dataclasses.replace(index, weights=song_weights(codes))


def _count_songs(table: pa.Table) -> int:
    return int(pc.count_distinct(table["song"]).as_py())


def _explain_dropped(plan: RunPlan, songs: LabeledSongs) -> list[str]:
    """Return a message on dropped rows, with advice, if they exceed `MIN_REPORTED_FRACTION`."""
    dropped = {reason: n for reason, n in songs.dropped.items() if reason != SAME_SONG}
    if sum(dropped.values()) < MIN_REPORTED_FRACTION * songs.n_rows:
        return []
    advice = advise(dropped, plan.config.data, plan.target)
    return ["; ".join([f"left out: {describe_dropped(dropped)}", *advice])]


def _too_few_songs(plan: RunPlan, songs: LabeledSongs) -> InputError:
    problem = (
        f"{plan.manifest}: {songs.n_songs} songs are left of {songs.n_rows} rows, and training needs {MIN_SONGS}"
        f" ({describe_dropped(songs.dropped)})"
    )
    return InputError("; ".join([problem, *advise(songs.dropped, plan.config.data, plan.target)]))
