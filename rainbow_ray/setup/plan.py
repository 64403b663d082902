"""The plan of a run: the config with all defaults resolved, and the opened inputs, checked before rows are read."""

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
from rainbow_ray.config.unused_keys import changed_keys, find_unused_keys
from rainbow_ray.data.columns import Columns, find_columns
from rainbow_ray.data.manifest import DEMO, Manifest, open_manifest
from rainbow_ray.data.sampling import conflicting_imbalance_settings
from rainbow_ray.data.splits import read_split_file
from rainbow_ray.modalities.media import MediaReader
from rainbow_ray.modalities.selection import column_requests, described_modalities, reads_text, windowed
from rainbow_ray.modalities.spec import InputSpec
from rainbow_ray.setup.inputs import modalities_of, resolve_descriptors, resolve_encoders, resolve_inputs
from rainbow_ray.setup.segment_table import SegmentTable, find_segments
from rainbow_ray.setup.validate import (
    check_phase,
    check_target_type,
    check_task_and_model,
    multi_label_task,
    run_facts,
    task_name_of,
)
from rainbow_ray.tasks.base import Task
from rainbow_ray.tasks.registry import make_task
from rainbow_ray.utils.cache_dir import cache_dir, make_temporary_dir
from rainbow_ray.utils.errors import InputError
from rainbow_ray.utils.paths import resolve_path

STEM_EPOCHS = 6  # default for stems, because each epoch reads a song once per stem
STEP_SIZE_KEYS = ("training.batch_size", "training.gradient_accumulation_steps")
STEP_TOKENS = "training.step_tokens"

T = TypeVar("T")


@dataclass(frozen=True)
class RunPlan:
    """A run before any row is read.

    Attributes:
        config: The config with all defaults resolved.
        task: The task, before it knows its classes.
        target: Column or field of the labels.
        manifest: The table of songs or segments.
        columns: Columns that are read.
        input_spec: Modalities with their encoders and readers.
        unit: What one example is: `song`, `stem` or `segment`.
        demo: Whether the built-in songs are read because no table was named.
        known_split: Document of `data.split_file`, or None.
        warnings: Warnings for the user.
        segments: The table of segments, or None where examples are songs or stems.
    """

    config: Config
    task: Task
    target: str
    manifest: Manifest
    columns: Columns
    input_spec: InputSpec
    unit: str
    demo: bool
    known_split: dict[str, Any] | None
    warnings: list[str]
    segments: SegmentTable | None = None


def with_config(plan: RunPlan, config: Config) -> RunPlan:
    """Return a plan with the config of the run that goes on, which may read no descriptors.

    Args:
        plan: Plan of this start.
        config: The config of the run.

    Returns:
        A copy.
    """
    spec = plan.input_spec
    described = described_modalities(spec.media, config.model)
    reader = spec.media_reader
    if isinstance(reader, MediaReader):
        reader = dataclasses.replace(reader, described=described)
    return dataclasses.replace(
        plan, config=config, input_spec=dataclasses.replace(spec, described=described, media_reader=reader)
    )


@dataclass(frozen=True)
class Source:
    """The table and the task of a run.

    Attributes:
        config: The config; column names that the user did not set are those of the table.
        task: The task.
        target: Column or field of the labels.
        location: File, folder or URL of the table, or `demo`.
        demo: Whether the built-in songs are read because no table was named.
        segments: The table of segments, or None where examples are songs or stems.
    """

    config: Config
    task: Task
    target: str
    location: str
    demo: bool
    segments: SegmentTable | None = None


@dataclass(frozen=True)
class OpenedInputs:
    """Table, inputs and split file that were opened to check a config.

    Attributes:
        manifest: The table.
        columns: Columns that are read.
        inputs: Modalities with their encoders and readers.
        known_split: Document of `data.split_file`, or None.
        warnings: Warnings of the table and the encoders.
    """

    manifest: Manifest
    columns: Columns
    inputs: InputSpec
    known_split: dict[str, Any] | None
    warnings: tuple[str, ...]


def choose_manifest(resolved: Resolved) -> tuple[str, bool]:
    """Return where the songs are.

    Args:
        resolved: The config.

    Returns:
        File, folder or URL, or `demo`; and whether the built-in songs are read because no table was named.
    """
    location = resolved.config.data.manifest_path
    if location == DEMO:
        return DEMO, True
    if location is not None:
        return location, False
    return (DEFAULT_MANIFEST, False) if resolve_path(DEFAULT_MANIFEST).exists() else (DEMO, True)


def make_plan(resolved: Resolved) -> RunPlan:
    """Resolve defaults, check everything that can be checked before rows are read, and return the plan.

    Args:
        resolved: The config as the user wrote it; it is left as it is.

    Returns:
        The plan.

    Raises:
        InputError: All problems of the config, the table, encoders and folders.
    """
    source = find_source(resolved)
    config = resolve_encoders(resolve_defaults(source.config, source.task), demo=source.demo)
    config = resolve_descriptors(config, has_segments=source.task.is_sequence_task)
    opened = validate(config, source, resolved.problems)
    return _build_plan(config, source, opened, resolved)


