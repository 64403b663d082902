"""Cross-validation of baselines on the folds of a run, for songs and for segments."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass

import numpy as np

from rainbow_ray.baselines.features import ReferenceFeatures
from rainbow_ray.baselines.learning_curve import CurveScores
from rainbow_ray.baselines.model_family import Scores, model_family
from rainbow_ray.baselines.models import BaselineInputs, fit_constant, fit_trivial
from rainbow_ray.baselines.names import media_baseline_name
from rainbow_ray.baselines.registry import Baseline, applicable_baselines
from rainbow_ray.data.examples import Examples
from rainbow_ray.data.splits import Split
from rainbow_ray.modalities.text.word_hashing import WORD
from rainbow_ray.stacking.linear_member import LinearMember, MemberInputs
from rainbow_ray.tasks.base import Task
from rainbow_ray.tasks.scores import empty_scores

MAX_EXAMPLES = 5_000  # a larger dataset is sampled: baselines are a yardstick and may not dominate the run time


@dataclass(frozen=True)
class MemberFits:
    """Fitted baselines as members of stacked ensembles: a fit for each fold, and one on all examples.

    Attributes:
        scores: Scores of each fit by name of the member, `(folds + 1, examples, …)`, also of its training set.
        members: Members of each fit by name, `(folds + 1,)`.
    """

    scores: dict[str, Scores]
    members: tuple[dict[str, LinearMember], ...]


@dataclass(frozen=True)
class Baselines:
    """Results of all baselines.

    Attributes:
        scores: Out-of-fold scores by name, `(examples, …)`, NaN for examples that no fold scores.
        fits: Fitted baselines; None where they are not requested, or not all examples were scored.
        references: Features of the songs, or of a sample of them, with which new songs are compared.
        curve: Scores of models of parts of the songs; None where there are too few or too many.
    """

    scores: dict[str, Scores]
    fits: MemberFits | None = None
    references: ReferenceFeatures | None = None
    curve: CurveScores | None = None


@dataclass(frozen=True)
class KeepFits:
    """A request to keep the fitted baselines.

    Attributes:
        scored: Inputs that `MemberFits` scores, such as the stems of each song; None: the examples.
        without: Modalities whose baselines are not kept, because training changes their features.
    """

    scored: MemberInputs | None = None
    without: Collection[str] = ()

    def includes(self, baseline: Baseline) -> bool:
        """Return whether the fits of a baseline are kept.

        Args:
            baseline: The baseline.

        Returns:
            False for baselines that give scores only.
        """
        excluded = {media_baseline_name(name) for name in self.without}
        return baseline.fit_member is not None and baseline.name not in excluded


def baseline_inputs(
    task: Task, examples: Examples, hidden_states: np.ndarray | None,
    media_features: Mapping[str, np.ndarray] | None = None, *, seed: int,
) -> BaselineInputs:  # fmt: skip
    """Return what baselines read of examples.

    Args:
        task: Task of a single example.
        examples: Examples with targets of that task.
        hidden_states: Means of the frozen text encoder's hidden states, `(examples, layers, hidden_size)`, or None.
        media_features: Pooled features of other modalities by name, `(examples, width)`.
        seed: Seed of models and of inner folds.

    Returns:
        The inputs; without a column of songs, each example is a song.
    """
    has_songs = "song" in examples.table.column_names
    songs = examples.codes("song") if has_songs else np.arange(len(examples))
    return BaselineInputs(
        model_family(task), examples.targets, examples.texts, songs, hidden_states, media_features or {}, seed
    )


def run_baselines(
    task: Task, inputs: BaselineInputs, split: Split, *, has_label: np.ndarray | None = None,
    keep: KeepFits | None = None,
) -> Baselines:  # fmt: skip
    """Return out-of-fold scores of all baselines that apply.

    Args:
        task: Task of a single example.
        inputs: What the baselines read of the examples.
        split: Folds of the examples.
        has_label: Mask of the examples to fit on, `(examples,)`; None for all. The others are scored only.
        keep: Which fitted models are returned, too; None for none.

    Returns:
        Scores and fits.
    """
    from threadpoolctl import threadpool_limits

    baselines = applicable_baselines(inputs)
    scores = {baseline.name: empty_scores(task, len(inputs.targets)) for baseline in baselines}
    sides = [split.train_val_indices(fold) for fold in range(split.n_folds)]
    kept = [] if keep is None else [baseline for baseline in baselines if keep.includes(baseline)]
    members: list[dict[str, LinearMember]] = []
    # threads that wait for each other multiply matrices this small twelve times slower
    with threadpool_limits(1):
        for train, val in sides:
            labeled = train if has_label is None else train[has_label[train]]
            members.append({baseline.name: _fit_member(baseline, inputs, labeled) for baseline in kept})
            val_inputs = inputs.member_inputs.take(val)
            for baseline in baselines:
                if baseline.name in members[-1]:
                    scores[baseline.name][val] = members[-1][baseline.name].scores(val_inputs)
                else:
                    fit = fit_trivial if _lacks_words(baseline, inputs, labeled) else baseline.fit
                    scores[baseline.name][val] = fit(inputs, labeled, val)
        if keep is None or not kept:
            return Baselines(scores)
        everything = np.arange(len(inputs.targets)) if has_label is None else np.flatnonzero(has_label)
        members.append({baseline.name: _fit_member(baseline, inputs, everything) for baseline in kept})
        scored = keep.scored or inputs.member_inputs
        names = [baseline.name for baseline in kept]
        fit_scores = {name: np.stack([fit[name].scores(scored) for fit in members]) for name in names}
    return Baselines(scores, MemberFits(fit_scores, tuple(members)))


def _fit_member(baseline: Baseline, inputs: BaselineInputs, train: np.ndarray) -> LinearMember:
    if baseline.fit_member is None or _lacks_words(baseline, inputs, train):
        return fit_constant(inputs, train, name=baseline.name)
    return baseline.fit_member(inputs, train)


def _lacks_words(baseline: Baseline, inputs: BaselineInputs, train: np.ndarray) -> bool:
    return baseline.needs_words and not any(WORD.search(text.lower()) for text in inputs.texts[train])
