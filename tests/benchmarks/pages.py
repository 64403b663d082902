"""Seconds to write the pages of a 5-fold run and of a 30-trial sweep.

`python -m tests.benchmarks.pages [--manifest P] [--phase 1] [--turns 3]` prints JSON: median seconds to write the page
at the end of a run, when torch and transformers are imported already, and of `python -m rainbow_ray.report`, which
imports them.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from rainbow_ray.data.demo.songs import write_demo
from rainbow_ray.html_report.write import write_report
from tests.finished_runs import write_sweep
from tests.helpers import finish_run, plan_of


def write_by_command(folder: Path) -> None:
    subprocess.run([sys.executable, "-m", "rainbow_ray.report", folder], check=True, stdout=subprocess.DEVNULL)


def seconds(write: Callable[[Path], object], folder: Path, turns: int) -> list[float]:
    durations = []
    for _ in range(turns):
        start_time = time.perf_counter()
        write(folder)
        durations.append(round(time.perf_counter() - start_time, 2))
    return durations


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--manifest", type=Path, help="songs of the run (default: the demo songs)")
    parser.add_argument("--phase", type=int, default=1)
    parser.add_argument("--turns", type=int, default=3)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        manifest = options.manifest or write_demo(Path(name))
        run = finish_run(plan_of(manifest, phase=options.phase, data__folds=5), Path(name) / "run")
        for page, folder in (("run", run), ("sweep", write_sweep(Path(name) / "sweep"))):
            for method, write in (("at the end", write_report), ("command", write_by_command)):
                durations = seconds(write, folder, options.turns)
                print(
                    json.dumps(
                        {"page": page, "how": method, "seconds": statistics.median(durations), "all": durations}
                    ),
                    flush=True,
                )


if __name__ == "__main__":
    main()
