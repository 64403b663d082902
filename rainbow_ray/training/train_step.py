"""One optimizer step over its micro-batches and all workers; micro-batches are halved where memory does not suffice.

Reference:
    Li et al. 2020, "PyTorch Distributed: Experiences on Accelerating Data Parallel Training", section 3.2.4 (gradient
    accumulation); Micikevicius et al. 2018, "Mixed Precision Training", section 3.2 (loss scaling); Pascanu et al.
    2013, "On the Difficulty of Training Recurrent Neural Networks", algorithm 1 (gradient clipping).
"""

from __future__ import annotations

import math
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from rainbow_ray.data.batching import FEWEST_PASSES, PASS_OVERHEAD_TOKENS, divide_batch, divide_sequences
from rainbow_ray.data.dataset import ExampleView
from rainbow_ray.modalities.spec import TEXT_ONLY
from rainbow_ray.model.device import OUT_OF_MEMORY_ADVICE, is_out_of_memory
from rainbow_ray.training.components import FitComponents
from rainbow_ray.training.evaluator import divergence_advice, forward_loss
from rainbow_ray.training.layer_compiler import LayerCompiler
from rainbow_ray.training.micro_batches import AdaptiveLimits, MicroBatchLimits
from rainbow_ray.training.optimizer import make_optimizer, make_schedule
from rainbow_ray.training.prepared_batch import PreparedBatch
from rainbow_ray.utils.errors import TrainingError

GPU_BATCH_TOKENS = 16_384  # padded tokens of a micro-batch of texts, which a GPU computes as fast as larger ones


@dataclass(frozen=True)
class PreparedStep:
    """A worker's examples of a step, divided into micro-batches.

    Attributes:
        view: The examples.
        limits: Limits by which they were divided.
        micro_batches: All of them, in micro-batches.
    """

    view: ExampleView
    limits: MicroBatchLimits
    micro_batches: Sequence[ExampleView | PreparedBatch]


@dataclass(frozen=True)
class StepResult:
    """Result of one optimizer step.

    Attributes:
        loss: Weighted mean loss over all workers.
        wants_checkpoint: Whether the main worker requests a checkpoint.
    """

    loss: float
    wants_checkpoint: bool


def initial_limits(components: FitComponents) -> MicroBatchLimits:
    """Return the largest size of a micro-batch, as long as memory suffices.

    Half of the steps of whole sequences have more than `batch_size` examples. Where no layer of an encoder keeps
    activations, they are not divided for that.

    Args:
        components: Model, task and config of the fit.

    Returns:
        `training.batch_tokens`; or, for texts on a GPU where no size is set, `GPU_BATCH_TOKENS`; otherwise
        `training.batch_size` examples, and twice as many for sequences whose features are constant.
    """
    config, is_sequence_task = components.config.training, components.task.is_sequence_task
    is_gpu, is_light = components.execution.device.type == "cuda", components.model.has_frozen_features
    if config.batch_tokens is not None:
        return MicroBatchLimits(sys.maxsize, config.batch_tokens)
    if is_gpu and config.step_tokens is None and not is_light and _reads_songs_of_text(components):
        return MicroBatchLimits(sys.maxsize, GPU_BATCH_TOKENS)
    return MicroBatchLimits(config.batch_size * (2 if is_sequence_task and is_light else 1), None)


def _reads_songs_of_text(components: FitComponents) -> bool:
    return components.model.modalities == TEXT_ONLY and not components.task.is_sequence_task


