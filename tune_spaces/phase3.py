"""Phase 3: one of several classes, from text, audio and MIDI."""

from __future__ import annotations

from typing import Any

from tune_spaces import common

# pretrained on music or on sounds, on speech, and none; a sweep downloads each once
ENCODERS = [
    "embedded",
    "facebook/wav2vec2-base",
    "laion/clap-htsat-unfused",
    "MIT/ast-finetuned-audioset-10-10-0.4593",
    "openai/whisper-base",
]


def space(trial: Any) -> None:
    """Suggest the fusion, encoder and learning rate of each modality, the head, the loss, and the windows.

    Args:
        trial: Optuna trial, which suggests the values.
    """
    _suggest(trial, [5.0, 10.0, 20.0])


def encoders(trial: Any) -> None:
    """Suggest also the audio encoder: `--space tune_spaces.phase3:encoders`.

    Windows have at most 10 seconds, which all of these encoders read.

    Args:
        trial: Optuna trial, which suggests the values.
    """
    _suggest(trial, [5.0, 10.0])
    trial.suggest_categorical("model.audio_encoder.model_name", ENCODERS)


def waveforms(trial: Any) -> None:
    """Suggest also the layers of a waveform encoder: `--space tune_spaces.phase3:waveforms`, not with `embedded`.

    Args:
        trial: Optuna trial, which suggests the values.
    """
    space(trial)
    trial.suggest_categorical("model.audio_encoder.layer", [0.25, 0.5, 0.75, "last", "mix"])
    trial.suggest_categorical("model.audio_encoder.freeze_layers", common.FROZEN_DEPTHS)


def _suggest(trial: Any, window_seconds: list[float]) -> None:
    common.encoder(trial)
    common.head(trial)
    common.optimizer(trial)
    trial.suggest_categorical("data.window_seconds", window_seconds)
    trial.suggest_categorical("data.windows_per_stem", [1, "all"])
    kind = trial.suggest_categorical("model.fusion.kind", ["concat", "gated", "cross_attention"])
    trial.suggest_categorical("model.fusion.hidden_size", [32, 64, 128])
    if kind == "cross_attention":
        trial.suggest_int("model.fusion.num_layers", 1, 2)
        trial.suggest_float("model.fusion.dropout", 0.0, 0.3)
    trial.suggest_float("model.fusion.modality_dropout", 0.0, 0.7)
    trial.suggest_categorical("model.fusion.pooled_statistics", [True, False])
    trial.suggest_float("model.fusion.learning_rate", 1e-4, 3e-3, log=True)
    trial.suggest_float("model.audio_encoder.learning_rate", 1e-5, 3e-3, log=True)
    trial.suggest_float("model.audio_encoder.mask_time", 0.0, 0.3)
    trial.suggest_int("model.midi_encoder.num_layers", 1, 3)
    trial.suggest_float("model.midi_encoder.learning_rate", 1e-4, 3e-3, log=True)
    loss = trial.suggest_categorical("training.loss", ["cross_entropy", "focal"])
    if loss == "focal":
        trial.suggest_float("training.focal_gamma", 0.5, 4.0)
    trial.suggest_float("training.label_smoothing", 0.0, 0.2)
