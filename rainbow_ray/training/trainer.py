"""The training loop: `fit` trains a model on one side of a split and scores the other. It does not depend on Ray.

The worker of a TorchTrainer, the actor of a fold, the process of a command and a plain test call the same function; the
workers of a `ProcessGroup` share one fit.
"""

from __future__ import annotations

import time
import zlib
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch

from rainbow_ray.config.schema import Config
from rainbow_ray.data.batching import learning_rate_factor, requested_step_size
from rainbow_ray.data.dataset import BatchIndices, ExampleView, count_songs, mean_score_per_song
from rainbow_ray.distributed.process_group import ProcessGroup
from rainbow_ray.model.device import (
    ExecutionContext,
    Precision,
    gpu_utilization,
    peak_memory_mb,
    pick_device,
    reset_peak_memory,
    set_deterministic,
)
from rainbow_ray.model.training_precision import pick_training_precision
from rainbow_ray.nn.parameter_count import count_parameters
from rainbow_ray.tasks.scores import measure_decoded
from rainbow_ray.training.checkpoint import CheckpointManager
from rainbow_ray.training.components import build_components
from rainbow_ray.training.early_stopping import LOSS, is_improvement, monitored_metric, split_for_early_stopping
from rainbow_ray.training.epoch_plan import EpochPlanner
from rainbow_ray.training.fit_data import FitData, FitOutput, TrainState
from rainbow_ray.training.linear_solver import solve_classifier
from rainbow_ray.training.loggers import MetricLogger
from rainbow_ray.training.prefetch import prepare_ahead
from rainbow_ray.training.schedule import is_solved_run, schedule_of_fit
from rainbow_ray.training.train_step import PreparedStep, StepResult, TrainStep, rng_state, set_rng_state
from rainbow_ray.utils.errors import TrainingError


def fit(
    config: Config, data: FitData, logger: MetricLogger, checkpoints: CheckpointManager,
    process_group: ProcessGroup | None = None,
) -> FitOutput:  # fmt: skip
    """Train on the training side and score both sides; continue from the newest checkpoint if there is one.

    Args:
        config: Config of the fit.
        data: Data of the fit.
        logger: Receives metrics.
        checkpoints: Files of the fit; only the main worker writes.
        process_group: The workers that share the fit, each of which calls this function; None: this process alone.

    Returns:
        Scores and facts.

    Raises:
        TrainingError: The loss or a score is not finite (the songs of the batch are named), or memory does not suffice.
    """
    trainer = Trainer(config, data, logger, checkpoints, process_group or ProcessGroup())
    trainer.restore()
    while trainer.has_more_epochs:
        trainer.train_epoch()
        trainer.evaluate_epoch()
        trainer.save_epoch()
    trainer.load_best()
    return trainer.result()


