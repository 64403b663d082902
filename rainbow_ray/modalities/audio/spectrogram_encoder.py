"""Audio encoders that read what a feature extractor of transformers makes of a waveform, mostly a spectrogram.

The feature extractor, its sampling rate and the length that it pads windows to are the model's own.

Reference:
    Gong et al. 2021, "AST: Audio Spectrogram Transformer"; Wu et al. 2023, "Large-Scale Contrastive Language-Audio
    Pretraining" (CLAP); Radford et al. 2022, "Robust Speech Recognition via Large-Scale Weak Supervision" (Whisper);
    Seamless Communication 2023, "Seamless" (Wav2Vec2-BERT).
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import torch
from torch import nn
from typing_extensions import override

from rainbow_ray.config.schema import AudioEncoderConfig
from rainbow_ray.modalities.audio.augment import spec_augment
from rainbow_ray.modalities.freezing import freeze_parameters, mix_layers, resolve_depths, trained_by_depth
from rainbow_ray.nn.pooling import average_pool_time, mean_std_pool
from rainbow_ray.utils.hashing import hash_parts

AST, CLAP, WHISPER, W2V_BERT = "audio-spectrogram-transformer", "clap", "whisper", "wav2vec2-bert"
CLAP_AUDIO = "clap_audio_model"  # type of the config of CLAP's audio tower
EXTRACTED_FAMILIES = (CLAP, AST, W2V_BERT, WHISPER)
FINAL_NORMS = ("layernorm", "layer_norm")  # of models that normalize the output of their last layer
SPECIAL_TOKENS = 2  # of AST: class and distillation


def audio_part(model: Any) -> Any:
    """Return the part of a pretrained model that reads audio.

    Args:
        model: Model of transformers.

    Returns:
        The audio tower of CLAP, the encoder of Whisper, or the model itself.
    """
    if model.config.model_type == CLAP:
        return model.audio_model
    return model.encoder if model.config.model_type == WHISPER and hasattr(model, "encoder") else model


def make_audio_part(config: Any) -> Any:
    """Return the part that reads audio, with other weights.

    Args:
        config: Config of that part, as a bundle keeps it.

    Returns:
        A model of transformers in fp32.
    """
    from transformers import AutoModel
    from transformers.models.clap.modeling_clap import ClapAudioModel

    if config.model_type == CLAP_AUDIO:
        return ClapAudioModel._from_config(config, dtype=torch.float32)
    return audio_part(AutoModel.from_config(config, dtype=torch.float32, trust_remote_code=False))


def max_seconds(extractor: Any) -> float:
    """Return the length of the longest window that a feature extractor reads.

    Args:
        extractor: Feature extractor of transformers.

    Returns:
        Seconds; infinite where it reads windows of any length.
    """
    if hasattr(extractor, "nb_max_samples"):  # CLAP's
        return float(extractor.nb_max_samples / extractor.sampling_rate)
    if hasattr(extractor, "chunk_length"):  # Whisper's
        return float(extractor.chunk_length)
    if hasattr(extractor, "max_length"):  # AST's, in frames of 10 ms, the first of 25 ms
        return float(extractor.max_length * 0.01 + 0.015)
    return math.inf


class SpectrogramEncoder(nn.Module):
    """A pretrained model of `EXTRACTED_FAMILIES`, cut off after the layer that is read.

    Where everything up to that layer is frozen, its output is the frozen feature; otherwise what the feature extractor
    returns. Frozen parts stay in eval mode. CLAP's audio tower, whose stages differ in width, is read and frozen as a
    whole.

    Args:
        body: Model of transformers (see `audio_part`); it is changed in place.
        config: Which layer is read, how much is frozen, and masking in training.
        extractor: Its feature extractor.
        seconds: Length of a window; frames beyond it are padding, and left out.
        weights: Digest of the body's tensors.
    """

    trains_feature_extractor = False

    def __init__(self, body: Any, config: AudioEncoderConfig, *, extractor: Any, seconds: float, weights: str) -> None:
        super().__init__()
        self.config, self.extractor, self.seconds, self.weights = config, extractor, seconds, weights
        self.family = body.config.model_type
        self.sample_rate = int(extractor.sampling_rate)
        self.width = int(body.config.hidden_size)
        self.summary_width = 2 * self.width
        _turn_off_randomness(body)
        layers = layers_of(body)
        depths = resolve_depths(config, len(layers)) if len(layers) else None
        self.depth = depths.read if depths else 0
        self.mixed = depths is not None and depths.is_mixed
        if depths is not None and (self.mixed or not depths.is_whole):
            _remove_adapter(body)
        n_frozen = depths.frozen if depths else 0
        freezes_input = depths.freezes_input if depths else config.freeze_layers != 0
        self.is_frozen = freezes_input and n_frozen == self.depth
        if depths is not None and not depths.is_whole:
            del layers[self.depth :]
            for name in FINAL_NORMS:  # it belongs after the last layer only
                if hasattr(body, name):
                    setattr(body, name, nn.Identity())
        if self.mixed:
            self.mix_weights = nn.Parameter(torch.zeros(self.depth + 1))
            self.mix_scale = nn.Parameter(torch.ones(()))
        self.body = body
        self.frozen_layers = list(layers[:n_frozen])
        freeze_parameters(
            body, list(layers), n_frozen, freeze_input=freezes_input, frozen_modules=_modules_of_longer_windows(body)
        )

    def extract(self, waves: torch.Tensor) -> torch.Tensor:
        """Return what the feature extractor makes of windows.

        Args:
            waves: `(units, samples)` at the extractor's sampling rate.

        Returns:
            `(units, …)` float32 on the device of the waves, without frames that its mask leaves out.
        """
        arrays = list(waves.float().cpu().numpy())
        name = self.extractor.model_input_names[0]
        with torch.autocast("cpu", enabled=False):  # Whisper's extractor multiplies matrices by PyTorch
            outputs = self.extractor(arrays, sampling_rate=self.sample_rate, return_tensors="pt")
        features: torch.Tensor = outputs[name]
        if self.family == W2V_BERT:
            features = features[:, : int(outputs["attention_mask"][0].sum())]
        return features.float().to(waves.device)

    def frozen_features(self, waves: torch.Tensor) -> torch.Tensor:
        """Return the tokens of frozen layers, or the input of the model if any layer is trained.

        Args:
            waves: `(units, samples)` at the extractor's sampling rate.

        Returns:
            `(units, tokens, width)`; with a learned mix of frozen layers `(units, tokens, layers + 1, width)`; with
            trained layers what `extract` returns.
        """
        return self.graph_features(self.extract(waves))

    def graph_features(self, features: torch.Tensor) -> torch.Tensor:
        """Return the frozen features of what the feature extractor returned, which is the input of an exported graph.

        Args:
            features: What `extract` returned.

        Returns:
            The same as `frozen_features`.
        """
        return average_pool_time(self._states(features), self.config.num_tokens) if self.is_frozen else features

    def identity(self) -> str:
        """Return a hash of everything but the window that `frozen_features` depends on.

        Returns:
            A key of the cache.
        """
        import transformers

        stage = (self.depth, self.mixed, self.config.num_tokens) if self.is_frozen else None
        versions = (torch.__version__, transformers.__version__)  # extractors are code of transformers
        attention = self.body.config._attn_implementation
        extractor = self.extractor.to_json_string()
        return hash_parts(self.weights, self.family, stage, extractor, self.seconds, attention, *versions)

    @override
    def forward(self, values: torch.Tensor) -> torch.Tensor:
        states = values if self.is_frozen else self._states(values)
        if self.training:
            states = spec_augment(states, self.config)
        hidden = mix_layers(states, self.mix_weights, self.mix_scale, dim=2) if self.mixed else states
        return hidden if self.is_frozen else average_pool_time(hidden, self.config.num_tokens)

    def summary(self, values: torch.Tensor, tokens: torch.Tensor) -> torch.Tensor:
        """Return means and standard deviations over time, of frozen hidden states if there are some.

        Args:
            values: Frozen features.
            tokens: Tokens of these values, `(units, tokens, width)`.

        Returns:
            `(units, 2 * width)`.
        """
        if not self.is_frozen:
            return mean_std_pool(tokens)
        return mean_std_pool(values[:, :, -1] if self.mixed else values)

    def constant_tensors(self) -> list[str]:
        """Return the frozen parameters.

        Returns:
            Their names in the body.
        """
        return [name for name, parameter in self.body.named_parameters() if not parameter.requires_grad]

    def parameters_by_depth(self) -> Iterator[tuple[int, nn.Parameter]]:
        """Yield the trained parameters that are pretrained, with their depth.

        Yields:
            `(depth, parameter)`: 0 below the first layer, 1 for the first layer, ….
        """
        return trained_by_depth(self.body, list(layers_of(self.body)))

    @override
    def train(self, mode: bool = True) -> SpectrogramEncoder:
        super().train(mode)
        if self.is_frozen:
            self.body.eval()
        for layer in self.frozen_layers:
            layer.eval()
        for module in self.body.modules():
            # CLAP's keeps its pretrained statistics: other fits share the tensors, and checkpoints lack them
            if isinstance(module, nn.BatchNorm2d):
                module.eval()
        return self

    def _states(self, features: torch.Tensor) -> torch.Tensor:
        """Return hidden states over time, `(units, frames, width)`; with a learned mix, of all layers."""
        inputs: dict[str, Any] = {self.extractor.model_input_names[0]: features}
        if self.family == CLAP_AUDIO:  # no window is longer than what it reads
            # len() would fix the batch size of an exported graph
            inputs["is_longer"] = features.new_zeros(features.shape[0], 1, dtype=torch.bool)
        outputs = self.body(**inputs, output_hidden_states=self.mixed)
        if not self.mixed:
            return self._over_time(outputs.last_hidden_state)
        states = [*outputs.hidden_states[:-1], outputs.last_hidden_state]
        return torch.stack([self._over_time(hidden) for hidden in states], dim=2)

    def _over_time(self, hidden: torch.Tensor) -> torch.Tensor:
        """Return one vector per time step of the window, from tokens in the order of the model."""
        if self.family == CLAP_AUDIO:  # (units, width, frequencies, times)
            return hidden.mean(2).transpose(1, 2)
        if self.family == AST:  # two special tokens, then patches by frequency and time
            config = self.body.config
            n_times = (config.max_length - config.patch_size) // config.time_stride + 1
            patches = hidden[:, SPECIAL_TOKENS:]
            hidden = patches.reshape(patches.shape[0], -1, n_times, self.width).mean(1)
        fraction = min(1.0, self.seconds / max_seconds(self.extractor))
        return hidden[:, : max(1, math.ceil(hidden.shape[1] * fraction))] if fraction > 0 else hidden


def _turn_off_randomness(body: Any) -> None:
    """Turn off what some models do in training: to skip layers, whose gradients DDP would wait for, and to mask frames.

    Frames are masked here as `AudioEncoderConfig` says, with the random numbers of the fit.
    """
    for module in body.modules():
        if hasattr(module, "layerdrop"):
            module.layerdrop = 0.0
    for name in ("layerdrop", "encoder_layerdrop"):
        if hasattr(body.config, name):
            setattr(body.config, name, 0.0)
    body.config.apply_spec_augment = False
    if hasattr(body, "masked_spec_embed"):
        body.masked_spec_embed = None


def _remove_adapter(body: Any) -> None:
    """Remove what Wav2Vec2-BERT may have after its last layer, and what shortens its output."""
    for name in ("adapter", "intermediate_ffn"):
        if hasattr(body, name):
            setattr(body, name, None)


def _modules_of_longer_windows(body: Any) -> list[Any]:
    """Return the modules of CLAP that read windows longer than its own, which there are none of.

    They would never get a gradient, for which DDP would wait.
    """
    names = ("fusion_model", "mel_conv2d")
    return [module for name, module in body.named_modules() if name.rpartition(".")[2] in names]


def layers_of(body: Any) -> Any:
    """Return the list of a model's layers.

    Args:
        body: Model of transformers (see `audio_part`).

    Returns:
        A `ModuleList`; empty for CLAP's audio tower, whose stages differ in width.
    """
    if body.config.model_type == CLAP_AUDIO:
        return nn.ModuleList()
    return body.layers if hasattr(body, "layers") else body.encoder.layers
