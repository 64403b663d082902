"""Input, progress and output of one fit."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from rainbow_ray.data.batching import TrainingSchedule
from rainbow_ray.data.dataset import Dataset
from rainbow_ray.modalities.spec import InputSpec
from rainbow_ray.model.frozen_feature_cache import FrozenFeatureCache
from rainbow_ray.tasks.base import Task


@dataclass(frozen=True)
class FitData:
    """Data of one fit.

    Attributes:
        dataset: All examples.
        train: Indices of the training side, `(n,)`.
        val: Indices of the validation side, `(m,)`; empty in the refit.
        task: The task, not yet fitted to the training targets.
        input_spec: Modalities, encoders, and the reader of media files.
        fold: Number of the fold; None for the refit.
        split_by: Column whose values a split keeps together.
        schedule: Length of training, where the folds have determined it; otherwise None.
        frozen_cache: Frozen-feature cache shared between fits, or None.
        on_validation: Called after each epoch with the fraction of the epochs that are done and the scores of `val`.
    """

    dataset: Dataset
    train: np.ndarray
    val: np.ndarray
    task: Task
    input_spec: InputSpec
    fold: int | None
    split_by: str = "id"
    schedule: TrainingSchedule | None = None
    frozen_cache: FrozenFeatureCache | None = None
    on_validation: Callable[[float, np.ndarray], None] | None = None


@dataclass
class TrainState:
    """Progress of a fit: what a checkpoint needs beside tensors. The names of the fields are part of its format.

    Attributes:
        epoch: The current epoch, from 1; 0 before the first one.
        step: Number of steps done.
        epoch_step: Number of steps done in the current epoch; 0 between epochs.
        epoch_loss: Σ(weight × loss) of the epoch's steps so far.
        epoch_weight: Σ weight of the epoch's steps so far.
        best_epoch: The epoch whose model is kept.
        best_value: Value of the monitored metric in that epoch.
        bad_epochs: Number of epochs since then.
        losses: Mean training loss of each epoch.
        seconds: Time spent on `startup`, `train` (with `data`, the time spent on waiting for it) and `eval`.
        checkpoints: `number` of checkpoints written, and the `seconds` spent on it.
        tokens: Number of tokens that were encoded in training steps.
        penalty: L2 penalty of a classifier that was solved; None where it was trained in steps.
    """

    epoch: int = 0
    step: int = 0
    epoch_step: int = 0
    epoch_loss: float = 0.0
    epoch_weight: float = 0.0
    best_epoch: int = 0
    best_value: float | None = None
    bad_epochs: int = 0
    losses: list[float] = field(default_factory=list)
    seconds: dict[str, float] = field(default_factory=lambda: dict.fromkeys(("train", "data", "eval", "startup"), 0.0))
    checkpoints: dict[str, float] = field(default_factory=lambda: {"number": 0, "seconds": 0.0})
    tokens: int = 0
    penalty: float | None = None

    @property
    def in_epoch(self) -> bool:
        """Whether some, not all, steps of the current epoch are done."""
        return self.epoch_step > 0


@dataclass(frozen=True)
class FitOutput:
    """Result of `fit`.

    Attributes:
        train_scores: Scores of the training side, `(n,)` or `(n, classes)`; empty for streaming datasets.
        val_scores: Scores of the validation side.
        facts: Facts for the summary, as plain JSON.
        subset_scores: Scores of the validation side by each proper subset of the modalities (`text+midi`).
    """

    train_scores: np.ndarray
    val_scores: np.ndarray
    facts: dict[str, Any]
    subset_scores: dict[str, np.ndarray] = field(default_factory=dict)
