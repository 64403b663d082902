"""What a model of segments must beat: the same baselines as elsewhere, each segment for itself.

Where only songs have labels, they read whole songs, and each segment has an equal share of what they say.
"""

from __future__ import annotations

import dataclasses

import numpy as np
import pyarrow as pa

from rainbow_ray.baselines.common import MOST_EXAMPLES, Scores, mean_states, media_summaries, run_baselines
from rainbow_ray.data.examples import Examples
from rainbow_ray.data.splits import Split
from rainbow_ray.tasks.scores import empty_scores
from rainbow_ray.tasks.segment_targets import SegmentTargets, song_slices
from rainbow_ray.training.cross_validation import FitContext


def compute_segment_baselines(shared: FitContext, split: Split) -> dict[str, Scores]:
    """In a worker: out-of-fold scores of each baseline, `(segments, …)`; NaN beyond a sample of songs."""
    config, source, task = shared.config, shared.dataset, shared.task
    seed = config.reproducibility.seed
    rows = _sample(source.targets, seed)
    known = source.in_memory_subset(rows)
    examples = known.examples.take(known.positions)
    summaries = media_summaries(shared, known)
    states = None
    if shared.input_spec.text:
        states = mean_states(examples, shared.input_spec.text, config.model.text_encoder, config.training.device)
    part = split.take(rows)
    whole: dict[str, Scores] = {}
    if task.is_weakly_labeled:
        songs = song_slices(examples.targets)
        firsts = np.array([song.start for song in songs])
        means = None if states is None else np.stack([states[song].mean(axis=0) for song in songs])
        summed = {name: np.stack([values[song].mean(axis=0) for song in songs]) for name, values in summaries.items()}
        found = run_baselines(task.base_task, _songs(examples, songs), part.take(firsts), means, summed, seed=seed)
        sizes = np.array([song.stop - song.start for song in songs])
        for name, said in found.items():
            shares = said / sizes.reshape(-1, *[1] * (said.ndim - 1))
            whole[name] = np.repeat(shares, sizes, axis=0)
    else:
        labelled = dataclasses.replace(examples, targets=SegmentTargets.from_array(examples.targets).labels)
        whole = run_baselines(
            task.base_task,
            labelled,
            part,
            states,
            summaries,
            seed=seed,
            teaches=task.has_label(examples.targets),
        )
    scores = {name: empty_scores(task, len(source)) for name in whole}
    for name, found_here in whole.items():
        scores[name][rows] = found_here
    return scores


def _sample(targets: np.ndarray, seed: int) -> np.ndarray:
    """The segments of all songs, or of as many as baselines read."""
    songs = song_slices(targets)
    if len(targets) <= MOST_EXAMPLES:
        return np.arange(len(targets))
    chosen: list[np.ndarray] = []
    size = 0
    for i in np.random.default_rng(seed).permutation(len(songs)):
        rows = np.arange(songs[i].start, songs[i].stop)
        if size + len(rows) > MOST_EXAMPLES and chosen:
            break
        chosen.append(rows)
        size += len(rows)
    return np.sort(np.concatenate(chosen))


def _songs(examples: Examples, songs: list[slice]) -> Examples:
    """An example a song, with all its words."""
    texts = examples.texts
    joined = [" ".join(text for text in texts[song] if text) for song in songs]
    labels = SegmentTargets.from_array(examples.targets).song_labels()
    table = pa.table({"text": pa.array(joined, pa.string())})
    return Examples(table, labels, np.ones(len(songs), dtype=np.float32))
