"""Baselines of songs and of stems. A baseline reads a song once, and its stems share the song's scores."""

from __future__ import annotations

import numpy as np

from rainbow_ray.baselines.common import MAX_EXAMPLES, Baselines, KeepFits, baseline_inputs, run_baselines
from rainbow_ray.baselines.features import media_features, read_layer, reference_features, trained_modalities
from rainbow_ray.baselines.learning_curve import learning_curve_scores
from rainbow_ray.data.dataset import Dataset, ExampleView
from rainbow_ray.data.splits import Split
from rainbow_ray.stacking.linear_member import MemberInputs, layer_features
from rainbow_ray.tasks.scores import empty_scores
from rainbow_ray.training.cross_validation import FitContext


def song_view(context: FitContext) -> ExampleView:
    """Return the examples that baselines read: one of each song.

    Args:
        context: Data and config of the run.

    Returns:
        The examples, or a sample of `MAX_EXAMPLES`.
    """
    dataset = context.dataset
    view = dataset.in_memory_subset(np.arange(len(dataset)))
    view = view.take(first_of_each_song(dataset, view.indices))
    if len(view) <= MAX_EXAMPLES:
        return view
    rng = np.random.default_rng(context.config.reproducibility.seed)
    return view.take(np.sort(rng.choice(len(view), MAX_EXAMPLES, replace=False)))


def compute_song_baselines(
    context: FitContext, split: Split, states: np.ndarray | None, *, keep_fits: bool = False
) -> Baselines:
    """Return out-of-fold scores of the baselines of songs.

    Args:
        context: Data and config of the run.
        split: Folds of the run.
        states: Hidden states of the texts of `song_view`, or None.
        keep_fits: Whether to return the fitted models, too, which score stems each by itself.

    Returns:
        Scores by name, `(examples, …)`, NaN for examples beyond a sample of `MAX_EXAMPLES`; and the fits, if all
        examples were scored.
    """
    dataset, seed = context.dataset, context.config.reproducibility.seed
    rows, view = dataset.in_memory_subset(np.arange(len(dataset))), song_view(context)
    row_features = media_features(context, rows)
    if dataset.songs is None:
        positions = np.searchsorted(rows.indices, view.indices)
        features = {name: values[positions] for name, values in row_features.items()}
    else:
        # the mean over a song's stems, because a song has one text
        songs_of_rows, songs_of_view = dataset.songs[rows.indices], dataset.songs[view.indices]
        features = {name: mean_by_group(songs_of_rows, values)[songs_of_view] for name, values in row_features.items()}
    examples = view.examples.take(view.positions)
    is_sample = len(view) < len(first_of_each_song(dataset, rows.indices))
    is_complete = not is_sample and len(rows) == len(dataset)
    scored, songs_of_scored = None, examples.codes("song")
    if dataset.songs is not None and is_complete:
        scored, songs_of_scored = _stem_inputs(dataset, rows, view, states, row_features), dataset.songs[rows.indices]
    inputs = baseline_inputs(context.task, examples, states, features, seed=seed)
    keep = KeepFits(scored, trained_modalities(context)) if keep_fits and is_complete else None
    baselines = run_baselines(context.task, inputs, split.take(view.indices), keep=keep)
    all_scores = {name: empty_scores(context.task, len(dataset)) for name in baselines.scores}
    for name, values in baselines.scores.items():
        all_scores[name][view.indices] = values
        if dataset.songs is not None:
            by_song = empty_scores(context.task, int(dataset.songs.max()) + 1)
            by_song[dataset.songs[view.indices]] = values
            all_scores[name][:] = by_song[dataset.songs]
    media = context.input_spec.media
    references = reference_features(context, scored or inputs.member_inputs, media, songs_of_scored)
    curve = None
    if keep_fits:
        layer = 0 if states is None else read_layer(context, states.shape[1])
        curve = learning_curve_scores(inputs, split.take(view.indices), view.indices, layer=layer)
    return Baselines(all_scores, baselines.fits, references, curve)


def _stem_inputs(
    dataset: Dataset, rows: ExampleView, songs: ExampleView, states: np.ndarray | None, features: dict[str, np.ndarray]
) -> MemberInputs:
    """What members read of each stem: its own media, and the text of its song."""
    assert dataset.songs is not None
    position = np.zeros(int(dataset.songs.max()) + 1, dtype=np.int64)
    position[dataset.songs[songs.indices]] = np.arange(len(songs))
    song_of_row = position[dataset.songs[rows.indices]]
    layers = layer_features(None if states is None else states[song_of_row])
    texts = songs.examples.take(songs.positions).texts[song_of_row].tolist()
    return MemberInputs(texts, {**layers, **features})


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
