"""Weak segmentation: only songs have labels, and a multiple-instance model finds each segment's part in them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
from typing_extensions import override

from rainbow_ray.config.schema import Config, TrainingConfig
from rainbow_ray.tasks.base import ParsedLabels, Task
from rainbow_ray.tasks.decoding import normalize_by_song
from rainbow_ray.tasks.registry import make_task
from rainbow_ray.tasks.segment_targets import SegmentTargets
from rainbow_ray.tasks.segment_task import SegmentTask, restore_base_task

if TYPE_CHECKING:
    import torch

WEAK_SPACE = "weak"  # search space without the losses of neighboring segments


@dataclass(frozen=True)
class WeakSegmentation(SegmentTask):
    """Segmentation of songs whose segments have no labels of their own.

    Each segment carries its song's label. Scores of a song's segments sum to the song's score, and metrics are those
    of songs.

    Attributes:
        base_task: Task of a song: binary or multiclass.
        pooling: How segments make a song's score, a key of `multiple_instance.POOLINGS`.
    """

    base_task: Task = field()
    pooling: str = "attention"

    name = "weak_segmentation"
    is_weakly_labeled = True

    @property
    @override
    def outputs(self) -> int:
        # attention needs one more logit, the weight of the segment
        return self.base_task.outputs + (self.pooling == "attention")

    @property
    @override
    def metric_names(self) -> tuple[str, ...]:
        return self.base_task.metric_names

    @property
    @override
    def threshold_metrics(self) -> frozenset[str]:
        return frozenset((self.base_task.threshold_metrics | LABEL_METRICS) & set(self.metric_names))

    @override
    def search_space(self, *, has_song_labels: bool = False) -> str:
        return WEAK_SPACE

    @override
    def check(self, config: Config) -> list[str]:
        return self.base_task.check(config)

    @override
    def finalize_labels(self, targets: np.ndarray, column: str, config: Config) -> ParsedLabels:
        final, _ = self.finalize_base_labels(SegmentTargets.from_array(targets), column, config)
        packed = SegmentTargets.from_array(targets.copy())
        packed.labels[:] = final.targets
        task = self.with_base_task(final.task)
        return ParsedLabels(task, spread_labels(packed.to_array()), final.left_out, final.notes)

    @override
    def fit(self, targets: np.ndarray, config: TrainingConfig) -> WeakSegmentation:
        segments = SegmentTargets.from_array(targets)
        labeled = segments[segments.has_label]
        first = np.unique(labeled.song, return_index=True)[1]
        return self.with_base_task(self.base_task.fit(labeled.labels[first], config))

    @override
    def initial_bias(self, targets: np.ndarray) -> np.ndarray:
        bias = super().initial_bias(targets)
        return np.append(bias, np.float32(0.0)) if self.pooling == "attention" else bias

    @override
    def example_weights(self, targets: np.ndarray) -> np.ndarray:
        # a song's label counts once, on its first segment, which carries the loss
        weights = np.zeros(len(targets), dtype=np.float32)
        weights[[rows.start for rows in SegmentTargets.from_array(targets).song_slices()]] = 1.0
        return weights

    @override
    def finalize_logits(self, logits: torch.Tensor, sequence: torch.Tensor | None) -> torch.Tensor:
        from rainbow_ray.tasks.multiple_instance import POOLINGS

        assert sequence is not None
        return POOLINGS[self.pooling](self.base_task, logits, sequence)

    @override
    def loss(self, logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        from rainbow_ray.tasks.multiple_instance import multiple_instance_loss

        return multiple_instance_loss(self.base_task, logits, targets)

    @override
    def scores(self, logits: torch.Tensor) -> torch.Tensor:
        from rainbow_ray.tasks.multiple_instance import instance_scores

        return instance_scores(self.base_task, logits)

    @override
    def fit_decoding(self, targets: np.ndarray) -> Task:
        return self

    @override
    def decode_scores(self, targets: np.ndarray, scores: np.ndarray) -> np.ndarray:
        if self.target_type != "binary":
            return scores
        return normalize_by_song(scores, SegmentTargets.from_array(targets).song_slices())

    @override
    def metric(self, name: str, targets: np.ndarray, scores: np.ndarray) -> float | None:
        return self.base_task.metric(name, *self.pool_songs(targets, scores))

    @override
    def details(self, targets: np.ndarray, scores: np.ndarray) -> dict[str, Any]:
        return self.base_task.details(*self.pool_songs(targets, scores))

    @override
    def from_json(self, state: Mapping[str, Any]) -> Task:
        base_task = restore_base_task(self.base_task, state["base_task" if "base_task" in state else "inner"])
        return WeakSegmentation(base_task, state.get("pooling", state.get("weak", self.pooling)))

    @override
    def summary_fields(self) -> dict[str, Any]:
        return {"base_task": self.base_task.name, "weak": self.pooling}

    def pool_songs(self, targets: np.ndarray, scores: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return the targets and scores of songs.

        Args:
            targets: Packed targets, `(segments, 5)`.
            scores: Scores, `(segments,)` or `(segments, classes)`.

        Returns:
            Labels, float32, `(songs,)`; and the sums of scores, float32, `(songs,)` or `(songs, classes)`, at most 1.
        """
        segments = SegmentTargets.from_array(targets)
        sums = np.array([scores[rows].sum(axis=0) for rows in segments.song_slices()], dtype=np.float32)
        return segments.song_labels(), np.minimum(
            sums, 1.0
        )  # decoded scores are no fractions: several segments may have 1


# metrics of exclusive classes that depend on decoded scores
LABEL_METRICS = frozenset({"accuracy", "balanced_accuracy", "macro_f1", "micro_f1", "weighted_f1", "mcc"})


def spread_labels(targets: np.ndarray) -> np.ndarray:
    """Give each segment the label of its song.

    Args:
        targets: Packed targets, `(segments, 5)`, with the same label on all labeled segments of a song.

    Returns:
        Packed targets with labels for segments that had none.
    """
    segments = SegmentTargets.from_array(targets)
    has_label, song = segments.has_label, segments.song.astype(int)
    song_labels = np.full(int(song.max()) + 1, np.nan, dtype=targets.dtype)
    song_labels[song[has_label]] = segments.labels[has_label]
    spread = targets.copy()
    SegmentTargets.from_array(spread).labels[:] = song_labels[song]
    return spread


def weak_segmentation_from_state(base_task: Task | Mapping[str, Any], pooling: str = "attention") -> Task:
    """Return a weak segmentation task with a stored state.

    Args:
        base_task: The base task, or its name and state.
        pooling: Field of `WeakSegmentation`.

    Returns:
        The task.
    """
    if isinstance(base_task, Task):
        return WeakSegmentation(base_task, pooling)
    return WeakSegmentation(make_task(**base_task), pooling)
