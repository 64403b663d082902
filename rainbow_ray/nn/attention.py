"""A pre-norm transformer block for self-attention and cross-attention.

Reference:
    Vaswani et al. 2017, "Attention Is All You Need", section 3.2; Xiong et al. 2020, "On Layer Normalization in the
    Transformer Architecture", figure 1b (pre-norm).
"""

from __future__ import annotations

import torch
from torch import nn
from typing_extensions import override


class TransformerBlock(nn.Module):
    """Multi-head attention and a feed-forward network, each with a residual connection and a layer norm before it.

    Args:
        width: Size of the hidden states.
        heads: Number of attention heads; divides `width`.
        dropout: Dropout probability after the attention, and inside and after the feed-forward network.
    """

    def __init__(self, width: int, heads: int, dropout: float) -> None:
        super().__init__()
        self.heads = heads
        self.norm_query, self.norm_context, self.norm_forward = (nn.LayerNorm(width) for _ in range(3))
        self.query, self.key, self.value, self.out = (nn.Linear(width, width) for _ in range(4))
        self.feed = nn.Sequential(
            nn.Linear(width, 2 * width), nn.GELU(), nn.Dropout(dropout), nn.Linear(2 * width, width)
        )
        self.dropout = nn.Dropout(dropout)

    @override
    def forward(
        self, hidden: torch.Tensor, context: torch.Tensor, mask: torch.Tensor, bias: torch.Tensor | None = None
    ) -> torch.Tensor:
        """Return the hidden states after attention to a context.

        Args:
            hidden: States that attend, `(batch, queries, width)`.
            context: States that are attended to, `(batch, keys, width)`; equal to `hidden` for self-attention.
            mask: `(batch, keys)`, true for keys that may be attended to; at least one per row.
            bias: Added to the attention logits, `(batch, heads, queries, keys)`.

        Returns:
            `(batch, queries, width)`.
        """
        query, key, value = self._project(hidden, context)
        attention_mask = mask[:, None, None]
        if bias is not None:
            attention_mask = bias.to(query.dtype).masked_fill(~attention_mask, float("-inf"))
        attended = nn.functional.scaled_dot_product_attention(query, key, value, attn_mask=attention_mask)
        hidden = hidden + self.dropout(self.out(attended.transpose(1, 2).flatten(2)))
        result: torch.Tensor = hidden + self.dropout(self.feed(self.norm_forward(hidden)))
        return result

    def weights(self, hidden: torch.Tensor, context: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        """Return the attention weights, averaged over heads.

        Args:
            hidden: States that attend, `(batch, queries, width)`.
            context: States that are attended to, `(batch, keys, width)`.
            mask: `(batch, keys)`, true for keys that may be attended to.

        Returns:
            `(batch, queries, keys)`; each row sums to 1.
        """
        query, key, _ = self._project(hidden, context)
        logits = query @ key.transpose(-1, -2) / query.shape[-1] ** 0.5
        result: torch.Tensor = logits.masked_fill(~mask[:, None, None], float("-inf")).softmax(dim=-1).mean(dim=1)
        return result

    def _project(self, hidden: torch.Tensor, context: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """Queries, keys and values, each `(batch, heads, length, width / heads)`."""
        context = self.norm_context(context)
        projections = (self.query(self.norm_query(hidden)), self.key(context), self.value(context))
        return tuple(projection.unflatten(-1, (self.heads, -1)).transpose(1, 2) for projection in projections)
