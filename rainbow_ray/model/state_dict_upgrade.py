"""Names of tensors in checkpoints and bundles that earlier versions wrote."""

from __future__ import annotations

import re
from collections.abc import Mapping

import torch

# former names, as patterns, and what replaces them
FORMER_KEYS: tuple[tuple[re.Pattern[str], str], ...] = (
    (re.compile(r"^words\."), "bag_of_words."),
    (re.compile(r"^standardise\."), "standardize."),
    (re.compile(r"^fusion\.null\."), "fusion.missing_tokens."),
    (re.compile(r"^temporal\.when\."), "temporal.time_projection."),
    (re.compile(r"^temporal\.mix\."), "temporal.sequence_model."),
    (re.compile(r"^(temporal\.sequence_model\.stages\..*)\.look\."), r"\1.dilated."),
    (re.compile(r"^(temporal\.sequence_model\.stages\..*)\.join\."), r"\1.pointwise."),
)


def upgrade_state_keys(state: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Return a state dict of a model under the present names.

    Args:
        state: Tensors by name, as this version or an earlier one wrote them.

    Returns:
        The same tensors in the same order.
    """
    upgraded: dict[str, torch.Tensor] = {}
    for name, tensor in state.items():
        for pattern, replacement in FORMER_KEYS:
            name = pattern.sub(replacement, name)
        upgraded[name] = tensor
    return upgraded
