"""Choice of the audio encoder: pretrained models of transformers, or a small network on log-mel spectra.

An encoder has frozen features, which are cached by window, and a part that is trained. All windows have one length,
because models with a group norm over time (the first convolution of Wav2Vec2) give other values for padded ones.
Shapes: `waves` are `(units, samples)`, hidden states `(units, frames, width)`, tokens `(units, tokens, width)`.
"""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch

from rainbow_ray.config.schema import AudioEncoderConfig
from rainbow_ray.data.sample_rates import NOT_A_RATE, parse_sample_rate
from rainbow_ray.modalities import pretrained
from rainbow_ray.modalities.audio.log_mel import LogMelNet
from rainbow_ray.modalities.audio.reader import RATE
from rainbow_ray.modalities.audio.spectrogram_encoder import (
    CLAP,
    EXTRACTED_FAMILIES,
    SpectrogramEncoder,
    audio_part,
    max_seconds,
)
from rainbow_ray.modalities.audio.waveform_encoder import FAMILIES, SECTION, WaveformEncoder, receptive_field
from rainbow_ray.modalities.encoder_cache import clone_encoder
from rainbow_ray.modalities.encoder_types import PretrainedEncoder
from rainbow_ray.modalities.freezing import check_depths
from rainbow_ray.modalities.media_source import RATES
from rainbow_ray.modalities.windowed_modality import as_float
from rainbow_ray.utils.errors import InputError, first_line

EMBEDDED = "embedded"


class AudioEncoder(Protocol):
    """An audio encoder, as the model uses it."""

    width: int
    summary_width: int
    sample_rate: int
    """Of the waves, in Hz."""

    trains_feature_extractor: bool
    """Whether the convolutions are trained: then nothing is cached, and `forward` reads waves."""

    def frozen_features(self, waves: torch.Tensor) -> torch.Tensor:
        """Return the features that training does not change.

        Args:
            waves: `(units, samples)`.

        Returns:
            `(units, frames, …)`.
        """

    def identity(self) -> str:
        """Return a hash of everything but the window that `frozen_features` depends on.

        Returns:
            A key of the cache.
        """

    def __call__(self, values: torch.Tensor) -> torch.Tensor:
        """Return the tokens of frozen features (of waves, if the feature extractor is trained)."""

    def summary(self, values: torch.Tensor, tokens: torch.Tensor) -> torch.Tensor:
        """Return means and standard deviations over time, of frozen features if possible.

        Args:
            values: Frozen features, or waves.
            tokens: Their tokens.

        Returns:
            `(units, summary_width)`.
        """


def load_config(name: str) -> Any:
    """Return the config of an audio encoder.

    Args:
        name: Local folder, or a hub name.

    Returns:
        A config of transformers.

    Raises:
        InputError: It cannot be loaded, or the model is none of the supported ones.
    """
    config = pretrained.read_config(name, pretrained.source_of(name), pretrained.AUDIO)
    if config.model_type not in (*FAMILIES, *EXTRACTED_FAMILIES):
        raise InputError(f"{SECTION}.model_name: {name!r} is a {config.model_type!r} model, which is no supported"
                         f" encoder of audio; supported are {', '.join((*FAMILIES, *EXTRACTED_FAMILIES))}, and"
                         " `embedded`")  # fmt: skip
    return config


def load_encoder(name: str) -> Any:
    """Return the part of a pretrained model that reads audio.

    Args:
        name: Local folder, or a hub name.

    Returns:
        A model of transformers, in fp32.

    Raises:
        InputError: Weights are missing, damaged, or of another model.
    """
    return audio_part(pretrained.read_weights(name, pretrained.source_of(name), pretrained.AUDIO))


@functools.cache
def verify_encoder(name: str) -> None:
    """Load an audio encoder once to see that it can be used.

    Args:
        name: `embedded`, a local folder, or a hub name.

    Raises:
        InputError: It cannot be used.
    """
    if name == EMBEDDED:
        return
    load_encoder(name)
    load_extractor(name)


