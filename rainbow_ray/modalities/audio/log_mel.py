"""The embedded audio encoder: log-mel spectra and a small convolutional network, without a download."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import nn
from typing_extensions import override

from rainbow_ray.config.schema import AudioEncoderConfig
from rainbow_ray.modalities.audio.augment import spec_augment
from rainbow_ray.modalities.audio.reader import RATE
from rainbow_ray.nn.pooling import average_pool_time, mean_std_pool
from rainbow_ray.utils.hashing import hash_parts

MELS, HOP, FFT = 64, 320, 1024  # a frame every 20 ms
MIN_ENERGY = 1e-5  # of a mel band, before the logarithm


class LogMelNet(nn.Module):
    """The embedded network: log-mel spectra, and three convolutions that are trained from scratch.

    Args:
        config: Sizes, number of tokens, and masking in training.
    """

    trains_feature_extractor = False
    sample_rate = RATE
    window: torch.Tensor
    mels: torch.Tensor

    def __init__(self, config: AudioEncoderConfig) -> None:
        from transformers.audio_utils import mel_filter_bank

        super().__init__()
        self.config, self.width, self.summary_width = config, config.hidden_size, 2 * MELS
        bank = mel_filter_bank(FFT // 2 + 1, MELS, 30.0, RATE / 2, RATE, norm="slaney", mel_scale="slaney")
        self.register_buffer("window", torch.hann_window(FFT), persistent=False)
        self.register_buffer("mels", torch.from_numpy(bank).float(), persistent=False)
        width = config.hidden_size
        layers: list[nn.Module] = []
        for inputs, stride in ((MELS, 2), (width, 2), (width, 2)):
            layers += [nn.Conv1d(inputs, width, 5, stride, padding=2), nn.GroupNorm(1, width), nn.GELU()]
        self.net = nn.Sequential(*layers)

    def frozen_features(self, waves: torch.Tensor) -> torch.Tensor:
        """Return log-mel spectra, scaled to about [-1, 1].

        Args:
            waves: `(units, samples)`.

        Returns:
            `(units, frames, MELS)`.
        """
        spectra = torch.stft(waves.float(), FFT, HOP, window=self.window, return_complex=True).abs() ** 2
        mels = torch.einsum("uft,fm->utm", spectra, self.mels)
        return (torch.log10(mels.clamp(min=MIN_ENERGY)) + 1.5) / 3.5

    def identity(self) -> str:
        """Return a hash of everything but the window that `frozen_features` depends on.

        Returns:
            A key of the cache.
        """
        return hash_parts("log-mel 1", MELS, HOP, FFT)

    @override
    def forward(self, values: torch.Tensor) -> torch.Tensor:
        values = spec_augment(values, self.config) if self.training else values
        return average_pool_time(self.net(values.transpose(1, 2)).transpose(1, 2), self.config.num_tokens)

    def summary(self, values: torch.Tensor, tokens: torch.Tensor) -> torch.Tensor:  # noqa: ARG002
        """Return means and standard deviations of the spectra over time.

        Args:
            values: Spectra, `(units, frames, MELS)`.
            tokens: Not used.

        Returns:
            `(units, 2 * MELS)`.
        """
        return mean_std_pool(values)

    def parameters_by_depth(self) -> Iterator[tuple[int, nn.Parameter]]:
        """Yield no parameter, because none is pretrained.

        Yields:
            `(depth, parameter)`.
        """
        return iter(())
