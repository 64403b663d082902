"""Device and precision of a fit."""

from __future__ import annotations

import contextlib
import os
import resource
import sys
from dataclasses import dataclass, field

import torch

from rainbow_ray.distributed.process_group import ProcessGroup


@dataclass(frozen=True)
class Precision:
    """Number format of forward passes.

    Attributes:
        dtype: Type that autocast uses; None for fp32 throughout.
        scaled: Whether the loss is scaled, because gradients would underflow (fp16).

    Reference:
        Micikevicius et al. 2018, "Mixed Precision Training", section 3.
    """

    dtype: torch.dtype | None
    scaled: bool = False

    def autocast(self, device: torch.device) -> contextlib.AbstractContextManager[object]:
        """Return a context manager in which forward passes run in this precision.

        Args:
            device: Device of the model.

        Returns:
            A context manager, to be entered once.
        """
        if self.dtype is None:
            return contextlib.nullcontext()
        return torch.autocast(device.type, dtype=self.dtype)

    @property
    def name(self) -> str:
        """The name of the format: `fp32`, `bf16` or `fp16`."""
        return {None: "fp32", torch.bfloat16: "bf16", torch.float16: "fp16"}[self.dtype]


@dataclass(frozen=True)
class ExecutionContext:
    """Where and how a fit computes.

    Attributes:
        device: Device of the model and its inputs.
        precision: Number format of the forward passes.
        process_group: The workers that share the fit.
    """

    device: torch.device
    precision: Precision
    process_group: ProcessGroup = field(default_factory=ProcessGroup)

    def autocast(self) -> contextlib.AbstractContextManager[object]:
        """Return a context manager in which forward passes run in the precision of this context.

        Returns:
            A context manager, to be entered once.
        """
        return self.precision.autocast(self.device)


def pick_device(name: str) -> tuple[torch.device, list[str]]:
    """Return the device that a config requests.

    Args:
        name: `auto`, `cuda`, `mps` or `cpu`.

    Returns:
        The device, and a note for the user where the requested one is not available.
    """
    available = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available(), "cpu": True}
    if name == "auto":
        return torch.device(next(kind for kind, is_available in available.items() if is_available)), []
    if available[name]:
        return torch.device(name), []
    return torch.device("cpu"), [f"training.device: {name} is not available here; training runs on the CPU"]


def pick_precision(requested: bool | str, device: torch.device) -> tuple[Precision, list[str]]:
    """Return the precision that a config requests.

    Args:
        requested: `off` or false for fp32; `bf16` or `fp16`; `auto` or true for the fastest safe one on the device.
        device: Device of the model.

    Returns:
        The precision, and a note for the user where the requested one is not available.
    """
    has_fast_bf16 = {"cuda": _has_native_bf16, "cpu": _has_amx}.get(device.type, lambda: False)()
    if requested in (False, "off"):
        return Precision(None), []
    if requested == "bf16" or (requested in ("auto", True) and has_fast_bf16):
        return Precision(torch.bfloat16), []
    if device.type == "cuda":
        return Precision(torch.float16, scaled=True), []
    if requested == "fp16":
        return Precision(None), [f"training.mixed_precision: fp16 needs a CUDA GPU; fp32 is used on {device.type}"]
    if requested is True:
        note = f"training.mixed_precision: true has no effect, because bf16 is slow on this {device.type}"
        return Precision(None), [note]
    return Precision(None), []


def set_deterministic(requested: bool | str, device: torch.device) -> None:
    """Make torch's operations deterministic, or allow faster ones.

    Args:
        requested: Whether results must repeat; `auto`: on all devices but GPUs of NVIDIA, where the deterministic form
            of some operations sorts their inputs.
        device: Device of the model. On a CPU, an operation without a deterministic form only warns; on a GPU it raises
            an error, and only then do fused attention kernels take their deterministic form.
    """
    is_cuda = device.type == "cuda"
    enabled = not is_cuda if requested == "auto" else bool(requested)
    if enabled:
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
        # no operation here reads memory that it did not write, and filling it takes 3% of a step on a CPU
        torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
    torch.use_deterministic_algorithms(enabled, warn_only=not is_cuda)
    torch.backends.cudnn.benchmark = False


