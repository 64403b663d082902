"""Number of parameters of a module."""

from __future__ import annotations

from torch import nn


def count_parameters(module: nn.Module) -> dict[str, int]:
    """Count the parameters of a module.

    Args:
        module: Any module.

    Returns:
        The numbers of `trained` parameters and of `all`.
    """
    parameters = list(module.parameters())
    return {
        "trained": sum(parameter.numel() for parameter in parameters if parameter.requires_grad),
        "all": sum(parameter.numel() for parameter in parameters),
    }
