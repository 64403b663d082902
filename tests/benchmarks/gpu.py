"""Everything that only a GPU can show, in one run: waits of a step, speed of the attention, two processes on one GPU.

`python -m tests.benchmarks.gpu [--peak-tflops 989]` prints a line of JSON for each measurement; without a GPU, it
prints which measurements it would make. `--peak-tflops` is the peak of dense bf16 matrix products of the GPU.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
import warnings
from pathlib import Path
from typing import Any

import torch

from rainbow_ray.distributed.process_group import ProcessGroup
from rainbow_ray.training.checkpoint import CheckpointManager
from rainbow_ray.training.fit_data import FitData
from rainbow_ray.training.loggers import NullLogger
from rainbow_ray.training.trainer import Trainer
from tests.helpers import data_of, plan_of

KEYS: dict[str, Any] = {
    "model__text_encoder__layer": "last", "model__text_encoder__freeze_layers": 0, "training__min_steps": 0,
    "training__batch_size": 32, "training__device": "cuda", "training__mixed_precision": "auto",
}  # fmt: skip
MEASUREMENTS = {
    "waits": "times that a training step waits for the GPU (goal: 1)",
    "epoch": "seconds of an epoch of all layers, and the share of them that waits for data (goal: under 0.02)",
    "compile": "seconds of an epoch with layers that torch.compile has compiled",
    "attention": "training steps of a DeBERTa-v3-base shape with our attention and that of transformers, in turns",
    "trainer": "an epoch of all layers of --encoder beside Hugging Face Trainer at its best precision and batch",
    "sharing": "seconds of two processes on one GPU beside each other, and of one (goal: under 2 times)",
}


def count_waits(run: Trainer) -> list[str]:
    """Return where one step waits for the GPU, as PyTorch's debug mode reports it."""
    train, stepper = run.train, run.stepper
    step = run.dataset.in_memory_subset(train[:32])
    for number in range(3):  # kernels are loaded, and memory is allocated
        stepper.train_step(stepper.prepare(step), 32.0, number=number + 1)
    prepared = stepper.prepare(step)
    torch.cuda.synchronize()
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        torch.cuda.set_sync_debug_mode("warn")
        try:
            stepper.train_step(prepared, 32.0, number=4)
        finally:
            torch.cuda.set_sync_debug_mode("default")
    return [f"{Path(each.filename).name}:{each.lineno}" for each in caught if "synchroniz" in str(each.message)]


def epoch_seconds(run: Trainer) -> float:
    """Return the mean time of three epochs."""
    torch.cuda.synchronize()
    start = time.perf_counter()
    for _ in range(3):
        run.train_epoch()
    torch.cuda.synchronize()
    return (time.perf_counter() - start) / 3


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--peak-tflops", type=float, default=None)
    parser.add_argument("--manifest", type=Path, default=Path("../shared/data/base_manifest_db.parquet"))
    parser.add_argument("--encoder", default="embedded", help="of the comparison with Hugging Face Trainer")
    parser.add_argument("--epochs-only", action="store_true", help="used by the measurement of two processes")
    parser.add_argument("--precision", default="auto", help="training.mixed_precision")
    parser.add_argument("--waits-only", action="store_true", help="used by the tests")
    options = parser.parse_args()
    if not torch.cuda.is_available():
        print(json.dumps({"gpu": None, "would_measure": MEASUREMENTS}))
        return
    print(json.dumps({"gpu": torch.cuda.get_device_name(), "torch": torch.__version__, "cuda": torch.version.cuda}))
    with tempfile.TemporaryDirectory() as folder:
        plan = plan_of(options.manifest, **{**KEYS, "training__mixed_precision": options.precision})
        data = data_of(plan)
        train, val = data.split.train_val_indices(0)
        fit_data = FitData(data.source, train, val, plan.task, plan.input_spec, 0)
        run = Trainer(plan.config, fit_data, NullLogger(), CheckpointManager(Path(folder)), ProcessGroup())
        run.model.train()
        waits = count_waits(run)
        if options.waits_only:
            print(json.dumps({"waits": len(waits), "places": waits}))
            return
        seconds = epoch_seconds(run)
        data_share = run.state.seconds["data"] / max(run.state.seconds["train"], 1e-9)
        print(json.dumps({"epoch_s": round(seconds, 4), "data_share": round(data_share, 4)}), flush=True)
        if options.epochs_only:
            return
        assert run.model.text is not None
        run.model.text.compile_layers()
        run.train_epoch()  # compiles
        print(json.dumps({"epoch_s_compiled": round(epoch_seconds(run), 4)}), flush=True)
    print(json.dumps({"waits": len(waits), "places": waits}), flush=True)
    command = [sys.executable, "-m", "tests.benchmarks.gpu", "--epochs-only", "--manifest", str(options.manifest)]
    for n_processes in (1, 2):
        start = time.perf_counter()
        processes = [subprocess.Popen(command, stdout=subprocess.DEVNULL) for _ in range(n_processes)]
        codes = [process.wait() for process in processes]
        print(json.dumps({"processes": n_processes, "exit": codes, "s": round(time.perf_counter() - start, 2)}))
    attention = [sys.executable, "-m", "tests.benchmarks.disentangled_attention", "--precision", "bf16"]
    peak = ["--peak-tflops", str(options.peak_tflops)] if options.peak_tflops else []
    subprocess.run([*attention, *peak], check=True)
    epoch_speed = [sys.executable, "-m", "tests.benchmarks.epoch_speed", "--encoder", options.encoder]
    subprocess.run([*epoch_speed, "--manifest", str(options.manifest)], check=True)


if __name__ == "__main__":
    main()
