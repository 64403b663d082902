"""Seconds by phase from the command to the first epoch, and seconds of `--help`.

`python -m tests.benchmarks.startup [--runs 3]` prints JSON with medians.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

COMMAND = [sys.executable, "-m", "rainbow_ray.train"]


def help_seconds() -> float:
    start_time = time.perf_counter()
    subprocess.run([*COMMAND, "--help"], check=True, capture_output=True)
    return time.perf_counter() - start_time


def train_seconds() -> dict[str, float]:
    """Return the seconds by phase of a short run on the demo songs, and until its first epoch was logged."""
    with tempfile.TemporaryDirectory() as folder:
        run = Path(folder) / "runs" / "s"
        keys = ["training.epochs=2", "training.min_steps=0"]
        start_time, first_epoch_seconds = time.perf_counter(), 0.0
        process = subprocess.Popen(
            [*COMMAND, "--manifest", "demo", "--name", "s", *keys], cwd=folder, stdout=subprocess.DEVNULL
        )
        while process.poll() is None:
            if not first_epoch_seconds and any(file.stat().st_size for file in run.glob("checkpoints/*/metrics.jsonl")):
                first_epoch_seconds = time.perf_counter() - start_time
            time.sleep(0.05)
        seconds_by_part = json.loads((run / "summary.json").read_text())["seconds"]["parts"]
        return {
            **seconds_by_part,
            "first epoch logged at": first_epoch_seconds,
            "total": time.perf_counter() - start_time,
        }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=3)
    options = parser.parse_args()
    help_seconds()
    runs = [train_seconds() for _ in range(options.runs)]
    medians = {name: round(statistics.median(r[name] for r in runs), 2) for name in runs[0]}
    help_median = round(statistics.median(help_seconds() for _ in range(2 * options.runs)), 3)
    print(json.dumps({"help_seconds": help_median, "train_seconds": medians}))


if __name__ == "__main__":
    main()
