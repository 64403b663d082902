"""Evaluation batches that are halved where they exceed the memory of the device."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch

from rainbow_ray.data.dataset import ExampleView
from rainbow_ray.model.device import is_out_of_memory
from rainbow_ray.utils.errors import TrainingError


def run_in_halves(function: Callable[[ExampleView], None], view: ExampleView, device: torch.device) -> None:
    """Call a function on a batch, or on smaller and smaller halves of it where memory does not suffice.

    Args:
        function: Called with every example once (in a call that succeeds); a sequence of segments is not divided.
        view: The batch.
        device: The device whose cache is emptied before a retry.

    Raises:
        TrainingError: One sequence alone does not fit into memory.
    """
    sequences = view.sequence_positions
    try:
        function(view)
        return
    except Exception as error:
        if not is_out_of_memory(error):
            raise
        if len(sequences) < 2:
            if len(view) < 2:
                raise
            raise TrainingError(
                f"out of memory on {device.type}: one sequence of {len(view)} segments does not fit; reduce"
                " segments.max_sequence_length or model.text_encoder.max_length, or freeze more layers"
                " (model.text_encoder.freeze_layers)"
            ) from error
    if device.type == "cuda":
        torch.cuda.empty_cache()
    middle = len(sequences) // 2
    for half in (sequences[:middle], sequences[middle:]):
        run_in_halves(function, view.take(np.concatenate(half)), device)
