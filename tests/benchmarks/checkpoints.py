"""What checkpoints cost, and how long a killed worker keeps a run from its next step.

`python -m tests.benchmarks.checkpoints [--seconds 150]` trains all layers of the embedded encoder for so long with a
checkpoint every 60 s (the default) and tells their share of the time; then it kills the worker of a real run of the
default recipe with SIGKILL and tells how long until it is replaced, and until a step beyond the last one.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import psutil

KEYS = [
    "--phase", "1", "--manifest", "demo", "--folds", "1", "--name", "r", "training.min_steps=0",
    "logging.log_every_n_steps=1", "training.epochs=100000",
]  # fmt: skip
ALL_LAYERS = ["model.text_encoder.freeze_layers=0", "model.text_encoder.layer=last"]
WORKER = "ray::RayTrainWorker"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=150.0)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        print(json.dumps({**price(Path(folder) / "a", options.seconds), **recovery(Path(folder) / "b")}, indent=2))


def begin(folder: Path, *keys: str) -> tuple[subprocess.Popen, Path]:
    folder.mkdir()
    command = [sys.executable, "-m", "rainbow_ray.train", *KEYS, "--output-dir", str(folder), *keys]
    process = subprocess.Popen(command, env=os.environ, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    return process, folder / "r" / "checkpoints" / "fold-0"


def price(folder: Path, seconds: float) -> dict[str, float]:
    import torch

    process, fit = begin(folder, *ALL_LAYERS)
    wait_for(lambda: lines(fit) > 0, process)
    began = time.monotonic()
    wait_for(lambda: time.monotonic() - began > seconds and list(fit.glob("step-*.pt")), process, seconds + 300)
    process.kill()
    process.wait()
    newest = max(fit.glob("step-*.pt"))
    progress = torch.load(newest, weights_only=True)["progress"]
    # written before its own price is known, hence of the ones before it; with one alone, of writing it again
    number, spent = progress["checkpoints"]["number"], progress["checkpoints"]["seconds"]
    each = spent / number if number else write_again(newest)
    return {
        "checkpoint_mb": round(newest.stat().st_size / 2**20, 1),
        "seconds_of_one": round(each, 3),
        "share_of_training_at_60_s": round(each / 60, 4),
    }


def write_again(path: Path) -> float:
    import torch

    from rainbow_ray.utils.io import atomic_write

    state = torch.load(path, weights_only=True)
    began = time.perf_counter()
    atomic_write(path, lambda to: torch.save(state, to))
    return time.perf_counter() - began


def recovery(folder: Path) -> dict[str, float]:
    process, fit = begin(folder, "training.checkpoint_seconds=2")
    wait_for(lambda: bool(list(fit.glob("step-*.pt"))), process)
    wait_for(lambda: lines(fit) > 20, process)
    tree = psutil.Process(process.pid).children(recursive=True)
    (victim,) = [p for p in tree if WORKER in command_of(p)]
    reached = last_step(fit)
    victim.kill()
    killed = time.monotonic()

    def replaced() -> bool:
        children = psutil.Process(process.pid).children(recursive=True)
        return any(WORKER in command_of(p) and p.pid != victim.pid for p in children)

    wait_for(replaced, process)
    here = time.monotonic()
    inode = (fit / "metrics.jsonl").stat().st_ino
    wait_for(lambda: (fit / "metrics.jsonl").stat().st_ino != inode, process)
    ready = time.monotonic()
    again = lines(fit)
    wait_for(lambda: lines(fit) > again, process)
    step = time.monotonic()
    wait_for(lambda: last_step(fit) > reached, process)
    beyond = time.monotonic()
    process.kill()
    process.wait()
    return {
        "kill_to_new_process": round(here - killed, 2),
        "process_to_data_and_checkpoint_found": round(ready - here, 2),
        "to_the_next_step": round(step - ready, 2),
        "kill_to_next_step": round(step - killed, 2),
        "kill_to_a_step_beyond": round(beyond - killed, 2),
    }


def wait_for(condition, process: subprocess.Popen, seconds: float = 300.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert process.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.05)


def command_of(process: psutil.Process) -> str:
    with contextlib.suppress(psutil.Error):
        return " ".join(process.cmdline())
    return ""


def lines(fit: Path) -> int:
    with contextlib.suppress(OSError):
        return (fit / "metrics.jsonl").read_bytes().count(b"\n")
    return 0


def last_step(fit: Path) -> int:
    whole = (fit / "metrics.jsonl").read_text().splitlines()
    return json.loads(whole[-1])["step"] if whole else 0


if __name__ == "__main__":
    main()