NOT_DETERMINISTIC_MESSAGE = "does not have a deterministic implementation"  # of PyTorch, in strict mode


OUT_OF_MEMORY_ADVICE = "reduce model.text_encoder.max_length, or freeze more layers (model.text_encoder.freeze_layers)"
OUT_OF_MEMORY_MESSAGES = (
    "out of memory", "DefaultCPUAllocator: can't allocate memory", "not enough memory",
    # of libraries that allocate memory of the GPU past PyTorch's allocator
    "CUBLAS_STATUS_ALLOC_FAILED", "CUDNN_STATUS_ALLOC_FAILED",
)  # fmt: skip


def is_out_of_memory(error: BaseException) -> bool:
    """Return whether a smaller batch might have succeeded.

    Args:
        error: Any error; the allocator of the CPU raises a plain RuntimeError.

    Returns:
        True for errors of memory allocation.
    """
    if isinstance(error, MemoryError | torch.OutOfMemoryError):
        return True
    return isinstance(error, RuntimeError) and any(message in str(error) for message in OUT_OF_MEMORY_MESSAGES)


def is_broken(error: BaseException) -> bool:
    """Return whether this process can no longer use its GPU.

    Args:
        error: Any error.

    Returns:
        True for errors of CUDA other than out of memory, after which every further call fails too, and where a small
        computation fails. cuBLAS, cuDNN and NCCL raise plain RuntimeErrors, which do not tell.
    """
    if isinstance(error, torch.AcceleratorError) and not is_out_of_memory(error):
        return True
    is_used = bool(torch.cuda.is_initialized())  # type: ignore[no-untyped-call]
    return is_used and not _gpu_answers()


def _gpu_answers() -> bool:
    """Return whether the GPU of this process computes a sum and a product, with kernels of PyTorch and of cuBLAS."""
    try:
        ones = torch.ones(8, 8, device="cuda")
        return float((ones @ ones).sum()) == 8.0**3
    except RuntimeError as error:
        return is_out_of_memory(error)  # the process can still free memory


def free_memory_bytes(device: torch.device) -> float:
    """Return the memory of a GPU that this process may still take.

    Args:
        device: A CUDA device.

    Returns:
        Free bytes of the GPU, and at most this process's part of it, where several share it.
    """
    free, total = torch.cuda.mem_get_info(device)
    own_part = total * torch.cuda.get_per_process_memory_fraction(device) - torch.cuda.memory_reserved(device)
    return float(min(free, own_part))


def reset_peak_memory(device: torch.device) -> None:
    """Let `peak_memory_mb` measure what follows; on CPUs, the peak of the process cannot be reset.

    Args:
        device: Device of the model.
    """
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)


def peak_memory_mb(device: torch.device) -> float:
    """Return the peak memory of this process.

    Args:
        device: Device of the model.

    Returns:
        MB of GPU memory on CUDA, otherwise of resident memory.
    """
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 2**20
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / 2**20 if sys.platform == "darwin" else peak / 2**10  # bytes on macOS, kB on Linux


def gpu_utilization(device: torch.device) -> float | None:
    """Return the fraction of the last sample period in which the GPU was busy.

    Args:
        device: Device of the model.

    Returns:
        0 to 1; None without a CUDA GPU, without nvidia-ml-py, and where the driver does not permit the query.
    """
    if device.type != "cuda":
        return None
    try:
        return torch.cuda.utilization(device) / 100
    except Exception:  # NVML's errors have no common base with those of PyTorch: a partition of a GPU (MIG) raises one
        return None


def _has_native_bf16() -> bool:
    """Return whether the GPU computes in bf16; T4 and V100 only emulate it, many times slower than fp16."""
    return bool(torch.cuda.is_bf16_supported(including_emulation=False))


def _has_amx() -> bool:
    check = getattr(torch.cpu, "_is_amx_tile_supported", None)
    return bool(check and check())
