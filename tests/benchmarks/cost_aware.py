"""Best score over time of sweeps that prefer cheap trials, and of plain TPE, at equal time.

`python -m tests.benchmarks.cost_aware [--manifest P] [--seeds 0 1 2 3 4] [--minutes 4]` runs both sweeps of each seed
one after the other, with races and everything else alike, from the start of the first trial on. It prints JSON: the
best score of a complete trial at each quarter of the time for each sweep, the means over seeds, and for how many seeds
the cost-aware sweep was better, equal or worse at the end. `--plot FILE.png` draws the curves.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

from rainbow_ray.tuning.trial_log import TrialLog

MODES = {"cost_aware": True, "plain": False}
MANY_TRIALS = 500
QUARTERS = (0.25, 0.5, 0.75, 1.0)

Curve = list[tuple[float, float]]  # seconds and the best score from then on


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--manifest", type=Path, default=Path("../shared/data/base_manifest_db.parquet"))
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2, 3, 4])
    parser.add_argument("--minutes", type=float, default=4.0)
    parser.add_argument("--plot", type=Path)
    options = parser.parse_args()
    curves: dict[str, list[Curve]] = {mode: [] for mode in MODES}
    for seed in options.seeds:
        for mode, is_cost_aware in MODES.items():
            with tempfile.TemporaryDirectory() as folder:
                curve, counts = sweep(options.manifest.resolve(), Path(folder), seed, options.minutes, is_cost_aware)
            curves[mode].append(curve)
            print(json.dumps({"seed": seed, "sweep": mode, "best": _at_quarters(curve, options.minutes), **counts}),
                  flush=True)  # fmt: skip
    at_end = {mode: np.array([_at_quarters(curve, options.minutes) for curve in curves[mode]]) for mode in MODES}
    difference = at_end["cost_aware"][:, -1] - at_end["plain"][:, -1]
    print(
        json.dumps(
            {
                "mean": {mode: np.round(values.mean(axis=0), 4).tolist() for mode, values in at_end.items()},
                "better_equal_worse": [int((np.sign(difference) == sign).sum()) for sign in (1, 0, -1)],
            }
        )
    )
    if options.plot:
        _plot(curves, options.minutes, options.plot)


def sweep(manifest: Path, folder: Path, seed: int, minutes: float, is_cost_aware: bool) -> tuple[Curve, dict[str, int]]:
    """Run a sweep for some minutes from its first trial on; return its curve and the numbers of its trials."""
    command = [sys.executable, "-m", "rainbow_ray.tune", "--manifest", str(manifest), "--encoder", "embedded",
               "--folds", "5", "--trials", str(MANY_TRIALS), "--name", "s", "--output-dir", str(folder),
               f"reproducibility.seed={seed}", f"tune.cost_aware={str(is_cost_aware).lower()}"]  # fmt: skip
    path, curve, started = folder / "s" / "trials.jsonl", [(0.0, 0.0)], 0.0
    with (folder / "output.txt").open("w") as output:
        process = subprocess.Popen(command, stdout=output, stderr=subprocess.STDOUT)
        while process.poll() is None and (not started or time.monotonic() - started < 60 * minutes):
            time.sleep(1.0)
            if not path.exists():
                continue
            started = started or time.monotonic()
            complete = TrialLog(path).complete(larger_is_better=True)
            if complete and (complete[0].score or 0.0) > curve[-1][1]:
                curve.append((time.monotonic() - started, float(complete[0].score or 0.0)))
    assert process.poll() is None, (folder / "output.txt").read_text()
    process.terminate()
    process.wait()
    states = [trial.state for trial in TrialLog(path).ended]
    return curve, {state: states.count(state) for state in sorted(set(states))}


def _at_quarters(curve: Curve, minutes: float) -> list[float]:
    return [round(max(score for time_, score in curve if time_ <= 60 * minutes * part), 4) for part in QUARTERS]


def _plot(curves: dict[str, list[Curve]], minutes: float, path: Path) -> None:
    from matplotlib.figure import Figure

    seconds = np.linspace(0, 60 * minutes, 500)
    figure = Figure(figsize=(7, 4), layout="constrained")
    axes = figure.subplots()
    for mode, of_mode in curves.items():
        best = np.array([[max(s for t, s in curve if t <= now) for now in seconds] for curve in of_mode])
        axes.plot(seconds, best.mean(axis=0), label=f"{mode}, mean of {len(of_mode)} seeds")
        axes.fill_between(seconds, best.min(axis=0), best.max(axis=0), alpha=0.15)
    axes.set(xlabel="seconds since the first trial", ylabel="best score of a complete trial", ylim=(0.6, None))
    axes.legend()
    figure.savefig(path, dpi=120)


if __name__ == "__main__":
    main()
