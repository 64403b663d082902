"""Hidden states of frozen encoder layers, padded for a batch: on the host, or on a GPU where they all fit."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from rainbow_ray.model.device import ExecutionContext, free_memory_bytes, is_out_of_memory

MAX_FRACTION_OF_FREE_MEMORY = 0.25  # of a GPU that resident states may take; the rest is for training


@dataclass(frozen=True)
class CachedHiddenStates:
    """Hidden states of the distinct texts of a dataset.

    Attributes:
        values: States of all texts, concatenated, `(tokens, …, width)`.
        starts: First row of each text in `values`, and the number of rows, int64 `(texts + 1,)`.
        text_of_example: Text of each example of the dataset, `(examples,)`.
    """

    values: torch.Tensor
    starts: np.ndarray
    text_of_example: np.ndarray

    def pad(self, indices: np.ndarray) -> torch.Tensor:
        """Return the states of some examples as a padded batch.

        Args:
            indices: Examples of the dataset, `(n,)`.

        Returns:
            `(n, length, …, width)`, padded with zeros to the longest text.
        """
        starts, ends = self._spans(indices)
        max_length = int((ends - starts).max(initial=1))
        padded = self.values.new_zeros(len(indices), max_length, *self.values.shape[1:])
        for row, (start, end) in enumerate(zip(starts.tolist(), ends.tolist(), strict=True)):
            padded[row, : end - start] = self.values[start:end]
        return padded

    def rows(self, indices: np.ndarray) -> torch.Tensor:
        """Return where the states of a padded batch are.

        Args:
            indices: Examples of the dataset, `(n,)`.

        Returns:
            Rows of `values`, int64 `(n, length)`; their number, past the end, for padding.
        """
        starts, ends = self._spans(indices)
        rows = starts[:, None] + np.arange(int((ends - starts).max(initial=1)))
        return torch.from_numpy(np.where(rows < ends[:, None], rows, len(self.values)))

    def _spans(self, indices: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return the first row of each example, and the row after its last one."""
        texts = self.text_of_example[indices]
        return self.starts[texts], self.starts[texts + 1]


@dataclass(frozen=True)
class ResidentStates:
    """Hidden states of all texts in the memory of a device.

    Attributes:
        values: As in `CachedHiddenStates`, and a last row of zeros.
    """

    values: torch.Tensor

    def gather(self, rows: torch.Tensor) -> torch.Tensor:
        """Return the states of a padded batch.

        Args:
            rows: `CachedHiddenStates.rows`, on the same device.

        Returns:
            `(n, length, …, width)`, padded with zeros.
        """
        return self.values.index_select(0, rows.flatten()).view(*rows.shape, *self.values.shape[1:])


def move_to_gpu(states: CachedHiddenStates | None, execution: ExecutionContext) -> ResidentStates | None:
    """Copy hidden states to a GPU, so that steps send it row numbers alone.

    Args:
        states: The states, or None.
        execution: Device and precision of the fit.

    Returns:
        The states on the device, in bf16 where the fit computes in bf16; None without states, on devices other than
        GPUs, and where they take more than a quarter of the free memory.
    """
    device = execution.device
    if states is None or device.type != "cuda":
        return None
    n_bytes = states.values.numel() * _resident_dtype(states, execution).itemsize
    if n_bytes > MAX_FRACTION_OF_FREE_MEMORY * free_memory_bytes(device):
        return None
    try:
        return make_resident(states, execution)
    except Exception as error:
        if not is_out_of_memory(error):
            raise
        return None


def make_resident(states: CachedHiddenStates, execution: ExecutionContext) -> ResidentStates:
    """Copy hidden states to the device of a fit, whatever memory they take.

    Args:
        states: The states.
        execution: Device and precision of the fit.

    Returns:
        The states on the device.
    """
    shape = (len(states.values) + 1, *states.values.shape[1:])
    values = torch.zeros(shape, dtype=_resident_dtype(states, execution), device=execution.device)
    values[:-1].copy_(states.values)
    return ResidentStates(values)


def _resident_dtype(states: CachedHiddenStates, execution: ExecutionContext) -> torch.dtype:
    """Return bf16 for layers that compute in bf16, and round them anyway; fp16 has too small a range for outliers."""
    return torch.bfloat16 if execution.precision.dtype is torch.bfloat16 else states.values.dtype
