"""Batches of examples as tensors: padded inputs of every modality, targets and weights."""

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
    """Times of segments, and the sequences that they belong to.

    Attributes:
        times: Start and end in seconds, then start and end as fractions of the song, float32 `(segments, 4)`.
        sequence_ids: Sequence of each segment, numbered from 0 in ascending order, int64 `(segments,)`. None means that
            all segments are one sequence; the ONNX export traces this form.
    """

    times: torch.Tensor
    sequence_ids: torch.Tensor | None

    def map(self, function: Callable[[torch.Tensor], torch.Tensor]) -> SegmentTimes:
        """Return times and sequence ids replaced by what a function returns for them.

        Args:
            function: Called with each tensor.

        Returns:
            The new times.
        """
        return SegmentTimes(function(self.times), None if self.sequence_ids is None else function(self.sequence_ids))

    def to(self, device: torch.device) -> SegmentTimes:
        """Return a copy on a device.

        Args:
            device: Target device.

        Returns:
            The same times and sequence ids, on `device`.
        """
        return self.map(functools.partial(to_device, device=device))


@dataclass(frozen=True)
class Batch:
    """Inputs of a model for `n` examples.

    Each modality reads *units*: text has one unit per example, audio and MIDI have one per window.

    Attributes:
        units: Padded inputs of each modality by input name; tensors of shape `(units, …)`.
        unit_to_example: Example of each unit by modality, int64 `(units,)`, or None where unit `i` is of example `i`.
        present: Mask of the examples that have a modality, by modality; bool `(n,)`.
        targets: Targets of the task, `(n, …)`.
        weights: Loss weights, float32 `(n,)`.
        segment_times: Times of the segments, or None where examples are songs.
    """

    units: dict[str, dict[str, torch.Tensor]]
    unit_to_example: Mapping[str, torch.Tensor | None]
    present: dict[str, torch.Tensor]
    targets: torch.Tensor
    weights: torch.Tensor
    segment_times: SegmentTimes | None = None

    def to(self, device: torch.device) -> Batch:
        """Return a copy on a device.

        Args:
            device: Target device.

        Returns:
            The batch with all tensors on `device`, moved by `to_device`.
        """
        return self._map(functools.partial(to_device, device=device))

    def pin_memory(self) -> Batch:
        """Return a copy in pinned memory, from which `to` copies to a GPU without waiting.

        Returns:
            The batch, on the CPU.
        """
        return self._map(lambda tensor: tensor.pin_memory())

    def _map(self, function: Callable[[torch.Tensor], torch.Tensor]) -> Batch:
        """Return a batch with each tensor replaced by what a function returns for it."""
        times = self.segment_times
        return Batch(
            {name: {key: function(value) for key, value in inputs.items()} for name, inputs in self.units.items()},
            {name: None if owner is None else function(owner) for name, owner in self.unit_to_example.items()},
            {name: function(mask) for name, mask in self.present.items()},
            function(self.targets),
            function(self.weights),
            times.map(function) if times is not None else None,
        )

    @property
    def has_any(self) -> torch.Tensor:
        """Mask of the examples that have at least one modality, bool `(n,)`."""
        return functools.reduce(operator.or_, self.present.values())

    def only(self, modalities: Collection[str]) -> Batch:
        """Return a copy in which all other modalities are absent.

        Args:
            modalities: Names of the modalities to keep.

        Returns:
            The batch with `present` set to False for every other modality.
        """
        present = {name: mask & (name in modalities) for name, mask in self.present.items()}
        return dataclasses.replace(self, present=present)


def to_device(tensor: torch.Tensor, device: torch.device) -> torch.Tensor:
    """Move a tensor to a device.

    Args:
        tensor: Tensor of any shape.
        device: Target device.

    Returns:
        The tensor on `device`. On `mps`, which has no float64, floating-point tensors are cast to float32. To a GPU, it
        is copied from pinned memory, without waiting for what the GPU computes.
    """
    if device.type == "cuda" and not tensor.is_cuda:
        return tensor.pin_memory().to(device, non_blocking=True)  # a pinned tensor is not copied
    narrowed = tensor.float() if device.type == "mps" and tensor.is_floating_point() else tensor
    return narrowed.to(device, non_blocking=True)


def make_batch(
    examples: Examples,
    indices: np.ndarray,
    collates: Mapping[str, Collate],
    sequence_ids: np.ndarray | None = None,
) -> Batch:
    """Collate examples into one batch; each modality pads its own inputs.

    Args:
        examples: Examples in memory.
        indices: Rows of `examples`, int64 `(n,)`.
        collates: Collate function of each modality. Beside padded inputs it may return `to_example` (the example of
            each unit; by default unit `i` is of example `i`) and `present` (the mask of examples that have the
            modality; by default those with at least one unit).
        sequence_ids: Sequence of each example, `(n,)`, as in `BatchIndices`; used only for segments.

    Returns:
        The batch, on the CPU.
    """
    import torch

    units = {name: collate(examples, indices) for name, collate in collates.items()}
    one_per_example, unit_to_example, present = torch.arange(len(indices)), {}, {}
    for name, inputs in units.items():
        unit_to_example[name] = inputs.pop("to_example", one_per_example)
        if "present" in inputs:
            present[name] = inputs.pop("present")
        else:
            present[name] = torch.bincount(unit_to_example[name], minlength=len(indices)) > 0
    return Batch(
        units=units,
        unit_to_example=unit_to_example,
        present=present,
        targets=torch.from_numpy(examples.targets[indices]),
        weights=torch.from_numpy(examples.weights[indices]),
        segment_times=make_segment_times(examples.table, indices, sequence_ids),
    )


def make_segment_times(table: pa.Table, indices: np.ndarray, sequence_ids: np.ndarray | None) -> SegmentTimes | None:
    """Return the times of some segments.

    Args:
        table: Table of examples.
        indices: Rows of `table`, int64 `(n,)`.
        sequence_ids: Sequence of each row, `(n,)`, equal ids adjacent; None makes each row its own sequence.

    Returns:
        The times, with sequences renumbered from 0, or None where the rows of `table` are songs.
    """
    if table.schema.get_field_index(POSITION) < 0:
        return None
    import torch

    rows = pa.array(indices)
    times = np.stack([table[name].take(rows).to_numpy() for name in (*TIMES, *RELATIVE_TIMES)], axis=1)
    numbers = np.arange(len(indices))
    if sequence_ids is not None and len(sequence_ids):
        numbers = np.concatenate([[0], np.cumsum(np.diff(sequence_ids) != 0)])
    return SegmentTimes(torch.from_numpy(times), torch.from_numpy(numbers))
