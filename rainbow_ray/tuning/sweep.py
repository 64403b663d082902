"""What every part of a sweep works with: its config, search space, data, trial log and resources."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from rainbow_ray.config.schema import Config
from rainbow_ray.distributed.resources import TrialResources
from rainbow_ray.training.cross_validation import FitContext
from rainbow_ray.tuning.search_space import Space
from rainbow_ray.tuning.sweep_forecast import SweepForecast
from rainbow_ray.tuning.trial import TrialContext
from rainbow_ray.tuning.trial_log import TrialLog


@dataclass(frozen=True)
class Sweep:
    """One start of a sweep.

    Attributes:
        config: Config that the trials' values are applied to.
        space: Search space.
        context: Data, folds and rungs that all trials share.
        trial_log: Log of all trials, also of those of earlier starts.
        resources: Resources of each trial, and how many run in parallel.
        larger_is_better: Whether larger values of the headline metric are better.
        prepare: Returns the data of a config that reads its inputs differently (see `input_key`).
        weights: Weights of the frozen encoder that all actors share, or None.
        forecast: Forecasts the time of trials, or None.
    """

    config: Config
    space: Space
    context: TrialContext
    trial_log: TrialLog
    resources: TrialResources
    larger_is_better: bool
    prepare: Callable[[Config], FitContext]
    weights: dict[str, Any] | None = None
    forecast: SweepForecast | None = None

    @property
    def n_trials(self) -> int:
        """Number of trials that the sweep runs in all its starts together."""
        return self.config.tune.trials


def input_key(config: Config) -> str:
    """Return a key of the settings that decide which token ids, windows and descriptors are read.

    Args:
        config: Config of a trial.

    Returns:
        A text that is equal for two configs exactly if they read the same inputs.
    """
    data, model = config.data, config.model
    windows = (data.window_seconds, data.window_position, data.windows_per_stem, model.audio_encoder.model_name)
    descriptors = (model.audio_encoder.descriptors, model.midi_encoder.descriptors)
    return repr(
        (data.text_columns, model.text_encoder.model_name, model.text_encoder.max_length, *windows, *descriptors)
    )
