"""Baselines of segments. A baseline scores each segment by itself.

Where only songs have labels, a baseline scores whole songs, and each segment has an equal part of the song's score.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

import numpy as np
import pyarrow as pa

from rainbow_ray.baselines.common import MAX_EXAMPLES, Baselines, KeepFits, baseline_inputs, run_baselines
from rainbow_ray.baselines.features import media_features, read_layer, reference_features, trained_modalities
from rainbow_ray.baselines.learning_curve import learning_curve_scores
from rainbow_ray.baselines.model_family import Scores
from rainbow_ray.data.dataset import ExampleView
from rainbow_ray.data.examples import Examples
from rainbow_ray.data.splits import Split
from rainbow_ray.stacking.linear_member import MemberInputs, layer_features
from rainbow_ray.tasks.base import Task
from rainbow_ray.tasks.scores import empty_scores
from rainbow_ray.tasks.segment_targets import SegmentTargets, song_slices
from rainbow_ray.training.cross_validation import FitContext


def segment_view(context: FitContext) -> ExampleView:
    """Return the segments that baselines read.

    Args:
        context: Data and config of the run.

    Returns:
        The segments of all songs, or of a sample of songs.
    """
    dataset = context.dataset
    return dataset.in_memory_subset(sample_songs(dataset.targets, context.config.reproducibility.seed))


def compute_segment_baselines(
    context: FitContext, split: Split, states: np.ndarray | None, *, keep_fits: bool = False
) -> Baselines:
    """Return out-of-fold scores of the baselines of segments.

    Args:
        context: Data and config of the run.
        split: Folds of the run.
        states: Hidden states of the texts of `segment_view`, or None.
        keep_fits: Whether to return the fitted models, too.

    Returns:
        Scores by name, `(segments, …)`, NaN for segments beyond a sample of songs; and the fits, if all segments have
        labels of their own and were scored.
    """
    dataset, task, seed = context.dataset, context.task, context.config.reproducibility.seed
    view = segment_view(context)
    rows, examples = view.indices, view.examples.take(view.positions)
    features, part = media_features(context, view), split.take(rows)
    curve = None
    if task.is_weakly_labeled:
        baselines = Baselines(_score_songs(task.base_task, examples, part, states, features, seed))
    else:
        inputs = baseline_inputs(task.base_task, segment_labels(examples), states, features, seed=seed)
        has_label = task.has_label(examples.targets)
        is_complete = len(rows) == len(dataset)
        keep = KeepFits(None, trained_modalities(context)) if keep_fits and is_complete else None
        baselines = run_baselines(task.base_task, inputs, part, has_label=has_label, keep=keep)
        if keep_fits and is_complete:
            layer = 0 if states is None else read_layer(context, states.shape[1])
            curve = learning_curve_scores(inputs, part, rows, layer=layer, has_label=has_label)
    all_scores = {name: empty_scores(task, len(dataset)) for name in baselines.scores}
    for name, values in baselines.scores.items():
        all_scores[name][rows] = values
    member_inputs = MemberInputs(examples.texts.tolist(), {**layer_features(states), **features})
    references = reference_features(context, member_inputs, tuple(features), examples.codes("song"))
    return Baselines(all_scores, baselines.fits, references, curve)


def segment_labels(examples: Examples) -> Examples:
    """Return segments with their own labels as targets, without times and songs.

    Args:
        examples: Segments.

    Returns:
        Examples for the task of a single example.
    """
    return dataclasses.replace(examples, targets=SegmentTargets.from_array(examples.targets).labels)


def sample_songs(targets: np.ndarray, seed: int) -> np.ndarray:
    """Return the segments of all songs, or of a random sample of songs.

    Args:
        targets: Packed targets, `(segments, 5)`.
        seed: Seed of the sample.

    Returns:
        Indices of segments of whole songs; more than `MAX_EXAMPLES` only for a single song.
    """
    songs = song_slices(targets)
    if len(targets) <= MAX_EXAMPLES:
        return np.arange(len(targets))
    sample: list[np.ndarray] = []
    n_segments = 0
    for i in np.random.default_rng(seed).permutation(len(songs)):
        rows = np.arange(songs[i].start, songs[i].stop)
        if n_segments + len(rows) > MAX_EXAMPLES and sample:
            break
        sample.append(rows)
        n_segments += len(rows)
    return np.sort(np.concatenate(sample))


def _score_songs(
    base_task: Task, examples: Examples, split: Split, states: np.ndarray | None, features: Mapping[str, np.ndarray],
    seed: int,
) -> dict[str, Scores]:  # fmt: skip
    """Return baselines of whole songs, with equal parts of a song's score for its segments."""
    songs = song_slices(examples.targets)
    first = np.array([song.start for song in songs])
    song_states = None if states is None else np.stack([states[song].mean(axis=0) for song in songs])
    song_features = {name: np.stack([values[song].mean(axis=0) for song in songs]) for name, values in features.items()}
    joined = _join_segments(examples, songs)
    inputs = baseline_inputs(base_task, joined, song_states, song_features, seed=seed)
    scores = run_baselines(base_task, inputs, split.take(first)).scores
    sizes = np.array([song.stop - song.start for song in songs])
    return {
        name: np.repeat(values / sizes.reshape(-1, *[1] * (values.ndim - 1)), sizes, axis=0)
        for name, values in scores.items()
    }


def _join_segments(examples: Examples, songs: list[slice]) -> Examples:
    """One example for each song, with the texts of all its segments."""
    texts = examples.texts
    joined = [" ".join(text for text in texts[song] if text) for song in songs]
    labels = SegmentTargets.from_array(examples.targets).song_labels()
    table = pa.table({"text": pa.array(joined, pa.string())})
    return Examples(table, labels, np.ones(len(songs), dtype=np.float32))
