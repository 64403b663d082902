"""The parts of one fit, assembled: model, cached features, evaluator, and the wrapper that averages gradients."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from torch import nn

from rainbow_ray.config.schema import Config
from rainbow_ray.data.dataset import Dataset
from rainbow_ray.modalities.spec import InputSpec
from rainbow_ray.model.audio_feature_cache import WindowKeys
from rainbow_ray.model.build import build_model, fit_bag_of_words
from rainbow_ray.model.device import ExecutionContext
from rainbow_ray.model.frozen_feature_cache import FrozenFeatureCache
from rainbow_ray.model.model import RainbowModel
from rainbow_ray.nn.zero_loss import GradientAverager
from rainbow_ray.tasks.base import Task
from rainbow_ray.training.evaluator import Evaluator
from rainbow_ray.training.feature_provider import FeatureProvider


@dataclass(frozen=True)
class FitComponents:
    """Model, cached features and evaluator of one fit.

    Attributes:
        config: Config of the fit.
        task: The task, fitted to the training targets.
        features: Provides the inputs of the model.
        evaluator: Scores examples.
        gradient_averager: Called with None, returns a loss of zero, whose backward pass averages the gradients over the
            workers.
    """

    config: Config
    task: Task
    features: FeatureProvider
    evaluator: Evaluator
    gradient_averager: nn.Module

    @property
    def model(self) -> RainbowModel:
        """The model without a wrapper."""
        return self.features.model

    @property
    def trains_text(self) -> bool:
        """Whether a layer of the text encoder is trained."""
        text = self.model.text
        return text is not None and any(parameter.requires_grad for parameter in text.parameters())

    @property
    def execution(self) -> ExecutionContext:
        """Device, precision and process group."""
        return self.features.execution


def build_components(
    config: Config, dataset: Dataset, input_spec: InputSpec, task: Task, train_indices: np.ndarray,
    execution: ExecutionContext, *, frozen_cache: FrozenFeatureCache | None = None,
    window_keys: WindowKeys | None = None,
) -> FitComponents:  # fmt: skip
    """Build a model and compute what training does not change.

    Args:
        config: Config of the fit.
        dataset: Examples to read.
        input_spec: Modalities, encoders, and the reader of media files.
        task: The task, fitted to the training targets.
        train_indices: Examples that fit the vocabulary and the standardizer, `(n,)`; those of weight 0 are left out.
        execution: Device, precision and process group; all its workers call this function together.
        frozen_cache: Frozen-feature cache shared between fits, or None.
        window_keys: Windows to encode up front, by modality; None: all windows of the dataset.

    Returns:
        The components; the model's random weights come from torch's global generator.

    Raises:
        InputError: A layer or freeze depth exceeds the encoder's.
    """
    train_indices = train_indices[dataset.weights[train_indices] > 0]  # segments without a label have weight 0
    model = build_model(config, input_spec, task)
    fit_bag_of_words(model.bag_of_words, dataset, train_indices, task, config)
    model.to(execution.device)
    features = FeatureProvider(
        config, dataset, input_spec, model, execution, frozen_cache=frozen_cache, window_keys=window_keys
    )
    features.fit_statistics(train_indices)
    evaluator = Evaluator(features, task, config.training)
    return FitComponents(config, task, features, evaluator, execution.process_group.wrap(GradientAverager(model)))
