"""The model: loaded, run forward and backward, and measured."""

from __future__ import annotations

import time
from dataclasses import dataclass

import numpy as np
import torch

from rainbow_ray.checks.media import windows_of
from rainbow_ray.checks.result import CheckResult
from rainbow_ray.data.batching import make_training_schedule, scoring_batches
from rainbow_ray.data.dataset import ExampleView
from rainbow_ray.distributed.process_group import ProcessGroup
from rainbow_ray.model.device import pick_device, pick_precision
from rainbow_ray.setup.plan import RunPlan
from rainbow_ray.setup.prepared import PreparedData
from rainbow_ray.training.learner import Learner
from rainbow_ray.training.train_step import Stepper

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


def check_model(plan: RunPlan, data: PreparedData) -> tuple[list[CheckResult], Measured]:
    """Load the encoder, take a step on the longest texts, and look at memory."""
    config = plan.config
    device, _ = pick_device(config.training.device)
    precision, _ = pick_precision(config.training.mixed_precision, device)
    train, _ = data.split.train_val_indices(0)
    task = data.task.fit(data.source.targets[train], config.training)
    longest = train[np.argsort(-data.source.lengths[train], kind="stable")][:FEW]
    few = np.sort(np.random.default_rng(0).choice(train, min(FEW, len(train)), replace=False))
    began = time.perf_counter()
    small = plan.config.model_copy(update={"data": config.data.model_copy(update={"in_memory_limit_mb": 0})})
    learner = Learner(
        small, data.source, plan.reading, task, few, device=device, precision=precision, process_group=ProcessGroup(),
        hear=windows_of(data, np.concatenate([longest, few])),
    )  # fmt: skip
    loaded = time.perf_counter() - began
    model = learner.model
    trained = sum(p.numel() for p in model.parameters() if p.requires_grad)
    everything = sum(p.numel() for p in model.parameters())
    sizes = f"{everything / 1e6:.1f} million parameters, {trained / 1e6:.3g} million of them trained"
    found = [CheckResult("good", "encoder", f"{plan.reading.said} loads in {loaded:.1f} s; {sizes}")]
    stepper = Stepper(learner, config.training, warmup_steps=0, steps=10)
    two = [_held_by(learner, learner.source.in_memory_subset(longest[:size])) for size in (1, min(4, len(longest)))]
    per_example = (two[1] - two[0]) / max(1, min(4, len(longest)) - 1)
    size = make_training_schedule(config.training, len(train)).global_batch_size
    step, encode = _seconds(learner, stepper, few, min(size, len(few)))
    weights = sum(p.numel() * p.element_size() for p in model.parameters())
    # a gradient and AdamW's two moments for each trained weight
    fixed = weights + 3 * sum(p.numel() * p.element_size() for p in model.parameters() if p.requires_grad)
    state = 3 * sum(p.numel() * p.element_size() for p in model.parameters() if p.requires_grad) + 10 * 2**20
    read = "songs" if plan.segments is None else "segments"
    found.append(CheckResult("good", "one step", f"forward and backward of {size} {read} take {step:.2f} s"))
    return found, Measured(learner, fixed, max(per_example, 1.0), step, encode, state)


def _held_by(learner: Learner, rows: ExampleView) -> int:
    """Bytes that a forward pass keeps for the backward pass, each storage once; on CUDA the allocator's own count."""
    model = learner.model.train()
    if learner.device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(learner.device)
        before = torch.cuda.memory_allocated(learner.device)
        torch.autograd.backward(learner.losses(rows)[0].sum())
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
    torch.autograd.backward(loss)
    model.zero_grad(set_to_none=True)
    # what a frozen encoder makes is not kept, but for a layer at a time
    width = learner.model.text.width if learner.model.text is not None else 0
    return int(sum(held.values()) + int(len(rows) * learner.source.lengths[rows.indices].max()) * width * 4 * 8)


def _seconds(learner: Learner, stepper: Stepper, few: np.ndarray, size: int) -> tuple[float, float]:
    """Seconds of a step of `size` examples, and of encoding one example without a gradient; medians."""
    steps, encodings = [], []
    batches = scoring_batches(few, learner.source.lengths)
    for _ in range(TIMED):
        began = time.perf_counter()
        learner.model.train()
        stepper.take(learner.source.in_memory_subset(few[:size]), float(size), number=1)
        steps.append(time.perf_counter() - began)
        began = time.perf_counter()
        with torch.no_grad():
            for batch in batches:
                learner.model.eval()
                learner.losses(learner.source.in_memory_subset(batch))
        encodings.append((time.perf_counter() - began) / len(few))
    return float(np.median(steps)), float(np.median(encodings))