@functools.cache
def load_extractor(name: str) -> Any:
    """Return the feature extractor of an audio encoder.

    Args:
        name: Local folder, or a hub name.

    Returns:
        A feature extractor of transformers; None for a model that reads waveforms and has none.

    Raises:
        InputError: It is damaged or missing, or its sampling rate is none.
    """
    extractor = pretrained.read_preprocessor(name, pretrained.source_of(name), pretrained.AUDIO)
    family = load_config(name).model_type
    setting = getattr(extractor, "sampling_rate", None)
    rate = parse_sample_rate(setting)  # None: it has no rate, and the encoder reads that of windows
    problem = ""
    if rate is not None and rate <= NOT_A_RATE:
        problem = f"its preprocessor's sampling_rate, {setting!r}, is not a sample rate in Hz"
    elif rate is not None and not RATES[0] <= rate <= RATES[1]:
        problem = f"its preprocessor's sampling_rate is {rate} Hz: from {RATES[0]} to {RATES[1]} are supported"
    elif family in EXTRACTED_FAMILIES and rate is None:
        problem = f"a {family!r} model needs its feature extractor ({pretrained.PREPROCESSORS[0]}), which it lacks"
    if problem:
        raise InputError(f"{SECTION}.model_name: {name!r} cannot be used: {problem}")
    return extractor


def sample_rate_of(name: str) -> int:
    """Return the sample rate of the windows that an audio encoder reads.

    Args:
        name: `embedded`, a local folder, or a hub name.

    Returns:
        The rate in Hz, which is that of its feature extractor.

    Raises:
        InputError: The feature extractor cannot be used.
    """
    extractor = None if name == EMBEDDED else load_extractor(name)
    return parse_sample_rate(getattr(extractor, "sampling_rate", None)) or RATE


def load_pretrained_encoder(name: str, body: Any, weights: str) -> PretrainedEncoder:
    """Return a pretrained encoder with its feature extractor.

    Args:
        name: Local folder, or a hub name.
        body: The part of the model that reads audio.
        weights: Digest of its tensors.

    Returns:
        The encoder.

    Raises:
        InputError: The feature extractor cannot be used.
    """
    return pretrained_encoder(body, load_extractor(name), weights)


def pretrained_encoder(
    body: Any, extractor: Any, weights: str = "", *, normalize: bool | None = None, sample_rate: int | None = None
) -> PretrainedEncoder:
    """Return a pretrained encoder with its feature extractor.

    Args:
        body: The part of the model that reads audio.
        extractor: Its feature extractor, or None.
        weights: Digest of its tensors.
        normalize: Whether waves are standardized; None: as the feature extractor says.
        sample_rate: Of the waves, in Hz; None: as the feature extractor says.

    Returns:
        The encoder.
    """
    normalize = bool(getattr(extractor, "do_normalize", True)) if normalize is None else normalize
    rate = sample_rate or parse_sample_rate(getattr(extractor, "sampling_rate", None)) or RATE
    return PretrainedEncoder(body, weights, normalize, extractor, rate)


def read_saved_extractor(folder: Path) -> Any:
    """Return the feature extractor that a bundle contains.

    Args:
        folder: The folder of its audio encoder.

    Returns:
        A feature extractor of transformers; None where there is none.
    """
    from transformers import AutoFeatureExtractor

    if not (folder / pretrained.PREPROCESSORS[0]).is_file():
        return None
    return AutoFeatureExtractor.from_pretrained(folder, local_files_only=True, trust_remote_code=False)


