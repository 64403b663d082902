"""What tasks of segments share: a base task that is applied to each segment with a label."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
import pyarrow as pa
from typing_extensions import override

from rainbow_ray.config.schema import Config, DataConfig
from rainbow_ray.config.unused_keys import UnusedKeys
from rainbow_ray.tasks.base import Metrics, ParsedLabels, Task, TaskDefaults
from rainbow_ray.tasks.segment_targets import SegmentTargets
from rainbow_ray.tasks.target_types import TargetType
from rainbow_ray.utils.errors import InputError

if TYPE_CHECKING:
    import torch

WEAK = "weak"  # column of `predictions.parquet`: whether only songs have labels

SelfT = TypeVar("SelfT", bound="SegmentTask")


class SegmentTask(Task):
    """A task whose examples are segments. Targets are packed arrays of `(segments, 5)`, see `SegmentTargets`.

    Subclasses are frozen dataclasses with a field `base_task`, the task of a single segment.
    """

    is_sequence_task = True
    supports_calibration = False
    supports_label_probe = False

    if TYPE_CHECKING:  # a field of subclasses

        @property
        def base_task(self) -> Task:
            """The task of single segments."""

    def with_base_task(self: SelfT, base_task: Task) -> SelfT:
        """Return the same task with another base task.

        Args:
            base_task: Task of a single segment.

        Returns:
            A copy of the task.
        """
        return dataclasses.replace(self, base_task=base_task)  # type: ignore[type-var]

    @property
    @override
    def target_type(self) -> TargetType:
        return self.base_task.target_type

    @property
    @override
    def has_classes(self) -> bool:
        return self.base_task.has_classes

    @property
    @override
    def accepts_null_class(self) -> bool:
        return self.base_task.accepts_null_class

    @property
    @override
    def unused_keys(self) -> tuple[UnusedKeys, ...]:
        return self.base_task.unused_keys

    @property
    @override
    def imbalance_advice(self) -> str:
        return self.base_task.imbalance_advice

    @property
    @override
    def score_dtype(self) -> type[np.floating[Any]]:
        return self.base_task.score_dtype

    @property
    @override
    def prediction_type(self) -> pa.DataType:
        return self.base_task.prediction_type

    @property
    @override
    def outputs(self) -> int:
        return self.base_task.outputs

    @property
    @override
    def score_names(self) -> tuple[str, ...]:
        return self.base_task.score_names

    @property
    @override
    def defaults(self) -> TaskDefaults:
        return self.base_task.defaults

    @override
    def parse(self, labels: pa.ChunkedArray, column: str, data: DataConfig) -> ParsedLabels:
        """Convert raw labels of segments that have one to targets of the base task, `(segments,)`."""
        parsed = self.base_task.parse(labels, column, data)
        return dataclasses.replace(parsed, task=self.with_base_task(parsed.task))

    def finalize_base_labels(
        self, targets: SegmentTargets[np.ndarray], column: str, config: Config
    ) -> tuple[ParsedLabels, int]:
        """Apply the base task's policies for rare classes; a class counts once for each song that has it.

        Args:
            targets: Targets of all segments.
            column: Name of the target column, for messages.
            config: The resolved config.

        Returns:
            The base task, new labels `(segments,)` and reasons `(segments,)`; and the number of distinct pairs of song
            and label.

        Raises:
            InputError: No segment has a label, or nothing can be learned from the labels.
        """
        has_label = targets.has_label
        if not has_label.any():
            raise InputError(f"target {column!r}: no segment has a label that can be used; name another column with"
                             " data.target_column")  # fmt: skip
        labeled = targets[has_label]
        pairs, inverse = np.unique(np.stack([labeled.song, labeled.labels], axis=1), axis=0, return_inverse=True)
        final = self.base_task.finalize_labels(pairs[:, 1], column, config)
        labels = np.full(len(targets), np.nan, dtype=targets.labels.dtype)
        labels[has_label] = np.where(final.usable, final.targets, np.nan)[inverse.ravel()]
        left_out = np.full(len(targets), None, dtype=object)
        left_out[has_label] = final.left_out[inverse.ravel()]
        return ParsedLabels(final.task, labels, left_out, final.notes), len(pairs)

    @override
    def has_label(self, targets: np.ndarray) -> np.ndarray:
        return SegmentTargets.from_array(targets).has_label

    @override
    def strata(self, targets: np.ndarray) -> np.ndarray:
        segments = SegmentTargets.from_array(targets)
        has_label = segments.has_label
        strata = np.zeros(len(targets), dtype=np.int64)
        if has_label.any():
            strata[has_label] = self.base_task.strata(segments.labels[has_label])
            strata[~has_label] = strata[has_label].max() + 1
        return strata

    @override
    def one_hot(self, targets: np.ndarray) -> np.ndarray:
        segments = SegmentTargets.from_array(targets)
        return np.asarray(self.base_task.one_hot(segments.filled_labels) & segments.has_label[:, None])

    @override
    def initial_bias(self, targets: np.ndarray) -> np.ndarray:
        segments = SegmentTargets.from_array(targets)
        return self.base_task.initial_bias(segments.labels[segments.has_label])

    @override
    def scores(self, logits: torch.Tensor) -> torch.Tensor:
        return self.base_task.scores(logits)

    @override
    def decode_predictions(self, scores: np.ndarray) -> list[Any]:
        return self.base_task.decode_predictions(scores)

    @override
    def encode_predictions(self, predictions: Sequence[Any]) -> np.ndarray:
        return self.base_task.encode_predictions(predictions)

    @override
    def decode_targets(self, targets: np.ndarray) -> list[Any]:
        segments = SegmentTargets.from_array(targets)
        labels = self.base_task.decode_targets(segments.filled_labels)
        return [label if is_present else None for label, is_present in zip(labels, segments.has_label, strict=True)]

    @override
    def encode_targets(self, labels: Sequence[Any]) -> np.ndarray:
        return self.base_task.encode_targets(labels)

    @override
    def describe(self, targets: np.ndarray) -> dict[str, float]:
        segments = SegmentTargets.from_array(targets)
        return self.base_task.describe(segments.labels[segments.has_label])

    @override
    def metrics(self, targets: np.ndarray, scores: np.ndarray) -> tuple[Metrics, dict[str, str]]:
        values = self.metric_values(self.metric_names, targets, scores)
        return values, {name: "no song, or one label only, among these" for name, v in values.items() if v is None}

    @override
    def larger_is_better(self, metric: str) -> bool:
        return self.base_task.larger_is_better(metric)

    @override
    def perfect_scores(self, targets: np.ndarray) -> np.ndarray:
        return self.base_task.perfect_scores(SegmentTargets.from_array(targets).filled_labels)

    @override
    def to_json(self) -> Mapping[str, Any]:
        fields = [field.name for field in dataclasses.fields(self)]  # type: ignore[arg-type]
        state = {name: getattr(self, name) for name in fields if name != "base_task"}
        return {**state, "base_task": {"name": self.base_task.name, **self.base_task.to_json()}}

    @override
    def finalize_logits(self, logits: torch.Tensor, sequence: torch.Tensor | None) -> torch.Tensor:
        return logits

    @override
    def score_location_and_scale(self) -> tuple[float, float]:
        return self.base_task.score_location_and_scale()

    @override
    def summary_fields(self) -> dict[str, Any]:
        return {"base_task": self.base_task.name, "weak": None}


def restore_base_task(base_task: Task, state: Mapping[str, Any] | Task) -> Task:
    """Return a base task with a stored state.

    Args:
        base_task: Task of the same kind.
        state: State with the task's name, as `SegmentTask.to_json` stores it, or a task.

    Returns:
        The base task.
    """
    if isinstance(state, Task):
        return state
    return base_task.from_json({key: value for key, value in state.items() if key != "name"})
