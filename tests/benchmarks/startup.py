"""Where the seconds go from the command to the first step, and how fast `--help` is.

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
    began = time.perf_counter()
    subprocess.run([*COMMAND, "--help"], check=True, capture_output=True)
    return time.perf_counter() - began


def train_seconds() -> dict[str, float]:
    """Parts of a quick run on the demo songs, and when its first epoch was logged."""
    with tempfile.TemporaryDirectory() as folder:
        run = Path(folder) / "runs" / "s"
        quick = ["training.epochs=2", "training.min_steps=0"]
        began, first = time.perf_counter(), 0.0
        process = subprocess.Popen(
            [*COMMAND, "--manifest", "demo", "--name", "s", *quick], cwd=folder, stdout=subprocess.DEVNULL
        )
        while process.poll() is None:
            if not first and any(file.stat().st_size for file in run.glob("checkpoints/*/metrics.jsonl")):
                first = time.perf_counter() - began
            time.sleep(0.05)
        parts = json.loads((run / "summary.json").read_text())["seconds"]["parts"]
        return {**parts, "first epoch logged at": first, "total": time.perf_counter() - began}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=3)
    options = parser.parse_args()
    help_seconds()
    rounds = [train_seconds() for _ in range(options.runs)]
    medians = {name: round(statistics.median(r[name] for r in rounds), 2) for name in rounds[0]}
    helps = round(statistics.median(help_seconds() for _ in range(2 * options.runs)), 3)
    print(json.dumps({"help_seconds": helps, "train_seconds": medians}))


if __name__ == "__main__":
    main()
