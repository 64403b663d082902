"""Early stopping: the inner split that it monitors, the metric, and what counts as an improvement.

The inner split is taken from the training side, so that the validation side influences nothing.
"""

from __future__ import annotations

import numpy as np

from rainbow_ray.config.schema import Config, EarlyStoppingConfig, TrainingConfig
from rainbow_ray.data.dataset import Dataset
from rainbow_ray.tasks.base import Task
from rainbow_ray.training.fit_data import TrainState

LOSS = "loss"  # monitored where the headline metric is undefined


def split_for_early_stopping(
    config: Config, dataset: Dataset, task: Task, train_indices: np.ndarray, split_by: str
) -> tuple[np.ndarray, np.ndarray]:
    """Split the training side into examples to train on and examples that early stopping monitors.

    Args:
        config: Section `training.early_stopping`, and the seed of the split.
        dataset: The examples.
        task: Provides the strata, whose proportions the split keeps.
        train_indices: Training examples, `(n,)`.
        split_by: Column whose values stay on one side.

    Returns:
        Indices to train on, and indices of the inner split (empty without early stopping).
    """
    stopping = config.training.early_stopping
    if not stopping.enabled:
        return train_indices, np.array([], dtype=np.int64)
    strata = task.strata(dataset.targets[train_indices])
    mask = dataset.validation_mask(
        train_indices, strata, fraction=stopping.inner_split, split_by=split_by, seed=config.split_seed
    )
    return train_indices[~mask], train_indices[mask]


def monitored_metric(config: TrainingConfig, task: Task, targets: np.ndarray) -> tuple[str, list[str]]:
    """Return the metric that early stopping monitors.

    Args:
        config: Names the headline metric.
        task: Defines the metric.
        targets: Targets of the inner split, `(n, …)`.

    Returns:
        The headline metric, or `loss` where the inner split is too small for that metric to be defined, and notes for
        the user.
    """
    metric = config.headline
    if len(targets) == 0 or task.metric(metric, targets, task.perfect_scores(targets)) is not None:
        return metric, []
    return LOSS, [
        f"{metric} is not defined on the {len(targets)} songs of the inner split: early stopping monitors the loss"
    ]


def is_improvement(
    config: EarlyStoppingConfig, task: Task, metric: str, value: float | None, state: TrainState
) -> bool:
    """Return whether an epoch is the best so far.

    Args:
        config: `min_delta`, the least improvement that counts.
        task: Knows whether larger values of the metric are better.
        metric: The monitored metric.
        value: Its value after the current epoch; None where it is undefined.
        state: Has the best value so far.

    Returns:
        True if the model of the current epoch is to be kept.
    """
    if value is None:
        return state.best_epoch == 0
    if state.best_value is None:
        return True
    gain = value - state.best_value if task.larger_is_better(metric) else state.best_value - value
    return gain > config.min_delta
