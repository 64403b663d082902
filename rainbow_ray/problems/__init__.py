"""What is predicted: parsing labels, the head's size, losses, metrics. One file a problem, imported when asked for."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import pyarrow as pa

from rainbow_ray.config import TrainingConfig
from rainbow_ray.errors import InputError

if TYPE_CHECKING:
    import torch

PROBLEMS = {"binary": "rainbow_ray.problems.binary:Binary"}

Metrics = dict[str, "float | None"]


class Problem(Protocol):
    """What training and results ask of a problem. Targets are float32 `(examples,)`, scores `(examples, …)`."""

    name: str
    outputs: int
    metric_names: tuple[str, ...]

    def check(self, config: TrainingConfig) -> list[str]:
        """What is wrong with the loss, the metric and their keys."""

    def without_effect(self, config: TrainingConfig) -> Mapping[str, str]:
        """Dotted keys that this problem does not read as it is configured, and why."""

    def parse(self, labels: pa.ChunkedArray, column: str) -> np.ndarray:
        """Raw labels to targets. Raises `InputError` when they cannot be this problem's."""

    def check_targets(self, targets: np.ndarray, column: str) -> None:
        """Raise `InputError` when these targets leave nothing to learn."""

    def strata(self, targets: np.ndarray) -> np.ndarray:
        """Integers that a split keeps in proportion."""

    def fit(self, targets: np.ndarray, config: TrainingConfig) -> Problem:
        """The same problem with what it learns from the training side's targets."""

    def initial_bias(self, targets: np.ndarray) -> np.ndarray:
        """The head's first bias, `(outputs,)`: predictions start at what is known without any text."""

    def loss(self, logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        """The loss of each example, `(examples,)`."""

    def scores(self, logits: torch.Tensor) -> torch.Tensor:
        """Logits to what `predictions.parquet` holds."""

    def decide(self, scores: np.ndarray) -> list[Any]:
        """Scores to predictions as a person reads them."""

    def metrics(self, targets: np.ndarray, scores: np.ndarray) -> tuple[Metrics, dict[str, str]]:
        """All metrics, null where undefined, and why each null is."""

    def metric(self, name: str, targets: np.ndarray, scores: np.ndarray) -> float | None:
        """One metric alone."""

    def larger_is_better(self, metric: str) -> bool: ...

    def to_json(self) -> Mapping[str, Any]:
        """What a bundle keeps, to be given back to the constructor."""


def make_problem(name: str, **state: Any) -> Problem:
    """A problem by its name. Raises `InputError` for one that is not there."""
    if name not in PROBLEMS:
        raise InputError(f"problem {name!r} is unknown; one of: {', '.join(PROBLEMS)}")
    module, _, attribute = PROBLEMS[name].partition(":")
    made: Problem = getattr(importlib.import_module(module), attribute)(**state)
    return made
