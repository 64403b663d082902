"""Wall time of whole commands, of this version and of another one, in turns on one machine.

    git worktree add ../before 55ef2e6
    python -m tests.benchmarks.whole_commands --before ../before                # train and check, demo songs
    python -m tests.benchmarks.whole_commands --before ../before --rounds 5 --commands "train --phase 1" \\
        "train --phase 4" --arguments --manifest songs.parquet

Each command gets a line of JSON: the medians over rounds in seconds, from the start of the process to its end, and
until the first line of a fit's metrics; the ratio of the medians; and the parts of the last run as `summary.json` has
them. Both versions run in this environment. The machine should be idle, and the first round of all is not counted.
"""

from __future__ import annotations

import argparse
import json
import os
import shlex
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

COMMANDS = ("train --phase 1", "train --phase 5", "check --phase 1")
ROOT = Path(__file__).parents[2]
NOT_TIMED = -1  # number of the round that fills the page cache


def run_command(tree: Path, command: str, arguments: list[str]) -> dict[str, Any]:
    """Run one command of one version in an empty folder, and return its seconds."""
    name, *rest = shlex.split(command)
    with tempfile.TemporaryDirectory() as folder:
        run = Path(folder) / "runs" / "r"
        options = ["--name", "r"] if name == "train" else []
        environment = {**os.environ, "PYTHONPATH": str(tree.resolve())}
        start, first_record = time.perf_counter(), None
        process = subprocess.Popen(
            [sys.executable, "-m", f"rainbow_ray.{name}", *rest, *options, *arguments], cwd=folder, env=environment,
            stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )  # fmt: skip
        while process.poll() is None:
            if first_record is None and any(f.stat().st_size for f in run.glob("checkpoints/*/metrics.jsonl")):
                first_record = time.perf_counter() - start
            time.sleep(0.05)
        seconds = time.perf_counter() - start
        # `check` ends with 1 where it has found something
        if process.returncode not in ((0, 1) if name == "check" else (0,)):
            raise SystemExit(f"{command} of {tree} failed with {process.returncode}")
        summary = run / "summary.json"
        parts = json.loads(summary.read_text())["seconds"]["parts"] if summary.exists() else {}
        return {"seconds": seconds, "first record": first_record, "parts": parts}


def compare(trees: dict[str, Path], command: str, arguments: list[str], rounds: int, first_round: int) -> None:
    """Run a command of all versions in turns, and print the medians."""
    results: dict[str, list[dict[str, Any]]] = {name: [] for name in trees}
    for number in range(first_round, rounds):
        # the order alternates, so that a trend of the machine does not favour one
        for name in list(trees)[:: 1 if number % 2 else -1]:
            result = run_command(trees[name], command, arguments)
            print(f"{command} {name} {result['seconds']:.1f} s", file=sys.stderr, flush=True)
            if number != NOT_TIMED:
                results[name].append(result)
    medians = {name: statistics.median(r["seconds"] for r in runs) for name, runs in results.items()}
    line: dict[str, Any] = {"command": command, "seconds": {n: round(v, 1) for n, v in medians.items()}}
    if "before" in medians:
        line["ratio"] = round(medians["now"] / medians["before"], 3)
    for name, runs in results.items():
        firsts = [r["first record"] for r in runs if r["first record"] is not None]
        line[f"first record, {name}"] = round(statistics.median(firsts), 1) if firsts else None
        line[f"parts, {name}"] = runs[-1]["parts"]
    print(json.dumps(line), flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--before", type=Path, help="checkout of another version")
    parser.add_argument("--commands", nargs="+", default=COMMANDS)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--no-warm-up", action="store_true", help="count the first round, too")
    parser.add_argument("--arguments", nargs=argparse.REMAINDER, default=[], help="further arguments of each command")
    options = parser.parse_args()
    trees = {"now": ROOT} | ({"before": options.before} if options.before is not None else {})
    for number, command in enumerate(options.commands):
        warms_up = number == 0 and not options.no_warm_up
        compare(trees, command, options.arguments, options.rounds, NOT_TIMED if warms_up else 0)


if __name__ == "__main__":
    main()
