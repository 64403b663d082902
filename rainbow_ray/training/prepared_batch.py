"""A batch that is collated, and not yet on the device."""

from __future__ import annotations

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

    def __len__(self) -> int:
        return len(self.view)

    @property
    def indices(self) -> np.ndarray:
        """The examples as indices into the dataset, int64 `(n,)`."""
        return self.view.indices
