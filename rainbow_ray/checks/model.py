"""Checks of the model: load it, run training steps, and measure memory and time."""

from __future__ import annotations

import time
from dataclasses import dataclass

import numpy as np
import torch

from rainbow_ray.checks.media import window_names
from rainbow_ray.checks.result import CheckResult
from rainbow_ray.data.batching import scoring_batches
from rainbow_ray.data.dataset import ExampleView
from rainbow_ray.model.device import ExecutionContext, pick_device
from rainbow_ray.model.training_precision import pick_training_precision
from rainbow_ray.nn.parameter_count import count_parameters
from rainbow_ray.setup.plan import RunPlan
from rainbow_ray.setup.prepared import PreparedData
from rainbow_ray.training.components import FitComponents, build_components
from rainbow_ray.training.evaluator import forward_loss
from rainbow_ray.training.schedule import schedule_of_fit
from rainbow_ray.training.train_step import TrainStep

N_REPEATS = 3  # of each timing, of which the median counts
MAX_EXAMPLES = 64  # that the model is tried on
MAX_MEASURED_BATCH = 4  # examples of the batch whose memory is compared with that of one example
CHECKPOINT_OVERHEAD_BYTES = 10 * 2**20
FLOAT_BYTES = 4
LIVE_TENSORS = 8  # of a frozen layer's width, while one layer of the encoder runs


@dataclass(frozen=True)
class ModelProfile:
    """Memory and time of a model, as measured.

    Attributes:
        components: The model, ready to score and to train.
        fixed_bytes: Weights, gradients and optimizer state.
        example_bytes: Activations per example of a batch of the longest texts.
        step_seconds: Time of a training step.
        step_examples: Number of examples of that step.
        encode_seconds: Time of one example's forward pass without gradients.
        checkpoint_bytes: Size of a checkpoint.
    """

    components: FitComponents
    fixed_bytes: int
    example_bytes: float
    step_seconds: float
    step_examples: int
    encode_seconds: float
    checkpoint_bytes: int


def check_model(plan: RunPlan, data: PreparedData) -> tuple[list[CheckResult], ModelProfile]:
    """Load the model, take training steps, and measure memory on the longest texts.

    Args:
        plan: Plan of the run.
        data: Prepared data.

    Returns:
        The results, and what was measured.

    Raises:
        InputError: The model cannot be built.
    """
    train, _ = data.split.train_val_indices(0)
    longest = train[np.argsort(-data.source.lengths[train], kind="stable")][:MAX_EXAMPLES]
    sample = np.sort(np.random.default_rng(0).choice(train, min(MAX_EXAMPLES, len(train)), replace=False))
    started = time.perf_counter()
    components = _build_components(plan, data, longest, sample)
    load_seconds = time.perf_counter() - started
    parameters = list(components.model.parameters())
    n_all, n_trained = (count_parameters(components.model)[name] / 1e6 for name in ("all", "trained"))
    counts = f"{n_all:.1f} million parameters, {n_trained:.3g} million of them trained"
    stepper = TrainStep(components, warmup_steps=0, steps=10)
    example_bytes = _example_bytes(components, longest)
    schedule = schedule_of_fit(plan.config, data.source, data.task, plan.input_spec, len(train))
    step_examples = min(schedule.global_batch_size, len(sample))
    step_seconds, encode_seconds = _time_steps(components, stepper, sample, step_examples)
    weight_bytes = sum(p.numel() * p.element_size() for p in parameters)
    # A gradient and the two moments of AdamW for each trained weight.
    state_bytes = 3 * sum(p.numel() * p.element_size() for p in parameters if p.requires_grad)
    unit = "songs" if plan.segments is None else "segments"
    precision = components.execution.precision.name
    step = f"forward and backward pass of {step_examples} {unit} take {step_seconds:.2f} s in {precision}"
    results = [
        CheckResult("ok", "encoder", f"{plan.input_spec.description} loads in {load_seconds:.1f} s; {counts}"),
        CheckResult("ok", "one step", step),
    ]
    profile = ModelProfile(
        components, weight_bytes + state_bytes, max(example_bytes, 1.0), step_seconds, step_examples, encode_seconds,
        state_bytes + CHECKPOINT_OVERHEAD_BYTES,
    )  # fmt: skip
    return results, profile


def _build_components(plan: RunPlan, data: PreparedData, longest: np.ndarray, sample: np.ndarray) -> FitComponents:
    """Build the model of fold 0, fitted on a sample, without features of frozen layers in memory."""
    config = plan.config
    device, _ = pick_device(config.training.device)
    precision, _ = pick_training_precision(config, plan.input_spec, device)
    train, _ = data.split.train_val_indices(0)
    task = data.task.fit(data.source.targets[train], config.training)
    without_cache = config.model_copy(update={"data": config.data.model_copy(update={"in_memory_limit_mb": 0})})
    return build_components(
        without_cache, data.source, plan.input_spec, task, sample, ExecutionContext(device, precision),
        window_keys=window_names(plan, data, np.concatenate([longest, sample])),
    )  # fmt: skip


def _example_bytes(components: FitComponents, longest: np.ndarray) -> float:
    """Return the activations that one more example adds to a batch of the longest texts."""
    n_examples = min(MAX_MEASURED_BATCH, len(longest))
    single, several = (
        _activation_bytes(components, components.features.dataset.in_memory_subset(longest[:size]))
        for size in (1, n_examples)
    )
    return (several - single) / max(1, n_examples - 1)


def _activation_bytes(components: FitComponents, rows: ExampleView) -> int:
    """Return the bytes that a forward pass keeps for the backward pass, counting each storage once.

    They are counted, not measured: the peak memory of a GPU holds the gradients of all weights, beside which the
    activations of a few short texts do not show.
    """
    model = components.model.train()
    weights = {p.untyped_storage().data_ptr() for p in [*model.parameters(), *model.buffers()]}
    activations: dict[int, int] = {}

    def record(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in weights:
            activations[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(record, lambda tensor: tensor):
        loss = _losses(components, rows).sum()
    torch.autograd.backward(loss)
    model.zero_grad(set_to_none=True)
    # Frozen layers save nothing for the backward pass, but the activations of one layer at a time are alive.
    width = components.model.text.width if components.model.text is not None else 0
    n_tokens = int(len(rows) * components.features.dataset.lengths[rows.indices].max())
    return int(sum(activations.values()) + n_tokens * width * FLOAT_BYTES * LIVE_TENSORS)


def _time_steps(components: FitComponents, stepper: TrainStep, sample: np.ndarray, size: int) -> tuple[float, float]:
    """Return the median seconds of a training step of `size` examples, and of one example's forward pass."""
    step_seconds, encode_seconds, dataset = [], [], components.features.dataset
    batches = scoring_batches(sample, dataset.lengths, components.execution.device.type)
    for _ in range(N_REPEATS):
        started = time.perf_counter()
        components.model.train()
        stepper.train_step(dataset.in_memory_subset(sample[:size]), float(size), number=1)
        step_seconds.append(time.perf_counter() - started)
        started = time.perf_counter()
        with torch.no_grad():
            for batch in batches:
                components.model.eval()
                _losses(components, dataset.in_memory_subset(batch))
        encode_seconds.append((time.perf_counter() - started) / len(sample))
    return float(np.median(step_seconds)), float(np.median(encode_seconds))


def _losses(components: FitComponents, rows: ExampleView) -> torch.Tensor:
    return forward_loss(components.model, components.features, components.task, rows)[0]
