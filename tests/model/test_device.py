"""Devices: errors of GPUs by kind, NVML that fails, peak memory of each fit; CUDA is replaced by its answers."""

from __future__ import annotations

import os

import pytest
import torch

from rainbow_ray.model import device
from rainbow_ray.model.device import gpu_utilization, is_broken, is_out_of_memory, reset_peak_memory, set_deterministic

CUDA = torch.device("cuda")


class NvmlError(Exception):
    """As pynvml raises it for a partition of a GPU (MIG): no RuntimeError."""


@pytest.mark.parametrize("error", [NvmlError("Not Supported"), ModuleNotFoundError("pynvml"), RuntimeError("driver")])
def test_a_query_of_the_driver_that_fails_ends_no_run(monkeypatch, error):
    def fail(_):
        raise error

    monkeypatch.setattr(torch.cuda, "utilization", fail)
    assert gpu_utilization(CUDA) is None
    monkeypatch.setattr(torch.cuda, "utilization", lambda _: 40)
    assert gpu_utilization(CUDA) == 0.4


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"), True),
        (RuntimeError("cuDNN error: CUDNN_STATUS_ALLOC_FAILED"), True),
        (torch.OutOfMemoryError("CUDA out of memory"), True),
        (MemoryError(), True),
        (RuntimeError("CUDA error: CUBLAS_STATUS_EXECUTION_FAILED when calling `cublasSgemm`"), False),
        (ValueError("out of memory"), False),
    ],
)
def test_errors_of_memory(error, expected):
    assert is_out_of_memory(error) == expected


@pytest.mark.parametrize("answers", [True, False])
@pytest.mark.parametrize(
    "message", ["CUDA error: CUBLAS_STATUS_EXECUTION_FAILED", "NCCL error: unhandled cuda error", "a defect"]
)
def test_a_process_is_broken_if_its_gpu_does_not_compute_any_more(monkeypatch, answers, message):
    """cuBLAS, cuDNN and NCCL raise plain RuntimeErrors: only a computation tells."""
    monkeypatch.setattr(torch.cuda, "is_initialized", lambda: True)
    monkeypatch.setattr(device, "_gpu_answers", lambda: answers)
    assert is_broken(RuntimeError(message)) == (not answers)


def test_without_a_gpu_no_error_is_one_of_a_broken_gpu():
    assert not is_broken(RuntimeError("CUDA error: CUBLAS_STATUS_EXECUTION_FAILED"))


def test_peak_memory_is_that_of_the_fit(monkeypatch):
    calls: list[torch.device] = []
    monkeypatch.setattr(torch.cuda, "reset_peak_memory_stats", calls.append)
    reset_peak_memory(CUDA)
    reset_peak_memory(torch.device("cpu"))
    assert calls == [CUDA]


@pytest.mark.parametrize(
    ("requested", "kind", "expected"),
    [
        ("auto", "cpu", (True, True)), ("auto", "mps", (True, True)), ("auto", "cuda", (False, False)),
        (True, "cuda", (True, False)), (True, "cpu", (True, True)), (False, "cpu", (False, True)),
    ],
)  # fmt: skip
def test_results_repeat_by_default_on_cpus_and_on_request_on_gpus(monkeypatch, requested, kind, expected):
    """Strict on GPUs: with `warn_only`, fused attention keeps its kernel whose results differ from run to run."""
    calls: list[tuple[bool, bool]] = []
    monkeypatch.setattr(torch, "use_deterministic_algorithms", lambda mode, warn_only: calls.append((mode, warn_only)))
    monkeypatch.delenv("CUBLAS_WORKSPACE_CONFIG", raising=False)
    set_deterministic(requested, torch.device(kind))
    assert calls == [expected]
    assert ("CUBLAS_WORKSPACE_CONFIG" in os.environ) == expected[0]
    assert not torch.utils.deterministic.fill_uninitialized_memory  # type: ignore[attr-defined]
    monkeypatch.delenv("CUBLAS_WORKSPACE_CONFIG", raising=False)
