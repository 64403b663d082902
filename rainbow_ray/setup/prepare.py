"""From a plan to what can be trained: problem, examples and split, with everything wrong said at once."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Mapping

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
from rainbow_ray.data.manifest import UNDECODABLE, Columns, Manifest
from rainbow_ray.data.normalize import NOT_UTF8
from rainbow_ray.data.raw_labels import LABEL_MISSING
from rainbow_ray.data.reader import Prepare, read_rows
from rainbow_ray.data.splits import group_ids, make_split
from rainbow_ray.data.streaming import make_streaming_dataset, read_index, size_in_memory
from rainbow_ray.modalities.media_counts import check_media_errors
from rainbow_ray.modalities.midi.reader import describe_cut_windows
from rainbow_ray.modalities.spec import lengths, prepare
from rainbow_ray.modalities.text import tokenize
from rainbow_ray.setup.drop_advice import advise
from rainbow_ray.setup.plan import RunPlan
from rainbow_ray.setup.prepared import (
    DEFAULT_FOLDS,
    FOLDS_BELOW,
    MIN_SONGS,
    MUCH,
    PreparedData,
    data_warnings,
    describe,
)
from rainbow_ray.utils.errors import InputError
from rainbow_ray.utils.number_format import format_labels

NOTHING_TO_READ = "neither text nor audio nor MIDI"
SHOWN_CLASSES = 8  # in the first lines of a run
MAX_UNKNOWN = 0.03  # share of unknown tokens that needs no warning
ALL_UNKNOWN = 0.95  # share of them from which on nothing can be learned

Read = Callable[[Manifest, Columns, Prepare], pa.Table]


def prepare_data(plan: RunPlan, read: Read | None = None) -> PreparedData:
    """Read, prepare and split the songs. Raises `InputError` when they cannot be trained on.

    Ray must run, unless `read` is given: it reads in Ray's place, into memory.
    """
    size = size_in_memory(plan.manifest, plan.columns)
    limit = plan.config.data.in_memory_limit_mb
    streams = read is None and size > limit * 2**20
    if plan.segments is None:
        return _check_unknown_tokens(plan, _read_songs(plan, read, size, streams=streams))
    if streams:
        much = f"{plan.manifest.shown} takes {size / 2**20:.0f} MB, more than {limit}"
        raise InputError(f"data.in_memory_limit_mb: segments are kept in memory, and {much}; set it higher")
    from rainbow_ray.setup.prepare_segments import prepare_segments

    prepare_rows = functools.partial(prepare, reading=plan.reading)
    return _check_unknown_tokens(plan, prepare_segments(plan, *_read_rows(plan, prepare_rows, read, streams=False)))


def _check_unknown_tokens(plan: RunPlan, data: PreparedData) -> PreparedData:
    """Warn where the encoder's tokenizer does not know the words of the texts; refuse where it knows none."""
    if not plan.reading.text:
        return data
    share = _unknown_share(data.examples.table, plan.reading.text)
    if share <= MAX_UNKNOWN:
        return data
    message = (f"{share:.0%} of the tokens of the texts are unknown to the tokenizer of {plan.reading.text!r}, and the"
               " encoder reads nothing of them: use an encoder for the language and script of the texts")  # fmt: skip
    if share > ALL_UNKNOWN:
        raise InputError(f"model.tokenize.model_name: {message}")
    return dataclasses.replace(data, warnings=[*data.warnings, message])


def _unknown_share(table: pa.Table, encoder: str) -> float:
    """Share of tokens, between 0 and 1, that an encoder's tokenizer does not know; special tokens are not counted."""
    tokenizer, plain = tokenize.load_tokenizer(encoder), tokenize.load_plain_tokenizer(encoder)
    ids = pc.list_flatten(table[tokenize.TOKENS])
    total = len(ids) - len(table) * (plain.front + plain.back)
    if tokenizer.unk_token_id is None or total <= 0:
        return 0.0
    return float(pc.sum(pc.equal(ids, tokenizer.unk_token_id)).as_py() or 0) / total


