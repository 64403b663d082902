"""Pooling of hidden states over tokens or over time."""

from __future__ import annotations

import torch
from torch import nn
from typing_extensions import override


class Pooling(nn.Module):
    """Pool the hidden states of each unit's tokens to one vector.

    Args:
        kind: A `TextPooling`: the first token, the mean, the maximum, or a mean weighted by learned attention.
        width: Size of the hidden states.
    """

    def __init__(self, kind: str, width: int) -> None:
        super().__init__()
        self.kind = kind
        if kind == "attention":
            self.query = nn.Linear(width, 1)
            nn.init.zeros_(self.query.weight)  # equal weights, so that training starts from the mean
            nn.init.zeros_(self.query.bias)

    @override
    def forward(self, hidden: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        """Return one vector per unit.

        Args:
            hidden: Hidden states, `(units, length, width)`.
            mask: `(units, length)`, true or 1 for tokens and false or 0 for padding.

        Returns:
            `(units, width)`.
        """
        inside = mask[..., None].bool()
        if self.kind == "cls":
            return hidden[:, 0]
        if self.kind == "max":
            return hidden.masked_fill(~inside, torch.finfo(hidden.dtype).min).amax(dim=1)
        if self.kind == "attention":
            weights = self.query(hidden).float().masked_fill(~inside, float("-inf")).softmax(dim=1)
            pooled: torch.Tensor = (weights.to(hidden.dtype) * hidden).sum(dim=1)
            return pooled
        total = (hidden * inside).sum(dim=1)
        return total / inside.sum(dim=1).clamp(min=1)


def average_pool_time(frames: torch.Tensor, n_tokens: int) -> torch.Tensor:
    """Average frames over intervals of equal length.

    Args:
        frames: `(units, frames, …)`.
        n_tokens: Number of intervals.

    Returns:
        `(units, n_tokens, …)`; the frames themselves if there are no more of them.
    """
    n_frames = frames.shape[1]
    if n_frames <= n_tokens:
        return frames
    interval = torch.arange(n_frames, device=frames.device) * n_tokens // n_frames
    membership = nn.functional.one_hot(interval, n_tokens).to(frames.dtype)
    # a matrix product is deterministic on every device; scattered addition is not
    return torch.einsum("un...,nt->ut...", frames, membership / membership.sum(0))


def mean_std_pool(frames: torch.Tensor) -> torch.Tensor:
    """Return means and standard deviations over time.

    Args:
        frames: `(units, frames, width)`.

    Returns:
        `(units, 2 * width)` float32.
    """
    frames = frames.float()
    means = frames.mean(dim=1, keepdim=True)
    # the same as torch.std, which takes five times as long on a CPU
    deviations = torch.linalg.vector_norm(frames - means, dim=1) / frames.shape[1] ** 0.5
    return torch.cat([means[:, 0], deviations], dim=1)
