"""Communication between the workers of one fit. In a group of size 1, every method is the identity."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeVar

import torch
from torch import distributed, nn

T = TypeVar("T")


def _identity(module: nn.Module) -> nn.Module:
    return module


@dataclass(frozen=True)
class ProcessGroup:
    """The workers that share one fit, as one of them sees it.

    Every worker must call the collective methods in the same order, as with `torch.distributed`, whose default group
    is used. A group of size 1 needs no initialization.

    Attributes:
        rank: Index of this worker, from 0 to `size` - 1.
        size: Number of workers.
        wrap: Returns a module whose backward pass averages gradients over the workers (DistributedDataParallel).
    """

    rank: int = 0
    size: int = 1
    wrap: Callable[[nn.Module], nn.Module] = _identity

    @property
    def is_main(self) -> bool:
        """Whether this worker has rank 0, and thus writes files."""
        return self.rank == 0

    def shard(self, items: Sequence[T]) -> Sequence[T]:
        """Return the items of this worker: every `size`-th one, from `rank` on.

        Args:
            items: The same items in every worker.

        Returns:
            The shard; the shards of all workers together hold every item once.
        """
        return items[self.rank :: self.size]

    def all_reduce_sum(self, tensor: torch.Tensor) -> torch.Tensor:
        """Return the sum of a tensor over the workers.

        Args:
            tensor: Summand of this worker, with the same shape and dtype in every worker. It is not modified.

        Returns:
            The sum, on the tensor's device.
        """
        if self.size == 1:
            return tensor
        total = tensor.to(_collective_device(), copy=True)
        distributed.all_reduce(total)
        return total.to(tensor.device)

    def all_reduce_scalars(self, *values: float) -> list[float]:
        """Return the sums over the workers of several numbers, in float64.

        Args:
            values: Summands of this worker, equally many in every worker.

        Returns:
            One sum per value.
        """
        if self.size == 1:
            return list(values)
        return self.all_reduce_sum(torch.tensor(values, dtype=torch.float64)).tolist()

    def all_gather(self, tensor: torch.Tensor) -> list[torch.Tensor]:
        """Return the tensors of all workers.

        Args:
            tensor: Tensor of this worker, with the same shape and dtype in every worker.

        Returns:
            One tensor per worker, by rank, on the device of `tensor`.
        """
        if self.size == 1:
            return [tensor]
        local = tensor.to(_collective_device())
        parts = [torch.empty_like(local) for _ in range(self.size)]
        distributed.all_gather(parts, local)
        return [part.to(tensor.device) for part in parts]

    def all_gather_object(self, item: T) -> list[T]:
        """Return the objects of all workers. They are pickled, which is safe between processes of one command.

        Args:
            item: A small object of this worker.

        Returns:
            One object per worker, by rank.
        """
        if self.size == 1:
            return [item]
        items: list[T] = [item] * self.size
        distributed.all_gather_object(items, item)
        return items

    def barrier(self) -> None:
        """Wait until all workers have called this method."""
        if self.size > 1:
            distributed.barrier()

    def no_sync(self, module: nn.Module) -> contextlib.AbstractContextManager[None]:
        """Return a context in which backward passes accumulate gradients locally, without averaging them.

        Args:
            module: A module that `wrap` returned.

        Returns:
            The module's own `no_sync()`, or a context that does nothing where the module is not distributed.
        """
        no_sync = getattr(module, "no_sync", None)
        return no_sync() if no_sync is not None else contextlib.nullcontext()


def _collective_device() -> torch.device:
    if distributed.get_backend() == "nccl":
        return torch.device("cuda", torch.cuda.current_device())
    return torch.device("cpu")