class TrainStep:
    """Optimizer, learning-rate schedule and gradient scaler of one fit.

    Args:
        components: Model, features and config of the fit.
        warmup_steps: Steps in which the learning rate rises.
        steps: Number of steps in all.
        rate_factor: Factor of all learning rates.

    Attributes:
        optimizer: AdamW.
        schedule: Learning-rate schedule.
        scaler: Loss scaler; disabled unless the precision is fp16.
        limits: Size limits of micro-batches.
        norms: Gradient norm of each component of a fused model in the last step, before clipping.
        compiler: Compiles the layers of the text encoder.
        skipped_steps: Steps without an update, because gradients overflowed (fp16 only).
        notes: Messages to the user.
    """

    def __init__(self, components: FitComponents, *, warmup_steps: int, steps: int, rate_factor: float = 1.0) -> None:
        self.components, self.config = components, components.config.training
        self.device = components.execution.device
        self.process_group = components.execution.process_group
        self.optimizer = make_optimizer(components.model, components.config, self.device, rate_factor=rate_factor)
        self.schedule = make_schedule(self.optimizer, components.config, warmup_steps, steps)
        self.scaler = torch.amp.GradScaler(self.device.type, enabled=components.execution.precision.scaled)
        limits = initial_limits(components)
        self.limits = AdaptiveLimits(limits, by_tokens=_reads_songs_of_text(components))
        # Padding costs little where the text encoder only looks up its hidden states, or computes no gradient.
        self._overhead_tokens = PASS_OVERHEAD_TOKENS[self.device.type] if components.trains_text else FEWEST_PASSES
        longest = int(components.features.dataset.lengths.max(initial=1))
        self._max_tokens = min(limits.examples, len(components.features.dataset)) * longest
        self.compiler = LayerCompiler(components, steps)
        self._scale: float | None = None  # of the loss, as the host last read it
        self.norms: dict[str, torch.Tensor] = {}
        self.skipped_steps = 0
        self.notes: list[str] = []

    def prepare(self, view: ExampleView) -> PreparedStep:
        """Divide and collate a step, possibly in another thread while the step before it is computed.

        Args:
            view: This worker's examples of the step.

        Returns:
            What `train_step` takes in place of the examples.
        """
        limits, features = self.limits.current, self.components.features
        return PreparedStep(view, limits, [features.prepare(batch) for batch in self.micro_batches(view, limits)])

    def train_step(
        self, view: ExampleView | PreparedStep, weight: float, *, number: int, wants_checkpoint: bool = False
    ) -> StepResult:
        """Train on one step.

        The loss is Σ(weight × loss) / Σ weight over all workers and micro-batches, so the gradient depends neither on
        the number of workers nor on how the step is divided.

        Args:
            view: This worker's examples of the step, `(n,)`; may be empty. Or what `prepare` returned for them.
            weight: Sum of the weights of the step's examples over all workers.
            number: Number of the step, for messages.
            wants_checkpoint: Whether this worker requests a checkpoint.

        Returns:
            Loss of the step, the same for all workers.

        Raises:
            TrainingError: The loss is not finite, or one example alone does not fit into memory.
        """
        self.compiler.before_step(number)
        self._scale = self.scaler.get_scale() if self._scale is None else self._scale
        limits = self.limits.current
        step = view if isinstance(view, PreparedStep) else PreparedStep(view, limits, list(self.micro_batches(view)))
        # Limits may have changed since, when the step before this one did not fit into memory.
        micro_batches = step.micro_batches if step.limits == limits else list(self.micro_batches(step.view))
        is_shared = self.process_group.size > 1
        while True:
            rng = rng_state(self.device)
            losses = self._accumulate(micro_batches, weight)
            failed = micro_batches[len(losses)] if len(losses) < len(micro_batches) else None
            # Several workers tell each other their losses first. One worker reads its own when the update is launched.
            own_loss = sum(_read(losses)) if is_shared else 0.0
            loss, n_failures, n_requests = self.process_group.all_reduce_scalars(
                own_loss, float(failed is not None), float(wants_checkpoint)
            )
            if not n_failures:
                break
            self._halve_micro_batches(failed, number)
            micro_batches = list(self.micro_batches(step.view))
            set_rng_state(rng, self.device)  # the retry draws the same dropout masks as far as the cuts allow
        if not math.isfinite(loss):
            raise self._not_finite_error(loss, number, _read(losses), micro_batches)
        try:
            scales = self._update()
        except Exception as error:
            if not is_out_of_memory(error):
                raise
            raise TrainingError(
                f"out of memory on {self.device.type} in step {number}: the state of the optimizer does not fit;"
                f" {OUT_OF_MEMORY_ADVICE}"
            ) from error
        values = _read(scales if is_shared else [*losses, *scales])
        if not is_shared and not math.isfinite(loss := sum(values[: len(losses)])):
            raise self._not_finite_error(loss, number, values[: len(losses)], micro_batches)
        self._advance_schedule(values[-1] if scales else self._scale)
        self.limits.record_success(self._max_tokens)
        return StepResult(loss, n_requests > 0)

    def all_notes(self, n_steps: int) -> list[str]:
        """Return the messages to the user at the end of the fit.

        Args:
            n_steps: Number of steps of the fit.

        Returns:
            `notes`, those on compilation, and one on skipped steps.
        """
        notes = [*self.notes, *self.compiler.notes]
        if not self.skipped_steps:
            return notes
        skipped = f"training.mixed_precision: {self.skipped_steps} of {n_steps} steps changed nothing"
        return [*notes, f"{skipped}, because gradients overflowed in fp16; the loss scale was halved each time"]

    def state(self) -> dict[str, Any]:
        """Return the state for a checkpoint.

        Returns:
            Nested state of optimizer, schedule, scaler and micro-batch limits.
        """
        return {
            "optimizer": self.optimizer.state_dict(),
            "schedule": self.schedule.state_dict(),
            "scaler": self.scaler.state_dict(),
            "limits": vars(self.limits.current).copy(),
            "skipped_steps": self.skipped_steps,
        }

    def load_state(self, state: dict[str, Any]) -> None:
        """Continue from the state of a checkpoint.

        Args:
            state: As `state` returned it, possibly on another machine.
        """
        self.optimizer.load_state_dict(state["optimizer"])
        self.schedule.load_state_dict(state["schedule"])
        if state["scaler"] and self.scaler.is_enabled():  # another machine may train in another precision
            self.scaler.load_state_dict(state["scaler"])
        self._scale = None
        self.limits.current = MicroBatchLimits(**state["limits"])
        self.skipped_steps = state.get("skipped_steps", 0)  # not counted by earlier versions

    def micro_batches(self, view: ExampleView, limits: MicroBatchLimits | None = None) -> Iterator[ExampleView]:
        """Divide a worker's examples of a step.

        Args:
            view: The examples.
            limits: Largest size of a micro-batch; None: the current one.

        Yields:
            Micro-batches of examples of similar length, of at most `limits`; a sequence is not divided.
        """
        if len(view) == 0:
            return
        lengths = self.components.features.dataset.lengths[view.indices]
        limits = limits or self.limits.current
        max_examples, max_tokens = limits.examples, limits.tokens
        if view.sequence_ids is not None:
            sequences = divide_sequences(
                view.sequence_positions, lengths, max_examples=max_examples, max_tokens=max_tokens
            )
            yield from (view.take(sequence.indices) for sequence in sequences)
            return
        divided = divide_batch(
            np.arange(len(view)), lengths, max_examples=max_examples, max_tokens=max_tokens,
            overhead_tokens=self._overhead_tokens,
        )  # fmt: skip
        yield from (view.take(rows) for rows in divided)

    def _accumulate(self, micro_batches: Sequence[ExampleView | PreparedBatch], weight: float) -> list[torch.Tensor]:
        """Accumulate this worker's gradients; return the losses of micro-batches up to the first that did not fit."""
        components, losses = self.components, []
        try:
            # Without the wrapper, whose passes communicate: a worker that fails here must not leave others waiting.
            for micro_batch in micro_batches:
                weighted, _ = forward_loss(components.model, components.features, components.task, micro_batch)
                loss = weighted.sum() / weight
                # the workers' gradients are averaged afterwards; their sum is wanted
                torch.autograd.backward(self.scaler.scale(loss * self.process_group.size))
                losses.append(loss.detach())
        except Exception as error:
            if not is_out_of_memory(error):
                raise
        return losses

    def _halve_micro_batches(self, failed: ExampleView | PreparedBatch | None, number: int) -> None:
        """Halve the limits of all workers after a micro-batch of any of them exceeded the memory."""
        sizes = (0, 0) if failed is None else (len(failed), self._padded_tokens(failed))
        gathered = self.process_group.all_gather(torch.tensor(sizes))
        n_examples, n_tokens = (max(int(each[i]) for each in gathered) for i in range(2))
        if n_examples == 1 or self.limits.current.examples == 1:  # one example, or one sequence, which is not divided
            raise TrainingError(
                f"out of memory on {self.device.type} in step {number}: one example alone does not fit;"
                f" {OUT_OF_MEMORY_ADVICE}"
            )
        self.limits.shrink(n_examples, n_tokens)
        self.optimizer.zero_grad(set_to_none=True)
        if self.device.type == "cuda":
            torch.cuda.empty_cache()
        limits = self.limits.current
        is_by_tokens = limits.tokens is not None and limits.tokens < n_tokens
        reduced = f"{limits.tokens} tokens" if is_by_tokens else f"{limits.examples} examples"
        self.notes.append(
            f"out of memory on {self.device.type} in step {number} with {n_examples} examples of {n_tokens} tokens:"
            f" micro-batches are reduced to {reduced}; the gradients stay the same"
        )

    def _padded_tokens(self, view: ExampleView | PreparedBatch) -> int:
        return len(view) * int(self.components.features.dataset.lengths[view.indices].max(initial=1))

    def _update(self) -> list[torch.Tensor]:
        """Average, clip and apply the accumulated gradients; return the next loss scale on the device, if any."""
        if self.process_group.size > 1:
            # The backward pass of a zero loss averages the gradients: all workers take part in it, however many
            # micro-batches each had, and none computes more than the others.
            with self.process_group.collective():
                torch.autograd.backward(self.components.gradient_averager(None))
        model = self.components.model
        components = model.parameters_by_component() if model.is_fused else {}
        for parameter in (p for parameters in components.values() for p in parameters if p.grad is None):
            # no example of the step had the modality; several workers get this zero gradient from the zero loss, and
            # one worker must make the same update
            parameter.grad = torch.zeros_like(parameter)
        if self.config.max_grad_norm or components:
            self.scaler.unscale_(self.optimizer)
        for name, parameters in components.items():
            gradients = [p.grad for p in parameters if p.grad is not None]
            self.norms[name] = torch.nn.utils.get_total_norm(gradients)  # read only when it is logged
        if self.config.max_grad_norm:
            trained = [p for group in self.optimizer.param_groups for p in group["params"]]
            torch.nn.utils.clip_grad_norm_(trained, self.config.max_grad_norm)
        self.scaler.step(self.optimizer)
        self.scaler.update()
        self.optimizer.zero_grad(set_to_none=True)
        # `get_scale` would wait for the device
        return [self.scaler.scale(torch.ones((), device=self.device))] if self.scaler.is_enabled() else []

    def _advance_schedule(self, scale: float) -> None:
        """Advance the learning rate, unless gradients overflowed, and the optimizer has made no step."""
        if self._scale is not None and scale < self._scale:
            self.skipped_steps += 1
        else:
            self.schedule.step()
        self._scale = scale

    def _not_finite_error(
        self, loss: float, number: int, losses: list[float], micro_batches: Sequence[ExampleView | PreparedBatch]
    ) -> TrainingError:
        """Return the error for a non-finite loss, with the songs of the first such micro-batch of any worker."""
        indices = [
            micro_batch.indices
            for micro_batch, micro_loss in zip(micro_batches, losses, strict=True)
            if not math.isfinite(micro_loss)
        ]
        own_songs = self.components.features.dataset.song_names(indices[0]) if indices else []
        songs = next((names for names in self.process_group.all_gather_object(own_songs) if names), [])
        return TrainingError(
            f"the loss of step {number} is {loss}, in a batch of the songs {', '.join(songs)}:"
            f" {divergence_advice(self.config)}"
        )


