"""What a trial costs beside its training: wall time less the seconds of its fits, in warm actors and in trainers.

`python -m tests.benchmarks.trial_cost [--trials 12] [--nested 3]` runs short trials of the default recipe on the demo
songs, side by side on all CPUs, then some that each nest a TorchTrainer, as Ray's documentation has it. It prints JSON
with medians (trials that start an actor apart), where the rest goes, and the memory of actors that is their own.
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
    """Peaks of the actors' own memory (USS) and of all memory they map (RSS), in MB."""

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
                        before = self.peaks.get(process.pid, (0.0, 0.0))
                        self.peaks[process.pid] = (max(before[0], info.uss / 2**20), max(before[1], info.rss / 2**20))


def run(folder: Path, trials: int, *keys: str) -> tuple[list[Trial], Memory]:
    (folder / "mine.py").write_text(SPACE)
    command = [sys.executable, "-m", "rainbow_ray.tune", *KEYS, "--space", f"{folder / 'mine.py'}:space", "--trials",
               str(trials), "--name", "s", "--output-dir", str(folder / "runs"), *keys]  # fmt: skip
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    memory = Memory(process.pid)
    path = folder / "runs" / "s" / "trials.jsonl"
    while process.poll() is None and not (path.exists() and len(TrialLog(path).ended) == trials):
        time.sleep(0.2)
    process.kill()  # what follows the trials is not measured here
    process.wait()
    memory.stop.set()
    return sorted(TrialLog(path).ended, key=lambda trial: trial.number), memory


def beside(folder: Path, trial: Trial) -> float:
    """Wall seconds of a trial less training and evaluation."""
    spent = 0.0
    for file in (folder / "runs" / "s" / "trials" / f"{trial.number:04d}").glob("fold-*"):
        result = CheckpointManager(file).load_result()
        assert result is not None
        spent += result[1]["seconds"]["train"] + result[1]["seconds"]["eval"]
    return trial.seconds - spent


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--trials", type=int, default=12)
    parser.add_argument("--nested", type=int, default=3)
    options = parser.parse_args()
    cpus = psutil.cpu_count() or 1
    found: dict[str, object] = {}
    with tempfile.TemporaryDirectory() as name:
        one = Path(name) / "one"
        one.mkdir()
        trials, memory = run(one, options.trials, "--folds", "1")
        fixed = [beside(one, trial) for trial in trials]
        found["warm_trial"] = round(statistics.median(fixed[cpus:]), 3)
        found["first_trial_of_an_actor"] = round(statistics.median(fixed[:cpus]), 3)
        found["actors_own_mb"] = [round(uss) for uss, _ in memory.peaks.values()]
        folds = Path(name) / "folds"
        folds.mkdir()
        trials, _ = run(folds, options.trials, "--folds", "5")
        found["warm_trial_of_5_folds"] = round(statistics.median([beside(folds, t) for t in trials][cpus:]), 3)
        parts = ("startup", "train", "eval")
        last = folds / "runs" / "s" / "trials" / f"{trials[-1].number:04d}"
        results = [CheckpointManager(path).load_result() for path in sorted(last.glob("fold-*"))]
        seconds = {part: sum(r[1]["seconds"][part] for r in results if r is not None) for part in parts}
        found["parts_of_5_folds"] = {**{part: round(value, 3) for part, value in seconds.items()},
                                     "wall": trials[-1].seconds}  # fmt: skip
        nested = Path(name) / "nested"
        nested.mkdir()
        trials, _ = run(nested, options.nested, "--folds", "1", "--workers-per-trial", str(min(2, cpus)),
                        "--max-concurrent", "1")  # fmt: skip
        found["nested_trainer"] = round(statistics.median(beside(nested, trial) for trial in trials), 2)
        found["times_less"] = round(float(found["nested_trainer"]) / float(found["warm_trial"]), 1)
    print(json.dumps(found, indent=2))


if __name__ == "__main__":
    main()
