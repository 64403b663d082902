"""CPUs and GPUs that Ray assigns: threads of PyTorch, and GPUs that PyTorch cannot use."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import warnings
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace

import pytest
import ray
import torch

from rainbow_ray.distributed import assigned_resources
from rainbow_ray.distributed.assigned_resources import (
    MEMORY_OF_ACTORS,
    check_gpus,
    check_own_gpu,
    has_nvidia_device,
    supports_capability,
    use_assigned_resources,
    why_gpu_is_unusable,
)
from rainbow_ray.distributed.resources import RayResources
from rainbow_ray.utils.errors import TrainingError

SCRIPT = """
import json, sys
import ray, torch
from ray import tune
from rainbow_ray.distributed.assigned_resources import use_assigned_resources
from rainbow_ray.distributed.ray_cluster import prepare_environment, ray_cluster

def n_threads():
    use_assigned_resources()
    return torch.get_num_threads()

class Actor:
    def n_threads(self):
        return n_threads()

def trainable(config):
    tune.report({"threads": n_threads()})

prepare_environment()
with ray_cluster(None):
    actors = [ray.remote(num_cpus=n_cpus)(Actor).remote() for n_cpus in (0.01, 1)]
    threads = [ray.get(actor.n_threads.remote()) for actor in actors]
    for actor in actors:
        ray.kill(actor)
    run_config = tune.RunConfig(storage_path=sys.argv[1], verbose=0)
    results = tune.Tuner(tune.with_resources(trainable, {"cpu": 1}), run_config=run_config).fit()
print(json.dumps([*threads, results[0].metrics["threads"]]))
"""


@pytest.mark.slow
def test_threads_are_the_cpus_of_the_actor(tmp_path):
    """Several actors with all threads each are many times slower than with one (OpenMP's threads wait actively)."""
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, str(tmp_path)], env={**os.environ, "OMP_NUM_THREADS": "2"}, cwd=tmp_path,
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert json.loads(done.stdout.splitlines()[-1]) == [1, 1, 1]


@pytest.mark.parametrize(
    ("capability", "architectures", "is_supported"),
    [
        ((8, 6), ["sm_75", "sm_80"], True),  # machine code of the same major version
        ((8, 0), ["sm_75", "sm_86"], False),
        ((7, 0), ["sm_75", "sm_80", "sm_90", "compute_120"], False),  # V100 with a build for CUDA 13
        ((12, 1), ["sm_75", "compute_120"], True),  # PTX
        ((9, 0), ["sm_80", "sm_90a"], True),
        ((9, 1), ["sm_90a"], False),
        ((12, 0), ["sm_120"], True),
        ((9, 0), [], False),
    ],
)
def test_code_of_a_build_that_runs_on_a_gpu(capability, architectures, is_supported):
    assert supports_capability(capability, architectures) == is_supported


@pytest.mark.parametrize(
    ("hidden", "expected"), [(None, True), ("0", True), ("", False), ("-1", False), ("NoDevFiles", False)]
)
def test_a_gpu_is_seen_unless_the_environment_hides_it(tmp_path, monkeypatch, hidden, expected):
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    if hidden is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", hidden)
    assert not has_nvidia_device(tmp_path)
    (tmp_path / "nvidiactl").touch()
    assert not has_nvidia_device(tmp_path)
    (tmp_path / "nvidia0").touch()
    assert has_nvidia_device(tmp_path) == expected


def use_torch(monkeypatch, *, cuda: str | None = "13.0", is_available: bool = True, capability=(9, 0)) -> None:
    """Let torch answer as a build for `cuda` on a machine with a driver, and a GPU of `capability`."""

    def answer() -> bool:
        if not is_available:
            warnings.warn(
                "CUDA initialization: The NVIDIA driver on your system is too old (found 12080).", stacklevel=1
            )
        return is_available

    monkeypatch.setattr(torch.version, "cuda", cuda)
    monkeypatch.setattr(torch.cuda, "is_available", answer)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _: capability)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda _: "Tesla X")
    monkeypatch.setattr(torch.cuda, "get_arch_list", lambda: ["sm_75", "sm_90"])


@pytest.mark.parametrize(
    ("properties", "words"),
    [
        ({}, None),
        ({"cuda": None}, "a build without CUDA"),
        ({"is_available": False}, "(CUDA initialization: The NVIDIA driver on your system is too old (found 12080).)"),
        ({"is_available": False}, "driver supports CUDA 13.0"),
        ({"capability": (7, 0)}, "no code for the GPU Tesla X (compute capability 7.0; it has sm_75, sm_90)"),
    ],
)
def test_the_reason_why_a_gpu_is_unusable(monkeypatch, properties, words):
    use_torch(monkeypatch, **properties)
    reason = why_gpu_is_unusable()
    assert (reason is None) if words is None else (words in str(reason))


