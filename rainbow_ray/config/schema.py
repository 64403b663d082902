"""The config: its sections, with types, defaults and a description of every key.

The descriptions are the comments that `--print-config` prints. Sections of data, model and training are defined in the
modules beside this one; import all of them from here.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import Field

from rainbow_ray.config.data import DEFAULT_MANIFEST, DataConfig
from rainbow_ray.config.model import (
    DEFAULT_AUDIO_ENCODER,
    DEFAULT_ENCODER,
    EMBEDDED_ENCODER,
    AudioEncoderConfig,
    BagOfWordsConfig,
    ClassifierConfig,
    FusionConfig,
    MidiEncoderConfig,
    ModelConfig,
    TemporalConfig,
    TextEncoderConfig,
)
from rainbow_ray.config.section import SEEDS, Names, NonNegative, NonNegativeInt, Positive, PositiveInt, Section, Seed
from rainbow_ray.config.training import CalibrationConfig, EarlyStoppingConfig, SegmentsConfig, TrainingConfig

__all__ = [
    "DEFAULT_AUDIO_ENCODER",
    "DEFAULT_ENCODER",
    "DEFAULT_MANIFEST",
    "EMBEDDED_ENCODER",
    "HASH_EXCLUDED",
    "SEEDS",
    "AudioEncoderConfig",
    "BagOfWordsConfig",
    "CalibrationConfig",
    "ClassifierConfig",
    "Config",
    "DataConfig",
    "EarlyStoppingConfig",
    "FusionConfig",
    "LoggingConfig",
    "MidiEncoderConfig",
    "ModelConfig",
    "ReproducibilityConfig",
    "Section",
    "SegmentsConfig",
    "TemporalConfig",
    "TextEncoderConfig",
    "TrainingConfig",
    "TuneConfig",
    "WandbConfig",
]

# keys that results do not depend on: a run can be resumed with other values of them
HASH_EXCLUDED: dict[str, Any] = {
    "logging": True,
    "tune": {
        "trials",
        "space",
        "max_concurrent_trials",
        "gpus_per_trial",
        "workers_per_trial",
        "prune",
        "race_alpha",
        "cost_aware",
        "revalidation_seeds",
        "keep_best_models",
        "budget_minutes",
        "budget_usd",
    },
    "training": {"workers", "checkpoint_seconds"},
    # the same files can lie elsewhere, and be read by another process
    "data": {"media_root", "media_cache", "max_unreadable_fraction", "reader"},
}


class TuneConfig(Section):
    """Hyperparameter search."""

    renamed: ClassVar[Names] = {
        "concurrent": "max_concurrent_trials",
        "keep": "keep_best_models",
        "confirm_seeds": "revalidation_seeds",
    }
    inert: ClassVar[Names] = {
        "reduction_factor": "trials are stopped by a race, not by ASHA: see tune.race_alpha",
        "reduction": "trials are stopped by a race, not by ASHA: see tune.race_alpha",
    }

    trials: PositiveInt = Field(30, description="number of trials of the sweep, including failed and pruned ones")
    space: str | None = Field(
        None, description="search space, as FILE:FUNCTION or module:function; null: tune_spaces.phaseN:space"
    )
    max_concurrent_trials: PositiveInt | None = Field(
        None, description="maximum number of trials that run at the same time; null: as many as the GPUs or CPUs hold"
    )
    gpus_per_trial: Positive | None = Field(
        None,
        description="GPUs per trial; 0.25 lets four trials share a GPU; null: 1 if there are GPUs, or less where a few"
        " measured steps show that trials can share them",
    )
    workers_per_trial: PositiveInt = Field(1, description="number of workers that share each fit of a trial")
    prune: bool = Field(True, description="stop trials early that are unlikely to become the best one")
    race_alpha: Annotated[float, Field(gt=0, le=0.5, allow_inf_nan=False)] = Field(
        0.05,
        description="probability of becoming the best trial below which a trial is stopped, by a paired bootstrap over"
        " the songs of the folds that it has run",
    )
    cost_aware: bool = Field(
        True,
        description="prefer trials that are expected to take less time, the less so the further the sweep is, and stop"
        " costly trials at up to a quarter of a chance to win",
    )
    revalidation_seeds: PositiveInt = Field(
        3, description="number of new splits on which the best config is compared with the default config"
    )
    keep_best_models: NonNegativeInt = Field(3, description="number of best trials whose models are kept on disk")
    budget_minutes: Positive | None = Field(
        None,
        description="time limit in minutes of this start; unfinished trials continue with --resume; null: no limit",
    )
    budget_usd: Positive | None = Field(
        None, description="cost limit in USD of this start, at logging.usd_per_hour; null: no limit"
    )


class WandbConfig(Section):
    """Weights & Biases."""

    enabled: bool = Field(False, description="whether the run is logged to Weights & Biases")
    project: str = Field("rainbow-ray", description="W&B project")
    entity: str | None = Field(None, description="W&B user or team; null: the default entity")
    name: str | None = Field(None, description="W&B run name; null: the name of the run's folder")


class LoggingConfig(Section):
    """Folder of runs, metrics that are printed, and loggers."""

    output_dir: str = Field("runs", description="folder of runs; each run is a subfolder")
    log_every_n_steps: PositiveInt = Field(10, description="number of steps between training records in metrics.jsonl")
    metrics: list[str] | None = Field(
        None, description="metrics printed after each epoch and at the end; null: those of the task"
    )
    wandb: WandbConfig = WandbConfig()
    tensorboard: bool = Field(False, description="whether the run is logged to TensorBoard")
    report: bool = Field(
        True, description="write report.html at the end; `python -m rainbow_ray.report RUN` writes it later"
    )
    usd_per_hour: NonNegative | None = Field(
        None, description="price of the machine in USD per hour; null: costs are not reported"
    )

    @property
    def shown(self) -> list[str]:
        """Metrics that are printed."""
        return self.metrics or []


class ReproducibilityConfig(Section):
    """Random seed and determinism."""

    seed: Seed = Field(42, description="random seed")
    deterministic: Literal["auto"] | bool = Field(
        "auto",
        description="true: only algorithms whose results repeat exactly on the same machine, which are slower on GPUs;"
        " auto: true on CPUs, false on GPUs",
    )


class Config(Section):
    """The whole config of a run or a sweep."""

    phase: int = Field(
        1,
        description="1: binary; 2: multiclass; 3: multiclass from text, audio and MIDI; 4: regression; 5: segmentation",
    )
    modalities: list[str] | None = Field(
        None, description="what the model reads, of text, audio, midi; null: that of the phase"
    )
    data: DataConfig = DataConfig()
    model: ModelConfig = ModelConfig()
    segments: SegmentsConfig = SegmentsConfig()
    training: TrainingConfig = TrainingConfig()
    calibration: CalibrationConfig = CalibrationConfig()
    tune: TuneConfig = TuneConfig()
    logging: LoggingConfig = LoggingConfig()
    reproducibility: ReproducibilityConfig = ReproducibilityConfig()

    def hash(self) -> str:
        """Return an identifier of everything that results depend on.

        Returns:
            12 hexadecimal digits; keys in `HASH_EXCLUDED` do not change them.
        """
        document = self.model_dump(exclude=HASH_EXCLUDED)
        return hashlib.sha256(json.dumps(document, sort_keys=True).encode()).hexdigest()[:12]

    def at(self, key: str) -> Any:
        """Return the value of a key.

        Args:
            key: Dotted key, such as `training.epochs`.

        Returns:
            The value.
        """
        value: Any = self
        for name in key.split("."):
            value = getattr(value, name)
        return value

    def with_values(self, values: Mapping[str, Any]) -> Self:
        """Return a copy with other values of some keys, which are not validated.

        Args:
            values: Values of the keys' types, by dotted key.

        Returns:
            The copy; this config is left as it is.
        """
        result = self
        for key, value in values.items():
            result = _replace(result, key.split("."), value)
        return result

    @property
    def split_seed(self) -> int:
        """Seed of the split of songs."""
        return self.reproducibility.seed if self.data.random_seed is None else self.data.random_seed


def _replace(section: Any, path: list[str], value: Any) -> Any:
    name, *subkeys = path
    return section.model_copy(update={name: _replace(getattr(section, name), subkeys, value) if subkeys else value})
