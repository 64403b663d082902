"""The number of PyTorch's threads in an actor of Ray."""

from __future__ import annotations


def use_assigned_cpus() -> None:
    """Let PyTorch use as many threads in this actor as Ray has assigned CPUs to it, at least one.

    Ray sets OMP_NUM_THREADS to that number, but only where the environment of its cluster does not set it. Actors
    beside each other with all threads each are several times slower: OpenMP's threads wait actively.
    """
    import ray
    import torch

    torch.set_num_threads(max(1, int(ray.get_runtime_context().get_assigned_resources().get("CPU", 1))))
