"""Overhead of a trial: wall time minus the seconds of its fits, in warm actors and in nested trainers.

`python -m tests.benchmarks.trial_cost [--trials 12] [--nested 3]` runs short trials of the default recipe on the demo
songs, in parallel on all CPUs, and then trials that each nest a TorchTrainer, as Ray's documentation describes. It
prints JSON with medians (trials that start an actor separately), the time per phase, and the unique memory of actors.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

import psutil

from rainbow_ray.training.checkpoint import CheckpointManager
from rainbow_ray.tuning.trial_log import Trial, TrialLog

SPACE = """
def space(trial):
    trial.suggest_float("training.head_learning_rate", 1e-4, 1e-2, log=True)
"""
KEYS = ["--manifest", "demo", "--encoder", "embedded", "training.epochs=5", "training.min_steps=0",
        "tune.prune=false", "tune.revalidation_seeds=1"]  # fmt: skip


class Memory:
    """Maximum USS and RSS of the actors, in MB."""

    def __init__(self, pid: int) -> None:
        self.peaks: dict[int, tuple[float, float]] = {}
        self.pid, self.stop = pid, threading.Event()
        self.thread = threading.Thread(target=self._watch, daemon=True)
        self.thread.start()

    def _watch(self) -> None:
        while not self.stop.wait(1.0):
            with contextlib.suppress(psutil.Error):
                for process in psutil.Process(self.pid).children(recursive=True):
                    if "ImplicitFunc" in " ".join(process.cmdline()):
                        info = process.memory_full_info()
                        peak = self.peaks.get(process.pid, (0.0, 0.0))
                        self.peaks[process.pid] = (max(peak[0], info.uss / 2**20), max(peak[1], info.rss / 2**20))


def run(folder: Path, trials: int, *keys: str) -> tuple[list[Trial], Memory]:
    (folder / "mine.py").write_text(SPACE)
    command = [sys.executable, "-m", "rainbow_ray.tune", *KEYS, "--space", f"{folder / 'mine.py'}:space", "--trials",
               str(trials), "--name", "s", "--output-dir", str(folder / "runs"), *keys]  # fmt: skip
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    memory = Memory(process.pid)
    path = folder / "runs" / "s" / "trials.jsonl"
    while process.poll() is None and not (path.exists() and len(TrialLog(path).ended) == trials):
        time.sleep(0.2)
    process.kill()  # the end of the sweep is not measured
    process.wait()
    memory.stop.set()
    return sorted(TrialLog(path).ended, key=lambda trial: trial.number), memory


def trial_overhead(folder: Path, trial: Trial) -> float:
    """Return the wall seconds of a trial minus training and evaluation."""
    fit_seconds = 0.0
    for file in (folder / "runs" / "s" / "trials" / f"{trial.number:04d}").glob("fold-*"):
        result = CheckpointManager(file).load_result()
        assert result is not None
        fit_seconds += result[1]["seconds"]["train"] + result[1]["seconds"]["eval"]
    return trial.seconds - fit_seconds


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--trials", type=int, default=12)
    parser.add_argument("--nested", type=int, default=3)
    options = parser.parse_args()
    cpus = psutil.cpu_count() or 1
    measurements: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name) / "one"
        folder.mkdir()
        trials, memory = run(folder, options.trials, "--folds", "1")
        overheads = [trial_overhead(folder, trial) for trial in trials]
        measurements["warm_trial"] = round(statistics.median(overheads[cpus:]), 3)
        measurements["first_trial_of_an_actor"] = round(statistics.median(overheads[:cpus]), 3)
        measurements["actors_own_mb"] = [round(uss) for uss, _ in memory.peaks.values()]
        folds_folder = Path(name) / "folds"
        folds_folder.mkdir()
        trials, _ = run(folds_folder, options.trials, "--folds", "5")
        measurements["warm_trial_of_5_folds"] = round(
            statistics.median([trial_overhead(folds_folder, t) for t in trials][cpus:]), 3
        )
        phases = ("startup", "train", "eval")
        last_trial = folds_folder / "runs" / "s" / "trials" / f"{trials[-1].number:04d}"
        results = [CheckpointManager(path).load_result() for path in sorted(last_trial.glob("fold-*"))]
        seconds = {phase: sum(r[1]["seconds"][phase] for r in results if r is not None) for phase in phases}
        measurements["parts_of_5_folds"] = {**{phase: round(value, 3) for phase, value in seconds.items()},
                                     "wall": trials[-1].seconds}  # fmt: skip
        nested_folder = Path(name) / "nested"
        nested_folder.mkdir()
        trials, _ = run(nested_folder, options.nested, "--folds", "1", "--workers-per-trial", str(min(2, cpus)),
                        "--max-concurrent", "1")  # fmt: skip
        measurements["nested_trainer"] = round(
            statistics.median(trial_overhead(nested_folder, trial) for trial in trials), 2
        )
        measurements["times_less"] = round(float(measurements["nested_trainer"]) / float(measurements["warm_trial"]), 1)
    print(json.dumps(measurements, indent=2))


if __name__ == "__main__":
    main()