def check_audio_encoder(name: str, config: AudioEncoderConfig, seconds: float) -> list[str]:
    """Return what is wrong with an encoder, as far as its config and its feature extractor tell.

    Args:
        name: `embedded`, a local folder, or a hub name.
        config: Its section of the config.
        seconds: Length of a window.

    Returns:
        A message per problem.

    Raises:
        InputError: Its config or its feature extractor cannot be loaded.
    """
    if name == EMBEDDED:
        return []
    encoder_config, rate = load_config(name), sample_rate_of(name)
    if encoder_config.model_type in FAMILIES:
        if round(seconds * rate) < receptive_field(encoder_config):
            return [f"data.window_seconds: {seconds:g} is less than what {name!r} needs to see"]
    elif (longest := max_seconds(load_extractor(name))) < seconds:
        return [f"data.window_seconds: {seconds:g} is more than the {longest:g} seconds that {name!r} reads"]
    is_clap = encoder_config.model_type == CLAP
    total = (encoder_config.audio_config if is_clap else encoder_config).num_hidden_layers
    problems = check_depths(config, total, SECTION)
    if is_clap and not problems and config.freeze_layers not in ("all", 0):
        problems.append(f"{SECTION}.freeze_layers: {config.freeze_layers!r}, but CLAP's audio tower is frozen as a"
                        " whole: all, or 0")  # fmt: skip
    return problems or try_window(name, seconds)


@functools.cache
def try_window(name: str, seconds: float) -> list[str]:
    """Read a window with a feature extractor and its model, which may not fit each other, or the window.

    Args:
        name: Local folder, or a hub name.
        seconds: Length of the window.

    Returns:
        A message, or none; none for models that read waveforms.
    """
    if load_config(name).model_type in FAMILIES:
        return []
    body, config = clone_encoder(name, "audio"), AudioEncoderConfig(layer="last")
    encoder = make_audio_encoder(pretrained_encoder(body, load_extractor(name)), config, seconds).eval()
    waves = torch.zeros(1, round(seconds * encoder.sample_rate))
    try:
        with torch.no_grad():
            encoder.frozen_features(waves)
    except (RuntimeError, ValueError, IndexError) as error:
        return [f"{SECTION}.model_name: {name!r} cannot read windows of {seconds:g} seconds (data.window_seconds), or"
                f" its feature extractor does not fit it: {first_line(error)}"]  # fmt: skip
    return []


def describe_audio_encoder(name: str, config: AudioEncoderConfig, seconds: float) -> list[str]:
    """Return what a user should know of an encoder that can be used.

    Args:
        name: `embedded`, a local folder, or a hub name.
        config: Its section of the config.
        seconds: Length of a window.

    Returns:
        A sentence per fact.
    """
    if name == EMBEDDED or load_config(name).model_type in FAMILIES:
        return []
    notes, longest = [], max_seconds(load_extractor(name))
    if seconds < longest < float("inf"):
        notes.append(f"audio encoder {name!r} reads {longest:g} seconds: windows of {seconds:g} seconds"
                     " (data.window_seconds) are padded as its feature extractor does")  # fmt: skip
    if not config.freeze_feature_extractor:
        notes.append(f"{SECTION}.freeze_feature_extractor: no effect, nor have gain_db and noise_db: {name!r} reads"
                     f" spectra, whose extraction is not trained; {SECTION}.freeze_layers=0 trains all layers"
                     )  # fmt: skip
    default = type(config).model_fields["layer"].default
    if load_config(name).model_type == CLAP and config.layer not in (default, "last"):
        notes.append(f"{SECTION}.layer: no effect, because CLAP's audio tower is read as a whole")
    return notes


def make_audio_encoder(
    encoder: PretrainedEncoder | None, config: AudioEncoderConfig, seconds: float
) -> LogMelNet | WaveformEncoder | SpectrogramEncoder:
    """Return the audio encoder of a model.

    Args:
        encoder: The pretrained model; None for the embedded network.
        config: Its section of the config.
        seconds: Length of a window.

    Returns:
        An `AudioEncoder`.
    """
    if encoder is None:
        return LogMelNet(config)
    body, weights, rate = encoder.body, encoder.weights, encoder.sample_rate
    if body.config.model_type in FAMILIES:
        return WaveformEncoder(body, config, normalize=encoder.normalize, weights=weights, sample_rate=rate)
    return SpectrogramEncoder(body, config, extractor=encoder.extractor, seconds=seconds, weights=weights)


def stack_waves(windows: list[np.ndarray]) -> torch.Tensor:
    """Return windows of one length as a tensor.

    Args:
        windows: Arrays `(samples,)`, int16 or float.

    Returns:
        `(units, samples)` float32.
    """
    return torch.from_numpy(np.stack([as_float(window) for window in windows]))
