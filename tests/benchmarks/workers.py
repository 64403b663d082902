"""Compare two workers with one on the CPU: losses, and seconds per epoch.

Two processes with gloo and one thread each are compared with one process with two threads; all layers are trained,
with dropout 0, fp32 and the same global steps. `python -m tests.benchmarks.workers [--steps 50]` prints JSON: the
largest relative difference of a step's loss, and seconds per epoch of both, measured alternately.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

from rainbow_ray.data.demo.songs import write_demo
from rainbow_ray.training.loggers import read_records

WORKER = """
import json, os, sys
from pathlib import Path
import torch
from torch import distributed
from torch.nn.parallel import DistributedDataParallel
from rainbow_ray.modalities.text import encoder
from rainbow_ray.distributed.process_group import ProcessGroup
from tests.helpers import data_of, fit_fold, plan_of

manifest, folder, threads, keys = sys.argv[1:]
torch.set_num_threads(int(threads))
load = encoder.load_encoder
def without_dropout(name):
    body = load(name)
    for module in body.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
    return body
encoder.load_encoder = without_dropout
process_group = ProcessGroup()
if int(os.environ["WORLD_SIZE"]) > 1:
    distributed.init_process_group("gloo")
    def wrap(model):
        return DistributedDataParallel(model, broadcast_buffers=False, gradient_as_bucket_view=True)
    process_group = ProcessGroup(distributed.get_rank(), distributed.get_world_size(), wrap)
plan = plan_of(Path(manifest), "embedded", **json.loads(keys))
fit_fold(plan, data_of(plan), Path(folder), process_group=process_group)
"""
KEYS = {
    "model__text_encoder__freeze_layers": 0, "model__text_encoder__layer": "last", "training__min_steps": 0,
    "training__batch_size": 16, "training__mixed_precision": "off", "logging__log_every_n_steps": 1,
    "training__device": "cpu",
}  # fmt: skip
STEPS_AN_EPOCH = 8  # 128 songs of the demo in steps of 16


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=50)
    parser.add_argument("--turns", type=int, default=3)
    options = parser.parse_args()
    epochs = -(-options.steps // STEPS_AN_EPOCH)
    seconds: dict[int, list[float]] = {1: [], 2: []}
    with tempfile.TemporaryDirectory() as folder:
        manifest = write_demo(Path(folder))
        for turn in range(options.turns):
            records = {}
            for size in (1, 2):
                records[size] = run(manifest, Path(folder) / f"{turn}-{size}", size, epochs)
                ends = [r["seconds"] for r in records[size] if "examples" in r]
                seconds[size] += [b - a for a, b in itertools.pairwise(ends)]
            if turn == 0:
                losses = {size: {r["step"]: r["loss"] for r in records[size] if "examples" not in r} for size in (1, 2)}
                steps = [step for step in losses[1] if step <= options.steps]
                largest_difference = max(abs(losses[2][s] / losses[1][s] - 1) for s in steps)
    medians = {f"seconds_an_epoch_{size}": round(statistics.median(seconds[size]), 2) for size in (1, 2)}
    print(
        json.dumps({"steps_compared": len(steps), "largest_relative_difference_of_loss": largest_difference, **medians})
    )


def run(manifest: Path, folder: Path, size: int, epochs: int) -> list[dict]:
    keys = {**KEYS, "training__epochs": epochs}
    command = [sys.executable, "-c", WORKER, str(manifest), str(folder), str(2 // size), json.dumps(keys)]
    rendezvous = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "29517", "WORLD_SIZE": str(size)}
    workers = [subprocess.Popen(command, env={**os.environ, **rendezvous, "RANK": str(rank)}) for rank in range(size)]
    assert [worker.wait() for worker in workers] == [0] * size
    return [r for r in read_records(folder / "metrics.jsonl") if r["split"] == "train"]


if __name__ == "__main__":
    main()
