"""From a plan to what can be trained: problem, examples and split, with everything wrong said at once."""

from __future__ import annotations

import dataclasses
import functools
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from rainbow_ray.config.schema import Config, DataConfig
from rainbow_ray.data.dataset import Resident, Source
from rainbow_ray.data.examples import (
    LABELS_DISAGREE,
    SAME_SONG,
    Examples,
    count,
    good_labels,
    leave_out,
    one_a_song,
    one_row_an_example,
    profile,
    song_weights,
)
from rainbow_ray.data.manifest import UNDECODABLE, Columns, Manifest
from rainbow_ray.data.normalize import NOT_UTF8
from rainbow_ray.data.raw_labels import LABEL_MISSING
from rainbow_ray.data.reader import Prepare, read_rows
from rainbow_ray.data.splits import Split, group_of, identity, make_split
from rainbow_ray.data.streaming import make_streamed, read_index, size_in_memory
from rainbow_ray.modalities.media import check_troubles
from rainbow_ray.modalities.midi.reader import describe_cut_windows
from rainbow_ray.modalities.spec import lengths, modalities_present, prepare
from rainbow_ray.modalities.text import encoder as text_encoder
from rainbow_ray.modalities.text.encoder import PRESENT
from rainbow_ray.setup.drop_advice import advise
from rainbow_ray.setup.plan import Plan
from rainbow_ray.tasks.base import Problem
from rainbow_ray.utils.errors import InputError
from rainbow_ray.utils.number_format import format_labels

MUCH = 0.2  # of the rows: where as many were left out, that may be why nothing can be learned
NOTHING_TO_READ = "neither text nor audio nor MIDI"
MIN_SONGS = 10
FOLDS_BELOW = 500  # songs: one split of fewer cannot rank anything
DEFAULT_FOLDS = 5
SHOWN_CLASSES = 8  # in the first lines of a run
MAX_UNKNOWN = 0.03  # share of unknown tokens that needs no warning
ALL_UNKNOWN = 0.95  # share of them from which on nothing can be learned

Read = Callable[[Manifest, Columns, Prepare], pa.Table]


@dataclass(frozen=True)
class Data:
    """The data of a run: its source, where each example lies, and what `data.json` says.

    `index` has every example, without text where the source streams; `examples` are those that lie in memory whole: all
    of them, or a sample.
    """

    problem: Problem  # as the labels have it: it knows its classes
    source: Source
    index: Examples
    examples: Examples
    split: Split
    profile: dict[str, Any]
    warnings: list[str] = field(default_factory=list)


def read_data(plan: Plan, read: Read | None = None) -> Data:
    """Read, prepare and split the songs. Raises `InputError` when they cannot be trained on.

    Ray must run, unless `read` is given: it reads in Ray's place, into memory.
    """
    size = size_in_memory(plan.manifest, plan.columns)
    limit = plan.config.data.resident_limit
    streams = read is None and size > limit * 2**20
    if plan.segments is None:
        return _check_unknown_tokens(plan, _read_songs(plan, read, size, streams=streams))
    if streams:
        much = f"{plan.manifest.shown} takes {size / 2**20:.0f} MB, more than {limit}"
        raise InputError(f"data.resident_limit: segments are kept in memory, and {much}; set it higher")
    from rainbow_ray.setup.prepare_segments import read_segments

    prepare_rows = functools.partial(prepare, reading=plan.reading)
    return _check_unknown_tokens(plan, read_segments(plan, *_read_rows(plan, prepare_rows, read, streams=False)))


def _check_unknown_tokens(plan: Plan, data: Data) -> Data:
    """Warn where the encoder's tokenizer does not know the words of the texts; refuse where it knows none."""
    if not plan.reading.text:
        return data
    share = _unknown_share(data.examples.table, plan.reading.text)
    if share <= MAX_UNKNOWN:
        return data
    message = (f"{share:.0%} of the tokens of the texts are unknown to the tokenizer of {plan.reading.text!r}, and the"
               " encoder reads nothing of them: use an encoder for the language and script of the texts")  # fmt: skip
    if share > ALL_UNKNOWN:
        raise InputError(f"model.text_encoder.model_name: {message}")
    return dataclasses.replace(data, warnings=[*data.warnings, message])


def _unknown_share(table: pa.Table, encoder: str) -> float:
    """Share of tokens, between 0 and 1, that an encoder's tokenizer does not know; special tokens are not counted."""
    tokenizer, plain = text_encoder.load_tokenizer(encoder), text_encoder.load_plain_tokenizer(encoder)
    ids = pc.list_flatten(table[text_encoder.TOKENS])
    total = len(ids) - len(table) * (plain.front + plain.back)
    if tokenizer.unk_token_id is None or total <= 0:
        return 0.0
    return float(pc.sum(pc.equal(ids, tokenizer.unk_token_id)).as_py() or 0) / total


