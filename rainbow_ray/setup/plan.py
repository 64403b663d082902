"""From a config to what is known before any row is read, with everything wrong said at once."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from rainbow_ray.config.load import Resolved
from rainbow_ray.config.phases import PHASES, get_phase
from rainbow_ray.config.schema import DEFAULT_MANIFEST, Config
from rainbow_ray.config.unused_keys import RunFacts, changed_keys, find_unused_keys
from rainbow_ray.data.manifest import DEMO, Columns, Manifest, find_columns, open_manifest
from rainbow_ray.data.sampling import conflicting_imbalance_settings
from rainbow_ray.data.splits import read_split_file
from rainbow_ray.modalities.spec import InputSpec, column_requests, modality_names, reads_text, windowed
from rainbow_ray.setup.inputs import check_encoders, modalities_of, resolve_encoders, resolve_inputs
from rainbow_ray.setup.segment_table import SEGMENTATION, SegmentTable, find_segments
from rainbow_ray.setup.validate import check_workers
from rainbow_ray.tasks.base import Task
from rainbow_ray.tasks.registry import make_task
from rainbow_ray.utils.cache_dir import cache_dir, make_temporary_dir
from rainbow_ray.utils.errors import InputError, check_choice
from rainbow_ray.utils.paths import resolve_path

ANY_PROBLEM = (3,)  # phases that are of modalities, whatever the problem
STEM_EPOCHS = 6  # a song of several stems is met several times in each

T = TypeVar("T")


@dataclass(frozen=True)
class RunPlan:
    """What is known before any row is read. `demo` when the built-in songs are trained on."""

    config: Config
    task: Task
    target: str
    manifest: Manifest
    columns: Columns
    reading: InputSpec
    unit: str
    demo: bool
    known_split: dict[str, Any] | None
    warnings: list[str]
    segments: SegmentTable | None = None  # where the problem is of segments


def choose_manifest(resolved: Resolved) -> tuple[str, bool]:
    """Where the songs are, and whether they are the demo's, because nobody named any."""
    named = resolved.config.data.manifest_path
    if named == DEMO:
        return DEMO, True
    if named is not None:
        return named, False
    return (DEFAULT_MANIFEST, False) if resolve_path(DEFAULT_MANIFEST).exists() else (DEMO, True)


def make_plan(resolved: Resolved) -> RunPlan:
    """Check everything that can be checked without reading rows. Raises `InputError` with all of it."""
    config = resolved.config
    phase = get_phase(config.phase)
    location, demo = choose_manifest(resolved)
    modalities = modalities_of(config)
    segments = None
    if phase.task == SEGMENTATION:
        demo = demo and config.segments.path is None
        demo_songs = functools.partial(_demo_songs, modalities)
        segments = find_segments(resolved, location, demo_songs, demo=demo)
        task, location = segments.task, segments.location
    else:
        task = make_task(_problem_name(config))
    config = resolve_defaults(config, task)
    config = resolve_encoders(config, demo=demo)
    problems = [*resolved.problems, *_check_names(config, task), *_check_phase(config)]
    target = segments.target if segments is not None else config.data.target_column or own_target(config.phase, task)

    def collect(step: Callable[[], T]) -> T | None:
        try:
            return step()
        except InputError as error:
            problems.extend(error.problems)
            return None

    name = "manifest" if segments is None else "segments"
    manifest = collect(lambda: open_manifest(_demo_songs(modalities) if location == DEMO else location, name))
    root = segments.media_root if segments is not None else None
    find = functools.partial(
        find_columns, config=config.data, target=target, requests=column_requests(modalities, config.data),
        reads_text=reads_text(modalities),
    )  # fmt: skip
    columns = collect(lambda: find(manifest)) if manifest is not None else None
    read = collect(lambda: resolve_inputs(config, modalities, manifest, root))
    split_file = config.data.split_file
    by = config.data.split_by
    known = None
    if split_file is not None:
        known = collect(lambda: read_split_file(resolve_path(split_file), n_folds=config.data.folds, split_by=by))
    if problems or manifest is None or columns is None or read is None:
        raise InputError(dict.fromkeys(problems))
    reading, warnings = read
    warnings = [*resolved.notes, *manifest.notes, *warnings]
    if segments is not None:
        columns = segments.columns_of(columns)
        warnings += segments.notes
    if not task.accepts_null_class:  # where a label that is missing stays missing, whatever the config says
        columns = dataclasses.replace(columns, null_class=None)
    idle = _without_effect(config, resolved.user_keys, task, modalities)
    warnings += [f"{key} has no effect: {why}" for key, why in idle.items()]
    warnings += conflicting_imbalance_settings(config.training, resolved.user_keys - idle.keys())
    unit = "segment" if segments is not None else config.data.example_level or (phase.unit if reading.media else "song")
    if unit == "stem" and "training.epochs" not in resolved.user_keys:
        config = config.with_values({"training.epochs": min(config.training.epochs, STEM_EPOCHS)})
    return RunPlan(config, task, target, manifest, columns, reading, unit, demo, known, warnings, segments)


