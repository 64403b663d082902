"""The length of a fit: epochs and steps, or a single solution of its classifier; and which fits need no workers."""

from __future__ import annotations

from rainbow_ray.config.schema import Config
from rainbow_ray.config.solver import can_be_solved, can_grow_steps, is_solved, trains_no_encoder
from rainbow_ray.data.batching import TrainingSchedule, make_training_schedule
from rainbow_ray.data.dataset import Dataset, InMemoryDataset
from rainbow_ray.modalities.spec import InputSpec
from rainbow_ray.tasks.base import Task

_HEAD_STEP_SECONDS, _SEQUENCE_STEP_SECONDS = 0.002, 0.006  # of songs, and of sequences of segments
# Workers of several processes took 24 s longer in phase 1 of the demo (2 CPUs) than this process.
SAVED_SECONDS = 20.0
MAX_SECONDS_IN_PROCESS = 120.0  # of all fits: longer ones run in workers, which Ray restarts when they die
MAX_EXAMPLES_IN_PROCESS = 5_000
NO_CONTEXT_KIND = "none"  # value of `model.temporal.kind` without temporal layers


def are_short_fits(
    config: Config, dataset: Dataset, task: Task, input_spec: InputSpec, schedule: TrainingSchedule, *, n_folds: int,
    n_cpus: int,
) -> bool:  # fmt: skip
    """Return whether the process of the command runs all fits sooner than workers start.

    Args:
        config: Config of the run, with defaults resolved.
        dataset: All examples.
        task: The task.
        input_spec: Modalities that are read.
        schedule: Schedule of a fit.
        n_folds: Number of folds.
        n_cpus: CPUs of the machine, on which fits would run in parallel.

    Returns:
        True for a few short fits of the layers after a frozen text encoder, without other modalities.
    """
    if n_folds == 1 or config.training.workers is not None or not dataset.in_memory:
        return False
    reads_only_text = bool(input_spec.text) and len(input_spec.modalities) == 1
    if not reads_only_text or not trains_no_encoder(config) or len(dataset) > MAX_EXAMPLES_IN_PROCESS:
        return False
    n_fits = n_folds * (2 if has_fits_without_context(config, task) else 1)
    # fits without context run beside the others in either case
    n_rounds = min(n_folds, -(-n_fits // n_cpus))
    fit_seconds = schedule.total_steps * head_step_seconds(task)
    is_short = fit_seconds * (n_folds + 1) <= MAX_SECONDS_IN_PROCESS
    return is_short and fit_seconds * (n_folds - n_rounds) <= SAVED_SECONDS


def head_step_seconds(task: Task) -> float:
    """Return the time of a step that trains only the layers after a frozen encoder, on a CPU.

    Args:
        task: The task.

    Returns:
        Seconds.
    """
    return _SEQUENCE_STEP_SECONDS if task.is_sequence_task else _HEAD_STEP_SECONDS


def has_fits_without_context(config: Config, task: Task) -> bool:
    """Return whether each fold is fitted without temporal layers, too, as their baseline.

    Args:
        config: Config of the run, with defaults resolved.
        task: The task.

    Returns:
        False where the model has no temporal layers, or `segments.no_context_baseline` is false.
    """
    is_requested = task.is_sequence_task and config.segments.no_context_baseline
    return is_requested and config.model.temporal.kind != NO_CONTEXT_KIND


def is_solved_run(
    config: Config, dataset: Dataset, task: Task, input_spec: InputSpec, n_examples: int | None = None
) -> bool:
    """Return whether the fits of a run solve their classifiers; the folds and the refit do the same.

    Args:
        config: Config of the run, with defaults resolved.
        dataset: All examples.
        task: The task.
        input_spec: Modalities that are read.
        n_examples: Number of examples of the whole run, where `dataset` is a sample; None: those of `dataset`.

    Returns:
        True if the config asks for it and the data allow it.
    """
    wants_solution = is_solved(config, reads_only_text=not input_spec.media, is_sequence_task=task.is_sequence_task)
    n_examples = len(dataset) if n_examples is None else n_examples
    return wants_solution and can_be_solved(n_examples, in_memory=isinstance(dataset, InMemoryDataset))


def schedule_of_fit(
    config: Config, dataset: Dataset, task: Task, input_spec: InputSpec, n_train: int, *, n_songs: int | None = None,
    n_examples: int | None = None,
) -> TrainingSchedule:  # fmt: skip
    """Return the schedule of a fit.

    Args:
        config: Config of the fit, with defaults resolved.
        dataset: All examples.
        task: The task.
        input_spec: Modalities that are read.
        n_train: Number of training examples.
        n_songs: Number of training songs, where the segments of a song stay in one step; otherwise None.
        n_examples: Number of examples of the whole run, where `dataset` is a sample; None: those of `dataset`.

    Returns:
        The schedule; a single step where the classifier is solved.
    """
    if is_solved_run(config, dataset, task, input_spec, n_examples):
        return TrainingSchedule(1, n_train, 1, is_solved=True)
    can_grow = can_grow_steps(config, reads_only_text=not input_spec.media, is_sequence_task=task.is_sequence_task)
    mean_tokens = float(dataset.lengths.mean()) if can_grow and len(dataset) else None
    return make_training_schedule(config.training, n_train, n_songs, mean_tokens=mean_tokens)
