"""What a frozen encoder says of an example never changes: it is computed once, and an epoch costs the head alone."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import torch

from rainbow_ray.data.stream import Batch
from rainbow_ray.model.rainbow import Rainbow

LIMIT_BYTES = 2**30  # above this, features are computed anew each time


@dataclass(frozen=True)
class Part:
    """A batch and which examples it holds."""

    indices: np.ndarray
    batch: Batch


def can_share(model: Rainbow, examples: int) -> bool:
    """Whether all that lies below the words and the head is frozen, and its output fits into memory."""
    return model.text_is_frozen and examples * model.text.width * 4 <= LIMIT_BYTES


@torch.no_grad()
def encode_all(model: Rainbow, parts: Iterable[Part], examples: int) -> torch.Tensor:
    """The encoder's pooled output of every example, `(examples, text width)`, fp32."""
    model.eval()
    encoded: torch.Tensor | None = None
    for part in parts:
        out = model.encode(part.batch)
        if encoded is None:
            encoded = out.new_zeros(examples, out.shape[1])
        encoded[torch.from_numpy(part.indices).to(out.device)] = out
    assert encoded is not None
    return encoded
