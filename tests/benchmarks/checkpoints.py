"""Cost of checkpoints, and seconds until a run continues after its worker was killed.

`python -m tests.benchmarks.checkpoints [--seconds 150]` trains all layers of the embedded encoder for this long with a
checkpoint every 60 s (the default) and prints the fraction of time spent on checkpoints. Then it kills the worker of a
run of the default recipe with SIGKILL and prints the seconds until it is replaced, and until a new step.
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
        print(
            json.dumps(
                {**checkpoint_cost(Path(folder) / "a", options.seconds), **recovery(Path(folder) / "b")}, indent=2
            )
        )


def start_training(folder: Path, *keys: str) -> tuple[subprocess.Popen, Path]:
    folder.mkdir()
    command = [sys.executable, "-m", "rainbow_ray.train", *KEYS, "--output-dir", str(folder), *keys]
    process = subprocess.Popen(command, env=os.environ, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    return process, folder / "r" / "checkpoints" / "fold-0"


def checkpoint_cost(folder: Path, seconds: float) -> dict[str, float]:
    import torch

    process, fit = start_training(folder, *ALL_LAYERS)
    wait_for(lambda: count_lines(fit) > 0, process)
    start_time = time.monotonic()
    wait_for(lambda: time.monotonic() - start_time > seconds and list(fit.glob("step-*.pt")), process, seconds + 300)
    process.kill()
    process.wait()
    newest_checkpoint = max(fit.glob("step-*.pt"))
    progress = torch.load(newest_checkpoint, weights_only=True)["progress"]
    # a checkpoint holds the seconds of the ones before it; if it is the first, it is written again and timed
    number, total_seconds = progress["checkpoints"]["number"], progress["checkpoints"]["seconds"]
    seconds_per_checkpoint = total_seconds / number if number else write_again(newest_checkpoint)
    return {
        "checkpoint_mb": round(newest_checkpoint.stat().st_size / 2**20, 1),
        "seconds_of_one": round(seconds_per_checkpoint, 3),
        "share_of_training_at_60_s": round(seconds_per_checkpoint / 60, 4),
    }


def write_again(path: Path) -> float:
    import torch

    from rainbow_ray.utils.io import atomic_write

    state = torch.load(path, weights_only=True)
    start_time = time.perf_counter()
    atomic_write(path, lambda file: torch.save(state, file))
    return time.perf_counter() - start_time


def recovery(folder: Path) -> dict[str, float]:
    process, fit = start_training(folder, "training.checkpoint_seconds=2")
    wait_for(lambda: bool(list(fit.glob("step-*.pt"))), process)
    wait_for(lambda: count_lines(fit) > 20, process)
    processes = psutil.Process(process.pid).children(recursive=True)
    (worker,) = [p for p in processes if WORKER in command_of(p)]
    step_before_kill = last_step(fit)
    worker.kill()
    kill_time = time.monotonic()

    def replaced() -> bool:
        children = psutil.Process(process.pid).children(recursive=True)
        return any(WORKER in command_of(p) and p.pid != worker.pid for p in children)

    wait_for(replaced, process)
    replacement_time = time.monotonic()
    inode = (fit / "metrics.jsonl").stat().st_ino
    wait_for(lambda: (fit / "metrics.jsonl").stat().st_ino != inode, process)
    ready_time = time.monotonic()
    lines_at_restart = count_lines(fit)
    wait_for(lambda: count_lines(fit) > lines_at_restart, process)
    step_time = time.monotonic()
    wait_for(lambda: last_step(fit) > step_before_kill, process)
    new_step_time = time.monotonic()
    process.kill()
    process.wait()
    return {
        "kill_to_new_process": round(replacement_time - kill_time, 2),
        "process_to_data_and_checkpoint_found": round(ready_time - replacement_time, 2),
        "to_the_next_step": round(step_time - ready_time, 2),
        "kill_to_next_step": round(step_time - kill_time, 2),
        "kill_to_a_step_beyond": round(new_step_time - kill_time, 2),
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


def count_lines(fit: Path) -> int:
    with contextlib.suppress(OSError):
        return (fit / "metrics.jsonl").read_bytes().count(b"\n")
    return 0


def last_step(fit: Path) -> int:
    records = (fit / "metrics.jsonl").read_text().splitlines()
    return json.loads(records[-1])["step"] if records else 0


if __name__ == "__main__":
    main()
