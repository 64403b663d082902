"""Fusion of the tokens of several modalities into one vector per example, with any modality missing.

A modality that an example lacks is replaced by one learned token, in training and in prediction; so is a modality that
modality dropout removes. The output for an example depends neither on padding nor on the other examples of a batch.

Reference:
    Arevalo et al. 2017, "Gated Multimodal Units for Information Fusion", equations 1-3; Tsai et al. 2019, "Multimodal
    Transformer for Unaligned Multimodal Language Sequences", section 3.1 (cross-modal attention); Neverova et al. 2016,
    "ModDrop: Adaptive Multi-Modal Gesture Recognition", section 4.2 (modality dropout).
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import nn
from typing_extensions import override

from rainbow_ray.config.schema import FusionConfig
from rainbow_ray.model.modality_output import ModalityOutput, Tokens
from rainbow_ray.nn.attention import TransformerBlock

INITIAL_SCALE = 0.02  # standard deviation of the learned tokens at the start, as of BERT's embeddings


def check_fusion(config: FusionConfig) -> list[str]:
    """Return what is wrong with the sizes of the fusion.

    Args:
        config: Section `model.fusion` of the config.

    Returns:
        Messages, one for each problem.
    """
    if config.hidden_size % config.num_heads:
        return [
            f"model.fusion.num_heads: {config.num_heads} does not divide model.fusion.hidden_size"
            f" ({config.hidden_size})"
        ]
    return []


class Fusion(nn.Module):
    """Fuses tokens of several modalities.

    Kind `concat` concatenates the mean tokens, `gated` adds them with weights that sum to 1, and `cross_attention`
    first lets the tokens of each modality attend to those of all others, in `num_layers` layers.

    Args:
        widths: Width of the tokens of each modality.
        config: Section `model.fusion` of the config.

    Attributes:
        out_width: Width of the output.
    """

    def __init__(self, widths: Mapping[str, int], config: FusionConfig) -> None:
        super().__init__()
        self.modalities, self.kind, width = tuple(widths), config.kind, config.hidden_size
        self.project = nn.ModuleDict(
            {name: nn.Sequential(nn.LayerNorm(size), nn.Linear(size, width)) for name, size in widths.items()}
        )
        self.missing_tokens = nn.ParameterDict(
            {name: nn.Parameter(INITIAL_SCALE * torch.randn(width)) for name in widths}
        )
        self.blocks = nn.ModuleList()
        if config.kind == "cross_attention" and len(widths) > 1:
            for _ in range(config.num_layers):
                blocks = {name: TransformerBlock(width, config.num_heads, config.dropout) for name in widths}
                self.blocks.append(nn.ModuleDict(blocks))
        self.gate = nn.Linear(width, 1) if config.kind == "gated" else None
        self.norm = nn.LayerNorm(width)
        self.out_width = width if config.kind == "gated" else width * len(widths)

    @property
    def attends(self) -> bool:
        """Whether `attention` returns weights."""
        return self.gate is not None or len(self.blocks) > 0

    @override
    def forward(self, tokens: Mapping[str, Tokens]) -> torch.Tensor:
        """Return one vector per example.

        Args:
            tokens: Tokens by modality.

        Returns:
            `(examples, out_width)`.
        """
        hidden = self._with_missing_tokens(tokens)
        for block in self.blocks:
            assert isinstance(block, nn.ModuleDict)
            hidden = {name: self._attend(block, name, hidden) for name in self.modalities}
        pooled = torch.stack([self.norm(hidden[name].mean()) for name in self.modalities], dim=1)
        if self.gate is not None:
            # equations 1-3 of Arevalo et al., with one scalar gate per modality
            gated: torch.Tensor = (self.gate(pooled).softmax(dim=1) * torch.tanh(pooled)).sum(dim=1)
            return gated
        return pooled.flatten(1)

    @torch.no_grad()
    def attention(self, tokens: Mapping[str, Tokens]) -> torch.Tensor | None:
        """Return the attention of each modality to each other.

        Args:
            tokens: Tokens by modality.

        Returns:
            `(examples, modalities, modalities)`; each row sums to 1. With several layers, those of the first one; with
            gates, every row holds the gates. None with neither.
        """
        hidden = self._with_missing_tokens(tokens)
        if self.gate is not None:
            pooled = torch.stack([self.norm(hidden[name].mean()) for name in self.modalities], dim=1)
            gates: torch.Tensor = self.gate(pooled).softmax(dim=1)[:, None, :, 0]
            return gates.expand(-1, len(self.modalities), -1)
        if not len(self.blocks):
            return None
        block = self.blocks[0]
        assert isinstance(block, nn.ModuleDict)
        return torch.stack([self._attention_of(block, name, hidden) for name in self.modalities], dim=1)

    def _attention_of(self, block: nn.ModuleDict, name: str, hidden: Mapping[str, Tokens]) -> torch.Tensor:
        """Return the attention of one modality to every modality, `(examples, modalities)`; 0 to itself."""
        other_names = [other_name for other_name in self.modalities if other_name != name]
        attend = block[name]
        assert isinstance(attend, TransformerBlock)
        context, mask = _concatenate([hidden[other_name] for other_name in other_names])
        weights = attend.weights(hidden[name].values, context, mask)
        query_mask = hidden[name].mask[..., None]
        mean_weights = (weights * query_mask).sum(1) / query_mask.sum(1)
        sizes = [hidden[other_name].values.shape[1] for other_name in other_names]
        by_modality = dict(zip(other_names, torch.split(mean_weights, sizes, dim=1), strict=True))
        zeros = mean_weights.new_zeros(len(mean_weights))
        return torch.stack([by_modality[key].sum(1) if key in by_modality else zeros for key in self.modalities], 1)

    def _with_missing_tokens(self, tokens: Mapping[str, Tokens]) -> dict[str, Tokens]:
        """Project tokens to one width, and insert the learned token for examples without the modality."""
        hidden = {}
        for name in self.modalities:
            values, mask = self.project[name](tokens[name].values), tokens[name].mask
            is_missing = torch.zeros_like(mask)
            is_missing[:, 0] = ~mask.any(dim=1)
            missing_token = self.missing_tokens[name].to(values.dtype)
            hidden[name] = Tokens(torch.where(is_missing[..., None], missing_token, values), mask | is_missing)
        return hidden

    def _attend(self, block: nn.ModuleDict, name: str, hidden: Mapping[str, Tokens]) -> Tokens:
        context, mask = _concatenate([hidden[other_name] for other_name in self.modalities if other_name != name])
        return Tokens(block[name](hidden[name].values, context, mask), hidden[name].mask)


def apply_modality_dropout(present: Mapping[str, torch.Tensor], probability: float) -> dict[str, torch.Tensor]:
    """Remove modalities of training examples at random; each example keeps at least one of those that it has.

    Args:
        present: Which examples have which modality, `(examples,)` each, bool.
        probability: Probability with which a modality of an example is removed.

    Returns:
        Which examples keep which modality, `(examples,)` each, bool.

    Reference:
        Neverova et al. 2016, "ModDrop: Adaptive Multi-Modal Gesture Recognition", section 4.2.
    """
    names = list(present)
    is_present = torch.stack([present[name] for name in names], dim=1)
    draws = torch.rand(is_present.shape, device=is_present.device)
    is_kept = is_present & (draws >= probability)
    # if all modalities of an example would be removed, the one with the largest draw is kept
    largest = draws.masked_fill(~is_present, -1.0).argmax(dim=1, keepdim=True)
    fallback = torch.zeros_like(is_present).scatter_(1, largest, True) & is_present
    is_kept = torch.where(is_kept.any(dim=1, keepdim=True), is_kept, fallback)
    return dict(zip(names, is_kept.unbind(dim=1), strict=True))


def present_tokens(outputs: Mapping[str, ModalityOutput], present: Mapping[str, torch.Tensor]) -> dict[str, Tokens]:
    """Return the tokens of each modality, without those of examples that lack it.

    Args:
        outputs: Output of each modality's encoder.
        present: Which examples have which modality, `(examples,)` each.

    Returns:
        Tokens by modality.
    """
    return {name: output.tokens.where(present[name]) for name, output in outputs.items()}


def _concatenate(tokens: list[Tokens]) -> tuple[torch.Tensor, torch.Tensor]:
    return torch.cat([t.values for t in tokens], dim=1), torch.cat([t.mask for t in tokens], dim=1)
