"""How long the pages of a 5-fold run and of a 30-trial sweep take, as whole commands.

`python -m tests.benchmarks.pages [--manifest P] [--phase 1] [--turns 3]` prints JSON: median seconds of
`python -m rainbow_ray.report`, its start and imports among them. At the end of a run those are there already.
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

from rainbow_ray.data.demo import write_demo
from tests.in_process import finish_run, plan_of
from tests.results.conftest import write_sweep


def seconds(folder: Path, turns: int) -> list[float]:
    found = []
    for _ in range(turns):
        began = time.perf_counter()
        subprocess.run([sys.executable, "-m", "rainbow_ray.report", folder], check=True, stdout=subprocess.DEVNULL)
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
            took = seconds(folder, options.turns)
            print(json.dumps({"page": what, "seconds": statistics.median(took), "all": took}), flush=True)


if __name__ == "__main__":
    main()
