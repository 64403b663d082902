"""Which device a fit runs on, and in which precision."""

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
    """`dtype` is autocast's, None for fp32 throughout; `scaled` when gradients need a GradScaler (fp16)."""

    dtype: torch.dtype | None
    scaled: bool = False

    def autocast(self, device: torch.device) -> contextlib.AbstractContextManager[object]:
        if self.dtype is None:
            return contextlib.nullcontext()
        return torch.autocast(device.type, dtype=self.dtype)

    @property
    def name(self) -> str:
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
    """The device, and a note where it is not the one that was asked for."""
    available = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available(), "cpu": True}
    if name == "auto":
        return torch.device(next(kind for kind, there in available.items() if there)), []
    if available[name]:
        return torch.device(name), []
    return torch.device("cpu"), [f"training.device: {name} is not available here: training on the CPU"]


def pick_precision(asked: bool | str, device: torch.device) -> tuple[Precision, list[str]]:
    """`auto` and `true` take the fastest that is safe here; what is asked for by name is done, or noted."""
    fast_bf16 = {"cuda": lambda: torch.cuda.is_bf16_supported(), "cpu": _has_amx}.get(device.type, lambda: False)()
    if asked in (False, "off"):
        return Precision(None), []
    if asked == "bf16" or (asked in ("auto", True) and fast_bf16):
        return Precision(torch.bfloat16), []
    if device.type == "cuda":
        return Precision(torch.float16, scaled=True), []
    if asked == "fp16":
        return Precision(None), [f"training.mixed_precision: fp16 needs a CUDA GPU: fp32 on {device.type}"]
    if asked is True:
        return Precision(None), [f"training.mixed_precision: true has no effect: bf16 is slow on this {device.type}"]
    return Precision(None), []


def set_deterministic(on: bool) -> None:
    if on:
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    # warn_only: a kernel without a deterministic form must not end a run
    torch.use_deterministic_algorithms(on, warn_only=True)
    torch.backends.cudnn.benchmark = False


OUT_OF_MEMORY_ADVICE = (
    "try a smaller model.text_encoder.max_length, or freeze more layers (model.text_encoder.freeze_layers)"
)
OUT_OF_MEMORY = ("out of memory", "DefaultCPUAllocator: can't allocate memory", "not enough memory")


def is_out_of_memory(error: BaseException) -> bool:
    """Whether a smaller batch would have gone through. The CPU's allocator raises a plain RuntimeError."""
    if isinstance(error, MemoryError | torch.OutOfMemoryError):
        return True
    return isinstance(error, RuntimeError) and any(words in str(error) for words in OUT_OF_MEMORY)


def is_broken(error: BaseException) -> bool:
    """Whether this process can use its GPU no more: after an error of CUDA's, all that follows fails too."""
    return isinstance(error, torch.AcceleratorError) and not is_out_of_memory(error)


def peak_memory_mb(device: torch.device) -> float:
    """Peak memory in MB: of the GPU on CUDA, otherwise of this process."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 2**20
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / 2**20 if sys.platform == "darwin" else peak / 2**10  # bytes on macOS, kB on Linux


def gpu_utilization(device: torch.device) -> float | None:
    """Share of the last moments in which the GPU had work, 0 to 1; None where nobody tells."""
    if device.type != "cuda":
        return None
    try:
        return torch.cuda.utilization(device) / 100
    except (ImportError, RuntimeError):  # without nvidia-ml-py, or without the right to ask
        return None


def _has_amx() -> bool:
    check = getattr(torch.cpu, "_is_amx_tile_supported", None)
    return bool(check and check())
