"""From a config to what can be trained: problem, examples and split, with everything wrong said at once."""

from __future__ import annotations

import dataclasses
import functools
import os
import tempfile
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from rainbow_ray.config import DEFAULT_MANIFEST, Config, DataConfig, Resolved
from rainbow_ray.data.examples import (
    LABELS_DISAGREE,
    Examples,
    count,
    good_labels,
    leave_out,
    one_a_song,
    one_row_an_example,
    profile,
    song_weights,
)
from rainbow_ray.data.manifest import DEMO, LABEL_MISSING, Columns, Manifest, find_columns, open_manifest
from rainbow_ray.data.source import Resident, Source
from rainbow_ray.data.split import Split, group_of, identity, make_split, read_split_file
from rainbow_ray.data.stream import Prepare, read_rows
from rainbow_ray.data.streamed import make_streamed, read_index, size_in_memory
from rainbow_ray.errors import InputError, choose
from rainbow_ray.modalities import MODALITIES, Reading, lengths, prepare
from rainbow_ray.modalities.media import MEDIA, POSITIONS, check_troubles
from rainbow_ray.modalities.text import PRESENT
from rainbow_ray.phases import PHASES, get_phase
from rainbow_ray.problems import Problem, make_problem
from rainbow_ray.reading import check_encoders, check_reading, idle_modalities, modalities_of, settle_encoders
from rainbow_ray.training.imbalance import stacked

NOTHING_TO_READ = "neither text nor audio nor MIDI"
ANY_PROBLEM = (3,)  # phases that are of modalities, whatever the problem
UNITS = ("song", "stem")
STEM_EPOCHS = 6  # a song of several stems is met several times in each
MIN_SONGS = 10
FOLDS_BELOW = 500  # songs: one split of fewer cannot rank anything
DEFAULT_FOLDS = 5
SHOWN_CLASSES = 8  # in the first lines of a run

T = TypeVar("T")
WITHOUT_CLASSES = ("binary", "regression")
Read = Callable[[Manifest, Columns, Prepare], pa.Table]


@dataclass(frozen=True)
class Plan:
    """What is known before any row is read. `demo` when the built-in songs are trained on."""

    config: Config
    problem: Problem
    target: str
    manifest: Manifest
    columns: Columns
    reading: Reading
    unit: str
    demo: bool
    known_split: dict[str, Any] | None
    warnings: list[str]


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


def choose_manifest(resolved: Resolved) -> tuple[str, bool]:
    """Where the songs are, and whether they are the demo's, because nobody named any."""
    named = resolved.config.data.manifest_path
    if named == DEMO:
        return DEMO, True
    if named is not None:
        return named, False
    return (DEFAULT_MANIFEST, False) if Path(DEFAULT_MANIFEST).exists() else (DEMO, True)


def make_plan(resolved: Resolved) -> Plan:
    """Check everything that can be checked without reading rows. Raises `InputError` with all of it."""
    config = resolved.config
    phase = get_phase(config.phase)
    problem = make_problem(_problem_name(config))
    settle_defaults(config, problem)
    location, demo = choose_manifest(resolved)
    modalities = modalities_of(config)
    settle_encoders(config, demo=demo)
    problems = [*_check_names(config, problem), *_check_phase(config)]
    target = config.data.target_column or own_target(config.phase, problem)

    def collect(step: Callable[[], T]) -> T | None:
        try:
            return step()
        except InputError as error:
            problems.extend(error.problems)
            return None

    manifest = collect(lambda: open_manifest(_demo_songs(modalities) if location == DEMO else location))
    find = functools.partial(find_columns, config=config.data, target=target, modalities=modalities)
    columns = collect(lambda: find(manifest)) if manifest is not None else None
    read = collect(lambda: check_reading(config, modalities, manifest, location))
    split_file = config.data.split_file
    by = config.data.split_by
    known = None
    if split_file is not None:
        known = collect(lambda: read_split_file(Path(split_file), folds=config.data.folds, by=by))
    if problems or manifest is None or columns is None or read is None:
        raise InputError(dict.fromkeys(problems))
    reading, warnings = read
    if problem.name in WITHOUT_CLASSES:  # where a label that is missing stays missing, whatever the config says
        columns = dataclasses.replace(columns, null_class=None)
    idle = _without_effect(resolved, problem, modalities)
    warnings += [f"{key} has no effect: {why}" for key, why in idle.items()]
    warnings += stacked(config.training, resolved.user_keys - idle.keys())
    unit = config.data.unit or (phase.unit if reading.media else "song")
    if unit == "stem" and "training.epochs" not in resolved.user_keys:
        config.training.epochs = min(config.training.epochs, STEM_EPOCHS)
    return Plan(config, problem, target, manifest, columns, reading, unit, demo, known, warnings)