def _read_songs(plan: Plan, read: Read | None, size: int, *, streams: bool) -> Data:
    """The data of a run over songs, or their stems."""
    config, reading = plan.config, plan.reading
    prepare_rows = functools.partial(prepare, reading=reading)
    rows, said = _read_rows(plan, prepare_rows, read, streams=streams)
    said = [*said, *undecodable_texts(rows)]
    good = good_labels(rows)
    if len(good) == 0 and count(rows["dropped"]).keys() == {LABEL_MISSING}:
        raise InputError(
            f"target {plan.target!r} is null in all {len(rows)} rows; name another with data.target_column"
        )
    parsed = plan.problem.parse(good, plan.target, config.data)
    usable = parsed.usable
    if not usable.all():
        rows = leave_out(rows, parsed.left_out)
    # of stems that a row split parts, each is scored for itself
    stems = plan.unit == "stem" and config.data.split_by != "row"
    table, targets, dropped = one_row_an_example(
        rows, parsed.targets[usable], by_row=config.data.split_by == "row" or stems,
        sort_by="row" if streams else "example_id", join=reading.media, agree=stems,
    )  # fmt: skip
    n_rows = len(rows)
    del rows, good, usable  # of millions of rows, what is left behind is much memory
    pa.default_memory_pool().release_unused()
    songs = pc.count_distinct(table["song"]).as_py()
    settled = None
    if len(targets):
        first, of = one_a_song(table) if stems else (np.arange(len(targets)),) * 2
        try:
            settled = parsed.problem.settle(targets[first], plan.target, config)
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
    problem = settled.problem
    index = Examples(table, targets, np.ones(len(targets), dtype=np.float32))
    codes = index.codes("song") if stems else None
    if codes is not None:
        index = dataclasses.replace(index, weights=song_weights(codes))
    folds = config.data.folds or (DEFAULT_FOLDS if songs < FOLDS_BELOW else 1)
    split = make_split(
        index,
        problem.strata(targets),
        folds=folds,
        val_split=config.data.val_split,
        by=config.data.split_by,
        seed=config.split_seed,
        known=plan.known_split,
    )
    described = describe(plan, problem, index, split, profile(index, songs, n_rows, dropped))
    described["streamed"] = streams
    warnings = [*parsed.notes, *settled.notes, *said, *data_warnings(plan, split, folds, described, index)]
    if streams:
        limit = f"{size / 2**20:.0f} MB, above data.resident_limit ({config.data.resident_limit} MB)"
        warnings.append(f"the manifest's columns hold {limit}: songs are read anew each epoch")
        groups = group_of(index, config.data.split_by)
        pa.default_memory_pool().release_unused()  # of the pass over all rows
        streamed = make_streamed(plan.manifest, plan.columns, prepare_rows, index, groups, seed=config.split_seed)
        streamed = dataclasses.replace(streamed, songs=codes)
        return Data(problem, streamed, index, streamed.sample, split, described, warnings)
    resident = Resident(index, lengths(index.table, reading), codes)
    return Data(problem, resident, index, index, split, described, warnings)


def _left_out(dropped: Mapping[str, int]) -> str:
    return ", ".join(f"{n} rows: {reason}" for reason, n in dropped.items()) or "none left out"


def _read_rows(plan: Plan, prepare_rows: Prepare, read: Read | None, *, streams: bool) -> tuple[pa.Table, list[str]]:
    """All rows, prepared, and what is to be told of their media."""
    if streams and plan.reading.media and plan.unit == "song":
        limit = f"data.resident_limit ({plan.config.data.resident_limit} MB)"
        raise InputError(f"data.unit: songs with all their stems cannot be read anew each epoch, and the columns hold"
                         f" more than {limit}; set it higher, or read stems")  # fmt: skip
    if streams:
        read = functools.partial(read_index, length_of=functools.partial(lengths, reading=plan.reading))
    return _check_media(plan, (read or read_rows)(plan.manifest, plan.columns, prepare_rows))


def _check_media(plan: Plan, rows: pa.Table) -> tuple[pa.Table, list[str]]:
    """Rows with anything to read, and what is to be told of files that cannot be used."""
    reading, config = plan.reading, plan.config.data
    if reading.media_reader is None:
        return rows, []
    said = check_troubles(rows, reading.media, config.max_bad_media, reading.media_reader.root)
    if "midi" in reading.media:
        said += describe_cut_windows(rows, plan.config.model.midi_encoder.max_notes)
    if plan.segments is not None:  # one without anything to read is still its neighbours' neighbour
        return rows, said
    there = [pc.greater(pc.list_value_length(rows[name]), 0) for name in reading.media]
    if "text" in reading.modalities:
        there.append(rows[PRESENT])
    anything = functools.reduce(pc.or_, there)
    reasons = pc.if_else(pc.or_(anything, pc.is_valid(rows["dropped"])), rows["dropped"], NOTHING_TO_READ)
    return rows.set_column(rows.column_names.index("dropped"), "dropped", reasons), said


