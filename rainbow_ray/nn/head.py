"""The prediction head: dropout and a linear layer, after optional hidden layers."""

from __future__ import annotations

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
