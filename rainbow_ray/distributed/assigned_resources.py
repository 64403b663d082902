"""Use of the CPUs and GPUs that Ray assigns to an actor."""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from rainbow_ray.distributed.ray_cluster import owns_cluster
from rainbow_ray.distributed.resources import RayResources
from rainbow_ray.utils.errors import TrainingError, first_line
from rainbow_ray.utils.streams import print_note

PROBE_GPUS = 0.01  # of a GPU, for the task that checks it
PROBE_SECONDS = 60.0  # for which it may wait: on a cluster whose GPUs are all in use, workers find out themselves
HIDES_GPUS = ("", "-1", "NoDevFiles")  # values of CUDA_VISIBLE_DEVICES
MEMORY_OF_ACTORS = 0.95  # of a GPU that several actors share; the rest is for what CUDA itself needs in each process
ADVICE = "training.device=cpu (--device cpu of predict and serve) computes on the CPU"


def use_assigned_resources() -> None:
    """Let PyTorch use as many threads in this actor as Ray has assigned CPUs, and the part of the GPU, if it is a part.

    Ray sets OMP_NUM_THREADS to the number of CPUs, but only where the environment of its cluster does not set it.
    Actors beside each other with all threads each are several times slower: OpenMP's threads wait actively. Ray
    does not limit the memory of a GPU: the first of several actors could take all of it.
    """
    import ray
    import torch

    resources = ray.get_runtime_context().get_assigned_resources()
    torch.set_num_threads(max(1, int(resources.get("CPU", 1))))
    gpu_fraction = resources.get("GPU", 0.0)
    if 0 < gpu_fraction < 1 and torch.cuda.is_available():
        torch.cuda.set_per_process_memory_fraction(MEMORY_OF_ACTORS * gpu_fraction)


def require_assigned_gpu(device: str) -> None:
    """Refuse to compute on the CPU where Ray has assigned a GPU to this worker.

    Args:
        device: Device that the user requests: `auto`, `cuda`, `mps` or `cpu`.

    Raises:
        TrainingError: PyTorch cannot use the GPU.
    """
    import ray

    if device not in ("auto", "cuda") or not ray.get_runtime_context().get_accelerator_ids().get("GPU"):
        return
    reason = why_gpu_is_unusable()
    if reason is not None:
        raise TrainingError(f"Ray has assigned a GPU, but {reason}; {ADVICE}")


def check_gpus(resources: RayResources, device: str) -> None:
    """Check that PyTorch can use a GPU of each node, before anything is read or computed.

    Args:
        resources: Resources of the cluster.
        device: Device that the user requests: `auto`, `cuda`, `mps` or `cpu`.

    Raises:
        TrainingError: PyTorch cannot use the GPUs of some nodes, all of which are named; or Ray has found none, while
            this machine has one.
    """
    if device not in ("auto", "cuda"):
        return
    if resources.gpus == 0 and owns_cluster() and has_nvidia_device():
        raise TrainingError(
            "this machine has an NVIDIA GPU, but Ray finds none: `nvidia-smi` must list it (the driver may be missing"
            f" in this container); {ADVICE}"
        )
    if resources.gpus == 0 and not owns_cluster():
        for address in _ask_nodes(has_device_file):
            print_note(f"{address} has an NVIDIA GPU that its Ray does not offer: the CPU computes")
    if resources.gpus == 0:
        return
    reasons = _ask_nodes(why_gpu_is_unusable, gpus=PROBE_GPUS)
    if reasons:
        problems = [f"the GPU of {address} cannot be used: {reason}" for address, reason in reasons.items()]
        raise TrainingError("\n".join([*problems, ADVICE]))


def _ask_nodes(function: Callable[[], Any], gpus: float = 0.0) -> dict[str, Any]:
    """Call a function on each node, or on those with GPUs; return what it returned by address, where that is true.

    A call that fails counts as a result: a broken driver may crash the process that uses it.
    """
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    # The process ends after its call: it would keep memory of the GPU.
    task = ray.remote(num_cpus=0, num_gpus=gpus, max_calls=1)(function)
    address_of = {
        task.options(scheduling_strategy=NodeAffinitySchedulingStrategy(node["NodeID"], soft=False)).remote():
        node["NodeManagerAddress"] for node in ray.nodes()
        if node["Alive"] and (not gpus or node["Resources"].get("GPU", 0))
    }  # fmt: skip
    finished, unfinished = ray.wait(list(address_of), num_returns=len(address_of), timeout=PROBE_SECONDS)
    for reference in unfinished:
        ray.cancel(reference)
    answers: dict[str, Any] = {}
    for reference in finished:
        try:
            answers[address_of[reference]] = ray.get(reference)
        except ray.exceptions.RayError as error:
            answers[address_of[reference]] = f"the process that tried it failed ({first_line(error)})"
    return {address: answer for address, answer in answers.items() if answer}


