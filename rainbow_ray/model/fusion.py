"""Fusion: tokens of each modality to one vector an example, whatever is missing.

A modality that an example lacks is one learned token, in training and in prediction alike; so is one that modality
dropout hides. Nothing depends on padding, nor on who else is in the batch.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import nn

from rainbow_ray.config.schema import FusionConfig
from rainbow_ray.nn.attention import Block


def check_fusion(config: FusionConfig) -> list[str]:
    """Return what is wrong with the sizes of the fusion."""
    if config.hidden_size % config.num_heads:
        return [f"model.fusion.num_heads: {config.num_heads} do not divide the width, {config.hidden_size}"]
    return []


@dataclass(frozen=True)
class Tokens:
    """A modality's tokens of each example: `values` `(examples, tokens, width)`, `mask` `(examples, tokens)`.

    An example that lacks the modality has no token.
    """

    values: torch.Tensor
    mask: torch.Tensor


class Fusion(nn.Module):
    """`widths` are those of each modality's tokens. Gives `(examples, self.out_width)`."""

    def __init__(self, widths: Mapping[str, int], config: FusionConfig) -> None:
        super().__init__()
        self.modalities, self.kind, width = tuple(widths), config.kind, config.hidden_size
        self.project = nn.ModuleDict(
            {name: nn.Sequential(nn.LayerNorm(size), nn.Linear(size, width)) for name, size in widths.items()}
        )
        self.null = nn.ParameterDict({name: nn.Parameter(0.02 * torch.randn(width)) for name in widths})
        self.blocks = nn.ModuleList()
        if config.kind == "cross_attention" and len(widths) > 1:
            for _ in range(config.num_layers):
                self.blocks.append(
                    nn.ModuleDict({name: Block(width, config.num_heads, config.dropout) for name in widths})
                )
        self.gate = nn.Linear(width, 1) if config.kind == "gated" else None
        self.norm = nn.LayerNorm(width)
        self.out_width = width if config.kind == "gated" else width * len(widths)

    @property
    def attends(self) -> bool:
        """Whether `attention` has anything to tell."""
        return self.gate is not None or len(self.blocks) > 0

    def forward(self, tokens: Mapping[str, Tokens]) -> torch.Tensor:
        hidden = self._with_nulls(tokens)
        for block in self.blocks:
            assert isinstance(block, nn.ModuleDict)
            hidden = {name: self._attend(block, name, hidden) for name in self.modalities}
        pooled = torch.stack([self.norm(_mean(hidden[name])) for name in self.modalities], dim=1)
        if self.gate is not None:
            # a scalar gate a modality, after the gated multimodal unit of Arevalo et al. 2017, eq. 1-3
            gated: torch.Tensor = (self.gate(pooled).softmax(dim=1) * torch.tanh(pooled)).sum(dim=1)
            return gated
        return pooled.flatten(1)

    @torch.no_grad()
    def attention(self, tokens: Mapping[str, Tokens]) -> torch.Tensor | None:
        """How much each modality of each example looks at each other: `(examples, modalities, modalities)`.

        A row adds up to 1; of several layers the first speaks. Of gates, each row says the same. None without either.
        """
        hidden = self._with_nulls(tokens)
        if self.gate is not None:
            pooled = torch.stack([self.norm(_mean(hidden[name])) for name in self.modalities], dim=1)
            shares: torch.Tensor = self.gate(pooled).softmax(dim=1)[:, None, :, 0]
            return shares.expand(-1, len(self.modalities), -1)
        if not len(self.blocks):
            return None
        block = self.blocks[0]
        assert isinstance(block, nn.ModuleDict)
        rows = []
        for name in self.modalities:
            others = [other for other in self.modalities if other != name]
            attend = block[name]
            assert isinstance(attend, Block)
            context, mask = _joined([hidden[other] for other in others])
            weights = attend.weights(hidden[name].values, context, mask)
            inside = hidden[name].mask[..., None]
            seen = (weights * inside).sum(1) / inside.sum(1)
            sizes = [hidden[other].values.shape[1] for other in others]
            parts = dict(zip(others, torch.split(seen, sizes, dim=1), strict=True))
            rows.append(torch.stack(
                [parts[other].sum(1) if other in parts else seen.new_zeros(len(seen)) for other in self.modalities], 1
            ))  # fmt: skip
        return torch.stack(rows, dim=1)

    def _with_nulls(self, tokens: Mapping[str, Tokens]) -> dict[str, Tokens]:
        """All of one width, with the learned token where an example has none."""
        found = {}
        for name in self.modalities:
            values, mask = self.project[name](tokens[name].values), tokens[name].mask
            missing = ~mask.any(dim=1)
            first = torch.zeros_like(mask)
            first[:, 0] = missing
            found[name] = Tokens(torch.where(first[..., None], self.null[name].to(values.dtype), values), mask | first)
        return found

    def _attend(self, block: nn.ModuleDict, name: str, hidden: Mapping[str, Tokens]) -> Tokens:
        context, mask = _joined([hidden[other] for other in self.modalities if other != name])
        return Tokens(block[name](hidden[name].values, context, mask), hidden[name].mask)


def apply_modality_dropout(present: Mapping[str, torch.Tensor], share: float) -> dict[str, torch.Tensor]:
    """Modality dropout: what is present `(examples,)`, less a share of it; each example keeps one modality at least."""
    names = list(present)
    there = torch.stack([present[name] for name in names], dim=1)
    draws = torch.rand(there.shape, device=there.device)
    kept = there & (draws >= share)
    # the one with the largest draw stays where all would go
    largest = draws.masked_fill(~there, -1.0).argmax(dim=1, keepdim=True)
    spared = torch.zeros_like(there).scatter_(1, largest, True) & there
    kept = torch.where(kept.any(dim=1, keepdim=True), kept, spared)
    return dict(zip(names, kept.unbind(dim=1), strict=True))


def gather_units(values: torch.Tensor, mask: torch.Tensor, to_example: torch.Tensor | None, examples: int) -> Tokens:
    """Tokens of flat units `(units, tokens, width)` beside each other, example by example.

    `to_example` is sorted; None: each example has one unit. What is not there is cut off: the longest example has no
    padding.
    """
    if to_example is None:
        return Tokens(values, mask)
    counts = torch.bincount(to_example, minlength=examples)
    most, (_, length, width) = max(1, int(counts.max()) if len(counts) else 1), values.shape
    place = torch.arange(len(to_example), device=values.device) - (counts.cumsum(0) - counts)[to_example]
    flat = to_example * most + place
    out = values.new_zeros(examples * most, length, width).index_copy(0, flat, values)
    there = mask.new_zeros(examples * most, length).index_copy(0, flat, mask)
    return Tokens(out.view(examples, most * length, width), there.view(examples, most * length))


def _mean(tokens: Tokens) -> torch.Tensor:
    inside = tokens.mask[..., None].to(tokens.values.dtype)
    return (tokens.values * inside).sum(1) / inside.sum(1)


def _joined(tokens: list[Tokens]) -> tuple[torch.Tensor, torch.Tensor]:
    return torch.cat([t.values for t in tokens], dim=1), torch.cat([t.mask for t in tokens], dim=1)