class Trainer:
    """One fit, as a sequence of small steps; all workers of a process group call its methods together.

    Args:
        config: Config of the fit.
        data: Data of the fit.
        logger: Receives metrics.
        checkpoints: Files of the fit.
        process_group: The workers that share the fit.
    """

    def __init__(
        self, config: Config, data: FitData, logger: MetricLogger, checkpoints: CheckpointManager,
        process_group: ProcessGroup,
    ) -> None:  # fmt: skip
        start = self._saved_at = time.perf_counter()
        self.config, self.data, self.logger, self.checkpoints = config, data, logger, checkpoints
        self.process_group, self.dataset, self.state = process_group, data.dataset, TrainState()
        seed = config.reproducibility.seed
        torch.manual_seed(seed)
        device, device_notes = pick_device(config.training.device)
        set_deterministic(config.reproducibility.deterministic, device)
        reset_peak_memory(device)
        precision, precision_notes = pick_training_precision(config, data.input_spec, device)
        if len(set(process_group.all_gather_object(precision.name))) > 1:
            precision = Precision(None)
            precision_notes = [*precision_notes, "training.mixed_precision: fp32, since workers' machines differ"]
        self.is_solved = is_solved_run(config, data.dataset, data.task, data.input_spec)
        self.train, self.inner = self._split()
        self.planner = EpochPlanner(config, self.dataset, data.task, self.train)
        # the class balance of the sampled examples, which is what training sees
        sample = self.planner.sample(epoch=0)
        one_per_song, _ = mean_score_per_song(self.dataset, sample, np.zeros(len(sample)))
        song_targets = self.dataset.targets[one_per_song]
        self.task = data.task.fit(song_targets, config.training)
        n_songs = count_songs(self.dataset, self.train)
        known_schedule = None if self.is_solved else data.schedule
        self.schedule = known_schedule or schedule_of_fit(
            config, self.dataset, data.task, data.input_spec, len(sample), n_songs=n_songs
        )
        self.monitor, monitor_notes = monitored_metric(config.training, self.task, self.dataset.targets[self.inner])
        execution = ExecutionContext(device, precision, process_group)
        components = build_components(
            config, self.dataset, data.input_spec, self.task, self.train, execution, frozen_cache=data.frozen_cache
        )
        self.components, self.model, self.device = components, components.model, device
        self.features, self.evaluator = components.features, components.evaluator
        self.model.set_classifier(self.task.initial_bias(song_targets))
        self._frozen_hash = self.features.frozen_hash()
        self.warmup_steps = round(config.training.warmup_ratio * self.schedule.total_steps)
        self.stepper = TrainStep(
            components, warmup_steps=self.warmup_steps, steps=self.schedule.total_steps,
            rate_factor=learning_rate_factor(config.training, self.schedule.global_batch_size),
        )  # fmt: skip
        if process_group.rank:
            torch.manual_seed(seed + process_group.rank)  # each worker draws its own dropout masks
        self.notes = [
            *device_notes, *precision_notes, *monitor_notes, *self.schedule.notes, *self.features.notes,
        ]  # fmt: skip
        self._gpu_utilization: list[float] = []
        self._epochs_in_checkpoints: set[int] = set()  # best epochs that a checkpoint on disk refers to
        self.state.seconds["startup"] = time.perf_counter() - start

    @property
    def has_more_epochs(self) -> bool:
        """Whether an epoch is unfinished, or epochs are left and early stopping does not end the fit."""
        patience = self.config.training.early_stopping.patience
        should_stop = bool(len(self.inner)) and self.state.bad_epochs >= patience
        return self.state.in_epoch or (self.state.epoch < self.schedule.epochs and not should_stop)

    def train_epoch(self) -> None:
        """Train for one epoch or the rest of one that a checkpoint interrupted, or solve the classifier at once."""
        if self.is_solved:
            self._solve()
            return
        state = self.state
        if not state.in_epoch:
            state.epoch += 1
        steps = self._plan_steps(state.epoch - 1)
        self.features.view_seed = zlib.crc32(f"{self.config.reproducibility.seed} {state.epoch}".encode())
        self.model.train()
        shards = [self.planner.shard(step, self.process_group) for step in steps]
        batches = prepare_ahead(self.features.iter_views(shards[state.epoch_step :]), self.stepper.prepare, self.device)
        n_tokens, start = state.tokens, time.perf_counter()
        for step in steps[state.epoch_step :]:
            result = self._train_on(step, batches)
            if state.epoch_step < len(steps):
                self._log_step(result.loss)
                if result.wants_checkpoint:
                    self._save()
        state.losses.append(state.epoch_loss / state.epoch_weight)
        state.epoch_step, state.epoch_loss, state.epoch_weight = 0, 0.0, 0.0
        n_tokens, seconds = state.tokens - n_tokens, time.perf_counter() - start
        speed = {"tokens_per_second": round(n_tokens / seconds)} if n_tokens > 0 else {}
        self._log("train", loss=state.losses[-1], lr=self._learning_rate(), examples=sum(map(len, steps)), **speed)

    def evaluate_epoch(self) -> None:
        """Score the inner split, which early stopping monitors, and the validation side, which nothing depends on."""
        start, state, config = time.perf_counter(), self.state, self.config.training
        if len(self.inner):
            value, _ = self._log_scores("inner", self.inner)
            is_better = is_improvement(config.early_stopping, self.task, self.monitor, value, state)
            if is_better:
                state.best_value, state.best_epoch = value, state.epoch
            state.bad_epochs = 0 if is_better else state.bad_epochs + 1
        else:
            state.best_epoch = state.epoch
        if len(self.data.val):
            _, scores = self._log_scores("val", self.data.val)
            if self.data.on_validation is not None:
                self.data.on_validation(state.epoch / self.schedule.epochs, scores)
        state.seconds["eval"] += time.perf_counter() - start

    def save_epoch(self) -> None:
        """Save the model if it is the best so far on the inner split, and a checkpoint if one is due."""
        state, is_main = self.state, self.process_group.is_main
        if len(self.inner) and state.best_epoch == state.epoch and is_main:
            trained = {"model": self.model.trained_state()}
            self.checkpoints.save_best(state.epoch, trained, keep=self._epochs_in_checkpoints)
        interval_epochs = self.config.training.save_every_n_epochs
        is_due = state.epoch % interval_epochs == 0 if interval_epochs is not None else self._checkpoint_is_due()
        if self.process_group.all_reduce_scalars(float(is_due and is_main))[0]:
            self._save()

    def restore(self) -> None:
        """Continue from the newest checkpoint that is readable and fits; records logged after it are removed.

        Raises:
            TrainingError: The workers do not see the same checkpoints.
        """
        checkpoint, messages = self.checkpoints.load_latest(self._reason_to_skip)
        folder, group = self.checkpoints.folder, self.process_group
        step = checkpoint["progress"]["step"] if checkpoint is not None else -1
        if len(set(group.all_gather_object((step, len(messages))))) > 1:
            raise TrainingError(
                f"workers see different checkpoints in {folder}: --output-dir must be a folder that all machines share"
            )
        self.notes += messages
        if group.is_main:
            self.checkpoints.quarantine(step)
            self.logger.truncate_after(step)
        if checkpoint is None:
            return
        self.model.load_trained_state(checkpoint["model"])
        self.stepper.load_state(checkpoint["stepper"])
        self.state = TrainState(**checkpoint["progress"])
        n_before = len(checkpoint["rng"])
        resized = f", with {group.size} workers in place of {n_before}" if group.size != n_before else ""
        self.notes.append(f"{folder.name} resumed from step {step}{resized}")
        self._epochs_in_checkpoints = self.checkpoints.best_epochs()
        if group.rank < n_before:
            set_rng_state(checkpoint["rng"][group.rank], self.device)

    def load_best(self) -> None:
        """Load the model of the best epoch; without an inner split, the last model is kept.

        Raises:
            TrainingError: The file of that model is missing or damaged.
        """
        if not len(self.inner):
            return
        self.process_group.barrier()  # until the main worker has written the file
        best = self.checkpoints.load_best(self.state.best_epoch)
        if not all(self.process_group.all_gather_object(best is not None)):
            raise TrainingError(
                f"{self.checkpoints.folder}: the model of the best epoch ({self.state.best_epoch}) is missing or"
                " damaged; --resume continues from an earlier checkpoint"
            )
        assert best is not None
        self.model.load_trained_state(best["model"])

    def result(self) -> FitOutput:
        """Score both sides with the final model, and save the model.

        Returns:
            Scores and facts.
        """
        start, val = time.perf_counter(), self.data.val
        # examples of a streaming dataset are not read once more for the record
        train_scores, _ = self.evaluator.score(self.data.train if self.dataset.in_memory else self.data.train[:0])
        val_scores, _ = self.evaluator.score(val)
        subset_scores = self.evaluator.score_subsets(val)
        attention = self.evaluator.attention(val)
        self.state.seconds["eval"] += time.perf_counter() - start
        if self.process_group.is_main:
            self.checkpoints.save_model({"model": self.model.trained_state(), "problem": dict(self.task.to_json())})
        return FitOutput(train_scores, val_scores, {**self._facts(), "attention": attention}, subset_scores)

    def _facts(self) -> dict[str, Any]:
        state, features = self.state, self.features
        peaks = self.process_group.all_gather(torch.tensor(peak_memory_mb(self.device)))
        return {
            "fold": self.data.fold,
            "best_epoch": state.best_epoch,
            "epochs": state.epoch,
            "steps": state.step,
            "step_size": self.schedule.global_batch_size,
            "best_step": state.best_epoch * self.schedule.steps_per_epoch,
            "warmup_steps": self.warmup_steps,
            "losses": state.losses,
            "penalty": state.penalty,
            "seconds": state.seconds,
            "checkpoints": state.checkpoints,
            "tokens": state.tokens,
            "media_seconds": round(features.audio_features.seconds, 3),
            "stored": vars(features.cache_use) if features.cache_use is not None else None,
            # over the songs: training, and the scores after each epoch and at the end
            "passes": 1 if features.features is not None else state.epoch + 1,
            "gpu_utilization": round(float(np.mean(self._gpu_utilization)), 3) if self._gpu_utilization else None,
            "workers": self.process_group.size,
            "peak_memory_mb": round(max(peak.item() for peak in peaks), 1),
            "device": self.device.type,
            "precision": features.execution.precision.name,
            "parameters": count_parameters(self.model),
            "skipped_steps": self.stepper.skipped_steps,
            "notes": [*self.notes, *self.stepper.all_notes(state.step)],
        }

    def _solve(self) -> None:
        """Solve the classifier, in place of all epochs."""
        state, start = self.state, time.perf_counter()
        state.penalty, loss = solve_classifier(self.components, self.train, self.data.split_by)
        state.epoch = state.step = self.schedule.epochs
        state.losses.append(loss)
        state.seconds["train"] += time.perf_counter() - start
        self._log("train", loss=loss, penalty=state.penalty, examples=len(self.train))

    def _split(self) -> tuple[np.ndarray, np.ndarray]:
        """Return the training indices, and the inner split; empty where the length of training is known."""
        data = self.data
        if data.schedule is not None or self.is_solved:
            return data.train, np.array([], dtype=np.int64)
        return split_for_early_stopping(self.config, data.dataset, data.task, data.train, data.split_by)

    def _plan_steps(self, epoch: int) -> list[BatchIndices]:
        random_access = self.dataset.in_memory or self.features.features is not None
        by_length = self.components.trains_text
        return self.planner.steps(epoch, self.schedule, random_access=random_access, by_length=by_length)

    def _train_on(self, step: BatchIndices, batches: Iterator[ExampleView | PreparedStep]) -> StepResult:
        """Read this worker's part of a step, train on it, and count it."""
        state, start = self.state, time.perf_counter()
        view = next(batches)
        state.seconds["data"] += time.perf_counter() - start
        weight = float(self.dataset.weights[step.indices].sum(dtype=np.float64))
        is_due = self._checkpoint_is_due()
        result = self.stepper.train_step(view, weight, number=state.step + 1, wants_checkpoint=is_due)
        state.step += 1
        state.epoch_step += 1
        state.epoch_loss += result.loss * weight
        state.epoch_weight += weight
        if self.features.features is None:
            state.tokens += int(self.dataset.lengths[step.indices].sum())
        state.seconds["train"] += time.perf_counter() - start
        return result

    def _checkpoint_is_due(self) -> bool:
        """Return whether the main worker's clock asks for a checkpoint; within an epoch nothing else does."""
        config = self.config.training
        if config.save_every_n_epochs is not None or not self.process_group.is_main:
            return False
        return time.perf_counter() - self._saved_at >= config.checkpoint_seconds

    def _save(self) -> None:
        """Write a checkpoint; every worker contributes the state of its random generators."""
        start, state = time.perf_counter(), self.state
        rng = self.process_group.all_gather(rng_state(self.device))
        if self.process_group.is_main:
            checkpoint = {
                "model": self.model.trained_state(),
                "base": self._frozen_hash,
                "step_size": self.schedule.global_batch_size,
                "stepper": self.stepper.state(),
                "rng": rng,
                "progress": vars(state),
            }
            self.checkpoints.save(state.step, checkpoint)
        self._epochs_in_checkpoints = {max(self._epochs_in_checkpoints, default=0), state.best_epoch}
        self._saved_at = time.perf_counter()
        state.checkpoints["number"] += 1
        state.checkpoints["seconds"] += self._saved_at - start

    def _reason_to_skip(self, checkpoint: dict[str, Any]) -> str:
        """Return why a readable checkpoint cannot be continued from; empty if it can."""
        if checkpoint["base"] != self._frozen_hash:
            return "it belongs to another encoder"
        size = self.schedule.global_batch_size
        saved_size = checkpoint.get("step_size", min(size, requested_step_size(self.config.training)))
        if saved_size != size:
            return f"its steps have {saved_size} examples, not {size}"
        if (checkpoint["progress"].get("penalty") is not None) != self.is_solved:
            return "its classifier was trained in steps" if self.is_solved else "its classifier was solved"
        epoch = checkpoint["progress"]["best_epoch"]
        if len(self.inner) and epoch and self.checkpoints.load_best(epoch) is None:
            return f"the model of its best epoch ({epoch}) is missing or damaged"
        return ""

    def _log_scores(self, split: str, indices: np.ndarray) -> tuple[float | None, np.ndarray]:
        """Log the metrics of a split; the value of the monitored metric, and the scores."""
        scores, loss = self.evaluator.score(indices)
        songs, song_scores = mean_score_per_song(self.dataset, indices, scores)
        metrics, undefined = measure_decoded(self.task, self.dataset.targets[songs], song_scores)
        self._log(split, loss=loss, **metrics, **({"undefined": undefined} if undefined else {}))
        return (loss if self.monitor == LOSS else metrics[self.monitor]), scores

    def _log_step(self, loss: float) -> None:
        """Log a step within an epoch, every `logging.log_every_n_steps` steps."""
        if self.state.step % self.config.logging.log_every_n_steps:
            return
        values = {f"grad_norm_{name}": round(float(norm), 6) for name, norm in self.stepper.norms.items()}
        utilization = gpu_utilization(self.device)
        if utilization is not None:
            self._gpu_utilization.append(utilization)
            values["gpu_utilization"] = utilization
        self._log("train", loss=loss, lr=self._learning_rate(), **values)

    def _learning_rate(self) -> float:
        return float(self.stepper.schedule.get_last_lr()[-1])

    def _log(self, split: str, **values: Any) -> None:
        state = self.state
        seconds = round(sum(state.seconds[part] for part in ("startup", "train", "eval")), 3)
        position = {"fold": self.data.fold, "epoch": state.epoch, "step": state.step, "split": split}
        self.logger.log({**position, "seconds": seconds, **values})
