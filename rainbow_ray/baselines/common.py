"""Cross-validation of baselines on the folds of a run, for songs and for segments."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from rainbow_ray.baselines.model_family import Scores, model_family
from rainbow_ray.baselines.models import BaselineInputs, fit_trivial
from rainbow_ray.baselines.registry import applicable_baselines
from rainbow_ray.data.examples import Examples
from rainbow_ray.data.splits import Split
from rainbow_ray.modalities.text.word_hashing import WORD
from rainbow_ray.tasks.base import Task
from rainbow_ray.tasks.scores import empty_scores

MAX_EXAMPLES = 5_000  # a larger dataset is sampled: baselines are a yardstick and may not dominate the run time


def run_baselines(
    task: Task, examples: Examples, split: Split, hidden_states: np.ndarray | None,
    media_features: Mapping[str, np.ndarray] | None = None, *, seed: int, has_label: np.ndarray | None = None,
) -> dict[str, Scores]:  # fmt: skip
    """Return out-of-fold scores of all baselines that apply.

    Args:
        task: Task of a single example.
        examples: Examples with targets of that task.
        split: Folds of the examples.
        hidden_states: Means of the frozen text encoder's hidden states, `(examples, layers, hidden_size)`, or None.
        media_features: Pooled features of other modalities by name, `(examples, width)`.
        seed: Seed of models and of inner folds.
        has_label: Mask of the examples to fit on, `(examples,)`; None for all. The others are scored only.

    Returns:
        Scores by name, `(examples, …)`, NaN for examples that no fold scores.
    """
    from threadpoolctl import threadpool_limits

    has_songs = "song" in examples.table.column_names
    songs = examples.codes("song") if has_songs else np.arange(len(examples))
    inputs = BaselineInputs(
        model_family(task), examples.targets, examples.texts, songs, hidden_states, media_features or {}, seed
    )
    baselines = applicable_baselines(inputs)
    scores = {baseline.name: empty_scores(task, len(examples)) for baseline in baselines}
    for fold in range(split.n_folds):
        train, val = split.train_val_indices(fold)
        train = train if has_label is None else train[has_label[train]]
        has_words = any(WORD.search(text.lower()) for text in inputs.texts[train])
        for baseline in baselines:
            fit = fit_trivial if baseline.needs_words and not has_words else baseline.fit
            # threads that wait for each other multiply matrices this small twelve times slower
            with threadpool_limits(1):
                scores[baseline.name][val] = fit(inputs, train, val)
    return scores
