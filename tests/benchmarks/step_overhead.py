"""What the loop costs above a hand-written one: the same model and batches, in turns, at least a minute of each.

The hand-written loop is given its batches already padded, and does nothing but forward, loss, backward, clip and step.
`python -m tests.benchmarks.step_overhead [--manifest P] [--seconds 60]` prints JSON with the median ratio.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from pathlib import Path

import numpy as np
import torch

from rainbow_ray.data.batch import make_batch
from rainbow_ray.data.batching import MIN_BATCH_TOKENS, divide_batch, plan_batches
from rainbow_ray.distributed.process_group import ProcessGroup
from rainbow_ray.tasks.binary import Binary
from rainbow_ray.training import trainer
from rainbow_ray.training.checkpoint import CheckpointManager
from rainbow_ray.training.fit_data import FitData
from rainbow_ray.training.loggers import JsonLinesLogger
from tests.helpers import data_of, plan_of

KEYS = {
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
    made = plan_of(options.manifest, **KEYS)
    data = data_of(made)
    everything, nothing = np.arange(len(data.examples)), np.array([], dtype=np.int64)
    with tempfile.TemporaryDirectory() as folder:
        state = CheckpointManager(Path(folder))
        parts = FitData(data.source, everything, nothing, made.task, made.reading, None)
        run = trainer.Trainer(made.config, parts, JsonLinesLogger(state.metrics), state, ProcessGroup())
        ours, theirs, ratios = 0.0, 0.0, []
        while min(ours, theirs) < options.seconds:
            prepared = _prepared(run)
            began = time.perf_counter()
            _by_hand(run, prepared)
            hand = time.perf_counter() - began
            began = time.perf_counter()
            run.train_epoch()
            loops = time.perf_counter() - began
            ratios.append(loops / hand)
            ours, theirs = ours + loops, theirs + hand
    result = {"seconds_of_ours": round(ours, 1), "seconds_by_hand": round(theirs, 1), "epochs_of_each": len(ratios)}
    print(json.dumps({**result, "ours_over_hand_median": round(statistics.median(ratios), 4)}))


def _prepared(run: trainer.Trainer) -> list[list]:
    """The next epoch's steps, each a list of padded micro-batches."""
    lengths = run.dataset.lengths
    steps = plan_batches(lengths, batch_size=run.schedule.global_batch_size, seed=42, epoch=run.state.epoch)
    limits = {"max_examples": 8, "max_tokens": None, "min_tokens": MIN_BATCH_TOKENS["cpu"]}
    parts = [[run.dataset.in_memory_subset(part) for part in divide_batch(step, lengths, **limits)] for step in steps]
    return [[make_batch(rows.examples, rows.positions, run.features.collates) for rows in step] for step in parts]


def _by_hand(run: trainer.Trainer, steps: list[list]) -> None:
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
