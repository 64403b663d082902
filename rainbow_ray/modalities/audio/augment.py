"""Augmentation of audio in training: random gain, additive noise, and SpecAugment."""

from __future__ import annotations

import torch

from rainbow_ray.config.schema import AudioEncoderConfig


def spec_augment(values: torch.Tensor, config: AudioEncoderConfig) -> torch.Tensor:
    """Mask one interval of time and one of features of each unit with zeros.

    Args:
        values: Spectra or hidden states, `(units, frames, …, features)`.
        config: `mask_time` and `mask_features` are the largest fractions that a mask covers.

    Returns:
        The masked values, of the same shape.

    Reference:
        Park et al. 2019, "SpecAugment", section 2 (time and frequency masking, without warping).
    """
    for axis, fraction in ((1, config.mask_time), (-1, config.mask_features)):
        size = values.shape[axis]
        max_length = int(fraction * size)
        if max_length < 1:
            continue
        length = torch.randint(0, max_length + 1, (len(values), 1), device=values.device)
        start = (torch.rand(len(values), 1, device=values.device) * (size - length + 1)).long()
        positions = torch.arange(size, device=values.device)[None]
        is_masked = (positions >= start) & (positions < start + length)
        shape = [len(values)] + [1] * (values.ndim - 1)
        shape[axis] = size
        values = values.masked_fill(is_masked.view(shape), 0.0)
    return values


def augment_waves(waves: torch.Tensor, config: AudioEncoderConfig) -> torch.Tensor:
    """Apply `random_gain` and `add_noise` as a config says.

    Args:
        waves: `(units, samples)`.
        config: `gain_db` and `noise_db`; a `noise_db` of None adds no noise.

    Returns:
        `(units, samples)`.
    """
    waves = random_gain(waves, config.gain_db)
    return waves if config.noise_db is None else add_noise(waves, config.noise_db)


def random_gain(waves: torch.Tensor, max_db: float) -> torch.Tensor:
    """Multiply each waveform by a gain drawn uniformly in decibels.

    Args:
        waves: `(units, samples)`.
        max_db: Gains are drawn from `[-max_db, max_db)`.

    Returns:
        `(units, samples)`.
    """
    gain = (2 * torch.rand(len(waves), 1, device=waves.device) - 1) * max_db
    return waves * 10 ** (gain / 20)


def add_noise(waves: torch.Tensor, level_db: float) -> torch.Tensor:
    """Add white Gaussian noise.

    Args:
        waves: `(units, samples)`.
        level_db: Level of the noise relative to the root mean square of each waveform, in decibels.

    Returns:
        `(units, samples)`.
    """
    level = waves.pow(2).mean(1, keepdim=True).sqrt() * 10 ** (level_db / 20)
    return waves + level * torch.randn_like(waves)
