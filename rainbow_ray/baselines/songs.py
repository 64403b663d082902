"""Baselines of songs and of stems. A baseline reads a song once, and its stems share the song's scores."""

from __future__ import annotations

import numpy as np

from rainbow_ray.baselines.common import MAX_EXAMPLES, run_baselines
from rainbow_ray.baselines.features import media_features, text_states
from rainbow_ray.baselines.model_family import Scores
from rainbow_ray.data.dataset import Dataset
from rainbow_ray.data.splits import Split
from rainbow_ray.tasks.scores import empty_scores
from rainbow_ray.training.cross_validation import FitContext


def compute_song_baselines(context: FitContext, split: Split) -> dict[str, Scores]:
    """Return out-of-fold scores of the baselines of songs.

    Args:
        context: Data and config of the run.
        split: Folds of the run.

    Returns:
        Scores by name, `(examples, …)`; NaN for examples beyond a sample of `MAX_EXAMPLES`.
    """
    dataset, seed = context.dataset, context.config.reproducibility.seed
    view = dataset.in_memory_subset(np.arange(len(dataset)))
    first = view.take(first_of_each_song(dataset, view.indices))
    features = media_features(context, view)
    if dataset.songs is not None:
        # the mean over a song's stems, because a song has one text
        rows = dataset.songs[view.indices]
        features = {
            name: mean_by_group(rows, values)[dataset.songs[first.indices]] for name, values in features.items()
        }
        view = first
    if len(view) > MAX_EXAMPLES:
        sample = np.sort(np.random.default_rng(seed).choice(len(view), MAX_EXAMPLES, replace=False))
        view = view.take(sample)
        features = {name: values[sample] for name, values in features.items()}
    examples = view.examples.take(view.positions)
    states = text_states(context, examples)
    scores = run_baselines(context.task, examples, split.take(view.indices), states, features, seed=seed)
    all_scores = {name: empty_scores(context.task, len(dataset)) for name in scores}
    for name, values in scores.items():
        all_scores[name][view.indices] = values
        if dataset.songs is not None:
            by_song = np.zeros((int(dataset.songs.max()) + 1, *values.shape[1:]), dtype=values.dtype)
            by_song[dataset.songs[view.indices]] = values
            all_scores[name][:] = by_song[dataset.songs]
    return all_scores


def first_of_each_song(dataset: Dataset, indices: np.ndarray) -> np.ndarray:
    """Return the positions of one example of each song.

    Args:
        dataset: The dataset.
        indices: Indices of examples, `(examples,)`.

    Returns:
        Positions in `indices`; all, where each example is a song.
    """
    if dataset.songs is None:
        return np.arange(len(indices))
    return np.sort(np.unique(dataset.songs[indices], return_index=True)[1])


def mean_by_group(groups: np.ndarray, values: np.ndarray) -> np.ndarray:
    """Return the mean of the rows of each group.

    Args:
        groups: Number of each row's group, from 0, `(rows,)`.
        values: Values, `(rows, width)`.

    Returns:
        Means, float32, `(groups, width)`; 0 for groups without rows.
    """
    sums = np.zeros((int(groups.max()) + 1, values.shape[1]), dtype=np.float64)
    np.add.at(sums, groups, values)
    return (sums / np.maximum(np.bincount(groups), 1)[:, None]).astype(np.float32)
