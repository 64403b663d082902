"""Output of the encoder of one modality for the examples of a batch, from that of their units (windows, texts)."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass

import torch
from torch import nn

from rainbow_ray.modalities.descriptors import descriptors_key
from rainbow_ray.modalities.encoder_types import EncodedUnits

REFERENCE_WIDTH = 384  # features of the text encoder for which the default learning rate of the head was chosen
MAX_STEMS = 32  # stems of a song with an embedding of their own


@dataclass(frozen=True)
class Tokens:
    """Tokens of one modality.

    Attributes:
        values: `(examples, tokens, width)`.
        mask: `(examples, tokens)`, bool, true for tokens; all false for examples without the modality.
    """

    values: torch.Tensor
    mask: torch.Tensor

    def where(self, present: torch.Tensor) -> Tokens:
        """Mask the tokens of examples without the modality.

        Args:
            present: Which examples keep their tokens, `(examples,)`, bool.

        Returns:
            Tokens of the same shape.
        """
        return Tokens(self.values, self.mask & present[:, None])

    def mean(self) -> torch.Tensor:
        """Return the mean token of each example.

        Returns:
            `(examples, width)`; NaN for examples without tokens.
        """
        mask = self.mask[..., None].to(self.values.dtype)
        return (self.values * mask).sum(1) / mask.sum(1)


@dataclass(frozen=True)
class ModalityOutput:
    """Output of the encoder of one modality.

    Attributes:
        tokens: Tokens of each example.
        summary: Pooled statistics, `(examples, summary width)`; arbitrary for examples without the modality.
        descriptors: Mean of the windows' descriptors, `(examples, descriptors)`; None where they are not read.
    """

    tokens: Tokens
    summary: torch.Tensor
    descriptors: torch.Tensor | None = None

    def features(self, modality: str) -> dict[str, torch.Tensor]:
        """Return the features of examples besides the tokens.

        Args:
            modality: Name of the modality.

        Returns:
            `(examples, width)` float32 by key.
        """
        features = {modality: self.summary.float()}
        if self.descriptors is not None:
            features[descriptors_key(modality)] = self.descriptors.float()
        return features


def pool_units(
    units: EncodedUnits, descriptors: torch.Tensor | None, unit_to_example: torch.Tensor | None, n_examples: int
) -> ModalityOutput:
    """Return the output of examples from that of their units.

    Args:
        units: Tokens and summary of each unit.
        descriptors: Descriptors of each unit, `(units, descriptors)`; None where they are not read.
        unit_to_example: Example of each unit, `(units,)`, sorted; None: one unit per example.
        n_examples: Number of examples.

    Returns:
        Tokens of all units, and means of the summaries and descriptors.
    """
    return ModalityOutput(
        gather_units(units.tokens, units.mask, unit_to_example, n_examples),
        mean_per_example(units.summary.float(), unit_to_example, n_examples),
        None if descriptors is None else mean_per_example(descriptors.float(), unit_to_example, n_examples),
    )


def empty_output(like: torch.Tensor, n_examples: int, token_width: int, widths: Mapping[str, int]) -> ModalityOutput:
    """Return the output of examples that all lack the modality.

    Args:
        like: A tensor of the device and dtype.
        n_examples: Number of examples.
        token_width: Width of the tokens.
        widths: Width of the summary, and possibly the number of descriptors, in this order.

    Returns:
        Zeros, and one masked token per example.
    """
    tokens = Tokens(like.new_zeros(n_examples, 1, token_width), like.new_zeros(n_examples, 1, dtype=torch.bool))
    return ModalityOutput(tokens, *(like.new_zeros(n_examples, width) for width in widths.values()))


def gather_units(
    values: torch.Tensor, mask: torch.Tensor, unit_to_example: torch.Tensor | None, n_examples: int
) -> Tokens:
    """Concatenate the tokens of the units (windows, texts) of each example.

    Args:
        values: Tokens of each unit, `(units, tokens, width)`.
        mask: `(units, tokens)`, bool.
        unit_to_example: Example of each unit, `(units,)`, sorted; None: one unit per example.
        n_examples: Number of examples.

    Returns:
        Tokens of each example, padded to the example with the most units.
    """
    if unit_to_example is None:
        return Tokens(values, mask)
    counts = torch.bincount(unit_to_example, minlength=n_examples)
    max_units, (_, length, width) = max(1, int(counts.max()) if len(counts) else 1), values.shape
    position = torch.arange(len(unit_to_example), device=values.device) - (counts.cumsum(0) - counts)[unit_to_example]
    rows = unit_to_example * max_units + position
    padded_values = values.new_zeros(n_examples * max_units, length, width).index_copy(0, rows, values)
    padded_mask = mask.new_zeros(n_examples * max_units, length).index_copy(0, rows, mask)
    return Tokens(
        padded_values.view(n_examples, max_units * length, width), padded_mask.view(n_examples, max_units * length)
    )


def mean_per_example(units: torch.Tensor, unit_to_example: torch.Tensor | None, n_examples: int) -> torch.Tensor:
    """Return the mean of the units (windows, texts) of each example.

    Args:
        units: `(units, width)`.
        unit_to_example: Example of each unit, `(units,)`; None: one unit per example.
        n_examples: Number of examples.

    Returns:
        `(examples, width)`; 0 for examples without units.
    """
    if unit_to_example is None:
        return units
    sums = units.new_zeros(n_examples, units.shape[1]).index_add_(0, unit_to_example, units)
    counts = units.new_zeros(n_examples).index_add_(0, unit_to_example, units.new_ones(len(units)))
    return sums / counts.clamp(min=1)[:, None]


def make_stem_embeddings(token_widths: Mapping[str, int]) -> nn.ModuleDict:
    """Return an embedding of the number of a stem for each modality with windows, which starts at zero.

    Args:
        token_widths: Widths of tokens by modality.

    Returns:
        Embeddings by modality.
    """
    embeddings = {name: nn.Embedding(MAX_STEMS, width) for name, width in token_widths.items()}
    for embedding in embeddings.values():
        nn.init.zeros_(embedding.weight)
    return nn.ModuleDict(embeddings)


def scale_features(widths: Mapping[str, int], scaled: Collection[str]) -> torch.Tensor:
    """Return factors of the features besides the fusion.

    Adam moves each weight alike, so that the contribution of a modality grows with its width: the 23 statistics of MIDI
    would hardly count beside the 384 features of a text encoder.

    Args:
        widths: Widths of the features by key.
        scaled: Keys of the features that are scaled up to `REFERENCE_WIDTH`.

    Returns:
        `(width,)`, the sum of the widths.
    """
    factors = [torch.full((width,), REFERENCE_WIDTH / width if key in scaled else 1.0) for key, width in widths.items()]
    return torch.cat(factors or [torch.zeros(0)])
