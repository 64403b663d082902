"""The baselines' models: text length, TF-IDF, bag of words with boosting, and linear models of frozen features."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import scipy.sparse
from sklearn.feature_extraction.text import CountVectorizer, TfidfVectorizer
from sklearn.model_selection import GroupKFold, KFold, StratifiedKFold
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from rainbow_ray.baselines.model_family import ModelFamily, Scores
from rainbow_ray.baselines.names import (
    BAG_OF_WORDS,
    FROZEN_ENCODER,
    TEXT_LENGTH,
    TF_IDF,
    boosted_baseline_name,
    media_baseline_name,
)
from rainbow_ray.data.splits import merge_rare_strata
from rainbow_ray.stacking.linear_member import Kind, LinearMember, MemberInputs, hidden_states_key, layer_features

INNER_FOLDS = 5
N_THRESHOLDS = 7  # of each descriptor, at quantiles of the training set
DESCRIPTOR_FRACTION = 0.1  # of the thresholds that each tree reads: a tenth of the time, and no worse
DECIMALS = 5  # of descriptors; closer values are not told apart
MEDIA_STRENGTH = 0.01  # inverse L2 strength: there are more features than songs
# Inverse L2 strengths to choose from, together with the layer. A fit takes five times as long with the first one, so
# that only the layers that are best with the second one are tried with it.
WEAK_PENALTY, STRONG_PENALTY = 1.0, 0.01
MAX_LAYERS_WEAK = 2


@dataclass(frozen=True)
class BaselineInputs:
    """What baselines read of the examples of a run.

    Attributes:
        models: Models for the type of the targets.
        targets: Targets of the task of a single example, `(examples, …)`; NaN for segments without a label.
        texts: Texts, `(examples,)`, object; empty where there is none.
        songs: Number of each example's song, `(examples,)`.
        hidden_states: Means of the frozen text encoder's hidden states, `(examples, layers, hidden_size)`, or None.
        media_features: Pooled features of other modalities by name, `(examples, width)`.
        seed: Seed of models and of inner folds.
    """

    models: ModelFamily
    targets: np.ndarray
    texts: np.ndarray
    songs: np.ndarray
    hidden_states: np.ndarray | None = None
    media_features: Mapping[str, np.ndarray] = field(default_factory=dict)
    seed: int = 0

    @property
    def has_texts(self) -> bool:
        """Whether any example has a text."""
        return any(self.texts)

    @functools.cached_property
    def member_inputs(self) -> MemberInputs:
        """What fitted members read of all examples."""
        return MemberInputs(self.texts.tolist(), {**layer_features(self.hidden_states), **self.media_features})

    def fit_predict(self, model: Any, inputs: Any, train: np.ndarray, val: np.ndarray) -> Scores:
        """Fit a model on a training set and score a validation set.

        Args:
            model: An unfitted model of scikit-learn.
            inputs: Inputs of all examples, `(examples, …)`.
            train: Indices of the training set.
            val: Indices of the validation set.

        Returns:
            Scores of the validation set.
        """
        return self.models.fit_predict(model, inputs, self.targets, train, val)

    def fit_member(
        self, name: str, kind: Kind, model: Any, inputs: Any, train: np.ndarray, **fields: Any
    ) -> LinearMember:
        """Fit a model on a training set, as a member of a stacked ensemble.

        Args:
            name: Name of the baseline.
            kind: Field of `LinearMember`.
            model: An unfitted model of scikit-learn.
            inputs: Inputs of the training set, `(examples, features)`.
            train: Indices of the training set.
            **fields: Further fields of `LinearMember`.

        Returns:
            The member.
        """
        weights, bias = self.models.fit_affine(model, inputs, self.targets[train])
        return LinearMember(name, kind, self.models.link, weights, bias, **fields).without_unused_features()


def fit_trivial(inputs: BaselineInputs, train: np.ndarray, val: np.ndarray) -> Scores:
    """Predict the mean of the training targets: class frequencies, or the mean number.

    Args:
        inputs: What baselines read.
        train: Indices of the training set.
        val: Indices of the validation set.

    Returns:
        Scores of the validation set, all equal.
    """
    return inputs.models.constant(inputs.targets[train], len(val))


def fit_constant(inputs: BaselineInputs, train: np.ndarray, *, name: str) -> LinearMember:
    """Return the trivial baseline as a member of a stacked ensemble.

    Args:
        inputs: What baselines read.
        train: Indices of the training set.
        name: Name of the member.

    Returns:
        A member whose scores are all equal.
    """
    bias = inputs.models.constant_predictor(inputs.targets[train])
    return LinearMember(name, "word_count", inputs.models.link, np.zeros((1, len(bias))), bias)


def fit_text_length(inputs: BaselineInputs, train: np.ndarray) -> LinearMember:
    """Fit a linear model of the number of words.

    Args:
        inputs: What baselines read.
        train: Indices of the training set.

    Returns:
        The fitted model.
    """
    n_words = np.array([[len(text.split())] for text in inputs.texts[train]], dtype=np.float64)
    return inputs.fit_member(TEXT_LENGTH, "word_count", _standardized(inputs.models.linear(1.0)), n_words, train)


def fit_tf_idf(inputs: BaselineInputs, train: np.ndarray) -> LinearMember:
    """Fit a linear model of TF-IDF weights of words.

    Args:
        inputs: What baselines read.
        train: Indices of the training set.

    Returns:
        The fitted model.
    """
    vectorizer = TfidfVectorizer()
    weighted = vectorizer.fit_transform(inputs.texts[train])
    fields = {"vocabulary": tuple(vectorizer.get_feature_names_out().tolist()), "idf": vectorizer.idf_}
    return inputs.fit_member(TF_IDF, "tf_idf", inputs.models.linear(1.0), weighted, train, **fields)


def fit_bag_of_words(inputs: BaselineInputs, train: np.ndarray) -> LinearMember:
    """Fit boosted decision stumps on the presence of words.

    Args:
        inputs: What baselines read.
        train: Indices of the training set.

    Returns:
        The fitted model; a sum of stumps is linear in the presence of words.
    """
    vectorizer = CountVectorizer(binary=True)
    present = vectorizer.fit_transform(inputs.texts[train])
    vocabulary = tuple(vectorizer.get_feature_names_out().tolist())
    model = inputs.models.boosting(inputs.seed, 1.0)
    return inputs.fit_member(BAG_OF_WORDS, "word_presence", model, present, train, vocabulary=vocabulary)


def fit_frozen_encoder(inputs: BaselineInputs, train: np.ndarray) -> LinearMember:
    """Fit a linear model of the hidden states of one layer of the frozen text encoder.

    Inner folds of the training set, split by song, choose the layer and the L2 strength with the least loss: first the
    best layers with a strong penalty, then between these with a strong and with a weak one.

    Args:
        inputs: What baselines read, with hidden states.
        train: Indices of the training set.

    Returns:
        The fitted model.
    """
    states, family, targets = inputs.hidden_states, inputs.models, inputs.targets
    assert states is not None

    def cost(layer: int, strength: float) -> float:
        predicted = [
            inputs.fit_predict(_standardized(family.linear(strength)), states[:, layer], fit, score)
            for fit, score in inner
        ]
        return family.cost(targets[rows], np.concatenate(predicted))

    inner = _inner_folds(inputs, train)
    layer, strength = 0, WEAK_PENALTY
    if inner:
        rows = np.concatenate([score for _, score in inner])
        costs = {(layer, STRONG_PENALTY): cost(layer, STRONG_PENALTY) for layer in range(states.shape[1])}
        for layer, _ in sorted(costs, key=costs.__getitem__)[:MAX_LAYERS_WEAK]:
            costs[layer, WEAK_PENALTY] = cost(layer, WEAK_PENALTY)
        layer, strength = min(costs, key=costs.__getitem__)
    model, key = _standardized(family.linear(strength)), hidden_states_key(layer)
    return inputs.fit_member(FROZEN_ENCODER, "encoded", model, states[train, layer], train, key=key)


def _inner_folds(inputs: BaselineInputs, train: np.ndarray) -> list[tuple[np.ndarray, np.ndarray]]:
    """Return folds of a training set that keep songs together; none for fewer than four songs."""
    songs = inputs.songs[train]
    n_songs = len(np.unique(songs))
    n_folds = min(INNER_FOLDS, n_songs // 2)
    if n_folds < 2:
        return []
    strata = merge_rare_strata(inputs.models.strata(inputs.targets[train]), n_folds)
    is_stratified = np.unique(strata, return_counts=True)[1].min() >= n_folds
    is_one_per_song = n_songs == len(train)
    splitter = (StratifiedKFold if is_stratified else KFold) if is_one_per_song else GroupKFold
    folds = splitter(n_folds, shuffle=True, random_state=inputs.seed)
    return [(train[fit], train[score]) for fit, score in folds.split(train, strata, None if is_one_per_song else songs)]


def fit_pooled_features(inputs: BaselineInputs, train: np.ndarray, *, modality: str) -> LinearMember:
    """Fit a linear model of one modality's pooled features.

    Args:
        inputs: What baselines read, with the modality's features.
        train: Indices of the training set.
        modality: Name of the modality.

    Returns:
        The fitted model.
    """
    model, features = _standardized(inputs.models.linear(MEDIA_STRENGTH)), inputs.media_features[modality]
    return inputs.fit_member(media_baseline_name(modality), "encoded", model, features[train], train, key=modality)


def fit_boosted_descriptors(inputs: BaselineInputs, train: np.ndarray, *, key: str) -> LinearMember:
    """Fit boosted decision stumps on the descriptors of one modality.

    Args:
        inputs: What baselines read, with the descriptors.
        train: Indices of the training set, from which the thresholds of the stumps are taken.
        key: Key of the descriptors.

    Returns:
        The fitted model; a sum of stumps is linear in what exceeds the thresholds.
    """
    values = np.asarray(inputs.media_features[key][train], dtype=np.float64)
    levels = [_levels_between(column) for column in values.T]
    columns, thresholds = np.repeat(np.arange(len(levels)), list(map(len, levels))), np.concatenate(levels)
    if not len(thresholds):
        return fit_constant(inputs, train, name=boosted_baseline_name(key))
    steps = scipy.sparse.csr_matrix((values[:, columns] > thresholds).astype(np.float64))
    fields = {"key": key, "columns": columns, "thresholds": thresholds, "width": values.shape[1]}
    model = inputs.models.boosting(inputs.seed, DESCRIPTOR_FRACTION)
    return inputs.fit_member(boosted_baseline_name(key), "steps", model, steps, train, **fields)


def _levels_between(values: np.ndarray) -> np.ndarray:
    """Return at most `N_THRESHOLDS` levels at quantiles, each in the middle between two values; none for a constant.

    A value that is computed again may differ in its last digits, and must not cross a level by that.
    """
    distinct = np.unique(np.round(values, DECIMALS))
    if len(distinct) < 2:
        return np.zeros(0)
    quantiles = np.quantile(values, np.linspace(0, 1, N_THRESHOLDS + 2)[1:-1])
    above = np.unique(np.searchsorted(distinct, quantiles, side="right").clip(1, len(distinct) - 1))
    return np.asarray((distinct[above - 1] + distinct[above]) / 2)


def _standardized(model: Any) -> Any:
    return make_pipeline(StandardScaler(), model)
