"""The loop: `fit` trains one model on one side of a split and scores the other. It knows nothing of Ray.

Train's worker, a fold's actor and a plain test call the same function; a `ProcessGroup` of several workers shares
one fit.
"""

from __future__ import annotations

import itertools
import time
import zlib
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch

from rainbow_ray.config.schema import Config
from rainbow_ray.data.batching import (
    TrainingSchedule,
    make_training_schedule,
    plan_batches,
    plan_sequences,
    shard_indices,
    shard_sequences,
)
from rainbow_ray.data.dataset import BatchIndices, Dataset, count_songs, mean_score_per_song
from rainbow_ray.data.sampling import resample_indices
from rainbow_ray.distributed.process_group import ProcessGroup
from rainbow_ray.modalities.spec import InputSpec
from rainbow_ray.model.device import gpu_utilization, peak_memory_mb, pick_device, pick_precision, set_deterministic
from rainbow_ray.model.frozen_cache import FrozenFeatureCache
from rainbow_ray.tasks.base import Task
from rainbow_ray.tasks.scores import measure_decoded
from rainbow_ray.training.checkpoint import CheckpointManager
from rainbow_ray.training.learner import Learner
from rainbow_ray.training.loggers import MetricLogger
from rainbow_ray.training.train_step import Stepper, rng_state, set_rng_state
from rainbow_ray.utils.errors import TrainingError


@dataclass(frozen=True)
class FitData:
    """What one fit works on. `train` and `val` are indices into `source`; `val` is empty in the refit.

    `fold` is null for the refit; `length` is given when folds have found how long is best.
    """

    source: Dataset
    train: np.ndarray
    val: np.ndarray
    task: Task
    reading: InputSpec
    fold: int | None
    by: str = "id"
    length: TrainingSchedule | None = None
    prefix: FrozenFeatureCache | None = None  # where fits share what frozen layers say
    on_validation: Callable[[float, np.ndarray], None] | None = (
        None  # told the share done and scores of `val`, each epoch
    )


@dataclass
class TrainState:
    """Where a fit stands: what a checkpoint needs beside tensors. `epoch_step` of a running epoch's steps are done."""

    epoch: int = 0  # the one that is running, or the last one that ran
    step: int = 0
    epoch_step: int = 0
    epoch_loss: float = 0.0  # Σ(weight × loss) and Σ weight of the epoch's steps so far
    epoch_weight: float = 0.0
    best_epoch: int = 0
    best_value: float | None = None
    bad_epochs: int = 0
    losses: list[float] = field(default_factory=list)  # mean training loss of each epoch
    seconds: dict[str, float] = field(default_factory=lambda: dict.fromkeys(("train", "data", "eval", "startup"), 0.0))
    checkpoints: dict[str, float] = field(default_factory=lambda: {"number": 0, "seconds": 0.0})
    tokens: int = 0


@dataclass(frozen=True)
class Fitted:
    """What a fit gives back: scores of both sides, `(examples, …)`, and facts for the summary (plain JSON)."""

    train_scores: np.ndarray
    val_scores: np.ndarray
    facts: dict[str, Any]
    parts: dict[str, np.ndarray] = field(default_factory=dict)  # of `val`, by modalities that alone were read


def fit(
    config: Config,
    data: FitData,
    reporter: MetricLogger,
    state: CheckpointManager,
    process_group: ProcessGroup | None = None,
) -> Fitted:
    """Train on `data.train`, score `data.val`; go on from `state`'s newest checkpoint where it has one.

    With a process group, each of its workers calls this, and the main one writes. Raises `TrainingError` with the songs
    of the batch when the loss is not finite.
    """
    run = Trainer(config, data, reporter, state, process_group or ProcessGroup())
    run.restore()
    while run.in_an_epoch or (run.progress.epoch < run.length.epochs and not run.should_stop()):
        run.train_epoch()
        run.evaluate_epoch()
        run.save_epoch()
    run.load_best()
    return run.result()


