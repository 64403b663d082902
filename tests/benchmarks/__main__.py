"""Run all benchmarks, each of which prints JSON: `python -m tests.benchmarks`."""

from __future__ import annotations

import subprocess
import sys

NAMES = (
    "startup",
    "epoch_speed",
    "step_overhead",
    "workers",
    "checkpoints",
    "frozen_features",
    "trial_cost",
    "sweep",
    "selection_coverage",
    "streaming",
    "coverage_of_intervals",
    "recipe",
    "stacking",
    "imbalance",
    "pages",
    "rendered",
    "fusion",
    "media_cache",
    "media_faults",
    "segments",
    "song_lengths",
    "cluster_overhead",
)

if __name__ == "__main__":
    for name in NAMES:
        print(f"# {name}", flush=True)
        subprocess.run([sys.executable, "-m", f"tests.benchmarks.{name}"], check=True)