def undecodable_texts(rows: pa.Table) -> list[str]:
    """Return a warning about rows that are used although some of their text is not UTF-8."""
    used = pc.and_(rows[UNDECODABLE], pc.is_null(rows["dropped"]))
    number = pc.sum(used).as_py() or 0
    note = f"{number} rows have {NOT_UTF8}: what cannot be decoded is left out; save the table as UTF-8"
    return [note] if number else []


def presence(table: pa.Table, modalities: Sequence[str]) -> dict[str, int]:
    """How many examples have which modalities: by their names, joined by +."""
    return dict(Counter(modalities_present(table, modalities)).most_common())


def say_data(plan: Plan, data: Data) -> list[str]:
    """What was read and what was left out, a line each."""
    profile = data.profile
    return [
        f"{profile['songs']} songs from {profile['rows']} rows of {plan.manifest.shown};"
        f" {say_labels(profile['labels'])}",
        *(f"  left out: {n} rows: {reason}" for reason, n in profile["dropped"].items()),
    ]


def say_labels(labels: Mapping[str, float]) -> str:
    """How the labels are spread, in a line: the largest classes, or a number's quantiles."""
    if any(isinstance(n, float) for n in labels.values()):
        return ", ".join(f"{name} {value}" for name, value in format_labels(labels))
    said = [f"{n} {label}" for label, n in list(labels.items())[:SHOWN_CLASSES]]
    return ", ".join(said) + (f" and {len(labels) - len(said)} more classes" if len(labels) > len(said) else "")


def describe(
    plan: Plan, problem: Problem, examples: Examples, split: Split, described: dict[str, Any]
) -> dict[str, Any]:
    """The profile with labels, tokens, modalities and split."""
    limit = plan.reading.max_tokens
    cut = int(np.sum(examples.table["tokens"].to_numpy() > limit)) if plan.reading.text else 0
    tokens = {"texts_cut": cut, "max_tokens": limit}
    first, _ = one_a_song(examples.table) if plan.unit == "stem" else (np.arange(len(examples)), None)
    return {
        **described,
        "labels": problem.describe(examples.targets[first]),
        **tokens,
        "presence": presence(examples.table, plan.reading.modalities),
        "shared_texts_across_folds": split.shared_texts,
        "split_hash": identity(split),
    }


def data_warnings(
    plan: Plan, split: Split, folds: int, described: dict[str, Any], examples_there: Examples
) -> list[str]:
    """What is to be told of the songs and their split."""
    warnings = []
    dropped, cut, examples = described["dropped"], described["texts_cut"], described["examples"]
    data = plan.config.data
    if split.folds != folds and plan.known_split is None:
        warnings.append(f"--folds {folds}: there are only {split.folds} groups to hold out, so as many folds")
    if split.by == "row":
        warnings.append(f"LEAK: --split-by row puts {split.shared_texts} texts on both sides of a fold: these numbers"
                        " say how well texts are remembered, not how well new songs are read")  # fmt: skip
    if LABELS_DISAGREE in dropped:
        warnings.append(f"{dropped[LABELS_DISAGREE]} rows are left out: their song carries different labels")
    if cut:
        warnings.append(
            f"{cut} of {examples} texts are cut at {plan.reading.max_tokens} tokens (model.text_encoder.max_length)"
        )
    if split.by != "row" and split.shared_texts:
        warnings.append(f"LEAK: {split.shared_texts} texts stand on both sides of a fold of {data.split_file}")
    if split.by != "row" and split.cut_groups:
        warnings.append(f"{split.cut_groups} groups (songs that belong together) are cut by {data.split_file}")
    if plan.known_split is not None and plan.known_split.get("data_hash") != described["data_hash"]:
        known = len(set(plan.known_split["fold"]) & set(examples_there.ids))
        warnings.append(f"{data.split_file} was made for other songs, texts or labels: {known} of its songs are here,"
                        f" {examples - known} are new")  # fmt: skip
    return [*warnings, *_idle_with(split.folds, plan.config)]


def _idle_with(folds: int, config: Config) -> list[str]:
    """Keys that say nothing with so many folds."""
    data, idle = config.data, []
    if folds > 1 and (data.train_split, data.val_split) != (DataConfig().train_split, DataConfig().val_split):
        idle.append(f"data.train_split and data.val_split have no effect with {folds} folds (--folds 1)")
    elif data.train_split + data.val_split < 1 - 1e-9:
        idle.append("data.train_split has no effect: all songs that are not scored are trained on")
    if folds == 1 and config.training.ensemble:
        idle.append("training.ensemble has no effect: one split trains one model")
    return idle
