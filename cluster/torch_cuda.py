"""The CUDA version that a host must support for the locked PyTorch."""

from __future__ import annotations

import re
from pathlib import Path

from rainbow_ray.utils.errors import InputError

LOCK = Path(__file__).parent.parent / "requirements.lock"
# By minor version: the `cuda-toolkit` that torch's Linux wheel on PyPI requires. CUDA 13.0 needs driver 580 or newer.
CUDA_OF_TORCH = {"2.13": "13.0"}
# CUDA 13 has no code for GPUs before compute capability 7.5 (Turing).
TOO_OLD_FOR_CUDA_13 = re.compile(
    r"\b(?:[VPMK]\d{2,3}|TITAN (?:V|Xp?)|GTX (?:9|10)\d\d|Quadro [GPM]V?\d+)\b", re.IGNORECASE
)


def required_cuda(lock: Path = LOCK) -> str:
    """Return the CUDA version that the PyTorch of `requirements.lock` needs.

    Args:
        lock: The lock file.

    Returns:
        Such as `13.0`.

    Raises:
        InputError: The locked version is not known here.
    """
    match = re.search(r"^torch==(\d+\.\d+)", lock.read_text(encoding="utf-8"), re.MULTILINE)
    version = match[1] if match else "unknown"
    if version not in CUDA_OF_TORCH:
        raise InputError(
            f"{lock.name}: the CUDA version that torch {version} needs is not known: name it in"
            " cluster/torch_cuda.py, or set min_cuda in cluster.yaml"
        )
    return CUDA_OF_TORCH[version]


def is_too_old(gpu_name: str, cuda: str) -> bool:
    """Return whether a build of PyTorch for a CUDA version has no code for a GPU type.

    Args:
        gpu_name: Name of the GPU type, such as `Tesla V100-SXM2-16GB`.
        cuda: CUDA version of the build.

    Returns:
        True for Volta and older GPUs from CUDA 13 on.
    """
    return int(cuda.partition(".")[0]) >= 13 and TOO_OLD_FOR_CUDA_13.search(gpu_name) is not None
