"""Seconds from `up` to the first trial, on the fake account with real pods, ssh and Ray.

    python -m tests.benchmarks.cluster_overhead [--pods 2] [--repeats 3]

`rainbow_ray` is `up` without the start of Ray and without downloads (the environment exists), plus the command `tune`.
`ray_start` is `ray start` on all pods, and `ray_job` the time until Ray starts the process of the job.
`to_first_trial` is from then to the first line of the trial log: imports, joining Ray, reading the table by Ray Data.
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
POD_ARGUMENTS = ["--gpu", "A5000", "--dc", "EU-RO-1", "--ttl", "20m", "--yes"]
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

    def run_command(*arguments: str) -> float:
        start_time = time.perf_counter()
        subprocess.run([sys.executable, "-m", "cluster", *arguments], check=True, env=environment, capture_output=True)
        return time.perf_counter() - start_time

    up_seconds = run_command("up", "--config", str(folder / "cluster.yaml"), "--pods", str(pods), *POD_ARGUMENTS)
    (file,) = (folder / "clusters").glob("*/state.json")
    stages = State.model_validate_json(file.read_bytes()).seconds
    submit_time = time.time()
    tune_seconds = run_command("tune", "--demo", "--", *TUNE)
    job = wait_for(lambda: next(iter(machines.volume.glob("clusters/*/jobs/*/job.json")), None))
    job_start_time = float(json.loads(job.read_text())["started"])
    trial_log = machines.volume / "runs" / "s" / "trials.jsonl"
    wait_for(lambda: trial_log if trial_log.exists() and trial_log.stat().st_size else None)
    first_trial_time = trial_log.stat().st_mtime
    run_command("down")
    for pod in list(account.pods.values()):
        machines.end(pod)
    results = {
        "rainbow_ray": up_seconds - stages["ray"] + tune_seconds,
        "ray_start": stages["ray"],
        "ray_job": job_start_time - submit_time - tune_seconds,
        "to_first_trial": first_trial_time - job_start_time,
        "tune_command": tune_seconds,
        **{f"up_{name}": seconds for name, seconds in stages.items()},
    }
    return {name: round(seconds, 2) for name, seconds in results.items()}


def wait_for(find_path: Any) -> Path:
    deadline = time.monotonic() + LIMIT_SECONDS
    while time.monotonic() < deadline:
        if (path := find_path()) is not None:
            assert isinstance(path, Path)
            return path
        time.sleep(0.05)
    raise SystemExit("the file did not appear in time")


if __name__ == "__main__":
    main()
