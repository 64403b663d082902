"""The loop: `fit` trains one model on one side of a split and scores the other. It knows nothing of Ray.

Train's worker, a fold's actor and a plain test call the same function.
"""

from __future__ import annotations

import functools
import math
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import torch

from rainbow_ray.config import Config
from rainbow_ray.data.examples import Examples
from rainbow_ray.data.split import make_split
from rainbow_ray.data.stream import make_batch
from rainbow_ray.errors import TrainingError, choose
from rainbow_ray.modalities import make_collates, text
from rainbow_ray.modalities.words import log_count_ratios
from rainbow_ray.model.prefix import Part, can_share, encode_all
from rainbow_ray.model.rainbow import Rainbow
from rainbow_ray.problems import Problem, make_problem
from rainbow_ray.training.batches import ENOUGH_TOKENS, Length, decide_length, divide, plan, scoring_batches
from rainbow_ray.training.checkpoint import Checkpoints
from rainbow_ray.training.device import be_deterministic, peak_memory_mb, pick_device, pick_precision
from rainbow_ray.training.imbalance import SAMPLINGS, sample
from rainbow_ray.training.optimizer import SCHEDULES, make_optimizer, make_schedule
from rainbow_ray.training.reporters import Reporter

# the frozen encoder's output for a worker's last data, so that further folds and fits need not run it again
_ENCODED: dict[tuple[str, ...], tuple[pa.Table, torch.Tensor]] = {}


@dataclass(frozen=True)
class FitData:
    """What one fit works on. `train` and `val` are indices into `examples`; `val` is empty in the refit.

    `fold` is null for the refit; `length` is given when folds have found how long is best.
    """

    examples: Examples
    train: np.ndarray
    val: np.ndarray
    problem: Problem
    encoder: str
    fold: int | None
    by: str = "id"
    length: Length | None = None

    @functools.cached_property
    def lengths(self) -> np.ndarray:
        return np.array([len(row) for row in self.examples.ragged(text.TOKENS)])


@dataclass
class Progress:
    """Where a fit stands: what a checkpoint needs beside tensors."""

    epoch: int = 0  # the one that is running, or the last one that ran
    step: int = 0
    best_epoch: int = 0
    best_value: float | None = None
    bad_epochs: int = 0
    losses: list[float] = field(default_factory=list)  # mean training loss of each epoch
    seconds: dict[str, float] = field(default_factory=lambda: {"train": 0.0, "eval": 0.0, "startup": 0.0})
    tokens: int = 0


@dataclass(frozen=True)
class Fitted:
    """What a fit gives back: scores of both sides, `(examples, …)`, and facts for the summary (plain JSON)."""

    train_scores: np.ndarray
    val_scores: np.ndarray
    facts: dict[str, Any]


def check_training(config: Config) -> list[str]:
    """What is wrong with names that the loop reads."""
    return [
        *choose("training.schedule", config.training.schedule, SCHEDULES),
        *choose("training.sampling", config.training.sampling, SAMPLINGS),
    ]


def fit(config: Config, data: FitData, reporter: Reporter, state: Checkpoints) -> Fitted:
    """Train on `data.train`, score `data.val`; go on from `state`'s last checkpoint where it has one.

    Raises `TrainingError` with the songs of the batch when the loss is not finite.
    """
    run = _Run(config, data, reporter, state)
    run.restore()
    while run.progress.epoch < run.length.epochs and not run.should_stop():
        run.train_epoch()
        run.evaluate_epoch()
        run.save()
    run.load_best()
    return run.result()


