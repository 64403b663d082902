"""A loss of zero, whose backward pass reaches every trained parameter without a forward pass of the model."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from typing_extensions import override


def zero_loss(module: nn.Module) -> torch.Tensor:
    """Return zero, with a gradient of zero for every trained parameter.

    Workers that share a step use it to average their gradients in one backward pass, however many micro-batches each of
    them had; `DistributedDataParallel` waits there for the gradient of every parameter.

    Args:
        module: A module with at least one trained parameter.

    Returns:
        `()`.
    """
    trained = [parameter for parameter in module.parameters() if parameter.requires_grad]
    result: torch.Tensor = _Zero.apply(*trained)  # type: ignore[no-untyped-call]
    return result


class GradientAverager(nn.Module):
    """A module whose backward pass averages gradients, where it is wrapped in `DistributedDataParallel`.

    Args:
        model: The model, which is registered, and so keeps its parameters.
    """

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    @override
    def forward(self, placeholder: None) -> torch.Tensor:
        """Return the zero loss of the model.

        Args:
            placeholder: None. `DistributedDataParallel` fails on a GPU without an input that it can move there.

        Returns:
            `()`.
        """
        assert placeholder is None
        return zero_loss(self.model)


class _Zero(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, *parameters: torch.Tensor) -> torch.Tensor:
        ctx.shapes = [parameter.shape for parameter in parameters]
        return parameters[0].new_zeros(())

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> tuple[torch.Tensor, ...]:
        zero = torch.zeros_like(gradient)
        return tuple(zero.expand(shape) for shape in ctx.shapes)
