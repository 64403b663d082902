"""Overhead of the training loop over a hand-written one, with the same model and batches, alternately.

The hand-written loop gets padded batches, and only runs forward, loss, backward, clipping and optimizer steps. Each
loop is measured for at least `--seconds`.
`python -m tests.benchmarks.step_overhead [--manifest P] [--seconds 60]` prints JSON with the median ratio.
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
import torch

from rainbow_ray.data.batch import make_batch
from rainbow_ray.data.batching import PASS_OVERHEAD_TOKENS, divide_batch
from rainbow_ray.distributed.process_group import ProcessGroup
from rainbow_ray.tasks.binary import Binary
from rainbow_ray.training import trainer
from rainbow_ray.training.checkpoint import CheckpointManager
from rainbow_ray.training.fit_data import FitData
from rainbow_ray.training.loggers import JsonLinesLogger
from tests.helpers import data_of, plan_of

KEYS: dict[str, Any] = {
    "model__text_encoder__layer": "last",
    "model__text_encoder__freeze_layers": 0,
    "training__min_steps": 0,
    "training__epochs": 10_000,
    "training__batch_size": 8,
    "training__schedule": "constant",
    "training__learning_rate": 1e-6,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--manifest", type=Path, default=Path("../shared/data/base_manifest_db.parquet"))
    parser.add_argument("--seconds", type=float, default=60.0)
    options = parser.parse_args()
    plan = plan_of(options.manifest, **KEYS)
    data = data_of(plan)
    indices, no_validation = np.arange(len(data.examples)), np.array([], dtype=np.int64)
    with tempfile.TemporaryDirectory() as folder:
        state = CheckpointManager(Path(folder))
        fit_data = FitData(data.source, indices, no_validation, plan.task, plan.input_spec, None)
        run = trainer.Trainer(plan.config, fit_data, JsonLinesLogger(state.metrics), state, ProcessGroup())
        trainer_seconds, loop_seconds, ratios = 0.0, 0.0, []
        while min(trainer_seconds, loop_seconds) < options.seconds:
            batches = _prepare_batches(run)
            start_time = time.perf_counter()
            _plain_epoch(run, batches)
            loop_epoch = time.perf_counter() - start_time
            start_time = time.perf_counter()
            run.train_epoch()
            trainer_epoch = time.perf_counter() - start_time
            ratios.append(trainer_epoch / loop_epoch)
            trainer_seconds, loop_seconds = trainer_seconds + trainer_epoch, loop_seconds + loop_epoch
    result = {
        "seconds_of_trainer": round(trainer_seconds, 1),
        "seconds_by_hand": round(loop_seconds, 1),
        "epochs_of_each": len(ratios),
    }
    print(json.dumps({**result, "trainer_over_hand_median": round(statistics.median(ratios), 4)}))


def _prepare_batches(run: trainer.Trainer) -> list[list]:
    """Return the steps of the next epoch, each a list of padded micro-batches."""
    lengths = run.dataset.lengths
    planned = run.planner.steps(run.state.epoch, run.schedule, random_access=True, by_length=True)
    limits: dict[str, Any] = {"max_examples": 8, "max_tokens": None, "overhead_tokens": PASS_OVERHEAD_TOKENS["cpu"]}
    micro_batches = [
        [run.dataset.in_memory_subset(indices) for indices in divide_batch(step.indices, lengths, **limits)]
        for step in planned
    ]
    return [
        [make_batch(rows.examples, rows.positions, run.features.collates) for rows in step] for step in micro_batches
    ]


def _plain_epoch(run: trainer.Trainer, steps: list[list]) -> None:
    model, optimizer = run.model, run.stepper.optimizer
    assert isinstance(run.task, Binary)
    weight = torch.tensor(run.task.pos_weight)
    trained = [p for p in model.parameters() if p.requires_grad]
    model.train()
    for step in steps:
        examples = sum(len(batch.targets) for batch in step)
        for batch in step:
            logits = model(batch).squeeze(-1)
            losses = torch.nn.functional.binary_cross_entropy_with_logits(
                logits, batch.targets, pos_weight=weight, reduction="sum"
            )
            (losses / examples).backward()
        torch.nn.utils.clip_grad_norm_(trained, 1.0)
        optimizer.step()
        optimizer.zero_grad()


if __name__ == "__main__":
    main()