def own_target(phase: int, problem: Problem) -> str:
    """The label of the phase, or, where another kind of problem is asked of it, that of the phase for that kind."""
    own = get_phase(phase)
    kind = "multiclass" if problem.name == "multilabel" else problem.name
    fitting = [own, *PHASES.values()]
    return next((one.target for one in fitting if one.problem == kind), own.target)


def settle_defaults(config: Config, problem: Problem) -> None:
    """Put the problem's own loss and metrics where the config names none."""
    default = problem.defaults
    config.training.loss = config.training.loss or default.loss
    config.training.metric = config.training.metric or default.metric
    if config.logging.metrics is None:
        config.logging.metrics = list(default.shown)


def _problem_name(config: Config) -> str:
    phase = get_phase(config.phase)
    free = phase.number in ANY_PROBLEM and config.data.target_type is not None
    name = str(config.data.target_type) if free else phase.problem
    return "multilabel" if name == "multiclass" and config.data.multi_label else name


def read_data(plan: Plan, read: Read | None = None) -> Data:
    """Read, prepare and split the songs. Raises `InputError` when they cannot be trained on.

    Ray must run, unless `read` is given: it reads in Ray's place, into memory.
    """
    config, reading = plan.config, plan.reading
    size = size_in_memory(plan.manifest, plan.columns)
    streams = read is None and size > config.data.resident_limit * 2**20
    prepare_rows = functools.partial(prepare, reading=reading)
    rows, said = _read_rows(plan, prepare_rows, read, streams=streams)
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
        settled = parsed.problem.settle(targets[first], plan.target, config)
        kept = settled.usable[of]
        targets = settled.targets[of][kept]
        if not kept.all():
            for reason in settled.left_out[of][~kept]:
                dropped[reason] = dropped.get(reason, 0) + 1
            table = table.filter(pa.array(kept))
            songs = pc.count_distinct(table["song"]).as_py()
    if settled is None or songs < MIN_SONGS:
        left_out = ", ".join(f"{n} rows: {reason}" for reason, n in dropped.items()) or "none left out"
        raise InputError(
            f"manifest {plan.manifest.location}: {songs} songs are left of {n_rows} rows, and training needs"
            f" {MIN_SONGS} ({left_out}); see data.min_concept_length, data.require_concept"
        )
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
    described = _describe(plan, problem, index, split, profile(index, songs, n_rows, dropped))
    described["streamed"] = streams
    described["presence"] = presence(index.table, reading.modalities)
    warnings = [*parsed.notes, *settled.notes, *said, *_data_warnings(plan, split, folds, described, index)]
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
    there = [pc.greater(pc.list_value_length(rows[name]), 0) for name in reading.media]
    if "text" in reading.modalities:
        there.append(rows[PRESENT])
    anything = functools.reduce(pc.or_, there)
    reasons = pc.if_else(pc.or_(anything, pc.is_valid(rows["dropped"])), rows["dropped"], NOTHING_TO_READ)
    return rows.set_column(rows.column_names.index("dropped"), "dropped", reasons), said


def presence(table: pa.Table, modalities: Sequence[str]) -> dict[str, int]:
    """How many examples have which modalities: by their names, joined by +."""
    there = {
        name: (table[PRESENT] if name == "text" else pc.greater(pc.list_value_length(table[name]), 0)).to_pylist()
        for name in modalities
    }
    found = ["+".join(name for name in modalities if there[name][i]) for i in range(len(table))]
    return dict(Counter(found).most_common())


def say_data(plan: Plan, data: Data) -> list[str]:
    """What was read and what was left out, a line each."""
    profile = data.profile
    return [
        f"{profile['songs']} songs from {profile['rows']} rows of {plan.manifest.location};"
        f" {say_labels(profile['labels'])}",
        *(f"  left out: {n} rows: {reason}" for reason, n in profile["dropped"].items()),
    ]


def say_labels(labels: Mapping[str, float]) -> str:
    """How the labels are spread, in a line: the largest classes, or a number's quantiles."""
    if any(isinstance(n, float) for n in labels.values()):
        return ", ".join(f"{name} {value:g}" for name, value in labels.items())
    said = [f"{n} {label}" for label, n in list(labels.items())[:SHOWN_CLASSES]]
    return ", ".join(said) + (f" and {len(labels) - len(said)} more classes" if len(labels) > len(said) else "")


def _describe(
    plan: Plan, problem: Problem, examples: Examples, split: Split, described: dict[str, Any]
) -> dict[str, Any]:
    limit = plan.reading.max_tokens
    cut = int(np.sum(examples.table["tokens"].to_numpy() > limit)) if plan.reading.text else 0
    tokens = {"texts_cut": cut, "max_tokens": limit}
    first, _ = one_a_song(examples.table) if plan.unit == "stem" else (np.arange(len(examples)), None)
    return {
        **described,
        "labels": problem.describe(examples.targets[first]),
        **tokens,
        "shared_texts_across_folds": split.shared_texts,
        "split_hash": identity(split),
    }


