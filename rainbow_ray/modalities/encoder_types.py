"""Input and output types of the module of a modality: the pretrained encoder, and the encoded units."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True)
class PretrainedEncoder:
    """A pretrained encoder that a modality's module is built around.

    Attributes:
        body: Model of transformers.
        weights: Digest of its tensors, which identifies cached features.
        normalize: Whether inputs are standardized before they are encoded (audio).
        extractor: Feature extractor of transformers (audio), or None.
        sample_rate: Sample rate of the inputs in Hz (audio).
    """

    body: Any
    weights: str = ""
    normalize: bool = True
    extractor: Any = None
    sample_rate: int = 16_000


@dataclass(frozen=True)
class EncodedUnits:
    """The encoded units of one modality in a batch.

    Attributes:
        tokens: `(units, tokens, width)`.
        mask: `(units, tokens)`, true for tokens that exist.
        summary: One vector per unit, `(units, summary_width)`.
    """

    tokens: torch.Tensor
    mask: torch.Tensor
    summary: torch.Tensor
