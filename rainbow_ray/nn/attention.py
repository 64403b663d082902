"""A transformer block that attends to its own tokens or to others': pre-norm, as in Xiong et al. 2020."""

from __future__ import annotations

import torch
from torch import nn


class Block(nn.Module):
    """Attention, then a feed-forward layer, each added to what it read."""

    def __init__(self, width: int, heads: int, dropout: float) -> None:
        super().__init__()
        self.heads = heads
        self.norm_query, self.norm_context, self.norm_forward = (nn.LayerNorm(width) for _ in range(3))
        self.query, self.key, self.value, self.out = (nn.Linear(width, width) for _ in range(4))
        self.feed = nn.Sequential(
            nn.Linear(width, 2 * width), nn.GELU(), nn.Dropout(dropout), nn.Linear(2 * width, width)
        )
        self.dropout = nn.Dropout(dropout)

    def forward(
        self, hidden: torch.Tensor, context: torch.Tensor, mask: torch.Tensor, bias: torch.Tensor | None = None
    ) -> torch.Tensor:
        """`hidden` `(batch, queries, width)` after attending to `context` `(batch, keys, width)` where `mask` is true.

        At least one key of each row must be there. `bias`, `(batch, heads, queries, keys)`, is added to what queries
        and keys say of each other.
        """
        query, key, value = self._project(hidden, context)
        seen = mask[:, None, None]
        if bias is not None:
            seen = bias.to(query.dtype).masked_fill(~seen, float("-inf"))
        attended = nn.functional.scaled_dot_product_attention(query, key, value, attn_mask=seen)
        hidden = hidden + self.dropout(self.out(attended.transpose(1, 2).flatten(2)))
        out: torch.Tensor = hidden + self.dropout(self.feed(self.norm_forward(hidden)))
        return out

    def weights(self, hidden: torch.Tensor, context: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        """How much each query looks at each key, averaged over heads: `(batch, queries, keys)`."""
        query, key, _ = self._project(hidden, context)
        scores = query @ key.transpose(-1, -2) / query.shape[-1] ** 0.5
        out: torch.Tensor = scores.masked_fill(~mask[:, None, None], float("-inf")).softmax(dim=-1).mean(dim=1)
        return out

    def _project(self, hidden: torch.Tensor, context: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """Queries, keys, values: each `(batch, heads, length, width / heads)`."""
        context = self.norm_context(context)
        parts = (self.query(self.norm_query(hidden)), self.key(context), self.value(context))
        return tuple(part.unflatten(-1, (self.heads, -1)).transpose(1, 2) for part in parts)
