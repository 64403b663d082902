"""Arrays of scores of all examples: empty ones, partly filled ones, and decoding fold by fold."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from rainbow_ray.tasks.base import Metrics, Task


def empty_scores(task: Task, *shape: int) -> np.ndarray:
    """Return scores of examples that no fold has scored yet.

    Args:
        task: The task.
        *shape: Leading dimensions, the last of which counts examples.

    Returns:
        NaN, `(*shape,)` or `(*shape, classes)`.
    """
    columns = () if task.score_names == ("score",) else (len(task.score_names),)
    return np.full((*shape, *columns), np.nan, dtype=task.score_dtype)


def is_scored(scores: np.ndarray, like: Task) -> np.ndarray:
    """Return which examples were scored.

    Args:
        scores: Scores, `(…,)` or `(…, classes)`, NaN where there is none.
        like: The task.

    Returns:
        A mask, bool, `(…,)`.
    """
    missing = np.isnan(scores)
    return np.asarray(~(missing if like.score_names == ("score",) else missing.any(axis=-1)))


def decode_folds(
    task: Task, targets: np.ndarray, folds: Iterable[tuple[np.ndarray, np.ndarray]], scores: np.ndarray
) -> np.ndarray:
    """Decode the scores of each fold's validation set with what its training set teaches.

    Args:
        task: The task.
        targets: Targets of all examples, `(examples, …)`.
        folds: Indices of the training set and of the validation set of each fold.
        scores: Scores, `(examples,)` or `(examples, classes)`. A fold with NaN is left as it is.

    Returns:
        Scores of the same shape; the same array for tasks that are not sequence tasks.
    """
    if not task.is_sequence_task:
        return scores
    decoded = scores.copy()
    for train, val in folds:
        if len(val) and is_scored(scores[val], task).all():
            decoded[val] = task.fit_decoding(targets[train]).decode_scores(targets[val], scores[val])
    return decoded


def measure_decoded(task: Task, targets: np.ndarray, scores: np.ndarray) -> tuple[Metrics, dict[str, str]]:
    """Return all metrics of a fitted task, with threshold metrics measured on decoded scores.

    Args:
        task: The fitted task.
        targets: Targets, `(examples, …)`.
        scores: Scores, `(examples,)` or `(examples, classes)`.

    Returns:
        What `Task.metrics` returns.
    """
    metrics, undefined = task.metrics(targets, scores)
    if task.is_sequence_task and len(targets):
        decoded = task.decode_scores(targets, scores)
        metrics |= {name: task.metric(name, targets, decoded) for name in task.threshold_metrics}
    return metrics, undefined
