"""Run all benchmarks, each of which prints JSON: `python -m tests.benchmarks`."""

from __future__ import annotations

import pkgutil
import subprocess
import sys
from pathlib import Path

NEEDS_ARGUMENTS = {"serving", "side_by_side"}  # a model, or another environment

if __name__ == "__main__":
    names = {module.name for module in pkgutil.iter_modules([str(Path(__file__).parent)])}
    for name in sorted(names - NEEDS_ARGUMENTS - {"__main__"}):
        print(f"# {name}", flush=True)
        subprocess.run([sys.executable, "-m", f"tests.benchmarks.{name}"], check=True)
