"""Audio encoders that read waveforms: models with the architecture of wav2vec 2.0, read after any layer.

Reference:
    Baevski et al. 2020, "wav2vec 2.0" (the architecture of `FAMILIES`: convolutions, a projection, positions, layers).
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import nn
from typing_extensions import override

from rainbow_ray.config.schema import AudioEncoderConfig
from rainbow_ray.modalities.audio.augment import augment_waves, spec_augment
from rainbow_ray.modalities.audio.reader import RATE
from rainbow_ray.modalities.freezing import (
    check_depths,
    freeze_parameters,
    mix_layers,
    resolve_depths,
    trained_by_depth,
)
from rainbow_ray.nn.pooling import average_pool_time, mean_std_pool
from rainbow_ray.utils.errors import InputError
from rainbow_ray.utils.hashing import hash_parts

FAMILIES = ("wav2vec2", "hubert", "wavlm", "data2vec-audio", "unispeech", "unispeech-sat")
SECTION = "model.audio_encoder"


class WaveformEncoder(nn.Module):
    """A pretrained model of `FAMILIES`, cut off after the layer that is read.

    `freeze_feature_extractor` freezes the convolutions, `freeze_layers` the first layers and the projection before
    them. The output of the last part before a trained one is a frozen feature. Frozen parts stay in eval mode.

    Args:
        body: Model of transformers; it is changed in place.
        config: Which layer is read, how much is frozen, and augmentation in training.
        normalize: Whether windows are standardized first.
        weights: Digest of the body's tensors.
        sample_rate: Of the waves, in Hz.

    Raises:
        InputError: A depth exceeds the encoder's layers.
    """

    def __init__(
        self, body: Any, config: AudioEncoderConfig, *, normalize: bool, weights: str, sample_rate: int = RATE
    ) -> None:
        super().__init__()
        total = body.config.num_hidden_layers
        if problems := check_depths(config, total, SECTION):
            raise InputError(problems)
        depths = resolve_depths(config, total)
        self.config, self.normalize, self.weights, self.sample_rate = config, normalize, weights, sample_rate
        self.extractor = None  # nothing but standardization
        self.depth, self.frozen = depths.read, depths.frozen
        self.mixed, self.is_whole = depths.is_mixed, depths.is_whole
        self.projection_frozen = depths.freezes_input
        self.width = int(body.config.hidden_size)
        self.summary_width = 2 * self.width
        del body.encoder.layers[self.depth :]
        body.masked_spec_embed = None  # it is not used, and DDP would wait for its gradient
        self.body = body
        self.norm_is_last = bool(getattr(body.config, "do_stable_layer_norm", False))
        if self.norm_is_last and not self.is_whole:
            body.encoder.layer_norm = nn.Identity()  # it belongs after the last layer only
        if self.mixed:
            self.mix_weights = nn.Parameter(torch.zeros(self.depth + 1))
            self.mix_scale = nn.Parameter(torch.ones(()))
        convolutions = [body.feature_extractor]
        freeze_parameters(
            body, list(body.encoder.layers), self.frozen, freeze_input=self.projection_frozen,
            frozen_modules=convolutions if config.freeze_feature_extractor else [],
            trained_modules=[] if config.freeze_feature_extractor else convolutions,
        )  # fmt: skip

    @property
    def trains_feature_extractor(self) -> bool:
        """Whether the convolutions are trained."""
        return not self.config.freeze_feature_extractor

    @property
    def is_frozen(self) -> bool:
        """Whether everything up to the layer that is read is frozen."""
        return not self.trains_feature_extractor and self.projection_frozen and self.frozen == self.depth

    def frozen_features(self, waves: torch.Tensor) -> torch.Tensor:
        """Return the output of the convolutions, or of the frozen layers; as tokens if nothing above is trained.

        Args:
            waves: `(units, samples)`.

        Returns:
            `(units, frames, width)`; with a learned mix and frozen layers `(units, frames, layers + 1, width)`.
        """
        assert not self.trains_feature_extractor
        features = self._extract(waves)
        if not self.projection_frozen:
            return features
        states = self._run([self._embed(features)], 0, self.frozen)
        hidden = torch.stack(states, dim=2) if self.mixed else states[-1]
        return average_pool_time(hidden, self.config.num_tokens) if self.is_frozen else hidden

    def identity(self) -> str:
        """Return a hash of everything but the window that `frozen_features` depends on.

        Returns:
            A key of the cache.
        """
        stage = (self.projection_frozen, self.frozen, self.mixed, self.is_whole and self.frozen == self.depth)
        n_tokens = self.config.num_tokens if self.is_frozen else None
        attention = self.body.config._attn_implementation
        return hash_parts(self.weights, stage, n_tokens, self.normalize, attention, torch.__version__)

    @override
    def forward(self, values: torch.Tensor) -> torch.Tensor:
        if self.trains_feature_extractor:
            waves = augment_waves(values, self.config) if self.training else values
            states = self._run([self._embed(self._extract(waves))], 0, self.depth)
        elif not self.projection_frozen:
            states = self._run([self._embed(values)], 0, self.depth)
        else:
            values = spec_augment(values, self.config) if self.training else values
            states = list(values.unbind(2)) if self.mixed else [values]
            states = self._run(states, self.frozen, self.depth)
        hidden = states[-1]
        if self.mixed:
            hidden = mix_layers(torch.stack(states, dim=2), self.mix_weights, self.mix_scale, dim=2)
        return average_pool_time(hidden, self.config.num_tokens)

    def summary(self, values: torch.Tensor, tokens: torch.Tensor) -> torch.Tensor:
        """Return means and standard deviations over time, of frozen hidden states if there are some.

        Args:
            values: Frozen features, or waves.
            tokens: Tokens of these values, `(units, tokens, width)`.

        Returns:
            `(units, 2 * width)`.
        """
        if self.trains_feature_extractor or not self.projection_frozen:
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
        return trained_by_depth(self.body, list(self.body.encoder.layers))

    @override
    def train(self, mode: bool = True) -> WaveformEncoder:
        super().train(mode)
        if self.config.freeze_feature_extractor:
            self.body.feature_extractor.eval()
        if self.projection_frozen:
            for module in (self.body.feature_projection, self.body.encoder.pos_conv_embed, self.body.encoder.dropout):
                module.eval()
        for index, layer in enumerate(self.body.encoder.layers):
            layer.train(mode and index >= self.frozen)
        return self

    def _extract(self, waves: torch.Tensor) -> torch.Tensor:
        """Output of the convolutions, `(units, frames, channels)`."""
        if self.normalize:
            waves = (waves - waves.mean(1, keepdim=True)) / (waves.var(1, keepdim=True, correction=0) + 1e-7).sqrt()
        features: torch.Tensor = self.body.feature_extractor(waves).transpose(1, 2)
        return features

    def _embed(self, features: torch.Tensor) -> torch.Tensor:
        """Return the input of the first layer."""
        projected = self.body.feature_projection(features)
        hidden = projected[0] if isinstance(projected, tuple) else projected
        encoder = self.body.encoder
        hidden = hidden + encoder.pos_conv_embed(hidden)
        embedded: torch.Tensor = encoder.dropout(hidden if self.norm_is_last else encoder.layer_norm(hidden))
        return embedded

    def _run(self, states: list[torch.Tensor], start: int, stop: int) -> list[torch.Tensor]:
        """Return the states after layers `start` to `stop`: all of them for a mix, otherwise only the last one."""
        encoder, hidden = self.body.encoder, states[-1]
        arguments: dict[str, Any] = {"attention_mask": None}
        if self.body.config.model_type == "wavlm" and start < stop:
            arguments["position_bias"] = self._position_bias(hidden)
        for index in range(start, stop):
            output = encoder.layers[index](hidden, **arguments, **({"index": index} if len(arguments) > 1 else {}))
            hidden = output[0] if isinstance(output, tuple) else output
            if self.norm_is_last and self.is_whole and index + 1 == self.depth:
                hidden = encoder.layer_norm(hidden)
            states = [*states, hidden] if self.mixed else [hidden]
        return states

    def _position_bias(self, hidden: torch.Tensor) -> torch.Tensor:
        """Return the relative position bias of WavLM, which its first layer computes for all layers."""
        attention, length = self.body.encoder.layers[0].attention, hidden.shape[1]
        bias: torch.Tensor = attention.compute_bias(length, length)
        return bias.unsqueeze(0).repeat(hidden.shape[0], 1, 1, 1).view(-1, length, length)


def receptive_field(encoder_config: Any) -> int:
    """Return the number of samples that one frame depends on.

    Args:
        encoder_config: Config of transformers, with `conv_kernel` and `conv_stride`.

    Returns:
        A number of samples.
    """
    field, step = 1, 1
    for kernel, stride in zip(encoder_config.conv_kernel, encoder_config.conv_stride, strict=True):
        field, step = field + (kernel - 1) * step, step * stride
    return field
