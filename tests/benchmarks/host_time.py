"""Time in which the host prepares a training step of texts: division into micro-batches, and collation.

    python -m tests.benchmarks.host_time [--manifest demo] [--examples 32] [--steps 200]

Prints the median of a step, and that divided by the number of its micro-batches. Nothing is computed on a device.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from pathlib import Path

import numpy as np

from rainbow_ray.data.demo.songs import write_demo
from rainbow_ray.distributed.process_group import ProcessGroup
from rainbow_ray.training.checkpoint import CheckpointManager
from rainbow_ray.training.fit_data import FitData
from rainbow_ray.training.loggers import NullLogger
from rainbow_ray.training.trainer import Trainer
from tests.helpers import data_of, plan_of


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--manifest", default="demo")
    parser.add_argument("--examples", type=int, default=32)
    parser.add_argument("--steps", type=int, default=200)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        manifest = write_demo(Path(folder)) if options.manifest == "demo" else Path(options.manifest)
        plan = plan_of(manifest, model__text_encoder__layer="last", model__text_encoder__freeze_layers=0)
        data = data_of(plan)
        train, val = data.split.train_val_indices(0)
        fit_data = FitData(data.source, train, val, plan.task, plan.input_spec, 0)
        run = Trainer(plan.config, fit_data, NullLogger(), CheckpointManager(Path(folder) / "fit"), ProcessGroup())
        rng = np.random.default_rng(0)
        seconds, counts = [], []
        for _ in range(options.steps):
            size = min(options.examples, len(train))
            view = run.dataset.in_memory_subset(rng.choice(train, size, replace=False))
            start = time.perf_counter()
            counts.append(len(run.stepper.prepare(view).micro_batches))
            seconds.append(time.perf_counter() - start)
    step_ms, n_batches = 1e3 * statistics.median(seconds), statistics.mean(counts)
    result = {"step_ms": step_ms, "micro_batches": n_batches, "ms_per_micro_batch": step_ms / n_batches}
    print(json.dumps({name: round(value, 3) for name, value in result.items()}))


if __name__ == "__main__":
    main()
