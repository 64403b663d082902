"""Steps of texts of similar length against random steps: padding, time of training, and held-out scores.

    python -m tests.benchmarks.padding [--manifest demo] [--freeze-layers 4] [--folds 3] [--seeds 0 1]

Prints the padded tokens over the real ones of an epoch for each type of device, then one line for each fit of both
kinds, and the medians. Needs no GPU: only the division into micro-batches depends on the device.
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

from rainbow_ray.data.batching import PASS_OVERHEAD_TOKENS, TrainingSchedule, divide_batch
from rainbow_ray.data.demo.songs import write_demo
from rainbow_ray.distributed.process_group import ProcessGroup
from rainbow_ray.tasks.scores import measure_decoded
from rainbow_ray.training.checkpoint import CheckpointManager
from rainbow_ray.training.epoch_plan import EpochPlanner
from rainbow_ray.training.fit_data import FitData
from rainbow_ray.training.loggers import NullLogger
from rainbow_ray.training.trainer import fit
from tests.helpers import data_of, plan_of

EPOCHS = 20


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--manifest", default="demo")
    parser.add_argument("--freeze-layers", type=int, default=4)
    parser.add_argument("--folds", type=int, default=3)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1])
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        manifest = write_demo(Path(folder)) if options.manifest == "demo" else Path(options.manifest)
        keys: dict[str, Any] = {
            "model__text_encoder__layer": "last",
            "model__text_encoder__freeze_layers": options.freeze_layers,
        }
        _print_padding(manifest, keys)
        results: dict[bool, list[tuple[float, float]]] = {False: [], True: []}
        for seed in options.seeds:
            for fold in range(options.folds):
                for by_length in (False, True):
                    path = Path(folder) / f"{seed}-{fold}-{by_length}"
                    results[by_length].append(_fit(manifest, keys, seed, fold, path, by_length=by_length))
                    seconds, score = results[by_length][-1]
                    line = {"seed": seed, "fold": fold, "by_length": by_length, "s": round(seconds, 2)}
                    print(json.dumps({**line, "score": round(score, 4)}), flush=True)
    summary = {
        "median_seconds_ratio": statistics.median(
            similar[0] / random[0] for random, similar in zip(results[False], results[True], strict=True)
        ),
        "mean_score_random": statistics.mean(score for _, score in results[False]),
        "mean_score_by_length": statistics.mean(score for _, score in results[True]),
    }
    print(json.dumps({name: round(value, 4) for name, value in summary.items()}))


def _print_padding(manifest: Path, keys: dict[str, Any]) -> None:
    plan = plan_of(manifest, **keys)
    dataset = data_of(plan).source
    planner = EpochPlanner(plan.config, dataset, plan.task, np.arange(len(dataset)))
    for size in (8, 32):
        schedule = TrainingSchedule(EPOCHS, size, -(-len(dataset) // size))
        for by_length in (False, True):
            for device, overhead in PASS_OVERHEAD_TOKENS.items():
                limits: dict[str, Any] = {"max_examples": size, "max_tokens": None, "overhead_tokens": overhead}
                padded = n_tokens = n_batches = n_steps = 0
                for epoch in range(EPOCHS):
                    for step in planner.steps(epoch, schedule, random_access=True, by_length=by_length):
                        micro_batches = divide_batch(step.indices, dataset.lengths, **limits)
                        padded += sum(len(batch) * int(dataset.lengths[batch].max()) for batch in micro_batches)
                        n_tokens += int(dataset.lengths[step.indices].sum())
                        n_batches, n_steps = n_batches + len(micro_batches), n_steps + 1
                line = {"songs": len(dataset), "batch_size": size, "by_length": by_length, "device": device}
                ratios = {"padding": round(padded / n_tokens, 3), "passes_per_step": round(n_batches / n_steps, 2)}
                print(json.dumps({**line, **ratios}))


def _fit(
    manifest: Path, keys: dict[str, Any], seed: int, fold: int, folder: Path, *, by_length: bool
) -> tuple[float, float]:
    """Return the seconds of training of a fit, and its held-out score."""
    plan = plan_of(manifest, **keys, reproducibility__seed=seed)
    data = data_of(plan)
    train, val = data.split.train_val_indices(fold)
    original = EpochPlanner.steps
    if not by_length:
        EpochPlanner.steps = lambda *args, **options: original(*args, **{**options, "by_length": False})  # type: ignore[method-assign]
    try:
        start = time.perf_counter()
        fit_data = FitData(data.source, train, val, plan.task, plan.input_spec, fold)
        output = fit(plan.config, fit_data, NullLogger(), CheckpointManager(folder), ProcessGroup())
        seconds = time.perf_counter() - start
    finally:
        EpochPlanner.steps = original  # type: ignore[method-assign]
    metrics, _ = measure_decoded(plan.task, data.source.targets[val], output.val_scores)
    score = metrics[plan.config.training.headline]
    assert score is not None
    return seconds, score


if __name__ == "__main__":
    main()
