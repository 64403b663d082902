"""Baselines of a run, on its own folds: computed for songs, or for segments."""

from __future__ import annotations

import numpy as np

from rainbow_ray.baselines.common import (
    MOST_EXAMPLES,
    Scores,
    _mean_by,
    _one_a_song,
    mean_states,
    media_summaries,
    run_baselines,
)
from rainbow_ray.baselines.segments import compute_segment_baselines
from rainbow_ray.data.splits import Split
from rainbow_ray.tasks.scores import empty_scores
from rainbow_ray.training.cross_validation import FitContext


def compute_baselines(shared: FitContext, split: Split) -> dict[str, Scores]:
    """In a worker: the baselines' out-of-fold scores, `(examples, …)`; NaN beyond a sample, where examples are many."""
    if shared.task.is_sequence_task:
        return compute_segment_baselines(shared, split)
    config, source = shared.config, shared.dataset
    known = source.in_memory_subset(np.arange(len(source)))
    alone = known.take(_one_a_song(source, known.indices))
    summaries = media_summaries(shared, known)
    if source.songs is not None:
        # the mean over a song's stems, as text is one a song
        rows = source.songs[known.indices]
        summaries = {name: _mean_by(rows, values)[source.songs[alone.indices]] for name, values in summaries.items()}
        known = alone
    if len(known) > MOST_EXAMPLES:
        rng = np.random.default_rng(config.reproducibility.seed)
        chosen = np.sort(rng.choice(len(known), MOST_EXAMPLES, replace=False))
        known = known.take(chosen)
        summaries = {name: values[chosen] for name, values in summaries.items()}
    examples = known.examples.take(known.positions)
    states = None
    if shared.input_spec.text:
        states = mean_states(examples, shared.input_spec.text, config.model.text_encoder, config.training.device)
    part = split.take(known.indices)
    scores = run_baselines(shared.task, examples, part, states, summaries, seed=config.reproducibility.seed)
    whole = {name: empty_scores(shared.task, len(source)) for name in scores}
    for name, values in scores.items():
        whole[name][known.indices] = values
        if source.songs is not None:  # a song's stems all say what the song says
            by_song = np.zeros((int(source.songs.max()) + 1, *values.shape[1:]), dtype=values.dtype)
            by_song[source.songs[known.indices]] = values
            whole[name][:] = by_song[source.songs]
    return whole
