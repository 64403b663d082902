"""The stacked ensemble of a run: weights from out-of-fold scores, and cross-fitted scores.

Reported scores are cross-fitted: the weights that score the songs of a fold are fitted on the songs of the other folds.
As in a super learner, the members whose out-of-fold scores they are fitted on were trained on songs of the fold, too:
the weights know a little of them. Shrinkage keeps the bias small, which
`tests/benchmarks/stacking.py --simulate` measures. The bundle contains the weights that are fitted on all songs.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from sklearn.model_selection import KFold

from rainbow_ray.baselines.common import MemberFits
from rainbow_ray.baselines.model_family import model_family
from rainbow_ray.config.schema import TrainingConfig
from rainbow_ray.data.dataset import scatter_song_means
from rainbow_ray.data.splits import Split
from rainbow_ray.metrics.regression import ABSOLUTE_METRICS
from rainbow_ray.setup.prepared import MIN_STACK_SONGS, PreparedData
from rainbow_ray.stacking.fit import fit_weights
from rainbow_ray.stacking.links import invert_link
from rainbow_ray.stacking.stack import NEURAL, Stack, StackWeights
from rainbow_ray.tasks.scores import empty_scores, is_scored
from rainbow_ray.tasks.segment_targets import SegmentTargets
from rainbow_ray.training.cross_validation import FitResult, out_of_fold

INNER_FOLDS = 5  # for the weights of a single split


@dataclass(frozen=True)
class CrossFit:
    """Weights of a stack, and scores with weights of other folds.

    Attributes:
        scores: Cross-fitted out-of-fold scores of all examples, `(examples, …)`, NaN where no fold scores one.
        fold_scores: For each fold, scores of all examples with its weights, `(folds, examples, …)`: what is fitted for
            the fold on these scores depends on no label of its songs.
        weights: Weights fitted on all songs.
        by_fold: Weights of each fold, fitted on the songs of the other folds; the folds of a single split are folds of
            its validation songs.
        shares: Part of each member in the variation of the combined scores; they sum to 1.
    """

    scores: np.ndarray
    fold_scores: np.ndarray
    weights: StackWeights
    by_fold: tuple[StackWeights, ...]
    shares: dict[str, float]


@dataclass(frozen=True)
class StackedScores(CrossFit):
    """Scores and members of a run's stacked ensemble; of a single split, `by_fold` has the weights of all songs.

    Attributes:
        fits: Fitted members.
    """

    fits: MemberFits

    def of_fit(self, fold: int | None, rows: np.ndarray, neural_scores: np.ndarray) -> np.ndarray:
        """Return the scores of one fit.

        Args:
            fold: Fold of the fit; None for the refit on all songs.
            rows: Indices of the examples.
            neural_scores: Scores of the fit's neural network, `(rows, …)`.

        Returns:
            Scores of the same shape and dtype.
        """
        number = len(self.fits.members) - 1 if fold is None else fold
        weights = self._weights_of(fold)
        scores = {name: values[number][rows] for name, values in self.fits.scores.items()}
        return weights.combine({NEURAL: neural_scores, **scores}).astype(neural_scores.dtype)

    def stack_of(self, fold: int | None) -> Stack:
        """Return the stack of one fit.

        Args:
            fold: Fold of the fit; None for the refit on all songs.

        Returns:
            Its weights, and the members that have one.
        """
        weights = self._weights_of(fold)
        members = self.fits.members[-1 if fold is None else fold]
        return Stack(weights, tuple(members[name] for name in weights.names if name != NEURAL))

    def _weights_of(self, fold: int | None) -> StackWeights:
        return self.weights if fold is None or len(self.by_fold) == 1 else self.by_fold[fold]


def wants_stack(training: TrainingConfig, n_songs: int, n_folds: int) -> bool:
    """Return whether a run combines its model with the baselines.

    Args:
        training: The training section of the config.
        n_songs: Number of songs.
        n_folds: Number of folds.

    Returns:
        The choice of `training.combine`; by default, with several folds and at least `MIN_STACK_SONGS` songs.
    """
    if training.combine == "auto":
        return n_folds > 1 and n_songs >= MIN_STACK_SONGS
    return training.combine == "stack"


def stack_scores(
    data: PreparedData, folds: Sequence[FitResult], fits: MemberFits, headline: str, *, seed: int
) -> StackedScores:
    """Fit the weights of a stacked ensemble, and score all examples with weights of other folds.

    Args:
        data: The run's data.
        folds: Results of the folds.
        fits: Fitted baselines.
        headline: Headline metric, which decides between squared and absolute error.
        seed: Seed of the inner folds of a single split.

    Returns:
        Scores and weights.
    """
    task = data.task
    scores = {NEURAL: out_of_fold(data.source, task, folds, lambda fold: fold.val_scores)}
    for name, values in fits.scores.items():
        scores[name] = empty_scores(task, len(data.source))
        for number, fold in enumerate(folds):
            scores[name][fold.job.val] = values[number][fold.job.val]
    fitted = cross_fit(data, data.split, scores, headline, seed=seed)
    by_fold = fitted.by_fold if data.split.n_folds > 1 else (fitted.weights,)
    return StackedScores(fitted.scores, fitted.fold_scores, fitted.weights, by_fold, fitted.shares, fits)


def cross_fit(
    data: PreparedData, split: Split, scores: Mapping[str, np.ndarray], headline: str, *, seed: int
) -> CrossFit:
    """Fit weights on out-of-fold scores, and score each fold with weights of the others.

    Args:
        data: Examples and their labels.
        split: Folds of the scores.
        scores: Out-of-fold scores by member, `(examples, …)`, one of them `NEURAL`.
        headline: Headline metric, which decides between squared and absolute error.
        seed: Seed of the inner folds of a single split.

    Returns:
        Scores and weights.
    """
    task, n_examples, neural = data.task, len(data.source), scores[NEURAL]
    songs = {name: scatter_song_means(data.source, values) for name, values in scores.items()}
    rows, targets = _labeled_targets(data, np.flatnonzero(is_scored(songs[NEURAL], task)))
    folds_of_row = _weight_folds(data, split, rows, seed)
    base_type = task.base_task.target_type

    def fit(mask: np.ndarray) -> StackWeights:
        known = {name: values[rows[mask]] for name, values in songs.items()}
        return fit_weights(base_type, known, targets[mask], robust=headline in ABSOLUTE_METRICS)

    weights = fit(np.ones(len(rows), dtype=bool))
    by_fold = tuple(fit(folds_of_row != fold) for fold in range(int(folds_of_row.max()) + 1))
    scored = np.flatnonzero(is_scored(neural, task))
    fold_scores = empty_scores(task, len(by_fold), n_examples)
    for number, fold_weights in enumerate(by_fold):
        fold_scores[number][scored] = fold_weights.combine({name: values[scored] for name, values in scores.items()})
    combined = empty_scores(task, n_examples)
    fold_of_example = _fold_of_examples(data, split, rows, folds_of_row)
    combined[scored] = fold_scores[fold_of_example[scored], scored]
    shares = shares_of_variation(weights, {name: values[rows] for name, values in songs.items()})
    return CrossFit(combined, fold_scores, weights, by_fold, shares)


def shares_of_variation(weights: StackWeights, scores: Mapping[str, np.ndarray]) -> dict[str, float]:
    """Return the part of each member in the variation of the combined linear predictor.

    Args:
        weights: Weights of the members.
        scores: Scores by member, `(examples, …)`.

    Returns:
        For each member with a weight, the covariance of its weighted linear predictor with the sum of all, divided by
        the variance of the sum; they sum to 1. Empty where the sum does not vary.
    """
    if not weights.names:
        return {}
    terms = np.stack(
        [w * invert_link(scores[name], weights.link) for name, w in zip(weights.names, weights.weights, strict=True)]
    )
    terms -= terms.mean(axis=1, keepdims=True)
    total = terms.sum(axis=0)
    variance = float(np.sum(total**2))
    if variance == 0:
        return {}
    return {name: float(np.sum(term * total)) / variance for name, term in zip(weights.names, terms, strict=True)}


def describe_contributions(shares: Mapping[str, float]) -> str:
    """Return a sentence on what each member contributes to the scores.

    Args:
        shares: Shares by member, as `shares_of_variation` returns them.

    Returns:
        The members by descending share.
    """
    if not shares:
        return "No member tells the songs apart: the scores are the frequencies of the classes, or the mean."
    ordered = sorted(shares.items(), key=lambda item: -item[1])
    parts = [f"{max(0.0, share):.0%} from {'the ' if name == NEURAL else ''}{name}" for name, share in ordered]
    listed = parts[0] if len(parts) == 1 else f"{', '.join(parts[:-1])} and {parts[-1]}"
    return f"Of the variation of the scores, {listed}."


def _labeled_targets(data: PreparedData, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The rows with a label, and their indicators of classes or numbers, `(rows, outputs)`."""
    task, targets = data.task, data.source.targets
    rows = rows[task.has_label(targets[rows])]
    labels = SegmentTargets.from_array(targets[rows]).labels if task.is_sequence_task else targets[rows]
    return rows, model_family(task.base_task).indicators(labels)


def _weight_folds(data: PreparedData, split: Split, rows: np.ndarray, seed: int) -> np.ndarray:
    """The folds by which weights are cross-fitted: those of the run; of a single split, folds of its songs."""
    if split.n_folds > 1:
        return np.asarray(split.fold[rows])
    songs, song_of_row = np.unique(data.index.codes("song")[rows], return_inverse=True)
    fold_of_song = np.zeros(len(songs), dtype=np.int64)
    for number, (_, held_out) in enumerate(
        KFold(min(INNER_FOLDS, len(songs)), shuffle=True, random_state=seed).split(songs)
    ):
        fold_of_song[held_out] = number
    return fold_of_song[song_of_row]


def _fold_of_examples(data: PreparedData, split: Split, rows: np.ndarray, folds_of_row: np.ndarray) -> np.ndarray:
    """The fold whose weights score each example, `(examples,)`; that of its song."""
    if split.n_folds > 1:
        return np.asarray(split.fold)
    songs = data.index.codes("song")
    fold_of_song = np.zeros(int(songs.max()) + 1, dtype=np.int64)
    fold_of_song[songs[rows]] = folds_of_row
    return np.asarray(fold_of_song[songs])
