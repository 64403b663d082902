"""Losses of regression, and the choice of one from the targets."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    import torch

AUTO = "auto"  # `training.loss` that `choose_loss` replaces
ZERO_INFLATED_FRACTION = 1 / 3  # fraction of zeros from which a hurdle model has the smaller absolute error


def choose_loss(targets: np.ndarray, metric: str) -> str:
    """Return the loss of `training.loss: auto`.

    Args:
        targets: Targets of all songs, `(n,)`.
        metric: Headline metric.

    Returns:
        `zero_inflated` where many targets are 0 and the metric is the mean absolute error of songs, whose best
        prediction is then 0 for many of them; otherwise `huber` (`python -m tests.benchmarks.zero_inflation`).
    """
    is_zero_inflated = np.mean(targets == 0) >= ZERO_INFLATED_FRACTION
    return "zero_inflated" if is_zero_inflated and metric == "mae" else "huber"


def huber_loss(delta: float, outputs: torch.Tensor, standardized: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """Return the Huber loss: e²/2 for |e| ≤ δ, and δ (|e| - δ/2) beyond, with e = ẑ - z.

    Args:
        delta: δ.
        outputs: Outputs of the head, `(examples, 1)`.
        standardized: Standardized targets z, `(examples,)`.
        targets: Targets, `(examples,)`; not used.

    Returns:
        Losses, `(examples,)`.

    Reference:
        Huber 1964, "Robust estimation of a location parameter".
    """
    from torch.nn import functional

    return functional.huber_loss(outputs[:, 0], standardized, delta=delta, reduction="none")


def squared_error(
    delta: float, outputs: torch.Tensor, standardized: torch.Tensor, targets: torch.Tensor
) -> torch.Tensor:
    """Return the squared error, (ẑ - z)².

    Args:
        delta: Not used.
        outputs: Outputs of the head, `(examples, 1)`.
        standardized: Standardized targets z, `(examples,)`.
        targets: Targets, `(examples,)`; not used.

    Returns:
        Losses, `(examples,)`.
    """
    return (outputs[:, 0] - standardized) ** 2


def absolute_error(
    delta: float, outputs: torch.Tensor, standardized: torch.Tensor, targets: torch.Tensor
) -> torch.Tensor:
    """Return the absolute error, |ẑ - z|.

    Args:
        delta: Not used.
        outputs: Outputs of the head, `(examples, 1)`.
        standardized: Standardized targets z, `(examples,)`.
        targets: Targets, `(examples,)`; not used.

    Returns:
        Losses, `(examples,)`.
    """
    return (outputs[:, 0] - standardized).abs()


def zero_inflated_loss(
    delta: float, outputs: torch.Tensor, standardized: torch.Tensor, targets: torch.Tensor
) -> torch.Tensor:
    """Return the loss of a hurdle model: cross-entropy of y ≠ 0, plus the Huber loss where y ≠ 0.

    Args:
        delta: δ of the Huber loss.
        outputs: Logit of y ≠ 0, and ẑ given that, `(examples, 2)`.
        standardized: Standardized targets z, `(examples,)`.
        targets: Targets y, `(examples,)`.

    Returns:
        Losses, `(examples,)`.

    Reference:
        Cragg 1971, "Some statistical models for limited dependent variables".
    """
    from torch.nn import functional

    is_present = (targets != 0).to(outputs.dtype)
    hurdle = functional.binary_cross_entropy_with_logits(outputs[:, 0], is_present, reduction="none")
    amount = functional.huber_loss(outputs[:, 1], standardized, delta=delta, reduction="none")
    return hurdle + is_present * amount


LOSSES: Mapping[str, Callable[[float, torch.Tensor, torch.Tensor, torch.Tensor], torch.Tensor]] = {
    "huber": huber_loss,
    "mse": squared_error,
    "mae": absolute_error,
    "zero_inflated": zero_inflated_loss,
}
