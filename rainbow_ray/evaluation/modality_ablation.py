"""What each modality brings: the same models with only some of the modalities to read, on the songs that have them."""

from __future__ import annotations

import functools
from collections.abc import Mapping
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
    """`metrics` of a subset of the modalities on the `songs` that have any of it.

    `all_of_them` is the headline metric there with every modality read, `gain` how much better that is.
    """

    songs: int
    metrics: Metrics
    all_of_them: float | None
    gain: Difference | None

    def to_json(self) -> dict[str, Any]:
        gain = vars(self.gain) if self.gain is not None else None
        return {**self.metrics, "songs": self.songs, "all_of_them": self.all_of_them, "gain": gain}


def ablate_modalities(
    plan: RunPlan, data: PreparedData, folds: list[FitResult], scores: np.ndarray, held: np.ndarray
) -> dict[str, ModalityAblation]:
    """Each subset of the modalities by its name; nothing where there is but one.

    `scores` are those of every modality, `(examples, …)`, a song's stems averaged; `held` are the rows to look at. A
    gain is told of what stands alone.
    """
    task, metric, names = data.task, plan.config.training.headline, plan.reading.modalities
    if len(names) == 1:
        return {}

    def measure(name: str, part: np.ndarray) -> ModalityAblation:
        rows = held[is_scored(part[held], task)]
        targets, songs = data.source.targets[rows], data.index.codes("song", rows)
        gain = None
        if name in names:
            seed = plan.config.reproducibility.seed
            gain = paired_bootstrap(task, metric, targets, scores[rows], part[rows], songs, seed=seed)
        metrics, _ = task.metrics(targets, part[rows])
        return ModalityAblation(len(np.unique(songs)), metrics, task.metric(metric, targets, scores[rows]), gain)

    parts = {
        name: scatter_song_means(
            data.source, out_of_fold(data.source, task, folds, functools.partial(_part_of, name=name))
        )
        for name in folds[0].parts
    }
    return {name: measure(name, part) for name, part in (parts | {"+".join(names): scores}).items()}


def behind(metric: str, brought: Mapping[str, ModalityAblation]) -> list[str]:
    """A word where all modalities together do not beat one of them alone, on the songs that have it."""
    gains = {name: one.gain for name, one in brought.items() if one.gain is not None}
    if not gains:
        return []
    name = min(gains, key=lambda name: gains[name].value)
    gain, best = gains[name], brought[name]
    if gain.value > 0:
        return []
    return [
        f"The model does not beat its best part, {name} alone, on the {best.songs} songs that have it: {metric}"
        f" {' against '.join(format_numbers([best.all_of_them, best.metrics[metric]]))},"
        f" {format_difference(gain.value, gain.low, gain.high)}; see --modalities"
    ]


def attention(plan: RunPlan, folds: list[FitResult]) -> dict[str, dict[str, float]] | None:
    """Which modality looks how much at which, on average over the folds."""
    tables = [outcome.facts["attention"] for outcome in folds]
    if any(table is None for table in tables):
        return None
    names, mean = plan.reading.modalities, np.mean(tables, axis=0).round(4).tolist()
    return {name: dict(zip(names, row, strict=True)) for name, row in zip(names, mean, strict=True)}


def _part_of(outcome: FitResult, name: str) -> np.ndarray:
    return outcome.parts[name]
