"""Seconds of an epoch with and without the cache of frozen features, for each freeze depth, alternately.

`python -m tests.benchmarks.frozen_features [--manifest P] [--rounds 3]` prints JSON. Each ratio is compared with the
expected one: a layer costs 1 forward and 2 backward, a frozen layer only its forward, a cached layer nothing. The first
epoch, which fills the cache, is excluded; `fill_and_start` is its cost.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

from rainbow_ray.distributed.process_group import ProcessGroup
from rainbow_ray.model.frozen_feature_cache import MB, FrozenFeatureCache
from rainbow_ray.training.checkpoint import CheckpointManager
from rainbow_ray.training.fit_data import FitData
from rainbow_ray.training.loggers import NullLogger
from rainbow_ray.training.trainer import Trainer
from tests.helpers import data_of, plan_of

LAYERS = 6  # of the embedded encoder
DEPTHS: dict[str, float | str] = {"full": "all", "three quarters": 0.75, "half": 0.5, "none": 0}
KEYS: dict[str, Any] = {"model__text_encoder__layer": "last", "training__min_steps": 0, "training__epochs": 50}


def epochs(
    manifest: Path, depth: float | str, cache: FrozenFeatureCache | None, folder: Path, rounds: int
) -> list[float]:
    """Return the seconds of each epoch of one fit on all songs, after the first epoch."""
    plan = plan_of(manifest, **KEYS, model__text_encoder__freeze_layers=depth)
    data = data_of(plan)
    indices, no_validation = np.arange(len(data.source)), np.array([], dtype=np.int64)
    fit_data = FitData(data.source, indices, no_validation, plan.task, plan.input_spec, None, frozen_cache=cache)
    run = Trainer(plan.config, fit_data, NullLogger(), CheckpointManager(folder), ProcessGroup())
    if cache is None:
        run.features.features = None  # otherwise a fit without a cache reuses its own features
    seconds = []
    for _ in range(rounds + 1):
        start_time = time.perf_counter()
        run.train_epoch()
        seconds.append(time.perf_counter() - start_time)
    return seconds[1:]


def expected_speedup(depth: float | str) -> float:
    """Return the expected ratio of the time of an epoch without the cache to that with it."""
    frozen = LAYERS if depth == "all" else round(float(depth) * LAYERS)
    trained_cost = 3 * (LAYERS - frozen)
    return (frozen + trained_cost) / trained_cost if trained_cost else float("inf")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--manifest", type=Path, default=Path("../shared/data/base_manifest_db.parquet"))
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    results = {}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for depth_name, depth in DEPTHS.items():
            cache = FrozenFeatureCache(folder / "frozen_features", 4096 * MB)
            start_time = time.perf_counter()
            epochs(options.manifest, depth, cache, folder / "fill", 0)
            fill_seconds = time.perf_counter() - start_time
            with_cache: list[float] = []
            without_cache: list[float] = []
            for turn in range(2):
                with_cache += epochs(options.manifest, depth, cache, folder / f"on-{turn}", options.rounds)
                without_cache += epochs(options.manifest, depth, None, folder / f"off-{turn}", options.rounds)
            ratio = statistics.median(without_cache) / statistics.median(with_cache)
            expected_ratio = expected_speedup(depth)
            results[depth_name] = {
                "seconds_off": round(statistics.median(without_cache), 4),
                "seconds_on": round(statistics.median(with_cache), 4),
                "fill_and_start": round(fill_seconds, 2),
                "ratio": round(ratio, 2),
                **({"promised": round(expected_ratio, 2), "share_of_promise": round(ratio / expected_ratio, 3)}
                   if expected_ratio != float("inf") else {}),
            }  # fmt: skip
    print(json.dumps(results, indent=2))


if __name__ == "__main__":
    main()
