"""Losses, scores and attention maps of a model, computed over all workers of a fit."""

from __future__ import annotations

import itertools
from collections.abc import Collection

import numpy as np
import torch

from rainbow_ray.config.schema import TrainingConfig
from rainbow_ray.data.batch import Batch, to_device
from rainbow_ray.data.dataset import ExampleView
from rainbow_ray.model.model import RainbowModel
from rainbow_ray.tasks.base import Task
from rainbow_ray.tasks.scores import empty_scores
from rainbow_ray.tasks.segment_targets import SONG
from rainbow_ray.training.batch_halving import run_in_halves
from rainbow_ray.training.feature_provider import FeatureProvider
from rainbow_ray.training.prepared_batch import PreparedBatch
from rainbow_ray.utils.errors import TrainingError


def forward_loss(
    model: RainbowModel,
    features: FeatureProvider,
    task: Task,
    view: ExampleView | PreparedBatch,
    modalities: Collection[str] | None = None,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Run a forward pass and return the losses and the logits.

    Args:
        model: The model.
        features: Provides the inputs of the model.
        task: Provides the loss.
        view: The examples, `(n,)`, or what `features.prepare` returned for them.
        modalities: Modalities to read, as if the examples had no others; None: all.

    Returns:
        Losses times the examples' weights, `(n,)`, and logits, `(n, outputs)`, both fp32. Both are NaN for examples
        that have none of `modalities`.
    """
    prepared = features.prepare(view) if isinstance(view, ExampleView) else view
    inputs, device = features.inputs(prepared), features.execution.device
    if modalities is not None and isinstance(inputs, Batch):
        inputs = inputs.only(modalities)
    with features.execution.autocast():
        logits = model(inputs).float()
    sequence_ids = inputs.segment_times.sequence_ids if inputs.segment_times is not None else None
    logits = task.finalize_logits(logits, sequence_ids)
    if modalities is not None and isinstance(inputs, Batch):
        logits = logits.masked_fill(~inputs.has_any[:, None], torch.nan)
    targets, weights = (
        (inputs.targets, inputs.weights)
        if isinstance(inputs, Batch)
        else (to_device(prepared.targets, device), to_device(prepared.weights, device))
    )
    if sequence_ids is not None:
        # the loss must not compare the last segment of a sequence with the first one of the next
        targets = targets.clone()
        targets[:, SONG] = sequence_ids
    return task.loss(logits, targets) * weights, logits


def divergence_advice(config: TrainingConfig) -> str:
    """Return advice for losses and scores that are not finite.

    Args:
        config: Its learning rates are named.

    Returns:
        A clause without a period.
    """
    return (
        f"try a smaller training.learning_rate ({config.learning_rate:g}) or training.head_learning_rate"
        f" ({config.head_learning_rate:g}), or training.mixed_precision=off"
    )


class Evaluator:
    """Scores examples with a model in evaluation mode; all workers of a process group call its methods together.

    Args:
        features: Provides the model and its inputs.
        task: Turns logits into scores.
        config: Learning rates for error messages.
    """

    def __init__(self, features: FeatureProvider, task: Task, config: TrainingConfig) -> None:
        self.features, self.task, self.config = features, task, config

    def score(self, indices: np.ndarray) -> tuple[np.ndarray, float | None]:
        """Return the scores of examples and their mean loss.

        Args:
            indices: Examples of the dataset, `(n,)`; the workers share them.

        Returns:
            Scores, `(n,)` or `(n, classes)`, in the order of `indices`, and the weighted mean loss (None for n = 0).
            All workers get the whole result.

        Raises:
            TrainingError: A score is not finite.
        """
        scores, total_loss = self._score(indices)
        is_finite = np.isfinite(scores)
        has_failed = ~is_finite.all(axis=tuple(range(1, is_finite.ndim)))
        dataset = self.features.dataset
        if has_failed.any():
            songs = ", ".join(dataset.song_names(indices[has_failed][:10]))
            raise TrainingError(f"scores of the songs {songs} are not finite: {divergence_advice(self.config)}")
        total_weight = float(dataset.weights[indices].sum(dtype=np.float64))
        return scores, (total_loss / total_weight if total_weight else None)

    def score_subsets(self, indices: np.ndarray) -> dict[str, np.ndarray]:
        """Return the scores with each proper subset of the modalities.

        Args:
            indices: Examples to score, `(n,)`.

        Returns:
            Scores by the names of the modalities, joined by "+"; empty where nothing is to be scored.
        """
        names = self.features.model.modalities
        sizes = range(1, len(names)) if len(indices) else ()
        subsets = [subset for size in sizes for subset in itertools.combinations(names, size)]
        return {"+".join(subset): self.score_modalities(indices, subset) for subset in subsets}

    def score_modalities(self, indices: np.ndarray, modalities: Collection[str]) -> np.ndarray:
        """Return the scores of examples as if they had no other modalities.

        Args:
            indices: Examples of the dataset, `(n,)`.
            modalities: Modalities to read.

        Returns:
            Scores, `(n,)` or `(n, classes)`; NaN for examples that have none of `modalities`.
        """
        return self._score(indices, modalities)[0]

    @torch.no_grad()
    def attention(self, indices: np.ndarray) -> list[list[float]] | None:
        """Return the mean attention of each modality to each other.

        Args:
            indices: Examples of the dataset, `(n,)`.

        Returns:
            `(modalities, modalities)`, rounded; None for models without attention and for n = 0.
        """
        model, group = self.features.model, self.features.execution.process_group
        if model.fusion is None or len(indices) == 0 or not model.fusion.attends:
            return None
        model.eval()
        total = torch.zeros(len(model.modalities), len(model.modalities))

        def add_batch(view: ExampleView) -> None:
            weights = model.attention(self.features.batch(view))
            assert weights is not None
            total.add_(weights.float().sum(0).cpu())

        for view in self.features.evaluation_views(indices, group):
            run_in_halves(add_batch, view, self.features.execution.device)
        means = group.all_reduce_sum(total) / len(indices)
        return [[round(value, 4) for value in row] for row in means.tolist()]

    @torch.no_grad()
    def _score(self, indices: np.ndarray, modalities: Collection[str] | None = None) -> tuple[np.ndarray, float]:
        """Scores, and the sum of the weighted losses."""
        features, task = self.features, self.task
        model, group = features.model, features.execution.process_group
        model.eval()
        position = np.zeros(len(features.dataset), dtype=np.int64)
        position[indices] = np.arange(len(indices))
        scores = torch.from_numpy(np.zeros_like(empty_scores(task, len(indices))))
        n_scores, total_loss = torch.zeros(len(indices)), 0.0

        def score_batch(view: ExampleView) -> None:
            nonlocal total_loss
            losses, logits = forward_loss(model, features, task, view, modalities)
            mask = torch.from_numpy(self._center_mask(view))
            rows = torch.from_numpy(position[view.indices])[mask]
            scores[rows] = task.scores(logits).cpu()[mask]
            n_scores.index_add_(0, rows, torch.ones(len(rows)))
            total_loss += float(losses.cpu()[mask].sum())

        for view in features.evaluation_views(indices, group, whole_sequences=True):
            run_in_halves(score_batch, view, features.execution.device)
        scores, n_scores = group.all_reduce_sum(scores), group.all_reduce_sum(n_scores)
        (total_loss,) = group.all_reduce_scalars(total_loss)
        scores[n_scores != 1] = torch.nan  # each example must be scored exactly once
        return scores.numpy(), total_loss

    def _center_mask(self, view: ExampleView) -> np.ndarray:
        """Return a mask of the examples to score: of overlapping sequences, the one with most context of a segment."""
        sequence_index = self.features.dataset.sequence_index
        if sequence_index is None or view.sequence_ids is None:
            return np.ones(len(view), dtype=bool)
        return np.concatenate(
            [sequence_index.center_mask(view.indices[sequence]) for sequence in view.sequence_positions]
        )