class _Run:
    """The parts of one fit, so that each step of it is a short method."""

    def __init__(self, config: Config, data: FitData, reporter: Reporter, state: Checkpoints) -> None:
        began = self.saved_at = time.perf_counter()
        self.config, self.data, self.reporter, self.state = config, data, reporter, state
        self.progress = Progress()
        seed = config.reproducibility.seed
        torch.manual_seed(seed)
        be_deterministic(config.reproducibility.deterministic)
        self.device, notes = pick_device(config.training.device)
        self.precision, more = pick_precision(config.training.mixed_precision, self.device)
        self.train, self.inner = self._inner_split()
        # the balance that training sees: after sampling
        sampled = self._sampled(epoch=0)
        self.problem = data.problem.fit(data.examples.targets[sampled], config.training)
        self.bias = self.problem.initial_bias(data.examples.targets[sampled])
        self.collates = make_collates(data.encoder)
        self.length = data.length or decide_length(config.training, len(sampled))
        self.stop_on, stop_notes = self._stopping_metric()
        self.notes = [*notes, *more, *stop_notes, *self.length.notes]
        self.model = self._build()
        self.features = self._share_prefix()
        self._fit_statistics()
        self.optimizer = make_optimizer(self.model, config, self.device)
        self.warmup_steps = round(config.training.warmup_ratio * self.length.steps)
        self.schedule = make_schedule(self.optimizer, config, self.warmup_steps, self.length.steps)
        self.scaler = torch.amp.GradScaler(self.device.type, enabled=self.precision.scaled)
        self.progress.seconds["startup"] = time.perf_counter() - began

    def train_epoch(self) -> None:
        """One epoch: each training example once (or as sampled), in planned steps."""
        began = time.perf_counter()
        progress = self.progress
        seed, epoch = self.config.reproducibility.seed, progress.epoch
        chosen = self._sampled(epoch)
        steps = plan(self.data.lengths[chosen], step_size=self.length.step_size, seed=seed, epoch=epoch)
        self.model.train()
        losses, weights = [], []
        progress.epoch += 1
        for number, step in enumerate(steps, start=1):
            loss, weight = self._train_step(chosen[step])
            losses.append(loss)
            weights.append(weight)
            progress.step += 1
            if progress.step % self.config.logging.log_every_n_steps == 0 and number < len(steps):
                self._log("train", loss=loss, lr=self.schedule.get_last_lr()[-1])
        progress.losses.append(float(np.average(losses, weights=weights)))
        progress.seconds["train"] += time.perf_counter() - began
        self._log("train", loss=progress.losses[-1], lr=self.schedule.get_last_lr()[-1], examples=len(chosen))

    def _train_step(self, step: np.ndarray) -> tuple[float, float]:
        """One step over all its micro-batches: its loss (weighted mean) and the sum of its weights."""
        config, lengths = self.config.training, self.data.lengths
        micro_batches = divide(
            step,
            lengths,
            max_examples=config.batch_size,
            max_tokens=config.batch_tokens,
            enough_tokens=ENOUGH_TOKENS[self.device.type],
        )
        total_weight = float(self.data.examples.weights[step].sum())
        total = 0.0
        for indices in micro_batches:
            losses, _ = self._forward(indices)
            loss = losses.sum() / total_weight
            value = loss.item()
            if not math.isfinite(value):
                raise self._not_finite(value, indices)
            self.scaler.scale(loss).backward()
            total += value
        self._update()
        if self.features is None:
            self.progress.tokens += int(lengths[step].sum())
        return total, total_weight

    def _update(self) -> None:
        if self.config.training.max_grad_norm:
            self.scaler.unscale_(self.optimizer)
            trained = [p for group in self.optimizer.param_groups for p in group["params"]]
            torch.nn.utils.clip_grad_norm_(trained, self.config.training.max_grad_norm)
        self.scaler.step(self.optimizer)
        self.scaler.update()
        self.optimizer.zero_grad(set_to_none=True)
        self.schedule.step()

    def evaluate_epoch(self) -> None:
        """Score the inner split, which early stopping looks at, and the songs held out, which nothing looks at."""
        began = time.perf_counter()
        if len(self.inner):
            value = self._log_scores("inner", self.inner)
            better = self._is_better(value)
            if better:
                self.progress.best_value, self.progress.best_epoch = value, self.progress.epoch
            self.progress.bad_epochs = 0 if better else self.progress.bad_epochs + 1
        else:
            self.progress.best_epoch = self.progress.epoch
        if len(self.data.val):
            self._log_scores("val", self.data.val)
        self.progress.seconds["eval"] += time.perf_counter() - began

    def should_stop(self) -> bool:
        return bool(len(self.inner)) and self.progress.bad_epochs >= self.config.training.early_stopping.patience

    def save(self) -> None:
        """The best model where an inner split says which, and the last state, to go on from."""
        progress = self.progress
        if len(self.inner) and progress.best_epoch == progress.epoch:
            self.state.save("best", {"model": self.model.trained_state()})
        if self._checkpoint_is_due():
            self.saved_at = time.perf_counter()
            self.state.save(
                "last",
                {
                    "model": self.model.trained_state(),
                    "optimizer": self.optimizer.state_dict(),
                    "schedule": self.schedule.state_dict(),
                    "scaler": self.scaler.state_dict(),
                    "rng": torch.get_rng_state(),
                    "progress": vars(progress),
                },
            )

    def _checkpoint_is_due(self) -> bool:
        config = self.config.training
        if config.save_every_n_epochs is not None:
            return self.progress.epoch % config.save_every_n_epochs == 0
        return time.perf_counter() - self.saved_at >= config.checkpoint_seconds

    def restore(self) -> None:
        last = self.state.load("last")
        if last is None:
            return
        self.model.load_trained_state(last["model"])
        self.optimizer.load_state_dict(last["optimizer"])
        self.schedule.load_state_dict(last["schedule"])
        self.scaler.load_state_dict(last["scaler"])
        torch.set_rng_state(last["rng"])
        self.progress = Progress(**last["progress"])

    def load_best(self) -> None:
        best = self.state.load("best") if len(self.inner) else None
        if best is not None:
            self.model.load_trained_state(best["model"])

    def result(self) -> Fitted:
        """Final scores of the chosen model, and the facts that the summary tells."""
        began = time.perf_counter()
        train_scores, _ = self._score(self.data.train)
        val_scores, _ = self._score(self.data.val)
        progress = self.progress
        progress.seconds["eval"] += time.perf_counter() - began
        self.state.save("model", {"model": self.model.trained_state(), "problem": dict(self.problem.to_json())})
        facts = {
            "fold": self.data.fold,
            "best_epoch": progress.best_epoch,
            "epochs": progress.epoch,
            "steps": progress.step,
            "step_size": self.length.step_size,
            "best_step": progress.best_epoch * self.length.steps_per_epoch,
            "warmup_steps": self.warmup_steps,
            "losses": progress.losses,
            "seconds": progress.seconds,
            "tokens": progress.tokens,
            "peak_memory_mb": round(peak_memory_mb(self.device), 1),
            "device": self.device.type,
            "precision": self.precision.name,
            "parameters": {
                "trained": sum(p.numel() for p in self.model.parameters() if p.requires_grad),
                "all": sum(p.numel() for p in self.model.parameters()),
            },
            "notes": self.notes,
        }
        return Fitted(train_scores, val_scores, facts)

    def _inner_split(self) -> tuple[np.ndarray, np.ndarray]:
        """The training side, less what early stopping looks at (nothing in the refit, whose length is known)."""
        stopping = self.config.training.early_stopping
        if not stopping.enabled or self.data.length is not None:
            return self.data.train, np.array([], dtype=np.int64)
        side = self.data.examples.take(self.data.train)
        inner = make_split(
            side,
            self.data.problem.strata(side.targets),
            folds=1,
            val_split=stopping.inner_split,
            by=self.data.by,
            seed=self.config.split_seed,
        )
        train, held = inner.sides(0)
        return self.data.train[train], self.data.train[held]

    def _sampled(self, epoch: int) -> np.ndarray:
        """What an epoch trains on: indices into the examples."""
        strata = self.data.problem.strata(self.data.examples.targets[self.train])
        seed, how = self.config.reproducibility.seed, self.config.training.sampling
        return self.train[sample(strata, how, seed=seed, epoch=epoch)]

    def _stopping_metric(self) -> tuple[str, list[str]]:
        """The headline metric, or the loss where the inner split is too small to define it."""
        metric = self.config.training.metric
        targets = self.data.examples.targets[self.inner]
        if len(targets) == 0 or self.problem.metric(metric, targets, targets) is not None:
            return metric, []
        why = f"{metric} is not defined on the {len(targets)} songs of the inner split"
        return "loss", [f"{why}: early stopping looks at the loss"]

    def _build(self) -> Rainbow:
        model = build_model(self.config, text.fresh_body(self.data.encoder), self.problem)
        examples, targets = self.data.examples, self.data.examples.targets[self.train]
        if model.words is not None:
            lists = examples.take(self.train).ragged(text.WORDS)
            weigh = self.config.model.lexical.weighting == "ratio"
            ratios = log_count_ratios(lists, self.problem.strata(targets)) if weigh else None
            model.words.fit(lists, ratios, self.config.reproducibility.seed)
        model.to(self.device)
        model.set_bias(self.bias)
        return model

    def _share_prefix(self) -> torch.Tensor | None:
        """Features `(examples, width)` of all examples, where training does not change them."""
        if not can_share(self.model, len(self.data.examples)):
            return None
        options = self.config.model.text_encoder.model_dump_json()
        key = (self.data.encoder, options, self.precision.name, self.device.type)
        rows, encoded = _ENCODED.get(key, (None, None))
        if encoded is None or rows is not self.data.examples.table:
            _ENCODED.clear()  # a warm worker keeps those of its last data
            with self.precision.autocast(self.device):
                everything = self._parts(np.arange(len(self.data.examples)))
                encoded = encode_all(self.model, everything, len(self.data.examples))
            _ENCODED[key] = (self.data.examples.table, encoded)
        words = text.pad(self.data.examples.ragged(text.WORDS), 0).to(self.device)
        with torch.no_grad():
            return self.model.join(encoded, words, torch.arange(len(encoded), device=self.device))

    @torch.no_grad()
    def _fit_statistics(self) -> None:
        self.model.eval()
        if self.features is not None:
            self.model.fit_statistics(self.features[torch.from_numpy(self.train).to(self.device)])
        else:
            self.model.fit_statistics(torch.cat([self.model.features(part.batch) for part in self._parts(self.train)]))

    def _forward(self, indices: np.ndarray) -> tuple[torch.Tensor, torch.Tensor]:
        """Weighted losses `(examples,)` and logits, fp32, of some examples."""
        examples = self.data.examples
        with self.precision.autocast(self.device):
            if self.features is not None:
                logits = self.model.classify(self.features[torch.from_numpy(indices).to(self.device)])
            else:
                logits = self.model(make_batch(examples, indices, self.collates).to(self.device))
        logits = logits.float()
        targets = torch.from_numpy(examples.targets[indices]).to(self.device)
        weights = torch.from_numpy(examples.weights[indices]).to(self.device)
        return self.problem.loss(logits, targets) * weights, logits

    def _parts(self, indices: np.ndarray) -> Iterator[Part]:
        for part in scoring_batches(indices, self.data.lengths):
            yield Part(part, make_batch(self.data.examples, part, self.collates).to(self.device))

    @torch.no_grad()
    def _score(self, indices: np.ndarray) -> tuple[np.ndarray, float | None]:
        """Scores of the examples in the order of `indices`, and their weighted mean loss (None without examples)."""
        self.model.eval()
        place = np.zeros(len(self.data.examples), dtype=np.int64)
        place[indices] = np.arange(len(indices))
        scores = np.zeros(len(indices), dtype=np.float32)
        total = 0.0
        for part in scoring_batches(indices, self.data.lengths):
            losses, logits = self._forward(part)
            total += float(losses.sum())
            scores[place[part]] = self.problem.scores(logits).cpu().numpy()
        if not np.isfinite(scores).all():
            songs = ", ".join(dict.fromkeys(self.data.examples.songs[indices[~np.isfinite(scores)]][:10]))
            raise TrainingError(f"scores are not finite, of the songs {songs}: {self._advice()}")
        weight = float(self.data.examples.weights[indices].sum())
        return scores, (total / weight if weight else None)

    def _log_scores(self, split: str, indices: np.ndarray) -> float | None:
        """Log all metrics of a side; what early stopping looks at is returned."""
        scores, loss = self._score(indices)
        metrics, undefined = self.problem.metrics(self.data.examples.targets[indices], scores)
        self._log(split, loss=loss, **metrics, **({"undefined": undefined} if undefined else {}))
        return loss if self.stop_on == "loss" else metrics[self.stop_on]

    def _is_better(self, value: float | None) -> bool:
        best = self.progress.best_value
        if value is None:
            return self.progress.best_epoch == 0
        if best is None:
            return True
        gain = value - best if self.problem.larger_is_better(self.stop_on) else best - value
        return gain > self.config.training.early_stopping.min_delta

    def _log(self, split: str, **values: Any) -> None:
        progress = self.progress
        spent = round(sum(progress.seconds.values()), 3)
        place = {"fold": self.data.fold, "epoch": progress.epoch, "step": progress.step, "split": split}
        self.reporter.log({**place, "seconds": spent, **values})

    def _not_finite(self, value: float, indices: np.ndarray) -> TrainingError:
        songs = ", ".join(dict.fromkeys(self.data.examples.songs[indices]))
        step = self.progress.step + 1
        return TrainingError(f"the loss of step {step} is {value}, in a batch of the songs {songs}: {self._advice()}")

    def _advice(self) -> str:
        return (
            f"try a smaller training.learning_rate ({self.config.training.learning_rate:g}) or head_learning_rate"
            f" ({self.config.training.head_learning_rate:g}), or training.mixed_precision=off"
        )


def build_model(config: Config, body: Any, problem: Problem) -> Rainbow:
    """The model as the config describes it, around an encoder of its own (it is cut to the layer read)."""
    return Rainbow(body, config.model, problem.outputs)


def load_fitted(config: Config, encoder: str, problem: Problem, folder: Path) -> tuple[Rainbow, Problem]:
    """A finished fit's model, its checkpoint put back onto the encoder, and its problem as fitted."""
    saved = Checkpoints(folder).load("model")
    if saved is None:
        raise TrainingError(f"{folder}: the fit left no model that can be read")
    fitted = make_problem(problem.name, **saved["problem"])
    model = build_model(config, text.fresh_body(encoder), fitted)
    model.load_trained_state(saved["model"])
    return model, fitted
