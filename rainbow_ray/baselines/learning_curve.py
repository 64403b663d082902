"""Out-of-fold scores of simple models that were trained on parts of the songs, for a learning curve.

The models are linear ones of TF-IDF weights and of the frozen encoder, with the mean of their linear predictors as
score: they train in milliseconds.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd
from sklearn.feature_extraction.text import TfidfVectorizer
from threadpoolctl import threadpool_limits

from rainbow_ray.baselines.models import BaselineInputs
from rainbow_ray.data.splits import Split
from rainbow_ray.modalities.text.word_hashing import WORD
from rainbow_ray.stacking.links import LINKS_OF_CLASSES, apply_link

FRACTIONS = (0.4, 0.6, 0.8, 1.0)  # of the training songs of each fold
N_DRAWS = 3
MIN_SONGS, MAX_SONGS = 40, 1000  # fewer are too few to divide, more would cost more than the curve is worth
MIN_TRAIN_SONGS = 10  # with labels, of each fold
MAX_SCORES = 10_000  # examples times outputs
ENCODER_STRENGTH = 0.01  # inverse L2 strength: there are more features than songs


@dataclass(frozen=True)
class CurveScores:
    """Scores by number of training songs.

    Attributes:
        n_songs: Median number of training songs of each fraction, `(fractions,)`.
        scores: Out-of-fold scores, `(draws, fractions, examples, …)`; NaN for examples that no fold scores.
        rows: Index of each example in the dataset, `(examples,)`.
        songs: Number of each example's song, `(examples,)`.
    """

    n_songs: np.ndarray
    scores: np.ndarray
    rows: np.ndarray
    songs: np.ndarray


def learning_curve_scores(
    inputs: BaselineInputs, split: Split, rows: np.ndarray, *, layer: int, has_label: np.ndarray | None = None
) -> CurveScores | None:
    """Score all examples with models of parts of the training songs, drawn several times.

    Args:
        inputs: What baselines read, one example for each song or segment.
        split: Folds of the examples.
        rows: Index of each example in the dataset.
        layer: Layer of the frozen encoder.
        has_label: Mask of the examples to fit on, `(examples,)`; None for all.

    Returns:
        The scores; None for too few or too many songs, in all or on the training side of a fold, or without texts.
    """
    n_examples, (songs, names) = len(inputs.targets), pd.factorize(inputs.songs)
    if not MIN_SONGS <= len(names) <= MAX_SONGS or not inputs.has_texts:
        return None
    n_outputs = len(inputs.models.constant_predictor(inputs.targets[:1]))
    if n_examples * n_outputs > MAX_SCORES:
        return None
    predictors = np.full((N_DRAWS, len(FRACTIONS), n_examples, n_outputs), np.nan)
    counts: list[list[int]] = [[] for _ in FRACTIONS]
    for draw in range(N_DRAWS):
        rank = np.random.default_rng([inputs.seed, draw]).permutation(len(names))
        for fold in range(split.n_folds):
            train, val = split.train_val_indices(fold)
            labeled = train if has_label is None else train[has_label[train]]
            train_songs = np.unique(songs[labeled])
            if len(train_songs) < MIN_TRAIN_SONGS:
                return None
            ordered = train_songs[np.argsort(rank[train_songs])]
            for i, fraction in enumerate(FRACTIONS):
                drawn = ordered[: round(fraction * len(ordered))]
                counts[i].append(len(drawn))
                if draw > 0 and len(drawn) == len(ordered):  # the same songs in each draw
                    predictors[draw, i, val] = predictors[0, i, val]
                else:
                    part = labeled[np.isin(songs[labeled], drawn)]
                    predictors[draw, i, val] = _fit_predict(inputs, part, val, layer)
    link = inputs.models.link
    scores = apply_link(predictors.reshape(-1, n_outputs), link).reshape(predictors.shape)
    scores = scores if link in LINKS_OF_CLASSES else scores[..., 0]
    return CurveScores(np.array([np.median(values) for values in counts]), scores, rows, songs)


def _fit_predict(inputs: BaselineInputs, train: np.ndarray, val: np.ndarray, layer: int) -> np.ndarray:
    """Return the mean linear predictor of the models, `(val, outputs)`."""
    family, targets, predictors = inputs.models, inputs.targets[train], []
    with threadpool_limits(1):
        if any(WORD.search(text.lower()) for text in inputs.texts[train]):
            vectorizer = TfidfVectorizer()
            weighted = vectorizer.fit_transform(inputs.texts[train])
            weights, bias = family.fit_affine(family.linear(1.0), weighted, targets)
            predictors.append(vectorizer.transform(inputs.texts[val]) @ weights + bias)
        if inputs.hidden_states is not None:
            states = inputs.hidden_states[:, layer].astype(np.float64)
            center, spread = states[train].mean(axis=0), np.maximum(states[train].std(axis=0), 1e-6)
            weights, bias = family.fit_affine(
                family.linear(ENCODER_STRENGTH), (states[train] - center) / spread, targets
            )  # fmt: skip
            predictors.append((states[val] - center) / spread @ weights + bias)
    if not predictors:
        return np.tile(family.constant_predictor(targets), (len(val), 1))
    return np.asarray(np.mean(predictors, axis=0))
