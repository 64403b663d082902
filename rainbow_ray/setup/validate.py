"""Checks of config values before any row is read, and warnings about keys without effect."""

from __future__ import annotations

from rainbow_ray.config.phases import Phase, get_phase
from rainbow_ray.config.schema import Config
from rainbow_ray.config.solver import obstacles_to_solving
from rainbow_ray.config.unused_keys import RunFacts, UnusedKeys, always, changed_keys, find_unused_keys
from rainbow_ray.distributed.resources import parse_workers
from rainbow_ray.modalities.selection import besides_text
from rainbow_ray.modalities.spec import get_modality, modality_names
from rainbow_ray.setup.inputs import check_encoders, modalities_of
from rainbow_ray.tasks.base import Task
from rainbow_ray.tasks.registry import make_task, task_names
from rainbow_ray.utils.errors import InputError, check_choice

MAX_FRACTION_SUM = 1 + 1e-9  # of the split: fractions such as 0.7 + 0.3 are not exact


def task_name_of(config: Config) -> str:
    """Return the name of the task of one example.

    Args:
        config: The config.

    Returns:
        `data.target_type` where the phase leaves it open, otherwise the phase's task; for several classes per example,
        the task of those.
    """
    name = _single_label_task(config)
    return (multi_label_task(name) or name) if config.data.multi_label else name


def multi_label_task(name: str) -> str | None:
    """Return the task for several labels per example that `data.multi_label` selects in place of a task.

    Args:
        name: Name of a task; unknown ones are reported by `check_target_type`.

    Returns:
        Name of the other task, or None if there is none.
    """
    return None if name not in task_names() or _is_sequence_task(name) else make_task(name).multi_label_task


def target_types() -> tuple[str, ...]:
    """Return the names that `data.target_type` accepts.

    Returns:
        Registered tasks of single examples, but for those that `data.multi_label` selects.
    """
    names = tuple(name for name in task_names() if not _is_sequence_task(name))
    selected_by_multi_label = {multi_label_task(name) for name in names}
    return tuple(name for name in names if name not in selected_by_multi_label)


def check_target_type(config: Config) -> list[str]:
    """Return what is wrong with `data.target_type`.

    Args:
        config: The config.

    Returns:
        A message if no task of that name can be selected.
    """
    name = config.data.target_type
    return [] if name is None else check_choice("data.target_type", name, target_types())


def check_values(config: Config, task: Task) -> list[str]:
    """Return what is wrong with the values of a trial's config, as far as that can be known without running it.

    Args:
        config: The config of the trial.
        task: The task of the sweep.

    Returns:
        Messages, one for each problem.
    """
    try:
        check_encoders(config, modalities_of(config))
        return check_task_and_model(config, task)
    except InputError as error:
        return error.problems


def check_task_and_model(config: Config, task: Task) -> list[str]:
    """Return what is wrong with the model, the task's keys, workers and metrics.

    Args:
        config: The resolved config.
        task: The task.

    Returns:
        Messages, one for each problem.
    """
    from rainbow_ray.model.build import check_model

    metrics = ("loss", *task.metric_names)
    return [
        *check_model(config.model),
        *task.check(config),
        *_check_workers(config),
        *_check_solver(config, task),
        *(problem for name in config.logging.shown for problem in check_choice("logging.metrics", name, metrics)),
    ]


def check_phase(config: Config) -> list[str]:
    """Return what is wrong with keys that the phase, its task and its modalities restrict.

    Args:
        config: The config.

    Returns:
        Messages, one for each problem.
    """
    phase = get_phase(config.phase)
    problems = [*_check_target(config, phase), *_check_modalities(config)]
    train, val = config.data.train_split, config.data.val_split
    if train + val > MAX_FRACTION_SUM:
        problems.append(f"data.train_split ({train:g}) and data.val_split ({val:g}) make more than 1")
    return problems


def run_facts(
    task: Task, modalities: tuple[str, ...], *, has_segment_labels: bool | None = None, n_folds: int | None = None,
    can_be_solved: bool | None = None,
) -> RunFacts:  # fmt: skip
    """Return what the table of unused keys depends on besides the config.

    Args:
        task: The task.
        modalities: Modalities that are read.
        has_segment_labels: Whether segments have labels of their own; None before labels are read.
        n_folds: Number of folds; None before the data are split.
        can_be_solved: Whether a linear classifier can be solved; None before the data are read.

    Returns:
        The facts.
    """
    return RunFacts(
        rows=(*task.unused_keys, *_modality_rows(modalities)),
        reads_only_text=not besides_text(modalities),
        has_classes=task.has_classes,
        is_sequence_task=task.is_sequence_task,
        supports_calibration=task.supports_calibration,
        supports_thresholds=task.supports_thresholds,
        has_segment_labels=has_segment_labels,
        n_folds=n_folds,
        can_be_solved=can_be_solved,
    )


def new_unused_keys(config: Config, before: RunFacts, after: RunFacts) -> list[str]:
    """Return warnings about changed keys that have no effect, given what is known after reading the data.

    Args:
        config: The resolved config.
        before: What was known when earlier warnings were given.
        after: What is known now.

    Returns:
        A warning for each key that earlier warnings did not mention.
    """
    earlier, changed = find_unused_keys(config, before), set(changed_keys(config))
    reasons = find_unused_keys(config, after).items()
    return [f"{key} has no effect: {reason}" for key, reason in reasons if key in changed and key not in earlier]


def _single_label_task(config: Config) -> str:
    """Return the name of the task of one example without `data.multi_label`."""
    phase = get_phase(config.phase)
    return config.data.target_type if phase.any_task and config.data.target_type is not None else phase.task


def _modality_rows(modalities: tuple[str, ...]) -> list[UnusedKeys]:
    """Return the rows of the modalities that are read, and a row for each modality that is not."""
    return [
        *(row for name in modalities for row in get_modality(name).unused_keys),
        *(
            UnusedKeys(get_modality(name).config_prefixes, always, f"{name} is not among the modalities")
            for name in modality_names()
            if name not in modalities
        ),
    ]


def _is_sequence_task(name: str) -> bool:
    try:
        return make_task(name).is_sequence_task
    except TypeError:  # a task of segments, which cannot be made without the task of a single one
        return True


def _check_target(config: Config, phase: Phase) -> list[str]:
    problems = []
    if config.data.multi_label and multi_label_task(_single_label_task(config)) is None:
        problems.append(f"data.multi_label: phase {phase.number} is {phase.task}, not of classes")
    target_type = config.data.target_type
    if target_type not in (None, phase.task) and not phase.any_task and not phase.has_segments:
        problems.append(f"data.target_type: {target_type!r}, but phase {phase.number} is {phase.task}")
    return problems


def _check_modalities(config: Config) -> list[str]:
    if config.modalities is None:
        return []
    if not config.modalities:
        return [f"--modalities: nothing is named; of {', '.join(modality_names())}"]
    return [problem for name in config.modalities for problem in check_choice("--modalities", name, modality_names())]


def _check_workers(config: Config) -> list[str]:
    try:
        parse_workers(config.training.workers)
    except InputError as error:
        return error.problems
    return []


def _check_solver(config: Config, task: Task) -> list[str]:
    """Return why `training.solver: lbfgs` is impossible."""
    if config.training.solver != "lbfgs":
        return []
    reads_only_text = not besides_text(modalities_of(config))
    reasons = obstacles_to_solving(config, reads_only_text=reads_only_text, is_sequence_task=task.is_sequence_task)
    return [f"training.solver: lbfgs solves convex problems only, and {reason}" for reason in reasons]
