"""From `up` to the first trial, on the fake account with real pods, real ssh and real Ray: where the seconds go.

    python -m tests.benchmarks.cluster_overhead [--pods 2] [--repeats 3]

`ours` is `up` without Ray's start and downloads (the environment is there), and the command `tune`; `ray_start` is `ray
start` on all pods, `ray_job` what Ray takes to start the job's process; `to_first_trial` is from there to the first
trial's line in the ledger: imports, joining Ray, the table read by Ray Data.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from cluster.state import State
from tests.cluster.fake_runpod import KEY, FakeRunPod
from tests.cluster.machines import Machines

LIMIT_SECONDS = 240.0
WISHES = ["--gpu", "A5000", "--dc", "EU-RO-1", "--ttl", "20m", "--yes"]
TUNE = ["--phase", "1", "--encoder", "embedded", "--trials", "2", "--folds", "2", "--name", "s", "training.epochs=1"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pods", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=3)
    options = parser.parse_args()
    rows = []
    for _ in range(options.repeats):
        with tempfile.TemporaryDirectory(dir="/tmp", prefix="rco") as folder, FakeRunPod() as account:
            rows.append(measure(Path(folder), account, options.pods))
    median = {key: round(statistics.median(row[key] for row in rows), 2) for key in rows[0]}
    print(json.dumps({"pods": options.pods, "rows": rows, "median": median}))


def measure(folder: Path, account: FakeRunPod, pods: int) -> dict[str, float]:
    machines = Machines(folder / "machines")
    account.on_start, account.on_end = machines.start, machines.end
    environment = {**os.environ, "RRAY_CLUSTERS": str(folder / "clusters"), "RUNPOD_API_URL": account.url,
                   "RUNPOD_API_KEY": KEY}  # fmt: skip
    (folder / "cluster.yaml").write_text(f"workspace: {machines.volume}\n")

    def call(*arguments: str) -> float:
        begun = time.perf_counter()
        subprocess.run([sys.executable, "-m", "cluster", *arguments], check=True, env=environment, capture_output=True)
        return time.perf_counter() - begun

    up = call("up", "--config", str(folder / "cluster.yaml"), "--pods", str(pods), *WISHES)
    (file,) = (folder / "clusters").glob("*/state.json")
    stages = State.model_validate_json(file.read_bytes()).seconds
    asked = time.time()
    tune = call("tune", "--demo", "--", *TUNE)
    job = wait_for(lambda: next(iter(machines.volume.glob("clusters/*/jobs/*/job.json")), None))
    began = float(json.loads(job.read_text())["started"])
    trial_log = machines.volume / "runs" / "s" / "trials.jsonl"
    wait_for(lambda: trial_log if trial_log.exists() and trial_log.stat().st_size else None)
    first = trial_log.stat().st_mtime
    call("down")
    for pod in list(account.pods.values()):
        machines.end(pod)
    rounded = {
        "ours": up - stages["ray"] + tune,
        "ray_start": stages["ray"],
        "ray_job": began - asked - tune,
        "to_first_trial": first - began,
        "tune_command": tune,
        **{f"up_{name}": took for name, took in stages.items()},
    }
    return {name: round(took, 2) for name, took in rounded.items()}


def wait_for(found: Any) -> Path:
    until = time.monotonic() + LIMIT_SECONDS
    while time.monotonic() < until:
        if (path := found()) is not None:
            assert isinstance(path, Path)
            return path
        time.sleep(0.05)
    raise SystemExit("it did not come")


if __name__ == "__main__":
    main()
