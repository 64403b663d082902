"""Registry of baselines: one row for each."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from sklearn.feature_extraction.text import CountVectorizer, TfidfVectorizer
from sklearn.model_selection import GroupKFold, KFold, StratifiedKFold
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from rainbow_ray.baselines.models import ModelFamily, Scores
from rainbow_ray.baselines.names import BAG_OF_WORDS, FROZEN_ENCODER, TEXT_LENGTH, TF_IDF
from rainbow_ray.data.splits import merge_rare_strata

INNER_FOLDS = 5
MEDIA_STRENGTH = 0.01  # inverse L2 strength: there are more features than songs
FROZEN_STRENGTHS = (1.0, 0.01)  # inverse L2 strengths to choose from, together with the layer


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


FitBaseline = Callable[[BaselineInputs, np.ndarray, np.ndarray], Scores]


@dataclass(frozen=True)
class Baseline:
    """A model that the trained model is compared with.

    Attributes:
        name: Name in summaries, tables and reports.
        applies: Returns whether the baseline can be computed from the inputs.
        fit: Returns scores of a validation set from inputs, training indices and validation indices. Every choice, such
            as that of a layer, is made on the training set.
        needs_words: Whether it needs a word in the training set's texts; without any, the trivial baseline replaces it.
    """

    name: str
    applies: Callable[[BaselineInputs], bool]
    fit: FitBaseline
    needs_words: bool = False


def register_baseline(
    name: str, applies: Callable[[BaselineInputs], bool], fit: FitBaseline, *, needs_words: bool = False
) -> None:
    """Add a baseline to the registry of this process.

    Args:
        name: Name of the baseline.
        applies: Field of `Baseline`.
        fit: Field of `Baseline`.
        needs_words: Field of `Baseline`.

    Raises:
        ValueError: The name is registered already.
    """
    if name in _BASELINES:
        raise ValueError(f"the baseline {name!r} is registered already")
    _BASELINES[name] = Baseline(name, applies, fit, needs_words)


def unregister_baseline(name: str) -> None:
    """Remove a baseline from the registry of this process.

    Args:
        name: Name of the baseline.
    """
    _BASELINES.pop(name, None)


def registered_baselines() -> tuple[Baseline, ...]:
    """Return all registered baselines, for `compute_baselines` in another process.

    Returns:
        Baselines in the order in which they are reported.
    """
    return tuple(_BASELINES.values())


def add_missing_baselines(baselines: Sequence[Baseline]) -> None:
    """Add baselines that this process does not know.

    Args:
        baselines: Baselines of another process.
    """
    for baseline in baselines:
        _BASELINES.setdefault(baseline.name, baseline)


def applicable_baselines(inputs: BaselineInputs) -> list[Baseline]:
    """Return the baselines that can be computed from inputs.

    Args:
        inputs: What baselines read.

    Returns:
        The trivial baseline, registered baselines that apply, and one for each modality with pooled features.
    """
    trivial = Baseline(inputs.models.trivial, lambda _: True, fit_trivial)
    registered = [baseline for baseline in _BASELINES.values() if baseline.applies(inputs)]
    media = [_media_baseline(modality) for modality in inputs.media_features]
    return [trivial, *registered, *media]


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


def fit_text_length(inputs: BaselineInputs, train: np.ndarray, val: np.ndarray) -> Scores:
    """Fit a linear model of the number of words.

    Args:
        inputs: What baselines read.
        train: Indices of the training set.
        val: Indices of the validation set.

    Returns:
        Scores of the validation set.
    """
    n_words = np.array([[len(text.split())] for text in inputs.texts], dtype=np.float64)
    return inputs.fit_predict(_standardized(inputs.models.linear(1.0)), n_words, train, val)


def fit_tf_idf(inputs: BaselineInputs, train: np.ndarray, val: np.ndarray) -> Scores:
    """Fit a linear model of TF-IDF weights of words.

    Args:
        inputs: What baselines read.
        train: Indices of the training set.
        val: Indices of the validation set.

    Returns:
        Scores of the validation set.
    """
    return inputs.fit_predict(make_pipeline(TfidfVectorizer(), inputs.models.linear(1.0)), inputs.texts, train, val)


def fit_bag_of_words(inputs: BaselineInputs, train: np.ndarray, val: np.ndarray) -> Scores:
    """Fit boosted decision stumps on the presence of words.

    Args:
        inputs: What baselines read.
        train: Indices of the training set.
        val: Indices of the validation set.

    Returns:
        Scores of the validation set.
    """
    model = make_pipeline(CountVectorizer(binary=True), inputs.models.boosting(inputs.seed))
    return inputs.fit_predict(model, inputs.texts, train, val)


def fit_frozen_encoder(inputs: BaselineInputs, train: np.ndarray, val: np.ndarray) -> Scores:
    """Fit a linear model of the hidden states of one layer of the frozen text encoder.

    Inner folds of the training set, split by song, choose the layer and the L2 strength with the least loss.

    Args:
        inputs: What baselines read, with hidden states.
        train: Indices of the training set.
        val: Indices of the validation set.

    Returns:
        Scores of the validation set.
    """
    states, family, targets = inputs.hidden_states, inputs.models, inputs.targets
    assert states is not None

    def predict(choice: tuple[int, float], fit: np.ndarray, score: np.ndarray) -> Scores:
        layer, strength = choice
        return inputs.fit_predict(_standardized(family.linear(strength)), states[:, layer], fit, score)

    choices = [(layer, strength) for layer in range(states.shape[1]) for strength in FROZEN_STRENGTHS]
    inner = _inner_folds(inputs, train)
    if not inner:
        return predict(choices[0], train, val)
    rows = np.concatenate([score for _, score in inner])

    def cost(choice: tuple[int, float]) -> float:
        return family.cost(targets[rows], np.concatenate([predict(choice, fit, score) for fit, score in inner]))

    return predict(min(choices, key=cost), train, val)


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


def _media_baseline(modality: str) -> Baseline:
    def fit(inputs: BaselineInputs, train: np.ndarray, val: np.ndarray) -> Scores:
        model = _standardized(inputs.models.linear(MEDIA_STRENGTH))
        return inputs.fit_predict(model, inputs.media_features[modality], train, val)

    return Baseline(f"{modality} + linear", lambda inputs: modality in inputs.media_features, fit)


def _standardized(model: Any) -> Any:
    return make_pipeline(StandardScaler(), model)


def _has_texts(inputs: BaselineInputs) -> bool:
    return inputs.has_texts


def _has_hidden_states(inputs: BaselineInputs) -> bool:
    return inputs.hidden_states is not None


_BASELINES: dict[str, Baseline] = {
    baseline.name: baseline
    for baseline in (
        Baseline(TEXT_LENGTH, _has_texts, fit_text_length),
        Baseline(TF_IDF, _has_texts, fit_tf_idf, needs_words=True),
        Baseline(BAG_OF_WORDS, _has_texts, fit_bag_of_words, needs_words=True),
        Baseline(FROZEN_ENCODER, _has_hidden_states, fit_frozen_encoder),
    )
}
