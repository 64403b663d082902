"""One file a modality: its columns, `prepare` (rows), `collate` (batches) and encoder."""

from __future__ import annotations

import functools
from typing import Any


def make_collates(encoder: str) -> dict[str, Any]:
    """How each modality pads its part of a batch: `make_batch` takes these."""
    from rainbow_ray.modalities import text

    return {"text": functools.partial(text.collate, pad_id=text.pad_id(encoder))}
