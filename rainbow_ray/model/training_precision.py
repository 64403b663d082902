"""Precision of training on a CPU: bf16 where a short measurement on this machine shows that it is faster.

Matrix units for bf16 (AMX) can be asked for. AVX-512 has bf16 instructions, too, which are faster than fp32 on some
CPUs and slower on others, and without either, bf16 is emulated and many times slower.
"""

from __future__ import annotations

import functools
import json
import math
import platform
import statistics
import time
from pathlib import Path

import torch
from filelock import FileLock
from torch import nn

from rainbow_ray.config.model import AudioEncoderConfig, TextEncoderConfig
from rainbow_ray.config.schema import Config
from rainbow_ray.modalities.spec import InputSpec
from rainbow_ray.model.device import Precision, pick_precision
from rainbow_ray.utils.cache_dir import make_cache_dir
from rainbow_ray.utils.hashing import hash_parts
from rainbow_ray.utils.io import atomic_write

FOLDER = "precision"  # in the cache folder
MIN_SPEEDUP = 1.1  # from which on bf16 is used: less does not make up for its rounding
ROUNDS = 5
WIDTH, HEADS, TOKENS, BATCH = 384, 6, 96, 6  # of the measured layer: that of small sentence encoders


def pick_training_precision(config: Config, input_spec: InputSpec, device: torch.device) -> tuple[Precision, list[str]]:
    """Return the precision of a fit.

    Args:
        config: Config of the fit.
        input_spec: Modalities that are read.
        device: Device of the model.

    Returns:
        The precision that `pick_precision` returns, except for `auto` on a CPU where layers of an encoder are trained:
        there, the faster one of fp32 and bf16 (see `bf16_speedup`). And notes for the user.
    """
    requested = config.training.mixed_precision
    precision, notes = pick_precision(requested, device)
    is_decided = device.type != "cpu" or requested not in ("auto", True) or precision.dtype is not None
    if is_decided or not trains_encoder_layers(config, input_spec):
        return precision, notes
    speedup = bf16_speedup()
    if speedup < MIN_SPEEDUP:
        return precision, notes
    note = f"training.mixed_precision: bf16, {speedup:.1f} times as fast as fp32 in a measurement on this CPU"
    return Precision(torch.bfloat16), [note]


def trains_encoder_layers(config: Config, input_spec: InputSpec) -> bool:
    """Return whether any encoder has a trained layer, as far as its config shows.

    Args:
        config: Config of the fit.
        input_spec: Modalities that are read.

    Returns:
        False only if all layers that are read are frozen.
    """
    is_trained = bool(input_spec.text) and _has_trained_layers(config.model.text_encoder)
    return is_trained or (bool(input_spec.media) and _has_trained_layers(config.model.audio_encoder))


@functools.cache
def bf16_speedup() -> float:
    """Return how many times faster bf16 is than fp32 on this CPU.

    The first process on a machine measures, and others wait for its result, which is kept in the user's cache folder:
    all fits of a machine decide alike. Where the folder cannot be written, each process measures once.

    Returns:
        Ratio of the median times of a forward and backward pass of an encoder layer.
    """
    machine = (platform.machine(), _cpu_name(), torch.backends.cpu.get_cpu_capability(), torch.__version__)
    path = make_cache_dir(FOLDER) / f"{hash_parts(*machine)}.json"
    speedup = None
    try:
        with FileLock(f"{path}.lock"):
            speedup = _read_speedup(path)
            if speedup is None:
                speedup = measure_bf16_speedup()
                document = {"bf16_speedup": round(speedup, 3), "machine": machine}
                atomic_write(path, lambda file: file.write_text(json.dumps(document), encoding="utf-8"), sync=False)
    except OSError:  # no space, or files of another user: the result is not kept
        pass
    return measure_bf16_speedup() if speedup is None else speedup


def _read_speedup(path: Path) -> float | None:
    """Return the result of an earlier measurement; None without one, and where the file is damaged."""
    try:
        value = json.loads(path.read_text(encoding="utf-8"))["bf16_speedup"]
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return float(value) if isinstance(value, float | int) and 0 < value < math.inf else None


def measure_bf16_speedup() -> float:
    """Time an encoder layer in both precisions, in turns.

    Returns:
        Ratio of the median times, above 1 where bf16 is faster.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        layer = nn.TransformerEncoderLayer(WIDTH, HEADS, 4 * WIDTH, dropout=0.0, batch_first=True)
        inputs = torch.randn(BATCH, TOKENS, WIDTH)

    def run(precision: Precision) -> float:
        started = time.perf_counter()
        with precision.autocast(torch.device("cpu")):
            loss = layer(inputs).float().square().mean()
        torch.autograd.backward(loss)
        layer.zero_grad(set_to_none=True)
        return time.perf_counter() - started

    formats = (Precision(None), Precision(torch.bfloat16))
    times = [[run(precision) for precision in formats] for _ in range(ROUNDS + 1)][1:]  # the first round warms up
    fp32, bf16 = (statistics.median(column) for column in zip(*times, strict=True))
    return float(fp32 / bf16)


def _has_trained_layers(encoder: TextEncoderConfig | AudioEncoderConfig) -> bool:
    frozen, layer = encoder.freeze_layers, encoder.layer
    if frozen == "all":
        return False
    if isinstance(frozen, str) or isinstance(layer, str) or type(frozen) is not type(layer):
        return True  # fractions and numbers of layers can be compared for a known encoder only
    return frozen < layer


def _cpu_name() -> str:
    """Return the model of the CPU; on Linux, `platform` does not know it."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor()
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor()
