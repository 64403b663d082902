"""The workers that share one fit: who they are, and what they tell each other. Alone, each of these does nothing."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeVar

import torch
from torch import distributed, nn

T = TypeVar("T")


def _as_it_is(module: nn.Module) -> nn.Module:
    return module


@dataclass(frozen=True)
class ProcessGroup:
    """`size` workers, of which this one is number `rank`; every method is called by all of them, in the same order.

    `wrap` makes a module's backward pass average gradients over the workers (DistributedDataParallel).
    """

    rank: int = 0
    size: int = 1
    wrap: Callable[[nn.Module], nn.Module] = _as_it_is

    @property
    def is_main(self) -> bool:
        """Whether this worker writes files."""
        return self.rank == 0

    def share(self, items: Sequence[T]) -> Sequence[T]:
        """Which of some items are this worker's."""
        return items[self.rank :: self.size]

    def add(self, tensor: torch.Tensor) -> torch.Tensor:
        """The sum over the workers, on the tensor's device."""
        if self.size == 1:
            return tensor
        total = tensor.to(_collective_device(), copy=True)
        distributed.all_reduce(total)
        return total.to(tensor.device)

    def sums(self, *values: float) -> list[float]:
        """Sums over the workers of a few numbers, float64."""
        if self.size == 1:
            return list(values)
        return self.add(torch.tensor(values, dtype=torch.float64)).tolist()

    def gather(self, tensor: torch.Tensor) -> list[torch.Tensor]:
        """A tensor of each worker, all of one shape, by rank."""
        if self.size == 1:
            return [tensor]
        own = tensor.to(_collective_device())
        parts = [torch.empty_like(own) for _ in range(self.size)]
        distributed.all_gather(parts, own)
        return [part.to(tensor.device) for part in parts]

    def collect(self, item: T) -> list[T]:
        """A small object of each worker, by rank (they are our own processes: pickling is safe)."""
        if self.size == 1:
            return [item]
        items: list[T] = [item] * self.size
        distributed.all_gather_object(items, item)
        return items

    def wait(self) -> None:
        """Until all workers have come here."""
        if self.size > 1:
            distributed.barrier()

    def alone(self, module: nn.Module) -> contextlib.AbstractContextManager[None]:
        """Backward passes in here keep their gradients to this worker, to be averaged by a later one."""
        no_sync = getattr(module, "no_sync", None)
        return no_sync() if no_sync is not None else contextlib.nullcontext()


def _collective_device() -> torch.device:
    if distributed.get_backend() == "nccl":
        return torch.device("cuda", torch.cuda.current_device())
    return torch.device("cpu")
