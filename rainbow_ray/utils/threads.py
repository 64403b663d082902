"""The number of PyTorch's threads, for the length of a block."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator


@contextlib.contextmanager
def torch_threads(n_threads: int) -> Iterator[None]:
    """Set the number of threads of PyTorch's operators inside a `with` statement.

    Args:
        n_threads: The number.

    Yields:
        Nothing.
    """
    import torch  # takes a second

    n_before = torch.get_num_threads()
    torch.set_num_threads(n_threads)
    try:
        yield
    finally:
        torch.set_num_threads(n_before)
