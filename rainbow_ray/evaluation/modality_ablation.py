"""Modality ablation: the same models with only some modalities as input, on the songs that have them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from rainbow_ray.data.dataset import scatter_song_means
from rainbow_ray.evaluation.bootstrap import Difference, paired_bootstrap
from rainbow_ray.setup.plan import RunPlan
from rainbow_ray.setup.prepared import PreparedData
from rainbow_ray.tasks.base import Metrics
from rainbow_ray.tasks.scores import is_scored
from rainbow_ray.training.cross_validation import FitResult, out_of_fold
from rainbow_ray.utils.number_format import format_difference, format_numbers


@dataclass(frozen=True)
class ModalityAblation:
    """Results with a subset of the modalities, on the songs that have any of them.

    Attributes:
        songs: Number of these songs.
        metrics: All metrics with the subset.
        all_of_them: Headline metric on the same songs with all modalities.
        gain: Paired difference of the headline metric, all modalities less the subset; None for subsets of several.
    """

    songs: int
    metrics: Metrics
    all_of_them: float | None
    gain: Difference | None

    def to_json(self) -> dict[str, Any]:
        """Return the entry of `summary.json`.

        Returns:
            The metrics, and the other attributes under their names.
        """
        gain = vars(self.gain) if self.gain is not None else None
        return {**self.metrics, "songs": self.songs, "all_of_them": self.all_of_them, "gain": gain}


def ablate_modalities(
    plan: RunPlan, data: PreparedData, folds: Sequence[FitResult], scores: np.ndarray, rows: np.ndarray
) -> dict[str, ModalityAblation]:
    """Measure each subset of the modalities that the fits were scored with.

    Args:
        plan: The run's plan.
        data: The run's data.
        folds: Results of the folds.
        scores: Out-of-fold scores with all modalities, `(examples, …)`, a song's stems averaged.
        rows: Indices of the examples to measure.

    Returns:
        Results by subset (`text`, `text+audio`, …), the subset of all modalities last; empty for a single modality.
    """
    task, metric, names = data.task, plan.config.training.headline, plan.input_spec.modalities
    if len(names) == 1:
        return {}

    def measure_subset(name: str, subset_scores: np.ndarray) -> ModalityAblation:
        scored = rows[is_scored(subset_scores[rows], task)]
        targets, songs = data.source.targets[scored], data.index.codes("song", scored)
        gain = None
        if name in names:
            seed = plan.config.reproducibility.seed
            gain = paired_bootstrap(task, metric, targets, scores[scored], subset_scores[scored], songs, seed=seed)
        metrics, _ = task.metrics(targets, subset_scores[scored])
        return ModalityAblation(len(np.unique(songs)), metrics, task.metric(metric, targets, scores[scored]), gain)

    def subset_scores_of(name: str) -> np.ndarray:
        return scatter_song_means(
            data.source, out_of_fold(data.source, task, folds, lambda fold: fold.subset_scores[name])
        )

    subsets = {name: subset_scores_of(name) for name in folds[0].subset_scores} | {"+".join(names): scores}
    return {name: measure_subset(name, subset_scores) for name, subset_scores in subsets.items()}


def modality_warnings(metric: str, ablations: Mapping[str, ModalityAblation]) -> list[str]:
    """Return a warning if all modalities together are not better than one of them alone.

    Args:
        metric: Name of the headline metric.
        ablations: Results by subset of the modalities.

    Returns:
        At most one message, on the modality that is best compared with all together.
    """
    gains = {name: ablation.gain for name, ablation in ablations.items() if ablation.gain is not None}
    if not gains:
        return []
    name = min(gains, key=lambda name: gains[name].value)
    gain, best = gains[name], ablations[name]
    if gain.value > 0:
        return []
    return [
        f"The model does not beat its best modality, {name} alone, on the {best.songs} songs that have it: {metric}"
        f" {' against '.join(format_numbers([best.all_of_them, best.metrics[metric]]))},"
        f" {format_difference(gain.value, gain.low, gain.high)}; see --modalities"
    ]


def mean_attention(plan: RunPlan, folds: Sequence[FitResult]) -> dict[str, dict[str, float]] | None:
    """Return how much each modality attends to each other one, averaged over the folds.

    Args:
        plan: The run's plan.
        folds: Results of the folds.

    Returns:
        Fractions of the attention by querying and by attended modality; None for a fusion without attention.
    """
    tables = [fold.facts["attention"] for fold in folds]
    if any(table is None for table in tables):
        return None
    names, mean = plan.input_spec.modalities, np.mean(tables, axis=0).round(4).tolist()
    return {name: dict(zip(names, row, strict=True)) for name, row in zip(names, mean, strict=True)}