def find_source(resolved: Resolved) -> Source:
    """Find the table and the task of a run.

    Args:
        resolved: The config as the user wrote it.

    Returns:
        The table's location and the task.

    Raises:
        InputError: The task is unknown, or the table of segments cannot be opened or derived.
    """
    config = resolved.config
    problems = check_target_type(config)
    if problems:
        raise InputError([*resolved.problems, *problems])
    location, demo = choose_manifest(resolved)
    if not get_phase(config.phase).has_segments:
        task = make_task(task_name_of(config))
        target = config.data.target_column or target_of_task(config.phase, task)
        return Source(config, task, target, location, demo)
    demo = demo and config.segments.path is None
    write_songs = functools.partial(_write_demo_songs, modalities_of(config))
    segments = find_segments(resolved, location, write_songs, demo=demo)
    config = config.with_values(segments.column_names)
    return Source(config, segments.task, segments.target, segments.location, demo, segments)


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


def validate(config: Config, source: Source, problems: Sequence[str] = ()) -> OpenedInputs:
    """Check a config with the table, encoders, folders and files that it names.

    Args:
        config: The config with defaults resolved.
        source: The table and the task.
        problems: Problems that were found before, to be raised together.

    Returns:
        The opened table, inputs and split file.

    Raises:
        InputError: All problems.
    """
    all_problems = [*problems, *check_task_and_model(config, source.task), *check_phase(config)]

    def collect(step: Callable[[], T]) -> T | None:
        try:
            return step()
        except InputError as error:
            all_problems.extend(error.problems)
            return None

    modalities = modalities_of(config)
    manifest = collect(lambda: _open_table(source, modalities))
    find = functools.partial(
        find_columns,
        config=config.data,
        target=source.target,
        requests=column_requests(modalities, config.data),
        reads_text=reads_text(modalities),
    )
    columns = collect(lambda: find(manifest)) if manifest is not None else None
    root = source.segments.media_root if source.segments is not None else None
    inputs = collect(lambda: resolve_inputs(config, modalities, manifest, root))
    known_split = collect(lambda: _read_split(config))
    if all_problems or manifest is None or columns is None or inputs is None:
        raise InputError(dict.fromkeys(all_problems))
    spec, warnings = inputs
    return OpenedInputs(manifest, columns, spec, known_split, (*manifest.notes, *warnings))


def target_of_task(phase: int, task: Task) -> str:
    """Return the default target column of a task.

    Args:
        phase: Number of the phase.
        task: The task; `data.target_type` can select another one than the phase's.

    Returns:
        Target of the phase if it has this task, otherwise of the first phase that has it, otherwise of the phase.
    """
    candidates = [get_phase(phase), *PHASES.values()]
    targets = (each.target for each in candidates if task.name in (each.task, multi_label_task(each.task)))
    return next(targets, get_phase(phase).target)


def keep_step_size(config: Config) -> Config:
    """Return a config in which steps do not grow beyond a size that the user set.

    Args:
        config: The config.

    Returns:
        The config with `training.step_tokens`; a value that is set there stays.
    """
    return config if config.training.step_tokens is not None else config.with_values({STEP_TOKENS: 0})


def _build_plan(config: Config, source: Source, opened: OpenedInputs, resolved: Resolved) -> RunPlan:
    phase, task, columns = get_phase(config.phase), source.task, opened.columns
    warnings = [*resolved.notes, *opened.warnings]
    if source.segments is not None:
        columns = source.segments.columns_of(columns)
        warnings += source.segments.notes
    if not task.accepts_null_class:  # a missing label stays missing
        columns = dataclasses.replace(columns, null_class=None)
    unused = find_unused_keys(config, run_facts(task, modalities_of(config)))
    reported = unused.keys() & resolved.user_keys & set(changed_keys(config))
    warnings += [f"{key} has no effect: {reason}" for key, reason in unused.items() if key in reported]
    warnings += conflicting_imbalance_settings(config.training, resolved.user_keys - reported)
    default_level = phase.example_level if opened.inputs.media else "song"
    unit = phase.example_level if source.segments is not None else config.data.example_level or default_level
    if unit == "stem" and "training.epochs" not in resolved.user_keys:
        config = config.with_values({"training.epochs": min(config.training.epochs, STEM_EPOCHS)})
    # a config that a run has saved names every key
    if resolved.user_keys.intersection(STEP_SIZE_KEYS) and STEP_TOKENS not in resolved.user_keys:
        config = keep_step_size(config)
    return RunPlan(
        config=config,
        task=task,
        target=source.target,
        manifest=opened.manifest,
        columns=columns,
        input_spec=opened.inputs,
        unit=unit,
        demo=source.demo,
        known_split=opened.known_split,
        warnings=warnings,
        segments=source.segments,
    )


def _open_table(source: Source, modalities: Sequence[str]) -> Manifest:
    location = _write_demo_songs(modalities) if source.location == DEMO else source.location
    return open_manifest(location, "manifest" if source.segments is None else "segments")


def _read_split(config: Config) -> dict[str, Any] | None:
    path = config.data.split_file
    if path is None:
        return None
    return read_split_file(resolve_path(path), n_folds=config.data.folds, split_by=config.data.split_by)


def _write_demo_songs(modalities: Sequence[str]) -> str:
    """Write the built-in songs, with audio and MIDI where these are read; return the path of their manifest."""
    try:
        return _write_demo(cache_dir(), modalities)
    except OSError:  # the user's cache cannot be written
        return _write_demo(make_temporary_dir(), modalities)


def _write_demo(folder: Path, modalities: Sequence[str]) -> str:
    from rainbow_ray.data.demo.songs import write_demo

    manifest = write_demo(folder)
    if windowed(modalities):
        from rainbow_ray.data.demo.media import write_demo_media

        write_demo_media(folder)
    return str(manifest)
