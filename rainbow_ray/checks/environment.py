"""Checks of the machine: device, disk, Ray, and the API keys of services that a run uses."""

from __future__ import annotations

import importlib.metadata
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

from rainbow_ray.checks.result import CheckResult
from rainbow_ray.config.schema import Config
from rainbow_ray.distributed.assigned_resources import ADVICE, has_nvidia_device, why_gpu_is_unusable

RAY_TIMEOUT_SECONDS = 60
NVIDIA_SMI_SECONDS = 20
MAX_ERROR_CHARACTERS = 300
DISK_MARGIN = 1.2  # free space over the estimated need
# Ray starts in a process of its own, in parallel to the other checks, and leaves nothing behind.
START_RAY = """
import sys, time
started = time.perf_counter()
from rainbow_ray.distributed.ray_cluster import prepare_environment, ray_cluster
prepare_environment()
with ray_cluster(sys.argv[1] or None) as cluster:
    import ray
    assert ray.get(ray.remote(lambda: 41 + 1).remote()) == 42
    print("RAY", cluster.cpus, cluster.gpus, round(time.perf_counter() - started, 2))
"""


def start_ray(address: str | None) -> subprocess.Popen[str]:
    """Start a process that starts Ray, or joins a cluster, and runs one task.

    Args:
        address: Address of a cluster, or None.

    Returns:
        The process, for `check_ray`.
    """
    command = [sys.executable, "-c", START_RAY, address or ""]
    return subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, encoding="utf-8", errors="replace"
    )


def check_ray(process: subprocess.Popen[str]) -> tuple[CheckResult, float]:
    """Wait for the process of `start_ray`.

    Args:
        process: The process.

    Returns:
        The result, and the seconds that Ray took to start and to run one task.
    """
    try:
        output, errors = process.communicate(timeout=RAY_TIMEOUT_SECONDS)
    except subprocess.TimeoutExpired:
        process.kill()
        process.communicate()
        text = f"did not run a task within {RAY_TIMEOUT_SECONDS} s"
        return CheckResult("environment_error", "Ray", text), float(RAY_TIMEOUT_SECONDS)
    line = next((line for line in output.splitlines() if line.startswith("RAY ")), None)
    if line is None:
        last_line = (errors.strip().splitlines() or ["no error message"])[-1][:MAX_ERROR_CHARACTERS]
        return CheckResult("environment_error", "Ray", f"does not start: {last_line}"), 0.0
    _, cpus, gpus, seconds = line.split()
    text = f"{importlib.metadata.version('ray')} starts and runs a task in {seconds} s: {cpus} CPUs, {gpus} GPUs"
    return CheckResult("ok", "Ray", text), float(seconds)


def check_devices(config: Config) -> Iterator[CheckResult]:
    """Report the device and the precision of training.

    Args:
        config: The config.

    Yields:
        The results.
    """
    import torch

    from rainbow_ray.model.device import pick_device, pick_precision

    # Before PyTorch looks for GPUs: it gives the driver's reason only once.
    reason = why_gpu_is_unusable() if config.training.device in ("auto", "cuda") and has_nvidia_device() else None
    device, device_notes = pick_device(config.training.device)
    precision, precision_notes = pick_precision(config.training.mixed_precision, device)
    if device.type == "cuda":
        gpus = [torch.cuda.get_device_properties(i) for i in range(torch.cuda.device_count())]
        cards = ", ".join(
            f"{gpu.name} ({gpu.total_memory / 2**30:.0f} GiB, compute capability {gpu.major}.{gpu.minor})"
            for gpu in gpus
        )
        description = f"{cards}; driver {driver_version()}, torch {torch.__version__} for CUDA {torch.version.cuda}"
    else:
        description = f"{device.type}, {os.cpu_count()} cores"
    if reason is not None:
        yield CheckResult("environment_error", "device", f"this machine has an NVIDIA GPU, but {reason}; {ADVICE}")
    # On a CPU, a measurement may choose the precision, which is then that of the step that is timed.
    training = "" if device.type == "cpu" else f"; training in {precision.name}"
    yield CheckResult("ok", "device", f"{description}{training}")
    for note in [*device_notes, *precision_notes]:
        yield CheckResult("warning", "device", note)


def driver_version() -> str:
    """Return the version of NVIDIA's driver.

    Returns:
        Such as `580.95.05`; `unknown` where nvidia-smi does not say it.
    """
    command = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
    try:
        output = subprocess.run(command, capture_output=True, text=True, timeout=NVIDIA_SMI_SECONDS, check=True).stdout
    except (OSError, subprocess.SubprocessError):
        return "unknown"
    return next(iter(output.split()), "unknown")


def check_disk(folder: Path, needed_mb: float) -> CheckResult:
    """Compare the free space of a folder with what a run or a sweep writes.

    Args:
        folder: Folder of the runs, which need not exist.
        needed_mb: Estimated size of what is written.

    Returns:
        The result.
    """
    existing = folder.resolve()
    while not existing.exists():
        existing = existing.parent
    if not os.access(existing, os.W_OK):
        return CheckResult("input_error", "disk", f"{existing} cannot be written; choose another --output-dir")
    free_mb = shutil.disk_usage(existing).free / 2**20
    text = f"{free_mb / 1024:.1f} GB free at {existing}, a run writes about {max(1.0, needed_mb):.0f} MB"
    return CheckResult("ok" if free_mb > DISK_MARGIN * needed_mb else "environment_error", "disk", text)


def check_services(config: Config) -> Iterator[CheckResult]:
    """Report whether API keys of Weights & Biases and of the Hugging Face hub are present. Keys are never printed.

    Args:
        config: The config.

    Yields:
        The results.
    """
    from rainbow_ray.training.loggers import has_wandb_key, wandb_notes

    if config.logging.wandb.enabled:
        notes = [note.removeprefix("W&B: ") for note in wandb_notes(config)]
        yield from (CheckResult("warning", "W&B", note) for note in notes)
        if has_wandb_key():
            yield CheckResult("ok", "W&B", "an API key is present")
        elif not notes:
            mode = os.environ["WANDB_MODE"]
            yield CheckResult("warning", "W&B", f"no key (WANDB_API_KEY or ~/.netrc), and WANDB_MODE={mode}")
    name = str(config.model.text_encoder.model_name)
    if name == "embedded" or Path(name).exists():
        return
    from huggingface_hub import get_token

    has_token = get_token() is not None
    token = "a hub token is present" if has_token else "no hub token (HF_TOKEN): public models only"
    yield CheckResult("ok" if has_token else "warning", "hub", f"{token}; {name} is loaded from the hub or its cache")
