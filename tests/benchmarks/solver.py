"""The neural network trained in steps of AdamW, and with its classifier solved, over several seeds.

    python -m tests.benchmarks.solver                                        # the demo songs
    python -m tests.benchmarks.solver --manifest songs.parquet --phases 1 2 4

For each phase, a line of JSON has the means over seeds of the headline metric and of the log loss (or RMSE) of the
out-of-fold scores, the seconds of all fits, and the penalties that were chosen.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

from rainbow_ray.config.load import resolve
from rainbow_ray.setup.plan import make_plan
from rainbow_ray.tasks.scores import empty_scores
from tests.benchmarks.stacking import METRICS
from tests.helpers import data_of, fit_fold


def measure(keys: list[tuple[str, Any]], phase: int, seed: int) -> dict[str, Any]:
    """Return metrics of the out-of-fold scores, seconds and penalties."""
    plan = make_plan(resolve(None, {}, [("phase", phase), ("reproducibility.seed", seed), *keys]))
    data = data_of(plan)
    scores, penalties = empty_scores(data.task, len(data.source)), []
    start = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        for fold in range(data.split.n_folds):
            val, output = fit_fold(plan, data, Path(folder) / str(fold), fold)
            scores[val] = output.val_scores
            penalties.append(output.facts["penalty"])
    metrics, _ = data.task.metrics(data.source.targets, scores)
    values = {name: float(metrics[name] or 0.0) for name in METRICS[phase]}
    return {**values, "seconds": time.perf_counter() - start, "penalties": penalties}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--manifest", default="demo")
    parser.add_argument("--phases", type=int, nargs="+", default=[1, 2, 4])
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--encoder", default="embedded")
    parser.add_argument("--set", nargs="*", default=[], metavar="KEY=VALUE", help="keys of the config")
    options = parser.parse_args()
    keys = [("data.manifest_path", options.manifest), ("model.text_encoder.model_name", options.encoder)]
    keys += [(key, value) for key, _, value in (setting.partition("=") for setting in options.set)]
    for phase in options.phases:
        for solver in ("adamw", "lbfgs"):
            rows = [measure([*keys, ("training.solver", solver)], phase, seed) for seed in range(options.seeds)]
            means = {name: round(float(np.mean([row[name] for row in rows])), 4) for name in METRICS[phase]}
            seconds = round(float(np.median([row["seconds"] for row in rows])), 1)
            penalties = sorted({penalty for row in rows for penalty in row["penalties"] if penalty is not None})
            print(json.dumps({"manifest": options.manifest, "phase": phase, "solver": solver, "seeds": options.seeds,
                              **means, "seconds": seconds, "penalties": penalties}), flush=True)  # fmt: skip


if __name__ == "__main__":
    main()
