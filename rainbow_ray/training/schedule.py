"""The length of a fit: epochs and steps, or a single solution of its classifier."""

from __future__ import annotations

from rainbow_ray.config.schema import Config
from rainbow_ray.config.solver import is_solved
from rainbow_ray.data.batching import TrainingSchedule, make_training_schedule
from rainbow_ray.data.dataset import Dataset, InMemoryDataset
from rainbow_ray.modalities.spec import InputSpec
from rainbow_ray.tasks.base import Task

MAX_SOLVED_EXAMPLES = 10_000  # more are trained in steps, which then lose nothing to an exact solution


def wants_solution(config: Config, dataset: Dataset, task: Task, input_spec: InputSpec, n_examples: int) -> bool:
    """Return whether the classifier of a fit is solved, not trained in steps.

    Args:
        config: Config of the fit, with defaults resolved.
        dataset: The examples; those of a streaming dataset are not at hand.
        task: The task.
        input_spec: Modalities that are read.
        n_examples: Number of training examples.

    Returns:
        True if the config asks for it, and the training examples are in memory and not too many.
    """
    return (
        is_solved(config, reads_only_text=not input_spec.media, is_sequence_task=task.is_sequence_task)
        and isinstance(dataset, InMemoryDataset)
        and n_examples <= MAX_SOLVED_EXAMPLES
    )


def schedule_of_fit(
    config: Config, dataset: Dataset, task: Task, input_spec: InputSpec, n_examples: int, n_songs: int | None = None
) -> TrainingSchedule:
    """Return the schedule of a fit.

    Args:
        config: Config of the fit, with defaults resolved.
        dataset: The examples.
        task: The task.
        input_spec: Modalities that are read.
        n_examples: Number of training examples.
        n_songs: Number of training songs, where the segments of a song stay in one step; otherwise None.

    Returns:
        The schedule; a single step where the classifier is solved.
    """
    if wants_solution(config, dataset, task, input_spec, n_examples):
        return TrainingSchedule(1, n_examples, 1, is_solved=True)
    return make_training_schedule(config.training, n_examples, n_songs)
