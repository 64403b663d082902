"""Standardization of features, fitted once on the training side and saved with the model."""

from __future__ import annotations

import torch
from torch import nn
from typing_extensions import override

MIN_SCALE = 1e-4  # a feature that hardly varies on the training side is not amplified


class Standardizer(nn.Module):
    """Standardize features: `(x - mean) / scale`; the identity until `fit`.

    Args:
        width: Number of features.
    """

    mean: torch.Tensor
    scale: torch.Tensor

    def __init__(self, width: int) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(width))
        self.register_buffer("scale", torch.ones(width))

    def fit(self, features: torch.Tensor) -> None:
        """Set mean and scale to the mean and the standard deviation of each feature.

        Args:
            features: `(examples, width)`; NaN marks a missing value. A feature with a standard deviation of at most
                `MIN_SCALE` keeps the scale 1.
        """
        is_known = ~features.isnan()
        counts, values = is_known.sum(dim=0).clamp(min=1), features.nan_to_num()
        self.mean.copy_(values.sum(dim=0) / counts)
        deviation = (((values - self.mean) ** 2 * is_known).sum(dim=0) / counts).sqrt()
        self.scale.copy_(torch.where(deviation > MIN_SCALE, deviation, torch.ones_like(deviation)))

    @override
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return (x - self.mean) / self.scale
