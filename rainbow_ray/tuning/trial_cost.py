"""Forecast of the time that a trial takes, from its config, corrected as trials end."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from rainbow_ray.config.schema import Config
from rainbow_ray.data.dataset import Dataset, count_songs
from rainbow_ray.modalities.freezing import resolve_depths
from rainbow_ray.modalities.spec import InputSpec
from rainbow_ray.tasks.base import Task
from rainbow_ray.training.schedule import schedule_of_fit

BACKWARD_COST = 3  # forward and backward pass of a trained layer, in forward passes
SOLUTION_SECONDS = 1.0  # of a classifier of a few songs that is solved for all penalties and inner folds
FIT_SECONDS = 0.3  # of a fit besides its steps: start, scores, files
PRIOR_WEIGHT = 1.0  # of the uncorrected forecast, in trials
PRIOR_DEVIATION = 0.7  # of the logarithm of a forecast's error before trials have ended: a factor of two


@dataclass(frozen=True)
class CostRates:
    """Times as they were measured before the sweep.

    Attributes:
        layer_seconds: Forward pass of one example through one layer of an encoder.
        step_seconds: Step of the default config, which trains the layers after frozen encoders.
        text_layers: Layers of the text encoder; 0 without text.
        audio_layers: Layers of the audio encoder; 0 without audio.
    """

    layer_seconds: float
    step_seconds: float
    text_layers: int
    audio_layers: int = 0


@dataclass(frozen=True)
class TrialCost:
    """Forecast of a trial.

    Attributes:
        seconds: Expected time of all folds.
        trains_encoder: Whether layers of an encoder are trained, which costs far more than the layers after it.
    """

    seconds: float
    trains_encoder: bool


@dataclass
class _Errors:
    """Logarithms of the ratio between true and forecast times of a kind of trial."""

    values: list[float] = field(default_factory=list)

    @property
    def mean(self) -> float:
        return sum(self.values) / (len(self.values) + PRIOR_WEIGHT)

    @property
    def deviation(self) -> float:
        squares = sum((value - self.mean) ** 2 for value in self.values)
        return math.sqrt((PRIOR_DEVIATION**2 + squares) / (1 + len(self.values)))


class CostModel:
    """Forecasts trials from the passes of their examples through trained layers, and from their steps.

    Frozen layers cost a trial nothing: their outputs are computed once for all trials, in `encode_seconds`. Encoders
    other than the default config's are forecast as if they were of its size.

    Args:
        dataset: All examples.
        task: The task.
        input_spec: Modalities that are read.
        folds: Indices of the training set and of the validation set of each fold.
        rates: Measured times.
    """

    def __init__(
        self, dataset: Dataset, task: Task, input_spec: InputSpec, folds: Sequence[tuple[np.ndarray, np.ndarray]],
        rates: CostRates,
    ) -> None:  # fmt: skip
        self.dataset, self.task, self.input_spec, self.rates = dataset, task, input_spec, rates
        self.n_folds = len(folds)
        train, val = folds[0]
        self._n_train, self._n_val = len(train), len(val)
        self._n_songs = count_songs(dataset, train)
        self._errors = {trains_encoder: _Errors() for trains_encoder in (False, True)}

    @property
    def encode_seconds(self) -> float:
        """Time in which the outputs of all layers are computed once."""
        n_layers = self.rates.text_layers + self.rates.audio_layers
        return len(self.dataset) * n_layers * self.rates.layer_seconds

    def forecast(self, config: Config) -> TrialCost:
        """Return the forecast of a trial, corrected by the trials that have ended.

        Args:
            config: Config of the trial.

        Returns:
            Its expected cost.
        """
        cost = self._uncorrected(config)
        return TrialCost(cost.seconds * math.exp(self._errors[cost.trains_encoder].mean), cost.trains_encoder)

    def deviation(self, *, trains_encoder: bool) -> float:
        """Return the standard deviation of the logarithm of a forecast's error.

        Args:
            trains_encoder: The kind of trial.

        Returns:
            The deviation; e.g. 0.7 for errors of a factor of two.
        """
        return self._errors[trains_encoder].deviation

    def observe(self, config: Config, work: float, seconds: float) -> None:
        """Correct the forecasts by a trial that has ended.

        Args:
            config: Config of the trial.
            work: Fraction of its work that it did, in (0, 1].
            seconds: Its duration, without the outputs of frozen layers.
        """
        cost = self._uncorrected(config)
        self._errors[cost.trains_encoder].values.append(math.log(max(seconds, 1e-3) / (cost.seconds * work)))

    def _uncorrected(self, config: Config) -> TrialCost:
        schedule = schedule_of_fit(
            config, self.dataset, self.task, self.input_spec, self._n_train, n_songs=self._n_songs
        )
        seconds = SOLUTION_SECONDS if schedule.is_solved else schedule.total_steps * self.rates.step_seconds
        n_layers = self._trained_layers(config)
        passes = schedule.epochs * (BACKWARD_COST * self._n_train + self._n_val)
        fit_seconds = FIT_SECONDS + seconds + passes * n_layers * self.rates.layer_seconds
        return TrialCost(self.n_folds * fit_seconds, n_layers > 0)

    def _trained_layers(self, config: Config) -> int:
        """Return the number of trained layers of all encoders; trained embeddings count as one."""
        n_layers = 0
        encoders = (
            (config.model.text_encoder, self.rates.text_layers), (config.model.audio_encoder, self.rates.audio_layers)
        )  # fmt: skip
        for encoder, total in encoders:
            if total:
                depths = resolve_depths(encoder, total)
                n_layers += depths.read - depths.frozen + int(not depths.freezes_input)
        return n_layers
