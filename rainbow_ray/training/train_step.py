"""One optimiser step over all its micro-batches and workers, halving the micro-batch where memory does not suffice."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from rainbow_ray.config.schema import TrainingConfig
from rainbow_ray.data.batching import MIN_BATCH_TOKENS, divide_batch, divide_sequences
from rainbow_ray.data.dataset import ExampleView
from rainbow_ray.model.device import OUT_OF_MEMORY_ADVICE, is_out_of_memory
from rainbow_ray.training.learner import Learner, advice
from rainbow_ray.training.optimizer import make_optimizer, make_schedule
from rainbow_ray.utils.errors import TrainingError


@dataclass(frozen=True)
class Done:
    """What a step gave: the weighted mean loss over all workers, and whether the leading one wants a checkpoint."""

    loss: float
    wants_checkpoint: bool


@dataclass
class Limits:
    """The largest micro-batch: examples, and padded tokens (None: no limit)."""

    examples: int
    tokens: int | None

    def halve(self, largest: int) -> None:
        """Half of what was too much: `largest` is the examples of the micro-batch that did not fit."""
        self.examples = max(1, min(self.examples, largest) // 2)
        self.tokens = self.tokens // 2 if self.tokens else None


class Stepper:
    """Optimiser, schedule and scaler around a learner; `take` makes one step."""

    def __init__(self, learner: Learner, config: TrainingConfig, *, warmup_steps: int, steps: int) -> None:
        self.learner, self.config, self.process_group = learner, config, learner.process_group
        self.optimizer = make_optimizer(learner.model, learner.config, learner.device)
        self.schedule = make_schedule(self.optimizer, learner.config, warmup_steps, steps)
        self.scaler = torch.amp.GradScaler(learner.device.type, enabled=learner.precision.scaled)
        self.limits = Limits(config.batch_size, config.batch_tokens)
        self.norms: dict[str, float] = {}  # of the last step's gradients, before clipping, by what they belong to
        self.notes: list[str] = []

    def take(self, rows: ExampleView, weight: float, *, number: int, wants_checkpoint: bool = False) -> Done:
        """Train on this worker's `rows` of a step whose examples weigh `weight` over all workers.

        Its loss is Σ(weight × loss) / Σ weight over workers and micro-batches, so that neither how many workers there
        are nor how the step is cut changes its gradient.
        """
        while True:
            state = rng_state(self.learner.device)
            losses, cuts = self._accumulate(rows, weight)
            failed = losses is None
            loss, failures, wanted = self.process_group.all_reduce_scalars(
                sum(losses or []), float(failed), float(wants_checkpoint)
            )
            if not failures:
                break
            self._shrink(max((len(cut) for cut in cuts), default=1), number)
            set_rng_state(state, self.learner.device)  # the same dropout for the same examples, as far as it goes
        if not math.isfinite(loss):
            raise self._not_finite(loss, number, losses or [], cuts)
        self._update()
        return Done(loss, wanted > 0)

    def state(self) -> dict[str, Any]:
        return {
            "optimizer": self.optimizer.state_dict(),
            "schedule": self.schedule.state_dict(),
            "scaler": self.scaler.state_dict(),
            "limits": vars(self.limits).copy(),
        }

    def load_state(self, state: dict[str, Any]) -> None:
        self.optimizer.load_state_dict(state["optimizer"])
        self.schedule.load_state_dict(state["schedule"])
        if state["scaler"] and self.scaler.is_enabled():  # another machine may train in another precision
            self.scaler.load_state_dict(state["scaler"])
        self.limits = Limits(**state["limits"])

    def micro_batches(self, rows: ExampleView) -> Iterator[ExampleView]:
        """A worker's share of a step, cut into texts of like lengths."""
        learner = self.learner
        if len(rows) == 0:
            return
        if rows.sequence_ids is not None:
            lengths = learner.source.lengths[rows.indices]
            most, tokens = self.limits.examples, self.limits.tokens
            cuts = divide_sequences(rows.sequence_positions, lengths, max_examples=most, max_tokens=tokens)
            yield from (rows.take(cut.indices) for cut in cuts)
            return
        alone = divide_batch(
            np.arange(len(rows)),
            learner.source.lengths[rows.indices],
            max_examples=self.limits.examples,
            max_tokens=self.limits.tokens,
            min_tokens=MIN_BATCH_TOKENS[learner.device.type],
        )
        yield from (rows.take(cut) for cut in alone)

    def _accumulate(self, rows: ExampleView, weight: float) -> tuple[list[float] | None, list[ExampleView]]:
        """Gradients of all micro-batches, kept to this worker; their losses, None where memory did not suffice."""
        cuts = list(self.micro_batches(rows))
        losses = []
        try:
            with self.process_group.no_sync(self.learner.wrapped):
                for cut in cuts:
                    # averaged over the workers afterwards, hence times their number
                    loss = self.learner.losses(cut)[0].sum() / weight
                    torch.autograd.backward(self.scaler.scale(loss * self.process_group.size))
                    losses.append(loss.detach())
            return (torch.stack(losses).tolist() if losses else []), cuts
        except Exception as error:
            if not is_out_of_memory(error):
                raise
        return None, cuts

    def _shrink(self, largest: int, number: int) -> None:
        device, before = self.learner.device, (self.limits.examples, self.limits.tokens)
        largest = int(max(part.item() for part in self.process_group.all_gather(torch.tensor(largest))))
        if largest == 1 or before[0] == 1:  # a run of neighbours is not torn
            lacks = f"step {number}: memory on {device.type} does not suffice for one example alone"
            raise TrainingError(f"{lacks}; {OUT_OF_MEMORY_ADVICE}")
        self.limits.halve(largest)
        self.optimizer.zero_grad(set_to_none=True)
        if device.type == "cuda":
            torch.cuda.empty_cache()
        tokens = f" and {self.limits.tokens} tokens" if before[1] else ""
        self.notes.append(
            f"out of memory on {device.type} in step {number}: micro-batches of {largest} examples become"
            f" {self.limits.examples}{tokens}, and as many more of them; gradients stay the same"
        )

    def _update(self) -> None:
        if self.process_group.size > 1:
            # one more backward pass, of nothing, in which the workers' gradients are averaged: all take part in it,
            # however many micro-batches each had
            torch.autograd.backward(self.scaler.scale(self.learner.nothing()))
        towers = self.learner.model.parameters_by_component() if self.learner.model.is_fused else {}
        for parameter in (p for tower in towers.values() for p in tower if p.grad is None):
            # nobody in this step had the modality: one worker then does what several do, whose spare pass reaches it
            parameter.grad = torch.zeros_like(parameter)
        if self.config.max_grad_norm or towers:
            self.scaler.unscale_(self.optimizer)
        if towers:
            gradients = {name: [p.grad for p in tower if p.grad is not None] for name, tower in towers.items()}
            self.norms = {name: float(torch.nn.utils.get_total_norm(found)) for name, found in gradients.items()}
        if self.config.max_grad_norm:
            trained = [p for group in self.optimizer.param_groups for p in group["params"]]
            torch.nn.utils.clip_grad_norm_(trained, self.config.max_grad_norm)
        self.scaler.step(self.optimizer)
        self.scaler.update()
        self.optimizer.zero_grad(set_to_none=True)
        self.schedule.step()

    def _not_finite(self, loss: float, number: int, losses: list[float], cuts: list[ExampleView]) -> TrainingError:
        bad = [cut.indices for cut, own in zip(cuts, losses, strict=True) if not math.isfinite(own)]
        own = self.learner.source.song_names(bad[0]) if bad else []
        songs = next((named for named in self.process_group.all_gather_object(own) if named), [])
        where = f"in a batch of the songs {', '.join(songs)}"
        return TrainingError(f"the loss of step {number} is {loss}, {where}: {advice(self.learner.config)}")


def rng_state(device: torch.device) -> torch.Tensor:
    """The state of the generators that dropout draws from: bytes, of one length on each device type."""
    states = [torch.get_rng_state()]
    if device.type == "cuda":
        states.append(torch.cuda.get_rng_state(device))
    return torch.cat(states)


def set_rng_state(state: torch.Tensor, device: torch.device) -> None:
    size = len(torch.get_rng_state())
    torch.set_rng_state(state[:size])
    if device.type == "cuda" and len(state) > size:
        torch.cuda.set_rng_state(state[size:], device)
