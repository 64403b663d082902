"""Preparation of batches one step ahead, while the GPU computes."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

import torch

T = TypeVar("T")
P = TypeVar("P")


def prepare_ahead(items: Iterable[T], prepare: Callable[[T], P], device: torch.device) -> Iterator[T | P]:
    """Prepare each item in a thread while the one before it is in use.

    Args:
        items: Items, which are read in the thread too.
        prepare: Returns what the caller uses in place of an item; it moves tensors to the device.
        device: Device of the model. On a CPU, which would compute more slowly meanwhile, nothing is prepared.

    Yields:
        Prepared items, in the same order; on a CPU the items themselves.

    Raises:
        Exception: What reading or preparing an item raised, when it is its turn.
    """
    if device.type != "cuda":
        yield from items
        return
    iterator = iter(items)

    def prepare_next() -> list[P]:
        return [prepare(item) for item in itertools.islice(iterator, 1)]

    # Each thread has a current GPU of its own: with several workers on a machine it need not be the first.
    current = torch.cuda.current_device()
    with ThreadPoolExecutor(1, "batch", initializer=torch.cuda.set_device, initargs=(current,)) as pool:
        future = pool.submit(prepare_next)
        while prepared := future.result():
            future = pool.submit(prepare_next)
            yield prepared[0]
