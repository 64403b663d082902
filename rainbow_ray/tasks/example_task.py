"""What tasks of independent examples share: scores and logits do not depend on neighboring examples."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from typing_extensions import override

from rainbow_ray.tasks.base import Task

if TYPE_CHECKING:
    import torch


class ExampleTask(Task):
    """A task whose examples are independent of each other, and of which each has a label."""

    @property
    @override
    def base_task(self) -> Task:
        return self

    @override
    def has_label(self, targets: np.ndarray) -> np.ndarray:
        return np.ones(len(targets), dtype=bool)

    @override
    def example_weights(self, targets: np.ndarray) -> np.ndarray:
        return np.ones(len(targets), dtype=np.float32)

    @override
    def finalize_logits(self, logits: torch.Tensor, sequence: torch.Tensor | None) -> torch.Tensor:
        return logits

    @override
    def fit_decoding(self, targets: np.ndarray) -> Task:
        return self

    @override
    def decode_scores(self, targets: np.ndarray, scores: np.ndarray) -> np.ndarray:
        return scores

    @override
    def score_location_and_scale(self) -> tuple[float, float]:
        return 0.0, 1.0

    @override
    def summary_fields(self) -> dict[str, Any]:
        return {}