def start_ray_with_gpu(folder: Path) -> subprocess.Popen[str]:
    """Start a Ray of this machine's CPUs and one GPU, which PyTorch cannot use."""
    init = "ray.init(num_gpus=1, log_to_driver=False)"
    code = f"import ray, time; print({init}.address_info['address'], flush=True); time.sleep(600)"
    environment = {**os.environ, "RAY_AUTH_MODE": "disabled"}
    return subprocess.Popen([sys.executable, "-c", code], cwd=folder, env=environment, text=True,
                            stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)  # fmt: skip


@pytest.mark.slow
@pytest.mark.skipif(torch.cuda.is_available(), reason="PyTorch can use the GPU")
def test_commands_refuse_a_gpu_that_pytorch_cannot_use(tmp_path, songs_file):
    ray_process = start_ray_with_gpu(tmp_path)
    try:
        assert ray_process.stdout is not None
        address = ray_process.stdout.readline().strip()
        command = [sys.executable, "-m", "rainbow_ray.train", "--phase", "1", "--encoder", "embedded", "--manifest",
                   str(songs_file), "--address", address]  # fmt: skip
        environment = {**os.environ, "RAY_AUTH_MODE": "disabled"}
        refused = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
        assert refused.returncode == 1
        assert "error: the GPU of" in refused.stderr
        assert "training.device=cpu" in refused.stderr
        assert "Traceback" not in refused.stderr
        assert not list(tmp_path.glob("runs/*/checkpoints/*"))
        quick = ["training.device=cpu", "training.epochs=1", "training.min_steps=0", "logging.report=false"]
        accepted = subprocess.run([*command, *quick], cwd=tmp_path, env=environment, capture_output=True, text=True)
        assert accepted.returncode == 0, accepted.stderr
    finally:
        ray_process.kill()


@pytest.mark.parametrize(("gpus", "fractions"), [(0.25, [0.25 * MEMORY_OF_ACTORS]), (1.0, []), (0.0, [])])
def test_an_actor_with_a_part_of_a_gpu_uses_that_part_of_its_memory(monkeypatch, gpus, fractions):
    used: list[float] = []
    context = SimpleNamespace(get_assigned_resources=lambda: {"CPU": 1.0, **({"GPU": gpus} if gpus else {})})
    monkeypatch.setattr(ray, "get_runtime_context", lambda: context)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "set_per_process_memory_fraction", used.append)
    monkeypatch.setattr(torch, "set_num_threads", lambda _: None)
    use_assigned_resources()
    assert used == fractions


@pytest.mark.parametrize(("device", "is_refused"), [("auto", True), ("cuda", True), ("cpu", False)])
def test_commands_without_ray_refuse_such_a_gpu_too(monkeypatch, device, is_refused):
    use_torch(monkeypatch, is_available=False)
    monkeypatch.setattr(torch.version, "hip", None)
    monkeypatch.setattr(assigned_resources, "has_nvidia_device", lambda: True)
    with pytest.raises(TrainingError, match="has an NVIDIA GPU, but torch") if is_refused else nullcontext():
        check_own_gpu(device)


def test_nodes_whose_gpu_ray_does_not_offer_are_named(monkeypatch, capsys):
    monkeypatch.setattr(assigned_resources, "owns_cluster", lambda: False)
    monkeypatch.setattr(assigned_resources, "_ask_nodes", lambda *_: {"10.0.0.7": True})
    check_gpus(RayResources(2, 0, None), "auto")
    assert "10.0.0.7 has an NVIDIA GPU that its Ray does not offer" in capsys.readouterr().err
    check_gpus(RayResources(2, 0, None), "cpu")
    assert capsys.readouterr().err == ""


@pytest.mark.slow
def test_calls_on_nodes_report_what_they_return_and_that_they_failed(ray_session):
    def crash() -> None:
        os._exit(1)

    (answer,) = assigned_resources._ask_nodes(lambda: "no driver").values()
    assert answer == "no driver"
    assert assigned_resources._ask_nodes(lambda: None) == {}
    assert assigned_resources._ask_nodes(lambda: "no driver", gpus=0.01) == {}
    (failed,) = assigned_resources._ask_nodes(crash).values()
    assert failed.startswith("the process that tried it failed")
