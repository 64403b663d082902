"""One trial of a sweep: all folds of one config, in the order of every other trial, with the pooled score so far."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from rainbow_ray.data.dataset import mean_score_per_song
from rainbow_ray.distributed.process_group import ProcessGroup
from rainbow_ray.distributed.resources import WorkerResources
from rainbow_ray.tasks.scores import decode_folds, empty_scores, is_scored
from rainbow_ray.training.checkpoint import CheckpointManager
from rainbow_ray.training.cross_validation import FitContext, FitJob, run_job
from rainbow_ray.training.distributed_training import run_distributed
from rainbow_ray.training.loggers import LogForwarder
from rainbow_ray.tuning.search_space import apply
from rainbow_ray.tuning.trial_log import FULL_BUDGET
from rainbow_ray.utils.errors import TrainingError

TOLERANCE = 1e-9

Report = Callable[[float, float], None]


@dataclass(frozen=True)
class TrialContext:
    """What all trials of a sweep have in common.

    `train_val_indices` are training and scored indices of each fold; `rungs` say after how much of the work
    (of `FULL_BUDGET`) a trial is
    compared with the others; `workers` share each fit, where there are several.
    """

    shared: FitContext
    train_val_indices: list[tuple[np.ndarray, np.ndarray]]
    rungs: tuple[float, ...]
    folder: Path
    workers: WorkerResources | None = None

    def folder_of(self, number: int) -> Path:
        return self.folder / f"{number:04d}"


def make_rungs(folds: int, reduction: float) -> tuple[float, ...]:
    """The first rung is a fold, or with one or two of them a part of it; then each `reduction` times the last."""
    first = FULL_BUDGET / folds if folds > 2 else FULL_BUDGET / reduction**2
    # as ASHA computes them, which compares without a tolerance
    rungs = (first * reduction**k for k in itertools.count())
    return tuple(itertools.takewhile(lambda rung: rung < FULL_BUDGET - TOLERANCE, rungs))


def run_trial(context: TrialContext, shared: FitContext, number: int, values: dict[str, Any], report: Report) -> None:
    """Run all folds, but for those that an interrupted start finished; report at each rung and at the end.

    `shared` are the data of this trial's config. Raises `InputError` and `TrainingError` for what fails a trial.
    """
    config = apply(shared.config, values, f"trial {number}")
    shared = dataclasses.replace(shared, config=config)
    source, task, metric = shared.dataset, shared.task, context.shared.config.training.headline
    scores = empty_scores(task, len(source))
    waiting = [*context.rungs, FULL_BUDGET]

    def tell(done: float) -> None:
        if done < waiting[0] - TOLERANCE:
            return
        known = np.flatnonzero(is_scored(scores, task))
        decided = metric in task.threshold_metrics
        said = decode_folds(task, source.targets, context.train_val_indices, scores) if decided else scores
        songs, averaged = mean_score_per_song(source, known, said[known])
        value = task.metric(metric, source.targets[songs], averaged)
        whole = done > FULL_BUDGET - TOLERANCE
        if value is None and whole:
            raise TrainingError(f"{metric} is not defined on the songs that were scored")
        while waiting and done >= waiting[0] - TOLERANCE:
            done = max(done, waiting.pop(0))
        if value is not None:
            report(FULL_BUDGET if whole else done, value)

    for fold, (train, val) in enumerate(context.train_val_indices):
        job = FitJob(fold, train, val, context.folder_of(number) / f"fold-{fold}")

        def on_validation(share: float, val_scores: np.ndarray, fold: int = fold, val: np.ndarray = val) -> None:
            if share < 1:  # the end of a fold is told with its final scores
                scores[val] = val_scores
                tell((fold + share) * FULL_BUDGET / len(context.train_val_indices))

        scores[val] = _fit(shared, job, context.workers, on_validation)
        tell((fold + 1) * FULL_BUDGET / len(context.train_val_indices))


def out_of_fold(context: TrialContext, number: int) -> np.ndarray | None:
    """The scores of a trial that ran all folds, `(examples,)`; None where one of them is not there."""
    scores = empty_scores(context.shared.task, len(context.shared.dataset))
    for fold, (_, val) in enumerate(context.train_val_indices):
        result = CheckpointManager(context.folder_of(number) / f"fold-{fold}").load_result()
        if result is None or len(result[0]["val"]) != len(val):
            return None
        scores[val] = result[0]["val"]
    return scores


def forget_models(context: TrialContext, number: int) -> None:
    """Remove a trial's weights; its scores and records stay."""
    for path in context.folder_of(number).glob("fold-*/*.pt"):
        path.unlink(missing_ok=True)


def prefix_savings(context: TrialContext, trials: Iterable[int]) -> dict[str, float]:
    """Seconds that trials spent on states of frozen layers, and at least would have spent without the store.

    Each pass over the songs would have taken what the fit took that computed them; where it began from a shallower
    layer's states that is less than the whole, so the second figure is a lower bound. Folds without a result are left
    out.
    """
    spent: dict[str, float] = {}
    passes: dict[str, int] = {}
    for number, fold in itertools.product(trials, range(len(context.train_val_indices))):
        result = CheckpointManager(context.folder_of(number) / f"fold-{fold}").load_result()
        if result is None or (stored := result[1].get("stored")) is None:
            continue
        spent[stored["key"]] = spent.get(stored["key"], 0.0) + stored["seconds"]
        passes[stored["key"]] = passes.get(stored["key"], 0) + result[1]["passes"]
    without = sum(seconds * passes[key] for key, seconds in spent.items())
    return {"spent": round(sum(spent.values()), 2), "without_cache": round(without, 2)}


def _fit(
    shared: FitContext, job: FitJob, workers: WorkerResources | None, on_validation: Callable[[float, np.ndarray], None]
) -> np.ndarray:
    """Scores of a job's held out side, from its result where it has one."""
    state = CheckpointManager(job.folder)
    if state.load_result() is None:
        if workers is not None:
            run_distributed(shared, [job], workers, LogForwarder([], []))
        else:
            run_job(shared, job, ProcessGroup(), on_validation)
    result = state.load_result()
    if result is None:
        raise TrainingError(f"{job.folder}: the fit ended without a result")
    return result[0]["val"]
