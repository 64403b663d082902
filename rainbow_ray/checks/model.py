"""The model: loaded, run forward and backward once, measured; and from that memory, time and cost of the run."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import psutil
import torch

from rainbow_ray.assemble import Data, Plan
from rainbow_ray.checks import Found
from rainbow_ray.data.source import Rows
from rainbow_ray.runtime import parse_workers
from rainbow_ray.training.batches import decide_length, scoring_batches
from rainbow_ray.training.device import pick_device, pick_precision
from rainbow_ray.training.learner import Learner
from rainbow_ray.training.step import Stepper
from rainbow_ray.training.team import Team

SPARE = 0.9  # of the memory: the rest is the system's and fragmentation's
# fixed costs of a run beside a start of Ray, as many times that: reading data, starting workers, the trainer of the
# refit (from seconds.parts of real runs)
STARTS_OF_FOLDS, STARTS_OF_ONE_SPLIT = 6.5, 5.0
TIMED = 3
FEW = 64  # examples that the model is tried on


@dataclass(frozen=True)
class Measured:
    """What one try told. Bytes but for seconds; `step_seconds` of a whole step, `encode_seconds` of one example."""

    learner: Learner
    fixed: int
    per_example: float
    step_seconds: float
    encode_seconds: float
    state_bytes: int


def check_model(plan: Plan, data: Data) -> tuple[list[Found], Measured]:
    """Load the encoder, take a step on the longest texts, and look at memory."""
    config = plan.config
    device, _ = pick_device(config.training.device)
    precision, _ = pick_precision(config.training.mixed_precision, device)
    train, _ = data.split.sides(0)
    problem = plan.problem.fit(data.source.targets[train], config.training)
    longest = train[np.argsort(-data.source.lengths[train], kind="stable")][:FEW]
    few = np.sort(np.random.default_rng(0).choice(train, min(FEW, len(train)), replace=False))
    began = time.perf_counter()
    small = plan.config.model_copy(update={"data": config.data.model_copy(update={"resident_limit": 0})})
    learner = Learner(
        small, data.source, plan.encoder, problem, few, device=device, precision=precision, team=Team()
    )  # fmt: skip
    loaded = time.perf_counter() - began
    model = learner.model
    trained = sum(p.numel() for p in model.parameters() if p.requires_grad)
    everything = sum(p.numel() for p in model.parameters())
    found = [Found("good", "encoder", f"{plan.encoder} loads in {loaded:.1f} s; {everything / 1e6:.1f} million parameters,"
                   f" {trained / 1e6:.3g} million of them trained")]  # fmt: skip
    stepper = Stepper(learner, config.training, warmup_steps=0, steps=10)
    two = [_held_by(learner, learner.source.known(longest[:size])) for size in (1, min(4, len(longest)))]
    per_example = (two[1] - two[0]) / max(1, min(4, len(longest)) - 1)
    size = decide_length(config.training, len(train)).step_size
    step, encode = _seconds(learner, stepper, few, min(size, len(few)))
    weights = sum(p.numel() * p.element_size() for p in model.parameters())
    # a gradient and AdamW's two moments for each trained weight
    fixed = weights + 3 * sum(p.numel() * p.element_size() for p in model.parameters() if p.requires_grad)
    state = 3 * sum(p.numel() * p.element_size() for p in model.parameters() if p.requires_grad) + 10 * 2**20
    found.append(Found("good", "one step", f"forward and backward of {size} songs take {step:.2f} s"))
    return found, Measured(learner, fixed, max(per_example, 1.0), step, encode, state)


def check_memory(plan: Plan, data: Data, measured: Measured) -> Found:
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
    text = f"about {_size(needed)} for micro-batches of {batch} songs of {longest} tokens; {_size(free)} are free"
    if fits < 1:
        return Found(
            "environment", "memory", f"{text}: not even one song fits; freeze more layers, or cut texts shorter"
        )
    room = f"up to {min(fits, 100_000)} songs fit"
    if needed > SPARE * free:
        return Found("word", "memory", f"{text}: {room}; larger ones are halved as they run out of memory, or set"
                     f" training.batch_size={max(1, 2 ** int(np.log2(fits)))}")  # fmt: skip
    return Found("good", "memory", f"{text}: {room}")


def foresee(plan: Plan, data: Data, measured: Measured, ray_seconds: float, slots: int) -> Iterator[Found]:
    """Time and cost of the run to come, from the step that was measured."""
    config = plan.config
    training, folds = config.training, data.split.folds
    train, val = data.split.sides(0)
    share = plan.manifest.rows / max(1, data.profile["rows"])  # of a manifest of which only some rows were looked at
    length = decide_length(training, round(len(train) * share))
    examples = len(data.source) * share
    shared = measured.learner.model.text_is_frozen
    encoding = examples * measured.encode_seconds
    if shared:
        fit = encoding + length.steps * HEAD_SECONDS
    else:
        fit = length.steps * measured.step_seconds + length.epochs * len(val) * share * measured.encode_seconds
        fit += len(train) * share * measured.encode_seconds
    workers = (parse_workers(training.workers) or (1, 1))[1]
    at_once = 1 if training.workers is not None else min(slots, folds)
    fits = fit * folds / at_once / workers + (fit / workers if folds > 1 else 0.0)
    baselines = min(examples, 5000) * measured.encode_seconds * 3 + 5
    total = ray_seconds * (STARTS_OF_FOLDS if folds > 1 else STARTS_OF_ONE_SPLIT) + fits + baselines
    steps = f"{length.epochs} epochs of {length.steps_per_epoch} steps" + (
        f", {folds} folds and a refit" if folds > 1 else ""
    )
    price = config.logging.usd_per_hour
    cost = f", ${total / 3600 * price:.3f}" if price is not None else "; --usd-per-hour tells the cost"
    yield Found("good", "the run", f"about {_time(total)}{cost}: {_time(fits)} of training ({steps}), the rest to start and"
                " to compare")  # fmt: skip


HEAD_SECONDS = 0.002  # of a step of the head alone


def disk_needed_mb(data: Data, measured: Measured) -> float:
    """Two checkpoints and a model of each fit, and the bundle."""
    fits = data.split.folds + (data.split.folds > 1)
    weights = sum(p.numel() * p.element_size() for p in measured.learner.model.parameters())
    return (3 * fits * measured.state_bytes + weights) / 2**20


def _held_by(learner: Learner, rows: Rows) -> int:
    """Bytes that a forward pass keeps for the backward pass, each storage once; on CUDA as the allocator counts them."""
    model = learner.model.train()
    if learner.device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(learner.device)
        before = torch.cuda.memory_allocated(learner.device)
        learner.losses(rows)[0].sum().backward()
        model.zero_grad(set_to_none=True)
        return torch.cuda.max_memory_allocated(learner.device) - before
    own = {p.untyped_storage().data_ptr() for p in [*model.parameters(), *model.buffers()]}
    held: dict[int, int] = {}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            held[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        loss = learner.losses(rows)[0].sum()
    loss.backward()
    model.zero_grad(set_to_none=True)
    # what a frozen encoder makes is not kept, but for a layer at a time
    width = learner.model.text.width
    return sum(held.values()) + int(len(rows) * learner.source.lengths[rows.indices].max()) * width * 4 * 8


def _seconds(learner: Learner, stepper: Stepper, few: np.ndarray, size: int) -> tuple[float, float]:
    """Seconds of a step of `size` examples, and of encoding one example without a gradient; medians."""
    steps, encodings = [], []
    batches = scoring_batches(few, learner.source.lengths)
    for _ in range(TIMED):
        began = time.perf_counter()
        learner.model.train()
        stepper.take(learner.source.known(few[:size]), float(size), number=1)
        steps.append(time.perf_counter() - began)
        began = time.perf_counter()
        with torch.no_grad():
            for batch in batches:
                learner.model.eval()
                learner.losses(learner.source.known(batch))
        encodings.append((time.perf_counter() - began) / len(few))
    return float(np.median(steps)), float(np.median(encodings))


def _size(n: float) -> str:
    return f"{n / 2**30:.1f} GB" if n >= 2**30 else f"{n / 2**20:.0f} MB"


def _time(seconds: float) -> str:
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"
