"""Larger optimizer steps with higher learning rates against the default size: held-out scores after the same epochs.

    python -m tests.benchmarks.step_size [--copies 5] [--sizes 32 64 128] [--epochs 20] [--seeds 0 1]

Trains the last layer of the embedded encoder on several draws of the built-in songs. Prints one line per fit, and the
mean score and log loss of each size.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from rainbow_ray.data.batching import TrainingSchedule
from rainbow_ray.data.demo.songs import demo_table
from rainbow_ray.distributed.process_group import ProcessGroup
from rainbow_ray.tasks.scores import measure_decoded
from rainbow_ray.training.checkpoint import CheckpointManager
from rainbow_ray.training.fit_data import FitData
from rainbow_ray.training.loggers import NullLogger
from rainbow_ray.training.trainer import fit
from tests.helpers import data_of, plan_of


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--copies", type=int, default=5)
    parser.add_argument("--sizes", type=int, nargs="+", default=[32, 64, 128])
    parser.add_argument("--epochs", type=int, default=20)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1])
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        manifest = Path(folder) / "songs.parquet"
        pq.write_table(_draws_of_songs(options.copies), manifest)
        results: dict[int, list[dict[str, float]]] = {size: [] for size in options.sizes}
        for seed in options.seeds:
            for size in options.sizes:
                metrics = _fit(manifest, size, options.epochs, seed, Path(folder) / f"{seed}-{size}")
                results[size].append(metrics)
                line = {"seed": seed, "size": size, **{name: round(value, 4) for name, value in metrics.items()}}
                print(json.dumps(line), flush=True)
    for size, all_metrics in results.items():
        means = {name: round(statistics.mean(each[name] for each in all_metrics), 4) for name in all_metrics[0]}
        print(json.dumps({"size": size, **means}))


def _draws_of_songs(copies: int) -> pa.Table:
    """Return the built-in songs of several seeds, with ids of their own."""
    tables = []
    for seed in range(copies):
        table = demo_table(seed)
        ids = pc.binary_join_element_wise(table["id"].cast(pa.string()), str(seed), "-")
        tables.append(table.set_column(table.column_names.index("id"), "id", ids))
    return pa.concat_tables(tables, promote_options="default")


def _fit(manifest: Path, size: int, epochs: int, seed: int, folder: Path) -> dict[str, float]:
    keys: dict[str, Any] = {
        "model__text_encoder__layer": "last", "model__text_encoder__freeze_layers": 5, "training__batch_size": 32,
        "training__early_stopping__enabled": False, "reproducibility__seed": seed,
    }  # fmt: skip
    plan = plan_of(manifest, **keys)
    data = data_of(plan)
    train, val = data.split.train_val_indices(0)
    schedule = TrainingSchedule(epochs, size, -(-len(train) // size))
    fit_data = FitData(data.source, train, val, plan.task, plan.input_spec, 0, schedule=schedule)
    output = fit(plan.config, fit_data, NullLogger(), CheckpointManager(folder), ProcessGroup())
    metrics, _ = measure_decoded(plan.task, data.source.targets[val], output.val_scores)
    names = [plan.config.training.headline, "log_loss"]
    return {name: value for name in names if (value := metrics.get(name)) is not None} | {
        "loss": float(output.facts["losses"][-1])
    }


if __name__ == "__main__":
    main()