def _read_songs(plan: RunPlan, read: Read | None, size: int, *, streams: bool) -> PreparedData:
    """The data of a run over songs, or their stems."""
    config, reading = plan.config, plan.reading
    prepare_rows = functools.partial(prepare, reading=reading)
    rows, said = _read_rows(plan, prepare_rows, read, streams=streams)
    said = [*said, *undecodable_texts(rows)]
    good = usable_labels(rows)
    if len(good) == 0 and count_reasons(rows["dropped"]).keys() == {LABEL_MISSING}:
        raise InputError(
            f"target {plan.target!r} is null in all {len(rows)} rows; name another with data.target_column"
        )
    parsed = plan.task.parse(good, plan.target, config.data)
    usable = parsed.usable
    if not usable.all():
        rows = mark_dropped(rows, parsed.left_out)
    # of stems that a row split parts, each is scored for itself
    stems = plan.unit == "stem" and config.data.split_by != "row"
    table, targets, dropped = build_examples(
        rows, parsed.targets[usable], by_row=config.data.split_by == "row" or stems,
        sort_by="row" if streams else "example_id", join=reading.media, agree=stems,
    )  # fmt: skip
    n_rows = len(rows)
    del rows, good, usable  # of millions of rows, what is left behind is much memory
    pa.default_memory_pool().release_unused()
    songs = pc.count_distinct(table["song"]).as_py()
    settled = None
    if len(targets):
        first, of = first_per_song(table) if stems else (np.arange(len(targets)),) * 2
        try:
            settled = parsed.task.finalize_labels(targets[first], plan.target, config)
        except InputError as error:  # one class only, say: what was left out before may be the reason
            lost = {reason: n for reason, n in dropped.items() if reason != SAME_SONG}
            more = "; ".join([f"left out: {_left_out(lost)}", *advise(lost, config.data, plan.target)])
            raise InputError([*error.problems, *([more] if sum(lost.values()) >= MUCH * n_rows else [])]) from error
        kept = settled.usable[of]
        targets = settled.targets[of][kept]
        if not kept.all():
            for reason in settled.left_out[of][~kept]:
                dropped[reason] = dropped.get(reason, 0) + 1
            table = table.filter(pa.array(kept))
            songs = pc.count_distinct(table["song"]).as_py()
    if settled is None or songs < MIN_SONGS:
        raise InputError("; ".join([
            f"{plan.manifest}: {songs} songs are left of {n_rows} rows, and training needs"
            f" {MIN_SONGS} ({_left_out(dropped)})",
            *advise(dropped, config.data, plan.target),
        ]))  # fmt: skip
    task = settled.task
    index = Examples(table, targets, np.ones(len(targets), dtype=np.float32))
    codes = index.codes("song") if stems else None
    if codes is not None:
        index = dataclasses.replace(index, weights=song_weights(codes))
    folds = config.data.folds or (DEFAULT_FOLDS if songs < FOLDS_BELOW else 1)
    split = make_split(
        index,
        task.strata(targets),
        n_folds=folds,
        val_fraction=config.data.val_split,
        split_by=config.data.split_by,
        seed=config.split_seed,
        saved_split=plan.known_split,
    )
    described = describe(plan, task, index, split, profile_examples(index, songs, n_rows, dropped))
    described["streamed"] = streams
    warnings = [*parsed.notes, *settled.notes, *said, *data_warnings(plan, split, folds, described, index)]
    if streams:
        limit = f"{size / 2**20:.0f} MB, above data.in_memory_limit_mb ({config.data.in_memory_limit_mb} MB)"
        warnings.append(f"the manifest's columns hold {limit}: songs are read anew each epoch")
        groups = group_ids(index, config.data.split_by)
        pa.default_memory_pool().release_unused()  # of the pass over all rows
        streamed = make_streaming_dataset(
            plan.manifest, plan.columns, prepare_rows, index, groups, seed=config.split_seed
        )
        streamed = dataclasses.replace(streamed, songs=codes)
        return PreparedData(task, streamed, index, streamed.sample, split, described, warnings)
    resident = InMemoryDataset(index, lengths(index.table, reading), codes)
    return PreparedData(task, resident, index, index, split, described, warnings)


def _left_out(dropped: Mapping[str, int]) -> str:
    return ", ".join(f"{n} rows: {reason}" for reason, n in dropped.items()) or "none left out"


def _read_rows(plan: RunPlan, prepare_rows: Prepare, read: Read | None, *, streams: bool) -> tuple[pa.Table, list[str]]:
    """All rows, prepared, and what is to be told of their media."""
    if streams and plan.reading.media and plan.unit == "song":
        limit = f"data.in_memory_limit_mb ({plan.config.data.in_memory_limit_mb} MB)"
        raise InputError(f"data.example_level: songs with all their stems cannot be read anew each epoch, and the"
                         f" columns hold more than {limit}; set it higher, or read stems")  # fmt: skip
    if streams:
        read = functools.partial(read_index, length_of=functools.partial(lengths, reading=plan.reading))
    return _check_media(plan, (read or read_rows)(plan.manifest, plan.columns, prepare_rows))


def _check_media(plan: RunPlan, rows: pa.Table) -> tuple[pa.Table, list[str]]:
    """Rows with anything to read, and what is to be told of files that cannot be used."""
    reading, config = plan.reading, plan.config.data
    if reading.media_reader is None and not reading.values:
        return rows, []
    said = []
    if reading.media_reader is not None:
        said = check_media_errors(rows, reading.media, config.max_unreadable_fraction, reading.media_reader.root)
    if "midi" in reading.media:
        said += describe_cut_windows(rows, plan.config.model.midi_encoder.max_notes)
    if plan.segments is not None:  # one without anything to read is still its neighbours' neighbour
        return rows, said
    anything = functools.reduce(pc.or_, [spec.is_present(rows) for spec in reading.specs])
    reasons = pc.if_else(pc.or_(anything, pc.is_valid(rows["dropped"])), rows["dropped"], NOTHING_TO_READ)
    return rows.set_column(rows.column_names.index("dropped"), "dropped", reasons), said


def undecodable_texts(rows: pa.Table) -> list[str]:
    """Return a warning about rows that are used although some of their text is not UTF-8."""
    used = pc.and_(rows[UNDECODABLE], pc.is_null(rows["dropped"]))
    number = pc.sum(used).as_py() or 0
    note = f"{number} rows have {NOT_UTF8}: what cannot be decoded is left out; save the table as UTF-8"
    return [note] if number else []


def describe_dataset(plan: RunPlan, data: PreparedData) -> list[str]:
    """What was read and what was left out, a line each."""
    profile = data.profile
    return [
        f"{profile['songs']} songs from {profile['rows']} rows of {plan.manifest.shown};"
        f" {summarize_labels(profile['labels'])}",
        *(f"  left out: {n} rows: {reason}" for reason, n in profile["dropped"].items()),
    ]


def summarize_labels(labels: Mapping[str, float]) -> str:
    """How the labels are spread, in a line: the largest classes, or a number's quantiles."""
    if any(isinstance(n, float) for n in labels.values()):
        return ", ".join(f"{name} {value}" for name, value in format_labels(labels))
    said = [f"{n} {label}" for label, n in list(labels.items())[:SHOWN_CLASSES]]
    return ", ".join(said) + (f" and {len(labels) - len(said)} more classes" if len(labels) > len(said) else "")