def own_target(phase: int, task: Task) -> str:
    """The label of the phase, or, where another kind of problem is asked of it, that of the phase for that kind."""
    own = get_phase(phase)
    kind = "multiclass" if task.name == "multilabel" else task.name
    fitting = [own, *PHASES.values()]
    return next((one.target for one in fitting if one.task == kind), own.target)


def resolve_defaults(config: Config, task: Task) -> Config:
    """Return a config with the task's own loss and metrics where it names none.

    Args:
        config: The config as the user wrote it; it is left as it is.
        task: The task.

    Returns:
        A copy in which `training.loss`, `training.metric` and `logging.metrics` are set.
    """
    defaults = task.defaults
    values = {
        "training.loss": defaults.loss,
        "training.metric": defaults.metric,
        "logging.metrics": list(defaults.shown_metrics),
    }
    return config.with_values({key: value for key, value in values.items() if config.at(key) is None})


def _problem_name(config: Config) -> str:
    phase = get_phase(config.phase)
    free = phase.number in ANY_PROBLEM and config.data.target_type is not None
    name = str(config.data.target_type) if free else phase.task
    return "multilabel" if name == "multiclass" and config.data.multi_label else name


def _demo_songs(modalities: Sequence[str]) -> str:
    """The demo's manifest; with its audio and MIDI beside it, where they are read."""
    from rainbow_ray.data.demo.songs import write_demo

    def write(folder: Path) -> str:
        manifest = write_demo(folder)
        if windowed(modalities):
            from rainbow_ray.data.demo.media import write_demo_media

            write_demo_media(folder)
        return str(manifest)

    try:
        return write(cache_dir())
    except OSError:  # the user's cache cannot be written
        return write(make_temporary_dir())


def _check_names(config: Config, task: Task) -> list[str]:
    from rainbow_ray.model.model import check_model

    printed = ("loss", *task.metric_names)
    shown = config.logging.metrics or []
    return [
        *check_model(config.model),
        *task.check(config),
        *check_workers(config),
        *(wrong for name in shown for wrong in check_choice("logging.metrics", name, printed)),
    ]


def _check_phase(config: Config) -> list[str]:
    phase = get_phase(config.phase)
    problems = []
    if config.data.multi_label and _problem_name(config) != "multilabel":
        problems.append(f"data.multi_label: phase {phase.number} is {phase.task}, not of classes")
    if (
        config.data.target_type not in (None, phase.task)
        and phase.number not in ANY_PROBLEM
        and (phase.task != SEGMENTATION)
    ):
        problems.append(f"data.target_type: {config.data.target_type!r}, but phase {phase.number} is {phase.task}")
    for name in config.modalities or ():
        problems += check_choice("--modalities", name, modality_names())
    if config.modalities is not None and not config.modalities:
        problems.append(f"--modalities: nothing is named; of {', '.join(modality_names())}")
    train, val = config.data.train_split, config.data.val_split
    if train + val > 1 + 1e-9:
        problems.append(f"data.train_split ({train:g}) and data.val_split ({val:g}) make more than 1")
    return problems


def check_values(config: Config, task: Task) -> list[str]:
    """What is wrong with the values of a trial's config, where that can be known without running it."""
    try:
        check_encoders(config, modalities_of(config))
        return _check_names(config, task)
    except InputError as error:
        return error.problems


def _without_effect(config: Config, user_keys: frozenset[str], task: Task, modalities: Sequence[str]) -> dict[str, str]:
    """Return keys that the user set to other values than their defaults and that have no effect, with reasons."""
    facts = RunFacts(
        task.name,
        task.base_task.name,
        tuple(modalities),
        is_sequence_task=task.is_sequence_task,
        supports_calibration=task.supports_calibration,
        supports_thresholds=task.supports_thresholds,
    )
    changed = user_keys & set(changed_keys(config))
    return {key: reason for key, reason in find_unused_keys(config, facts).items() if key in changed}
