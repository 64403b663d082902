"""Batches: padded inputs of every modality, targets and weights of some examples, as tensors."""

from __future__ import annotations

import dataclasses
import functools
import operator
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa

from rainbow_ray.data.segments import POSITION, RELATIVE_TIMES, TIMES

if TYPE_CHECKING:
    import torch

    from rainbow_ray.data.examples import Examples

Collate = Callable[["Examples", np.ndarray], "dict[str, torch.Tensor]"]


@dataclass(frozen=True)
class SegmentTimes:
    """When segments are, and which of them a model sees together.

    `times` is `(segments, 4)`: start and end in seconds, and both relative to the song. `sequence_ids`, `(segments,)`,
    numbers the sequences from 0, in order; None: one sequence, outside of training.
    """

    times: torch.Tensor
    sequence_ids: torch.Tensor | None

    def to(self, device: torch.device) -> SegmentTimes:
        ids = None if self.sequence_ids is None else self.sequence_ids.to(device, non_blocking=True)
        return SegmentTimes(self.times.to(device, non_blocking=True), ids)


@dataclass(frozen=True)
class Batch:
    """What a model is given: flat units of each modality, and how they belong to examples.

    `units[modality]` holds that modality's padded inputs, `(units, …)`; `unit_to_example[modality]` is `(units,)`:
    text has one unit an example, media have one a window, or none; None says that each example has just one.
    `present[modality]`, `(examples,)`, says which
    examples have it. `targets` and `weights` are `(examples, …)`.
    """

    example_ids: list[str]
    songs: list[str]
    units: dict[str, dict[str, torch.Tensor]]
    unit_to_example: Mapping[str, torch.Tensor | None]
    present: dict[str, torch.Tensor]
    targets: torch.Tensor
    weights: torch.Tensor
    segment_times: SegmentTimes | None = None  # of segments

    def to(self, device: torch.device) -> Batch:
        def move(tensor: torch.Tensor) -> torch.Tensor:
            return to_device(tensor, device)

        return Batch(
            self.example_ids,
            self.songs,
            {name: {key: move(value) for key, value in inputs.items()} for name, inputs in self.units.items()},
            {name: None if owner is None else move(owner) for name, owner in self.unit_to_example.items()},
            {name: move(there) for name, there in self.present.items()},
            move(self.targets),
            move(self.weights),
            self.segment_times.to(device) if self.segment_times is not None else None,
        )

    @property
    def has_any(self) -> torch.Tensor:
        """Which examples have any modality at all, `(examples,)`."""
        return functools.reduce(operator.or_, self.present.values())

    def only(self, modalities: Collection[str]) -> Batch:
        """The same batch as if examples had nothing else."""
        present = {name: there & (name in modalities) for name, there in self.present.items()}
        return dataclasses.replace(self, present=present)


def to_device(tensor: torch.Tensor, device: torch.device) -> torch.Tensor:
    """Move a tensor; where the device has no float64 (Apple's GPUs), narrowed."""
    narrowed = tensor.float() if device.type == "mps" and tensor.is_floating_point() else tensor
    return narrowed.to(device, non_blocking=True)


def make_batch(
    examples: Examples, indices: np.ndarray, collates: Mapping[str, Collate], sequence_ids: np.ndarray | None = None
) -> Batch:
    """Gather examples to one batch, each modality padding its own inputs.

    A collate function may return `to_example`, the example of each unit, and `present`, the mask of examples with it.
    `sequence_ids` are those of `BatchIndices`.
    """
    import torch

    rows = pa.array(indices)
    units = {name: collate(examples, indices) for name, collate in collates.items()}
    each, owners, present = torch.arange(len(indices)), {}, {}
    for name, inputs in units.items():
        owners[name] = inputs.pop("to_example", each)
        counts = torch.bincount(owners[name], minlength=len(indices))
        present[name] = inputs.pop("present") if "present" in inputs else counts > 0
    return Batch(
        example_ids=examples.table["example_id"].take(rows).to_pylist(),
        songs=examples.table["song"].take(rows).to_pylist(),
        units=units,
        unit_to_example=owners,
        present=present,
        targets=torch.from_numpy(examples.targets[indices]),
        weights=torch.from_numpy(examples.weights[indices]),
        segment_times=make_segment_times(examples.table, indices, sequence_ids),
    )


def make_segment_times(table: pa.Table, indices: np.ndarray, sequence_ids: np.ndarray | None) -> SegmentTimes | None:
    """When some rows of a table of segments are, read together as `sequence_ids` says; None of a table of songs."""
    if POSITION not in table.column_names:
        return None
    import torch

    rows = pa.array(indices)
    times = np.stack([table[name].take(rows).to_numpy() for name in (*TIMES, *RELATIVE_TIMES)], axis=1)
    numbers = np.arange(len(indices))
    if sequence_ids is not None and len(sequence_ids):
        numbers = np.concatenate([[0], np.cumsum(np.diff(sequence_ids) != 0)])
    return SegmentTimes(torch.from_numpy(times), torch.from_numpy(numbers))