class Trainer:
    """The parts of one fit, so that each step of it is a short method."""

    def __init__(
        self,
        config: Config,
        data: FitData,
        reporter: MetricLogger,
        state: CheckpointManager,
        process_group: ProcessGroup,
    ) -> None:
        began = self.saved_at = time.perf_counter()
        self.config, self.data, self.reporter, self.state, self.process_group = (
            config,
            data,
            reporter,
            state,
            process_group,
        )
        self.source, self.progress = data.source, TrainState()
        seed = config.reproducibility.seed
        torch.manual_seed(seed)
        set_deterministic(config.reproducibility.deterministic)
        device, notes = pick_device(config.training.device)
        precision, more = pick_precision(config.training.mixed_precision, device)
        self.train, self.inner = self._inner_split()
        # the balance that training sees: after sampling
        sampled = self._sampled(epoch=0)
        one_each, _ = mean_score_per_song(self.source, sampled, np.zeros(len(sampled)))
        self.task = data.task.fit(self.source.targets[one_each], config.training)
        self.length = data.length or make_training_schedule(
            config.training, len(sampled), count_songs(self.source, self.train)
        )
        self.stop_on, stop_notes = self._stopping_metric()
        self.learner = Learner(
            config, self.source, data.reading, self.task, self.train,
            device=device, precision=precision, process_group=process_group, prefix=data.prefix,
        )  # fmt: skip
        self.notes = [*notes, *more, *stop_notes, *self.length.notes, *self.learner.notes]
        self.model = self.learner.model
        self.model.set_bias(self.task.initial_bias(self.source.targets[one_each]))
        self.base = self.learner.base_hash()
        self.warmup_steps = round(config.training.warmup_ratio * self.length.total_steps)
        self.stepper = Stepper(
            self.learner, config.training, warmup_steps=self.warmup_steps, steps=self.length.total_steps
        )
        if process_group.rank:
            torch.manual_seed(seed + process_group.rank)  # dropout of its own
        self.gpu_use: list[float] = []
        self._spoken_of: set[int] = set()  # best epochs that a kept checkpoint names
        self.progress.seconds["startup"] = time.perf_counter() - began

    @property
    def in_an_epoch(self) -> bool:
        """Whether a checkpoint was taken with some of an epoch's steps done."""
        return self.progress.epoch_step > 0

    def train_epoch(self) -> None:
        """One epoch: each training example once (or as sampled), in planned steps."""
        progress = self.progress
        if not self.in_an_epoch:
            progress.epoch += 1
        steps = self._steps(progress.epoch - 1)
        self.learner.draw = zlib.crc32(f"{self.config.reproducibility.seed} {progress.epoch}".encode())
        self.model.train()
        shares = (self._share(step) for step in steps)
        visits = self.learner.rows(list(shares)[progress.epoch_step :])
        tokens, began = progress.tokens, time.perf_counter()
        for step in steps[progress.epoch_step :]:
            waits = time.perf_counter()
            rows = next(visits)
            now = time.perf_counter()
            progress.seconds["data"] += now - waits
            weight = float(self.source.weights[step.indices].sum(dtype=np.float64))
            done = self.stepper.take(rows, weight, number=progress.step + 1, wants_checkpoint=self._checkpoint_is_due())
            progress.step += 1
            progress.epoch_step += 1
            progress.epoch_loss += done.loss * weight
            progress.epoch_weight += weight
            if self.learner.features is None:
                progress.tokens += int(self.source.lengths[step.indices].sum())
            progress.seconds["train"] += time.perf_counter() - waits
            if progress.epoch_step < len(steps):
                self._inside_the_epoch(done.loss, wants_checkpoint=done.wants_checkpoint)
        progress.losses.append(progress.epoch_loss / progress.epoch_weight)
        progress.epoch_step, progress.epoch_loss, progress.epoch_weight = 0, 0.0, 0.0
        spent = time.perf_counter() - began
        speed = {"tokens_per_second": round((progress.tokens - tokens) / spent)} if progress.tokens > tokens else {}
        self._log("train", loss=progress.losses[-1], lr=self._rate(), examples=sum(map(len, steps)), **speed)

    def evaluate_epoch(self) -> None:
        """Score the inner split, which early stopping looks at, and the songs held out, which nothing looks at."""
        began = time.perf_counter()
        if len(self.inner):
            value, _ = self._log_scores("inner", self.inner)
            better = self._is_better(value)
            if better:
                self.progress.best_value, self.progress.best_epoch = value, self.progress.epoch
            self.progress.bad_epochs = 0 if better else self.progress.bad_epochs + 1
        else:
            self.progress.best_epoch = self.progress.epoch
        if len(self.data.val):
            scores = self._log_scores("val", self.data.val)[1]
            if self.data.on_validation is not None:
                self.data.on_validation(self.progress.epoch / self.length.epochs, scores)
        self.progress.seconds["eval"] += time.perf_counter() - began

    def should_stop(self) -> bool:
        return bool(len(self.inner)) and self.progress.bad_epochs >= self.config.training.early_stopping.patience

    def save_epoch(self) -> None:
        """The best model where an inner split says which, and the last state, to go on from."""
        progress = self.progress
        if len(self.inner) and progress.best_epoch == progress.epoch and self.process_group.is_main:
            self.state.save_best(progress.epoch, {"model": self.model.trained_state()}, keep=self._spoken_of)
        every = self.config.training.save_every_n_epochs
        due = progress.epoch % every == 0 if every is not None else self._checkpoint_is_due()
        if self.process_group.all_reduce_scalars(float(due and self.process_group.is_main))[0]:
            self._save()

    def restore(self) -> None:
        """Go on from the newest checkpoint that can be read and fits; records after it are forgotten."""
        last, words = self.state.load_latest(self._objection)
        step = last["progress"]["step"] if last is not None else -1
        if len(set(self.process_group.all_gather_object((step, len(words))))) > 1:
            shared = "--output-dir must be a folder that all machines share"
            raise TrainingError(f"workers see different checkpoints in {self.state.folder}: {shared}")
        self.notes += words
        if self.process_group.is_main:
            self.state.quarantine(step)
            self.reporter.truncate_after(step)
        if last is None:
            return
        self.model.load_trained_state(last["model"])
        self.stepper.load_state(last["stepper"])
        self.progress = TrainState(**last["progress"])
        before, now = len(last["rng"]), self.process_group.size
        fewer = f", with {now} workers in place of {before}" if now != before else ""
        self.notes.append(f"{self.state.folder.name} went on from step {step} after a stop{fewer}")
        self._spoken_of = self.state.best_epochs()
        if self.process_group.rank < before:
            set_rng_state(last["rng"][self.process_group.rank], self.learner.device)

    def load_best(self) -> None:
        """The best epoch's model, where an inner split says which that was."""
        if not len(self.inner):
            return
        self.process_group.barrier()  # for the leading worker's file
        best = self.state.load_best(self.progress.best_epoch)
        if not all(self.process_group.all_gather_object(best is not None)):
            lost = f"the model of the best epoch ({self.progress.best_epoch}) is gone or damaged"
            raise TrainingError(f"{self.state.folder}: {lost}; --resume goes on from before it")
        assert best is not None
        self.model.load_trained_state(best["model"])

    def _objection(self, state: dict[str, Any]) -> str:
        """What speaks against going on from a checkpoint."""
        if state["base"] != self.base:
            return "it is of another encoder"
        epoch = state["progress"]["best_epoch"]
        if len(self.inner) and epoch and self.state.load_best(epoch) is None:
            return f"the model of its best epoch ({epoch}) is gone or damaged"
        return ""

    def result(self) -> Fitted:
        """Final scores of the chosen model, and the facts that the summary tells."""
        began = time.perf_counter()
        # what is read anew each epoch is too much to be scored again for the record
        train_scores, _ = self.learner.score(self.data.train if self.source.in_memory else self.data.train[:0])
        val_scores, _ = self.learner.score(self.data.val)
        parts = {"+".join(names): self.learner.score_part(self.data.val, names) for names in self._subsets()}
        attention = self.learner.attention(self.data.val)
        progress = self.progress
        progress.seconds["eval"] += time.perf_counter() - began
        if self.process_group.is_main:
            self.state.save_model({"model": self.model.trained_state(), "problem": dict(self.task.to_json())})
        peak = peak_memory_mb(self.learner.device)
        facts = {
            "fold": self.data.fold,
            "best_epoch": progress.best_epoch,
            "epochs": progress.epoch,
            "steps": progress.step,
            "step_size": self.length.global_batch_size,
            "best_step": progress.best_epoch * self.length.steps_per_epoch,
            "warmup_steps": self.warmup_steps,
            "losses": progress.losses,
            "seconds": progress.seconds,
            "checkpoints": progress.checkpoints,
            "tokens": progress.tokens,
            "attention": attention,
            "media_seconds": round(self.learner.audio_features.seconds, 3),
            "stored": vars(self.learner.stored) if self.learner.stored is not None else None,
            # over the songs: training, and the scores after each epoch and at the end
            "passes": 1 if self.learner.features is not None else progress.epoch + 1,
            "gpu_use": round(float(np.mean(self.gpu_use)), 3) if self.gpu_use else None,
            "workers": self.process_group.size,
            "peak_memory_mb": round(max(part.item() for part in self.process_group.all_gather(torch.tensor(peak))), 1),
            "device": self.learner.device.type,
            "precision": self.learner.precision.name,
            "parameters": {
                "trained": sum(p.numel() for p in self.model.parameters() if p.requires_grad),
                "all": sum(p.numel() for p in self.model.parameters()),
            },
            "notes": [*self.notes, *self.stepper.notes],
        }
        return Fitted(train_scores, val_scores, facts, parts)

    def _subsets(self) -> list[tuple[str, ...]]:
        """Some, not all, of the modalities: what each brings is told by scores without the others."""
        names = self.data.reading.modalities
        if len(self.data.val) == 0:
            return []
        return [some for size in range(1, len(names)) for some in itertools.combinations(names, size)]

    def _steps(self, epoch: int) -> list[BatchIndices]:
        """The global steps of an epoch, the same whatever the number of workers."""
        seed, chosen = self.config.reproducibility.seed, self._sampled(epoch)
        if self.source.sequence_index is not None:
            return plan_sequences(self._runs(epoch), self.length.steps_per_epoch, seed=seed, epoch=epoch)
        in_any_order = self.source.in_memory or self.learner.features is not None
        blocks = [chosen] if in_any_order else self.source.shuffle_blocks(chosen, seed=seed, epoch=epoch)
        size, lengths = self.length.global_batch_size, self.source.lengths
        return [
            BatchIndices(step) for step in plan_batches(lengths, batch_size=size, seed=seed, epoch=epoch, blocks=blocks)
        ]

    def _runs(self, epoch: int) -> list[np.ndarray]:
        """What an epoch reads together: songs, or windows of them, that have anything to learn from."""
        neighbours = self.source.sequence_index
        assert neighbours is not None
        shift = int(np.random.default_rng([self.config.reproducibility.seed, epoch, 3]).integers(neighbours.max_length))
        songs = neighbours.group_by_song(self.train)
        runs = [window for song in songs for window in neighbours.training_sequences(song, shift=shift)]
        return [run for run in runs if self.source.weights[run].any()]

    def _share(self, step: BatchIndices) -> BatchIndices:
        """This worker's share of a step."""
        rank, size = self.process_group.rank, self.process_group.size
        if step.sequence_ids is None:
            return BatchIndices(shard_indices(step.indices, self.source.lengths, rank, size))
        return step if size == 1 else shard_sequences(step.sequences, rank, size)

    def _inside_the_epoch(self, loss: float, *, wants_checkpoint: bool) -> None:
        """Between two steps of an epoch: the record and the checkpoint that are due."""
        progress = self.progress
        if progress.step % self.config.logging.log_every_n_steps == 0:
            use = gpu_utilization(self.learner.device)
            self.gpu_use += [use] if use is not None else []
            norms = {f"grad_norm_{name}": round(norm, 6) for name, norm in self.stepper.norms.items()}
            self._log("train", loss=loss, lr=self._rate(), **norms, **({"gpu_use": use} if use is not None else {}))
        if wants_checkpoint:
            self._save()

    def _save(self) -> None:
        """Called by all workers: each gives the state of its generators, the leading one writes."""
        began, progress = time.perf_counter(), self.progress
        rng = self.process_group.all_gather(rng_state(self.learner.device))
        if self.process_group.is_main:
            state = {
                "model": self.model.trained_state(),
                "base": self.base,
                "stepper": self.stepper.state(),
                "rng": rng,
                "progress": vars(progress),
            }
            self.state.save(progress.step, state)
        self._spoken_of = {max(self._spoken_of, default=0), progress.best_epoch}
        self.saved_at = time.perf_counter()
        progress.checkpoints["number"] += 1
        progress.checkpoints["seconds"] += self.saved_at - began

    def _checkpoint_is_due(self) -> bool:
        """Inside an epoch only the clock decides; other workers follow the leading one's."""
        config = self.config.training
        if config.save_every_n_epochs is not None or not self.process_group.is_main:
            return False
        return time.perf_counter() - self.saved_at >= config.checkpoint_seconds

    def _inner_split(self) -> tuple[np.ndarray, np.ndarray]:
        """The training side, less what early stopping looks at (nothing in the refit, whose length is known)."""
        stopping, train = self.config.training.early_stopping, self.data.train
        if not stopping.enabled or self.data.length is not None:
            return train, np.array([], dtype=np.int64)
        strata = self.data.task.strata(self.source.targets[train])
        held = self.source.validation_mask(
            train, strata, fraction=stopping.inner_split, split_by=self.data.by, seed=self.config.split_seed
        )
        return train[~held], train[held]

    def _sampled(self, epoch: int) -> np.ndarray:
        """What an epoch trains on: indices into the source."""
        strata = self.data.task.strata(self.source.targets[self.train])
        seed, how = self.config.reproducibility.seed, self.config.training.sampling
        return np.asarray(self.train[resample_indices(strata, how, seed=seed, epoch=epoch)])

    def _stopping_metric(self) -> tuple[str, list[str]]:
        """The headline metric, or the loss where the inner split is too small to define it."""
        metric = self.config.training.headline
        targets = self.source.targets[self.inner]
        if len(targets) == 0 or self.task.metric(metric, targets, self.task.perfect_scores(targets)) is not None:
            return metric, []
        why = f"{metric} is not defined on the {len(targets)} songs of the inner split"
        return "loss", [f"{why}: early stopping looks at the loss"]

    def _log_scores(self, split: str, indices: np.ndarray) -> tuple[float | None, np.ndarray]:
        """Log all metrics of a side; what early stopping looks at is returned, and the scores."""
        scores, loss = self.learner.score(indices)
        songs, averaged = mean_score_per_song(self.source, indices, scores)
        metrics, undefined = measure_decoded(self.task, self.source.targets[songs], averaged)
        self._log(split, loss=loss, **metrics, **({"undefined": undefined} if undefined else {}))
        return (loss if self.stop_on == "loss" else metrics[self.stop_on]), scores

    def _is_better(self, value: float | None) -> bool:
        best = self.progress.best_value
        if value is None:
            return self.progress.best_epoch == 0
        if best is None:
            return True
        gain = value - best if self.task.larger_is_better(self.stop_on) else best - value
        return gain > self.config.training.early_stopping.min_delta

    def _rate(self) -> float:
        return float(self.stepper.schedule.get_last_lr()[-1])

    def _log(self, split: str, **values: Any) -> None:
        progress = self.progress
        spent = round(sum(progress.seconds[part] for part in ("startup", "train", "eval")), 3)
        place = {"fold": self.data.fold, "epoch": progress.epoch, "step": progress.step, "split": split}
        self.reporter.log({**place, "seconds": spent, **values})
