"""The length of a fit: epochs and steps, or a single solution of its classifier."""

from __future__ import annotations

from rainbow_ray.config.schema import Config
from rainbow_ray.config.solver import can_be_solved, is_solved
from rainbow_ray.data.batching import TrainingSchedule, make_training_schedule
from rainbow_ray.data.dataset import Dataset, InMemoryDataset
from rainbow_ray.modalities.spec import InputSpec
from rainbow_ray.tasks.base import Task


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
    return make_training_schedule(config.training, n_train, n_songs)
