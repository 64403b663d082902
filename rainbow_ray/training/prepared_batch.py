"""A batch that is collated, and not yet on the device."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

import numpy as np
import torch

from rainbow_ray.data.batch import Batch
from rainbow_ray.data.dataset import ExampleView


@dataclass(frozen=True)
class PreparedBatch:
    """A padded batch on the CPU, in pinned memory where a GPU computes.

    Nothing of it is on the GPU before it is used: the step before it needs that memory.

    Attributes:
        view: The examples, `(n,)`.
        batch: Their inputs; None where the features of all examples are at hand.
        targets: Targets of the task, `(n, …)`.
        weights: Loss weights, float32 `(n,)`.
    """

    view: ExampleView
    batch: Batch | None
    targets: torch.Tensor
    weights: torch.Tensor

    @staticmethod
    def of(view: ExampleView, batch: Batch | None, targets: torch.Tensor, weights: torch.Tensor) -> PreparedBatch:
        """Return a prepared batch whose inputs hold the same targets and weights, so that they are sent once.

        Args:
            view: The examples, `(n,)`.
            batch: Their inputs, or None.
            targets: Targets of the task, `(n, …)`.
            weights: Loss weights, `(n,)`.

        Returns:
            The prepared batch.
        """
        if batch is not None:
            batch = dataclasses.replace(batch, targets=targets, weights=weights)
        return PreparedBatch(view, batch, targets, weights)

    def pin_memory(self) -> PreparedBatch:
        """Return a copy in pinned memory, from which a GPU reads without the host.

        Returns:
            The prepared batch, on the CPU.
        """
        if self.batch is None:
            return PreparedBatch(self.view, None, self.targets.pin_memory(), self.weights.pin_memory())
        batch = self.batch.pin_memory()
        return PreparedBatch(self.view, batch, batch.targets, batch.weights)

    def __len__(self) -> int:
        return len(self.view)

    @property
    def indices(self) -> np.ndarray:
        """The examples as indices into the dataset, int64 `(n,)`."""
        return self.view.indices