def _data_warnings(
    plan: Plan, split: Split, folds: int, described: dict[str, Any], examples_there: Examples
) -> list[str]:
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
    if split.folds > 1 and (data.train_split, data.val_split) != (DataConfig().train_split, DataConfig().val_split):
        warnings.append(f"data.train_split and data.val_split have no effect with {split.folds} folds (--folds 1)")
    elif data.train_split + data.val_split < 1 - 1e-9:
        warnings.append("data.train_split has no effect: all songs that are not scored are trained on")
    return warnings


def _demo_songs(modalities: Sequence[str]) -> str:
    """The demo's manifest; with its audio and MIDI beside it, where they are read."""
    from rainbow_ray.data.demo import write_demo

    def write(folder: Path) -> str:
        manifest = write_demo(folder)
        if set(modalities) & set(MEDIA):
            from rainbow_ray.data.demo_media import write_demo_media

            write_demo_media(folder)
        return str(manifest)

    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "rainbow_ray"
    try:
        return write(cache)
    except OSError:  # a home that cannot be written
        return write(Path(tempfile.mkdtemp(prefix="rainbow_ray-")))


def _check_names(config: Config, problem: Problem) -> list[str]:
    from rainbow_ray.model.rainbow import check_model
    from rainbow_ray.results.calibrate import check_calibration
    from rainbow_ray.training.device import check_device
    from rainbow_ray.training.loop import check_training

    printed = ("loss", *problem.metric_names)
    shown = config.logging.metrics or []
    return [
        *check_model(config.model),
        *problem.check(config),
        *check_training(config),
        *check_calibration(config.calibration),
        *check_device(config.training),
        *(wrong for name in shown for wrong in choose("logging.metrics", name, printed)),
    ]


def _check_phase(config: Config) -> list[str]:
    phase = get_phase(config.phase)
    problems = []
    if config.data.multi_label and _problem_name(config) != "multilabel":
        problems.append(f"data.multi_label: phase {phase.number} is {phase.problem}, not of classes")
    if config.data.target_type not in (None, phase.problem) and phase.number not in ANY_PROBLEM:
        problems.append(f"data.target_type: {config.data.target_type!r}, but phase {phase.number} is {phase.problem}")
    for name in config.modalities or ():
        problems += choose("--modalities", name, MODALITIES)
    if config.modalities is not None and not config.modalities:
        problems.append(f"--modalities: nothing is named; of {', '.join(MODALITIES)}")
    if config.data.unit is not None:
        problems += choose("data.unit", config.data.unit, UNITS)
    problems += choose("data.window_position", config.data.window_position, POSITIONS)
    train, val = config.data.train_split, config.data.val_split
    if train + val > 1 + 1e-9:
        problems.append(f"data.train_split ({train:g}) and data.val_split ({val:g}) make more than 1")
    return problems


def check_values(config: Config, problem: Problem) -> list[str]:
    """What is wrong with the values of a trial's config, where that can be known without running it."""
    try:
        check_encoders(config, modalities_of(config))
        return _check_names(config, problem)
    except InputError as error:
        return error.problems


def _without_effect(resolved: Resolved, problem: Problem, modalities: Sequence[str]) -> dict[str, str]:
    """Known keys that the user set and that change nothing here, and why."""
    config = resolved.config
    stopping, lexical = config.training.early_stopping, config.model.lexical
    from rainbow_ray.results.calibrate import idle_calibration

    idle = {**problem.without_effect(config), **idle_calibration(config.calibration, problem)}
    if config.training.num_workers is not None:
        idle["training.num_workers"] = "Ray Data decides how many"
    if not config.training.save_best_only:
        idle["training.save_best_only"] = "only the best and the last state are kept"
    if not stopping.enabled:
        for name in ("patience", "min_delta", "inner_split"):
            idle[f"training.early_stopping.{name}"] = "early stopping is off"
    if not lexical.enabled:
        for name in ("width", "weighting"):
            idle[f"model.lexical.{name}"] = "model.lexical.enabled is false"
    if not config.model.classifier.hidden_dims:
        idle["model.classifier.activation"] = "the head has no hidden layer"
    idle |= idle_modalities(config, modalities)
    if config.data.split_file is not None:
        for name in ("train_split", "val_split", "random_seed"):
            idle[f"data.{name}"] = "the split file decides"
    default = Config()
    return {key: why for key, why in idle.items() if key in resolved.user_keys and config.at(key) != default.at(key)}