def why_gpu_is_unusable() -> str | None:
    """Return why PyTorch cannot compute on the GPUs that this process sees.

    Returns:
        A clause for an error message; None where it can.
    """
    import torch

    version, cuda = torch.__version__, torch.version.cuda
    if torch.version.hip:  # AMD's GPUs have other versions and architectures
        return None if torch.cuda.is_available() else f"torch {version} for ROCm {torch.version.hip} cannot use it"
    if cuda is None:
        return f"torch {version} is a build without CUDA; install one with CUDA"
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        is_available = torch.cuda.is_available()
    if not is_available:
        detail = "".join(f" ({str(warning.message).splitlines()[0]})" for warning in caught[:1])
        return (
            f"torch {version} for CUDA {cuda} cannot use it{detail}; use a machine whose"
            f" driver supports CUDA {cuda} (`nvidia-smi` shows the highest version), or a torch for an older CUDA"
        )
    for index in range(torch.cuda.device_count()):
        capability, built_for = torch.cuda.get_device_capability(index), torch.cuda.get_arch_list()
        if not supports_capability(capability, built_for):
            name, (major, minor) = torch.cuda.get_device_name(index), capability
            return (
                f"torch {version} for CUDA {cuda} has no code for the GPU {name} (compute capability {major}.{minor};"
                f" it has {', '.join(built_for)}); use a newer GPU, or a torch for an older CUDA"
            )
    return None


def has_nvidia_device(devices: Path = Path("/dev")) -> bool:
    """Return whether this machine has an NVIDIA GPU that the environment does not hide.

    Args:
        devices: Folder of the device files.

    Returns:
        False where CUDA_VISIBLE_DEVICES names none, and where this process may not open it.
    """
    if os.environ.get("CUDA_VISIBLE_DEVICES", "all").strip() in HIDES_GPUS:
        return False
    return has_device_file(devices)


def has_device_file(devices: Path = Path("/dev")) -> bool:
    """Return whether this process may open an NVIDIA GPU.

    Args:
        devices: Folder of the device files.

    Returns:
        False also where a batch system does not permit this job to use a GPU of its machine.
    """
    return any(os.access(path, os.R_OK | os.W_OK) for path in devices.glob("nvidia[0-9]*"))


def check_own_gpu(device: str) -> None:
    """Refuse to compute on the CPU of a machine whose GPU PyTorch cannot use.

    Args:
        device: Device that the user requests: `auto`, `cuda`, `mps` or `cpu`.

    Raises:
        TrainingError: This machine has such a GPU.
    """
    if device not in ("auto", "cuda") or not has_nvidia_device():
        return
    reason = why_gpu_is_unusable()
    if reason is not None:
        raise TrainingError(f"this machine has an NVIDIA GPU, but {reason}; {ADVICE}")


def supports_capability(capability: tuple[int, int], architectures: Sequence[str]) -> bool:
    """Return whether a build of PyTorch has code that runs on a GPU.

    Args:
        capability: Compute capability of the GPU, major and minor.
        architectures: What the build has code for, as `torch.cuda.get_arch_list` names it: `sm_86` is machine code, for
            GPUs of the same major and no smaller minor version; `compute_90` is PTX, for all newer ones. A letter at
            the end (`sm_90a`) restricts the code to that very version.

    Returns:
        True if any of them fits.
    """
    for architecture in architectures:
        kind, _, number = architecture.partition("_")
        digits = number.rstrip("abcdefghijklmnopqrstuvwxyz")
        if not digits.isdigit():
            continue
        built = int(digits[:-1] or 0), int(digits[-1])
        if digits != number:
            fits = built == capability
        elif kind == "sm":
            fits = built[0] == capability[0] and built[1] <= capability[1]
        else:
            fits = kind == "compute" and built <= capability
        if fits:
            return True
    return False
