"""What a frozen encoder says of an example never changes: it is computed once, and an epoch costs the head alone."""

from __future__ import annotations

from rainbow_ray.model.rainbow import Rainbow


def can_share(model: Rainbow, examples: int, limit: int) -> bool:
    """Whether all that lies below the head is frozen, and what it gives for all examples fits into `limit` bytes."""
    return model.text_is_frozen and examples * model.width * 4 <= limit
