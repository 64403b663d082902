"""How long the pages of a 5-fold run and of a 30-trial sweep take.

`python -m tests.benchmarks.pages [--manifest P] [--phase 1] [--turns 3]` prints JSON: median seconds of the page as it
is written at the end of a run, where torch and transformers are loaded already, and of `python -m rainbow_ray.report`,
half of which is their import.
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


def as_a_command(folder: Path) -> None:
    subprocess.run([sys.executable, "-m", "rainbow_ray.report", folder], check=True, stdout=subprocess.DEVNULL)


def seconds(write: Callable[[Path], object], folder: Path, turns: int) -> list[float]:
    found = []
    for _ in range(turns):
        began = time.perf_counter()
        write(folder)
        found.append(round(time.perf_counter() - began, 2))
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--manifest", type=Path, help="songs of the run (default: the demo songs)")
    parser.add_argument("--phase", type=int, default=1)
    parser.add_argument("--turns", type=int, default=3)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        manifest = options.manifest or write_demo(Path(name))
        run = finish_run(plan_of(manifest, phase=options.phase, data__folds=5), Path(name) / "run")
        for what, folder in (("run", run), ("sweep", write_sweep(Path(name) / "sweep"))):
            for how, write in (("at the end", write_report), ("command", as_a_command)):
                took = seconds(write, folder, options.turns)
                print(
                    json.dumps({"page": what, "how": how, "seconds": statistics.median(took), "all": took}), flush=True
                )


if __name__ == "__main__":
    main()
