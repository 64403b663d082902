"""The prediction head: dropout and a linear layer, after optional hidden layers."""

from __future__ import annotations

import contextlib

import torch
from torch import nn

from rainbow_ray.config.schema import ClassifierConfig

ACTIVATIONS = {"relu": nn.ReLU, "gelu": nn.GELU, "tanh": nn.Tanh}


def make_head(width: int, outputs: int, config: ClassifierConfig) -> nn.Sequential:
    """Return the head of a model.

    Args:
        width: Number of input features.
        outputs: Number of logits.
        config: Hidden layers (`hidden_dims`), their activation, and the dropout before each layer.

    Returns:
        A module from `(examples, width)` to `(examples, outputs)`. The weights of its last layer are zero, so that the
        first predictions are the bias alone.
    """
    layers: list[nn.Module] = []
    for hidden in config.hidden_dims:
        layers += [nn.Dropout(config.dropout), nn.Linear(width, hidden), ACTIVATIONS[config.activation]()]
        width = hidden
    last = nn.Linear(width, outputs)
    nn.init.zeros_(last.weight)
    return nn.Sequential(*layers, nn.Dropout(config.dropout), last)


def apply_head(head: nn.Module, hidden: torch.Tensor) -> torch.Tensor:
    """Return logits in fp32, also under autocast: in bf16, thousands of songs would share a few hundred scores.

    Args:
        head: What `make_head` returned.
        hidden: Inputs of the head, fp32, `(examples, width)`.

    Returns:
        `(examples, outputs)`, fp32.
    """
    device = hidden.device.type
    is_autocast = torch.amp.is_autocast_available(device) and torch.is_autocast_enabled(device)
    with torch.autocast(device, enabled=False) if is_autocast else contextlib.nullcontext():
        logits: torch.Tensor = head(hidden)
    return logits
