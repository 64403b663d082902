"""The machine: processor or GPU, disk, Ray, and the keys of the services that a run would use."""

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

RAY_SECONDS = 60
# in a process of its own: it starts while the rest is checked, and leaves nothing behind
START_RAY = """
import sys, time
began = time.perf_counter()
from rainbow_ray.distributed.ray_cluster import prepare_environment, ray_cluster
prepare_environment()
with ray_cluster(sys.argv[1] or None) as cluster:
    import ray
    assert ray.get(ray.remote(lambda: 41 + 1).remote()) == 42
    print("RAY", cluster.cpus, cluster.gpus, round(time.perf_counter() - began, 2))
"""


def start_ray(address: str | None) -> subprocess.Popen[str]:
    """Begin to start Ray and run one task on it; `check_ray` waits for how that went."""
    command = [sys.executable, "-c", START_RAY, address or ""]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
                            encoding="utf-8", errors="replace")  # fmt: skip


def check_ray(starting: subprocess.Popen[str]) -> tuple[CheckResult, float]:
    """What came of `start_ray`, and the seconds that it took."""
    try:
        out, err = starting.communicate(timeout=RAY_SECONDS)
    except subprocess.TimeoutExpired:
        starting.kill()
        starting.communicate()
        return CheckResult("environment", "Ray", f"did not run a task within {RAY_SECONDS} s"), float(RAY_SECONDS)
    line = next((line for line in out.splitlines() if line.startswith("RAY ")), None)
    if line is None:
        why = (err.strip().splitlines() or ["no word"])[-1][:300]
        return CheckResult("environment", "Ray", f"does not start: {why}"), 0.0
    _, cpus, gpus, seconds = line.split()
    version = importlib.metadata.version("ray")
    return CheckResult(
        "good", "Ray", f"{version} starts and runs a task in {seconds} s: {cpus} CPUs, {gpus} GPUs"
    ), float(seconds)


def check_devices(config: Config) -> Iterator[CheckResult]:
    """The device that training would take, and in which precision."""
    import torch

    from rainbow_ray.model.device import pick_device, pick_precision

    device, notes = pick_device(config.training.device)
    precision, more = pick_precision(config.training.mixed_precision, device)
    if device.type == "cuda":
        names = [torch.cuda.get_device_properties(i) for i in range(torch.cuda.device_count())]
        described = ", ".join(f"{p.name} ({p.total_memory / 2**30:.0f} GiB)" for p in names)
    else:
        described = f"{device.type}, {os.cpu_count()} cores"
        if shutil.which("nvidia-smi") and config.training.device == "auto":
            unseen = f"nvidia-smi is here, but torch {torch.__version__} sees no GPU"
            yield CheckResult("environment", "device", f"{unseen}: install the CUDA build of the same version")
    yield CheckResult("good", "device", f"{described}; training in {precision.name}")
    for note in [*notes, *more]:
        yield CheckResult("word", "device", note)


def check_disk(folder: Path, needed_mb: float) -> CheckResult:
    """Room for checkpoints and the model where runs are written."""
    where = folder.resolve()
    while not where.exists():
        where = where.parent
    free = shutil.disk_usage(where).free / 2**20
    what = f"{free / 1024:.1f} GB free at {where}, a run writes about {max(1.0, needed_mb):.0f} MB"
    if not os.access(where, os.W_OK):
        return CheckResult("input", "disk", f"{where} cannot be written; choose another --output-dir")
    return CheckResult("good" if free > 1.2 * needed_mb else "environment", "disk", what)


def check_services(config: Config) -> Iterator[CheckResult]:
    """Keys of W&B and of the hub: whether they are there, never what they are."""
    from rainbow_ray.training.loggers import knows_wandb, wandb_notes

    if config.logging.wandb.enabled:
        notes = [note.removeprefix("W&B: ") for note in wandb_notes(config)]
        yield from (CheckResult("word", "W&B", note) for note in notes)
        if knows_wandb():
            yield CheckResult("good", "W&B", "a key is here")
        elif not notes:
            yield CheckResult(
                "word", "W&B", f"no key (WANDB_API_KEY or ~/.netrc), and WANDB_MODE={os.environ['WANDB_MODE']}"
            )
    name = str(config.model.text_encoder.model_name)
    if name == "embedded" or Path(name).exists():
        return
    from huggingface_hub import get_token

    token = "a hub token is here" if get_token() else "no hub token (HF_TOKEN): public models only"
    yield CheckResult("good" if get_token() else "word", "hub", f"{token}; {name} is taken from the hub or its cache")
