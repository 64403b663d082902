"""From token states `(units, length, width)` and their mask `(units, length)` to one vector a unit."""

from __future__ import annotations

import torch
from torch import nn

POOLINGS = ("cls", "mean", "max", "attention")


class Pooling(nn.Module):
    def __init__(self, kind: str, width: int) -> None:
        super().__init__()
        self.kind = kind
        if kind == "attention":
            self.query = nn.Linear(width, 1)
            nn.init.zeros_(self.query.weight)  # starts as the mean
            nn.init.zeros_(self.query.bias)

    def forward(self, hidden: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        inside = mask[..., None].bool()
        if self.kind == "cls":
            return hidden[:, 0]
        if self.kind == "max":
            return hidden.masked_fill(~inside, torch.finfo(hidden.dtype).min).amax(dim=1)
        if self.kind == "attention":
            weights = self.query(hidden).float().masked_fill(~inside, float("-inf")).softmax(dim=1)
            out: torch.Tensor = (weights.to(hidden.dtype) * hidden).sum(dim=1)
            return out
        summed = (hidden * inside).sum(dim=1)
        return summed / inside.sum(dim=1).clamp(min=1)
