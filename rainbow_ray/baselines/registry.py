"""Registry of baselines: one row for each."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from rainbow_ray.baselines.model_family import Scores
from rainbow_ray.baselines.models import (
    BaselineInputs,
    fit_bag_of_words,
    fit_boosted_descriptors,
    fit_frozen_encoder,
    fit_pooled_features,
    fit_text_length,
    fit_tf_idf,
    fit_trivial,
)
from rainbow_ray.baselines.names import (
    BAG_OF_WORDS,
    FROZEN_ENCODER,
    TEXT_LENGTH,
    TF_IDF,
    boosted_baseline_name,
    media_baseline_name,
)
from rainbow_ray.modalities.descriptors import described_modality
from rainbow_ray.stacking.linear_member import LinearMember

FitBaseline = Callable[[BaselineInputs, np.ndarray, np.ndarray], Scores]
FitMember = Callable[[BaselineInputs, np.ndarray], LinearMember]


@dataclass(frozen=True)
class Baseline:
    """A model that the trained model is compared with.

    Attributes:
        name: Name in summaries, tables and reports.
        applies: Returns whether the baseline can be computed from the inputs.
        fit: Returns scores of a validation set from inputs, training indices and validation indices. Every choice, such
            as that of a layer, is made on the training set.
        needs_words: Whether it needs a word in the training set's texts; without any, the trivial baseline replaces it.
        fit_member: Returns the model fitted on training indices, so that a stacked ensemble can keep it; None for
            baselines that give scores only.
    """

    name: str
    applies: Callable[[BaselineInputs], bool]
    fit: FitBaseline
    needs_words: bool = False
    fit_member: FitMember | None = None


def _member_baseline(
    name: str, applies: Callable[[BaselineInputs], bool], fit_member: FitMember, *, needs_words: bool = False
) -> Baseline:
    """Return a baseline that a stacked ensemble can keep."""
    return Baseline(name, applies, functools.partial(_fit_and_score, fit_member=fit_member), needs_words, fit_member)


def _fit_and_score(inputs: BaselineInputs, train: np.ndarray, val: np.ndarray, *, fit_member: FitMember) -> Scores:
    return np.asarray(fit_member(inputs, train).scores(inputs.member_inputs.take(val)))


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
    media = [baseline for key in inputs.media_features for baseline in media_baselines(key)]
    return [trivial, *registered, *media]


def media_baselines(key: str) -> list[Baseline]:
    """Return the baselines of a modality's pooled features, or of its descriptors.

    Args:
        key: Name of the modality, or key of its descriptors.

    Returns:
        A linear model; of descriptors, boosting as well.
    """
    fits = {media_baseline_name(key): functools.partial(fit_pooled_features, modality=key)}
    if described_modality(key) is not None:
        fits[boosted_baseline_name(key)] = functools.partial(fit_boosted_descriptors, key=key)
    return [_member_baseline(name, lambda inputs: key in inputs.media_features, fit) for name, fit in fits.items()]


def _has_texts(inputs: BaselineInputs) -> bool:
    return inputs.has_texts


def _has_hidden_states(inputs: BaselineInputs) -> bool:
    return inputs.hidden_states is not None


_BASELINES: dict[str, Baseline] = {
    baseline.name: baseline
    for baseline in (
        _member_baseline(TEXT_LENGTH, _has_texts, fit_text_length),
        _member_baseline(TF_IDF, _has_texts, fit_tf_idf, needs_words=True),
        _member_baseline(BAG_OF_WORDS, _has_texts, fit_bag_of_words, needs_words=True),
        _member_baseline(FROZEN_ENCODER, _has_hidden_states, fit_frozen_encoder),
    )
}
