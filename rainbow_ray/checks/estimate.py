"""Memory, disk, time and cost of the run to come, from what was measured of its model."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import psutil
import torch

from rainbow_ray.baselines.common import MOST_EXAMPLES
from rainbow_ray.checks.environment import check_disk
from rainbow_ray.checks.model import Measured, check_model
from rainbow_ray.checks.result import CheckResult
from rainbow_ray.data.batching import make_training_schedule
from rainbow_ray.distributed.resources import parse_workers
from rainbow_ray.setup.plan import RunPlan
from rainbow_ray.setup.prepared import FOLDS_BELOW, PreparedData

SPARE = 0.9  # of the memory: the rest is the system's and fragmentation's
# fixed costs of a run, as many times a start of Ray: reading data, starting workers, the trainer of the refit
# (from seconds.parts of real runs)
STARTS_OF_FOLDS, STARTS_OF_ONE_SPLIT = 6.5, 5.0
HEAD_SECONDS = 0.002  # of a step of the head alone


def check_memory(plan: RunPlan, data: PreparedData, measured: Measured) -> CheckResult:
    """Memory of a micro-batch of the longest texts, and the largest that fits."""
    device = measured.learner.device
    free = torch.cuda.mem_get_info(device)[0] if device.type == "cuda" else psutil.virtual_memory().available
    config = plan.config.training
    longest = int(data.source.lengths.max())
    batch = config.batch_size
    if config.batch_tokens:
        batch = max(1, min(batch, config.batch_tokens // longest))
    needed = measured.fixed + batch * measured.per_example
    fits = int((SPARE * free - measured.fixed) // measured.per_example)
    one = "song" if plan.segments is None else "segment"
    text = f"about {_size(needed)} for micro-batches of {batch} {one}s of {longest} tokens; {_size(free)} are free"
    if fits < 1:
        advice = f"not even one {one} fits; freeze more layers, or cut texts shorter"
        return CheckResult("environment", "memory", f"{text}: {advice}")
    room = f"up to {min(fits, 100_000)} {one}s fit"
    if needed > SPARE * free:
        return CheckResult("word", "memory", f"{text}: {room}; larger ones are halved as they run out of memory, or set"
                     f" training.batch_size={max(1, 2 ** int(np.log2(fits)))}")  # fmt: skip
    return CheckResult("good", "memory", f"{text}: {room}")


def estimate_run(
    plan: RunPlan, data: PreparedData, measured: Measured, ray_seconds: float, slots: int
) -> Iterator[CheckResult]:
    """Time and cost of the run to come, from the step that was measured."""
    # a manifest may be so large that only some of its rows were looked at
    share = plan.manifest.rows / max(1, data.profile["rows"])
    many = plan.config.data.folds is None and data.profile["songs"] * share >= FOLDS_BELOW
    training, folds = plan.config.training, 1 if many else data.split.n_folds
    train, val = (len(side) * share for side in data.split.train_val_indices(0))
    length = make_training_schedule(training, round(train))
    if measured.learner.model.features_are_constant:
        fit = (train + val) * measured.encode_seconds + length.total_steps * HEAD_SECONDS
    else:
        fit = length.total_steps * measured.step_seconds + (length.epochs * val + train) * measured.encode_seconds
    workers = (parse_workers(training.workers) or (1, 1))[1]
    at_once = 1 if training.workers is not None else min(slots, folds)
    fits = fit * folds / at_once / workers + (fit / workers if folds > 1 else 0.0)
    # baselines read every layer of the encoder, and fit four small models
    baselines = min(train + val, MOST_EXAMPLES) * measured.encode_seconds * 3 + 5
    total = ray_seconds * (STARTS_OF_FOLDS if folds > 1 else STARTS_OF_ONE_SPLIT) + fits + baselines
    refit = f", {folds} folds and a refit" if folds > 1 else ""
    steps = f"{length.epochs} epochs of {length.steps_per_epoch} steps{refit}"
    price = plan.config.logging.usd_per_hour
    cost = f", ${total / 3600 * price:.3f}" if price is not None else "; --usd-per-hour tells the cost"
    parts = f"{_time(fits)} of training ({steps}), the rest to start and to compare"
    yield CheckResult("good", "the run", f"about {_time(total)}{cost}: {parts}")


@dataclass(frozen=True)
class SweepCost:
    """What is said of a sweep's price; the seconds that its end takes: fresh splits and the winner's run; the disk."""

    text: str
    closing: float
    disk: CheckResult


def estimate_trials(plan: RunPlan, data: PreparedData, concurrent: int) -> SweepCost:
    """Time and cost of a sweep: between trials as cheap as the default config, and trials that train all layers.

    The first as measured here; the second by arithmetic, from one pass of the layers that the default reads.
    """
    _, measured = check_model(plan, data)
    tuning, folds = plan.config.tune, data.split.n_folds
    train, val = (len(side) for side in data.split.train_val_indices(0))
    length = make_training_schedule(plan.config.training, train)
    encoder = measured.learner.model.text
    times = encoder.body.config.num_hidden_layers / max(1, encoder.depth) if encoder is not None else 1.0
    whole = measured.encode_seconds * times  # of one example through all layers
    if measured.learner.model.features_are_constant:
        cheap = folds * (length.total_steps * HEAD_SECONDS)
    else:
        steps = length.total_steps * measured.step_seconds
        cheap = folds * (steps + length.epochs * val * measured.encode_seconds)
    dear = folds * length.epochs * (3 * train + val) * whole
    low, high = (seconds * tuning.trials / concurrent for seconds in (cheap, max(cheap, dear)))
    closing = 2 * tuning.revalidation_seeds * cheap / concurrent + 60
    price = plan.config.logging.usd_per_hour
    cost = f" (${low / 3600 * price:.3f} to ${high / 3600 * price:.3f})" if price is not None else ""
    text = (
        f"Expected: {_time(low)} if all trials cost what the default config costs, {_time(high)} if all trained every"
        f" layer and none were stopped{cost}; then about {_time(closing)} for fresh splits and the winner's run"
    )
    models = disk_needed_mb(data, measured) * (tuning.keep_best_models + concurrent + 2)
    return SweepCost(text, closing, check_disk(Path(plan.config.logging.output_dir), models))


def disk_needed_mb(data: PreparedData, measured: Measured) -> float:
    """Two checkpoints and a model of each fit, and the bundle."""
    fits = data.split.n_folds + (data.split.n_folds > 1)
    weights = sum(p.numel() * p.element_size() for p in measured.learner.model.parameters())
    return (3 * fits * measured.state_bytes + weights) / 2**20


def _size(n: float) -> str:
    return f"{n / 2**30:.1f} GB" if n >= 2**30 else f"{n / 2**20:.0f} MB"


def _time(seconds: float) -> str:
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"
