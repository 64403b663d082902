"""The CUDA version of hosts fits the locked PyTorch: a host with an older driver would train on its CPU."""

from __future__ import annotations

import importlib.metadata
import re

import pytest

from cluster.settings import Settings, read_settings
from cluster.torch_cuda import LOCK, is_too_old, required_cuda
from rainbow_ray.utils.errors import InputError


def test_pods_need_the_cuda_version_of_the_locked_torch(tmp_path):
    assert Settings().min_cuda == required_cuda()
    (tmp_path / "cluster.yaml").write_text("min_cuda: 12.6\n")
    assert read_settings(tmp_path / "cluster.yaml", {}).min_cuda == "12.6"
    other = tmp_path / "requirements.lock"
    other.write_text("torchmetrics==1.0\ntorch==9.1.0\n")
    with pytest.raises(InputError, match=r"torch 9\.1.*min_cuda"):
        required_cuda(other)


def test_the_table_agrees_with_the_wheel_where_its_cuda_build_is_installed():
    version = importlib.metadata.version("torch")
    locked = re.search(r"^torch==(\S+)", LOCK.read_text(), re.MULTILINE)
    toolkit = re.search(r"cuda-toolkit\S*==(\d+\.\d+)", " ".join(importlib.metadata.requires("torch") or []))
    if locked is None or locked[1] != version.partition("+")[0] or toolkit is None:
        pytest.skip("another torch, or a build without CUDA")
    assert required_cuda() == toolkit[1]


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("Tesla V100-SXM2-16GB", True), ("Tesla P100", True), ("GTX 1080 Ti", True), ("TITAN V", True),
        ("NVIDIA RTX A5000", False), ("NVIDIA A100 80GB PCIe", False), ("Tesla T4", False), ("NVIDIA L40S", False),
        ("NVIDIA GeForce RTX 4090", False), ("NVIDIA H200", False), ("NVIDIA B200", False),
        ("NVIDIA RTX PRO 6000 Blackwell Server Edition", False), ("NVIDIA RTX 2000 Ada Generation", False),
    ],
)  # fmt: skip
def test_gpus_without_code_in_a_build_for_cuda_13(name, expected):
    assert is_too_old(name, "13.0") == expected
    assert not is_too_old(name, "12.8")
