"""What the shared prefix saves: seconds of an epoch with it and without, for each freeze depth, in turns.

`python -m tests.benchmarks.prefix [--manifest P] [--rounds 3]` prints JSON. Beside each ratio stands what arithmetic
promises: a layer costs 1 forward and 2 backward, frozen ones are forward alone, stored ones nothing. The first epoch,
which fills the store, is left out; `fill` says what it costs.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from pathlib import Path

import numpy as np

from rainbow_ray.distributed.process_group import ProcessGroup
from rainbow_ray.model.frozen_cache import MB, FrozenFeatureCache
from rainbow_ray.training.checkpoint import CheckpointManager
from rainbow_ray.training.fit_data import FitData
from rainbow_ray.training.loggers import NullLogger
from rainbow_ray.training.trainer import Trainer
from tests.helpers import data_of, plan_of

LAYERS = 6  # of the embedded encoder
DEPTHS = {"full": "all", "three quarters": 0.75, "half": 0.5, "none": 0}
KEYS = {"model__text_encoder__layer": "last", "training__min_steps": 0, "training__epochs": 50}


def epochs(
    manifest: Path, depth: float | str, store: FrozenFeatureCache | None, folder: Path, rounds: int
) -> list[float]:
    """Seconds of each epoch of one fit on all songs, after a first one."""
    plan = plan_of(manifest, **KEYS, model__text_encoder__freeze_layers=depth)
    data = data_of(plan)
    everything, nothing = np.arange(len(data.source)), np.array([], dtype=np.int64)
    parts = FitData(data.source, everything, nothing, plan.task, plan.reading, None, frozen_cache=store)
    run = Trainer(plan.config, parts, NullLogger(), CheckpointManager(folder), ProcessGroup())
    if store is None:
        run.features.features = None  # what `train` without a store would share inside one fit
    seconds = []
    for _ in range(rounds + 1):
        began = time.perf_counter()
        run.train_epoch()
        seconds.append(time.perf_counter() - began)
    return seconds[1:]


def promised(depth: float | str) -> float:
    """An epoch without the store over one with it, by arithmetic."""
    frozen = LAYERS if depth == "all" else round(depth * LAYERS)
    trained = 3 * (LAYERS - frozen)
    return (frozen + trained) / trained if trained else float("inf")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--manifest", type=Path, default=Path("../shared/data/base_manifest_db.parquet"))
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    found = {}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for word, depth in DEPTHS.items():
            store = FrozenFeatureCache(folder / "prefix", 4096 * MB)
            began = time.perf_counter()
            epochs(options.manifest, depth, store, folder / "fill", 0)
            fill = time.perf_counter() - began
            on: list[float] = []
            off: list[float] = []
            for turn in range(2):
                on += epochs(options.manifest, depth, store, folder / f"on-{turn}", options.rounds)
                off += epochs(options.manifest, depth, None, folder / f"off-{turn}", options.rounds)
            ratio = statistics.median(off) / statistics.median(on)
            promise = promised(depth)
            found[word] = {
                "seconds_off": round(statistics.median(off), 4),
                "seconds_on": round(statistics.median(on), 4),
                "fill_and_start": round(fill, 2),
                "ratio": round(ratio, 2),
                **({"promised": round(promise, 2), "share_of_promise": round(ratio / promise, 3)}
                   if promise != float("inf") else {}),
            }  # fmt: skip
    print(json.dumps(found, indent=2))


if __name__ == "__main__":
    main()