def _read(scalars: Sequence[torch.Tensor]) -> list[float]:
    """Return scalars of the device as numbers; it waits once for all of them."""
    return [float(value) for value in torch.stack(list(scalars)).tolist()] if scalars else []


def rng_state(device: torch.device) -> torch.Tensor:
    """Return the state of the random generators that dropout draws from.

    Args:
        device: Device of the model.

    Returns:
        Bytes, `(n,)`, uint8; n depends on the type of the device only.
    """
    states = [torch.get_rng_state()]
    if device.type == "cuda":
        states.append(torch.cuda.get_rng_state(device))
    if device.type == "mps":
        states.append(torch.mps.get_rng_state())
    return torch.cat(states)


def set_rng_state(state: torch.Tensor, device: torch.device) -> None:
    """Restore the state of the random generators.

    Args:
        state: As `rng_state` returned it, possibly on a device of another type, whose generator is then left as it is.
        device: Device of the model.
    """
    size = len(torch.get_rng_state())
    torch.set_rng_state(state[:size])
    state_of_device = state[size:]
    if device.type == "cuda" and len(state_of_device) == len(torch.cuda.get_rng_state(device)):
        torch.cuda.set_rng_state(state_of_device, device)
    if device.type == "mps" and len(state_of_device) == len(torch.mps.get_rng_state()):
        torch.mps.set_rng_state(state_of_device)
