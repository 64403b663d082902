"""Communication between the workers of one fit. In a group of size 1, every method is the identity."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
from torch import distributed, nn

from rainbow_ray.utils.errors import InputError, TrainingError

T = TypeVar("T")

MAX_SCALARS = 7  # of one call of `all_reduce_scalars`


USER_ERRORS = {error.__name__: error for error in (InputError, TrainingError)}
# Attributes of errors: every worker has raised it; and it was raised in the middle of a collective operation.
IS_SHARED, IN_COLLECTIVE = "is_shared", "in_collective"


class PeerError(Exception):
    """A defect of another worker, in whose output the traceback is.

    Args:
        message: Its last line, with the rank of the worker.
    """


def is_shared(error: BaseException) -> bool:
    """Return whether all workers of a fit have raised an error.

    Args:
        error: An error that left `ProcessGroup.shares_errors`.

    Returns:
        False where this worker could not tell the others.
    """
    return bool(getattr(error, IS_SHARED, False))


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
        wrapper: Returns a module whose backward pass averages gradients over the workers (DistributedDataParallel).
    """

    rank: int = 0
    size: int = 1
    wrapper: Callable[[nn.Module], nn.Module] = _identity

    @property
    def is_main(self) -> bool:
        """Whether this worker has rank 0, and thus writes files."""
        return self.rank == 0

    @contextlib.contextmanager
    def shares_errors(self) -> Iterator[None]:
        """Let all workers end when one of them fails inside the block.

        Every collective method begins with an exchange of flags. A worker that fails takes part in one more exchange,
        and the others, which wait in their next collective call or at the end of the block, raise the same error.

        Yields:
            None.

        Raises:
            InputError, TrainingError: Another worker raised it.
            PeerError: Another worker raised any other error.
        """
        if self.size == 1:
            yield
            return
        try:
            yield
        except Exception as error:
            # In the middle of an operation, the others would take the flags for its data.
            if not is_shared(error) and not _was_in_collective(error):
                with contextlib.suppress(Exception):  # the connection may be what failed
                    self._exchange((), error)
                    setattr(error, IS_SHARED, True)
            raise
        self._exchange(())

    @contextlib.contextmanager
    def collective(self) -> Iterator[None]:
        """Mark errors of the block as raised in the middle of an operation of all workers.

        Such an error cannot be shared: the process that runs this worker must end, and end the others.

        Yields:
            None.
        """
        try:
            yield
        except Exception as error:
            setattr(error, IN_COLLECTIVE, True)
            raise

    def wrap(self, module: nn.Module) -> nn.Module:
        """Return a module whose backward pass averages gradients over the workers.

        Args:
            module: The same module in every worker.

        Returns:
            What `wrapper` returns.
        """
        if self.size > 1:
            self._exchange(())
        with self.collective():
            return self.wrapper(module)

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
        self._exchange(())
        with self.collective():
            distributed.all_reduce(total)
        return total.to(tensor.device)

    def all_reduce_scalars(self, *values: float) -> list[float]:
        """Return the sums over the workers of several numbers, in float64.

        Args:
            values: Summands of this worker, equally many in every worker, and at most `MAX_SCALARS`.

        Returns:
            One sum per value.
        """
        if self.size == 1:
            return list(values)
        return self._exchange(values)

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
        self._exchange(())
        with self.collective():
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
        self._exchange(())
        return self._gather_objects(item)

    def barrier(self) -> None:
        """Wait until all workers have called this method."""
        if self.size > 1:
            self._exchange(())
            with self.collective():
                distributed.barrier()

    def _exchange(self, values: Sequence[float], error: Exception | None = None) -> list[float]:
        """Return the sums of numbers over the workers, or raise the error of another worker.

        The message has the same shape in every call, so that a worker that failed can answer any call of the others.
        """
        assert len(values) <= MAX_SCALARS
        message = torch.zeros(1 + MAX_SCALARS, dtype=torch.float64)
        message[0] = float(error is not None)
        message[1 : 1 + len(values)] = torch.tensor(values, dtype=torch.float64)
        message = message.to(_collective_device())
        with self.collective():
            distributed.all_reduce(message)
        n_failed, *sums = message.tolist()
        if n_failed:
            failures = self._gather_objects(None if error is None else _describe(error))
            if error is None:
                raise _error_of_peer(failures)
        return sums[: len(values)]

    def _gather_objects(self, item: T) -> list[T]:
        items: list[T] = [item] * self.size
        with self.collective():
            distributed.all_gather_object(items, item)
        return items


def _was_in_collective(error: BaseException) -> bool:
    """Return whether an error, or one that it was raised from, occurred in the middle of a collective operation."""
    cause: BaseException | None = error
    while cause is not None and not getattr(cause, IN_COLLECTIVE, False):
        cause = cause.__cause__
    return cause is not None


def _describe(error: Exception) -> tuple[str, Any]:
    """Return the name of an error's type and its message, both of which can be pickled."""
    if isinstance(error, InputError):
        return InputError.__name__, error.problems
    return type(error).__name__, str(error)


def _error_of_peer(failures: Sequence[tuple[str, Any] | None]) -> Exception:
    """Return the error of the first worker that failed."""
    rank, (name, message) = next((rank, failure) for rank, failure in enumerate(failures) if failure is not None)
    if name in USER_ERRORS:
        error: Exception = USER_ERRORS[name](message)
    else:
        error = PeerError(f"worker {rank}: {name}: {message}")
    setattr(error, IS_SHARED, True)
    return error


def _collective_device() -> torch.device:
    if distributed.get_backend() == "nccl":
        return torch.device("cuda", torch.cuda.current_device())
    return torch.device("cpu")
