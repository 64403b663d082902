"""One trial of a sweep: the folds of one config, in the same order for every trial, with the pooled score so far."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from rainbow_ray.distributed.process_group import ProcessGroup
from rainbow_ray.distributed.resources import WorkerResources
from rainbow_ray.tasks.scores import empty_scores
from rainbow_ray.training.checkpoint import CheckpointManager
from rainbow_ray.training.cross_validation import FitContext, FitJob, run_job
from rainbow_ray.training.distributed_training import run_distributed
from rainbow_ray.training.loggers import LogForwarder
from rainbow_ray.tuning.racing import Folds, pooled_score
from rainbow_ray.tuning.search_space import apply_values
from rainbow_ray.tuning.trial_log import FULL_BUDGET
from rainbow_ray.utils.errors import TrainingError

TOLERANCE = 1e-9

# called with the work done, in percent, the score so far, and the scores of all examples so far
ReportFunction = Callable[[float, float, np.ndarray], None]
FIRST_FOLD_FRACTIONS = (0.25, 0.5)  # of the epochs of the first fold, after which a trial is compared


@dataclass(frozen=True)
class TrialContext:
    """What all trials of a sweep share.

    Attributes:
        shared: Data, task and base config of all fits.
        train_val_indices: Indices of the training set and of the validation set of each fold.
        rungs: Percentages of the work after which trials are compared, see `make_rungs`.
        folder: Folder of all trials, with a folder for each.
        workers: Workers that share each fit, or None where an actor computes its fits itself.
    """

    shared: FitContext
    train_val_indices: Folds
    rungs: tuple[float, ...]
    folder: Path
    workers: WorkerResources | None = None

    def folder_of(self, number: int) -> Path:
        """Return the folder of a trial.

        Args:
            number: Number of the trial.

        Returns:
            The path, which need not exist.
        """
        return self.folder / f"{number:04d}"


def make_rungs(n_folds: int) -> tuple[float, ...]:
    """Return the percentages of the work after which trials are compared.

    Args:
        n_folds: Number of folds.

    Returns:
        Rungs below 100: two inside the first fold, so that a costly config is judged early, and the end of each fold
        but the last.
    """
    fold_percent = FULL_BUDGET / n_folds
    return (*(fraction * fold_percent for fraction in FIRST_FOLD_FRACTIONS),
            *(fold * fold_percent for fold in range(1, n_folds)))  # fmt: skip


def run_trial(
    context: TrialContext, fit_context: FitContext, number: int, values: dict[str, Any], report: ReportFunction
) -> None:
    """Run the folds of a trial that an interrupted start did not finish; report at each rung and at the end.

    Args:
        context: What all trials share.
        fit_context: Data that the trial's config reads.
        number: Number of the trial.
        values: Values of config keys.
        report: Called with the percentage of the work done, the pooled score of the songs scored so far, and the scores
            of all examples, `(examples, …)`, NaN where there is none yet.

    Raises:
        InputError: A value is invalid.
        TrainingError: A fit failed, or the metric is undefined on all songs.
    """
    config = apply_values(fit_context.config, values, f"trial {number}")
    fit_context = dataclasses.replace(fit_context, config=config)
    scores = empty_scores(fit_context.task, len(fit_context.dataset))
    metric, n_folds = context.shared.config.training.headline, len(context.train_val_indices)
    remaining_rungs = [*context.rungs, FULL_BUDGET]

    def report_at_rung(percent: float) -> None:
        if percent < remaining_rungs[0] - TOLERANCE:
            return
        value = pooled_score(fit_context, context.train_val_indices, scores)
        is_complete = percent > FULL_BUDGET - TOLERANCE
        if value is None and is_complete:
            raise TrainingError(f"{metric} is not defined on the songs that were scored")
        while remaining_rungs and percent >= remaining_rungs[0] - TOLERANCE:
            percent = max(percent, remaining_rungs.pop(0))
        if value is not None:
            report(FULL_BUDGET if is_complete else percent, value, scores.copy())

    for fold, (train, val) in enumerate(context.train_val_indices):
        job = FitJob(fold, train, val, context.folder_of(number) / f"fold-{fold}")

        def on_validation(fraction: float, val_scores: np.ndarray, fold: int = fold, val: np.ndarray = val) -> None:
            if fraction < 1:  # the end of a fold is reported with its final scores
                scores[val] = val_scores
                report_at_rung((fold + fraction) * FULL_BUDGET / n_folds)

        scores[val] = _fit(fit_context, job, context.workers, on_validation)
        report_at_rung((fold + 1) * FULL_BUDGET / n_folds)


def out_of_fold(context: TrialContext, number: int) -> np.ndarray | None:
    """Return the out-of-fold scores of a trial.

    Args:
        context: What all trials share.
        number: Number of the trial.

    Returns:
        Scores, `(examples, …)`; None where the result of a fold is missing.
    """
    scores = empty_scores(context.shared.task, len(context.shared.dataset))
    for fold, (_, val) in enumerate(context.train_val_indices):
        result = CheckpointManager(context.folder_of(number) / f"fold-{fold}").load_result()
        if result is None or len(result[0]["val"]) != len(val):
            return None
        scores[val] = result[0]["val"]
    return scores


def remove_models(context: TrialContext, number: int) -> None:
    """Remove the weights of a trial; its scores and logs stay.

    Args:
        context: What all trials share.
        number: Number of the trial.
    """
    for path in context.folder_of(number).glob("fold-*/*.pt"):
        path.unlink(missing_ok=True)


def cache_seconds(context: TrialContext, numbers: Iterable[int]) -> dict[str, float]:
    """Return the seconds that trials spent on frozen layers, and a lower bound of those without the disk cache.

    Each pass over the songs would have taken as long as the fit that computed the hidden states. Where that fit started
    from the cached states of a shallower layer, this is less than the whole.

    Args:
        context: What all trials share.
        numbers: Numbers of the trials. Folds without a result are left out.

    Returns:
        `spent` and `without_cache`, in seconds.
    """
    spent: dict[str, float] = {}
    passes: dict[str, int] = {}
    for number, fold in itertools.product(numbers, range(len(context.train_val_indices))):
        result = CheckpointManager(context.folder_of(number) / f"fold-{fold}").load_result()
        if result is None or (stored := result[1].get("stored")) is None:
            continue
        spent[stored["key"]] = spent.get(stored["key"], 0.0) + stored["seconds"]
        passes[stored["key"]] = passes.get(stored["key"], 0) + result[1]["passes"]
    without_cache = sum(seconds * passes[key] for key, seconds in spent.items())
    return {"spent": round(sum(spent.values()), 2), "without_cache": round(without_cache, 2)}


def _fit(
    fit_context: FitContext,
    job: FitJob,
    workers: WorkerResources | None,
    on_validation: Callable[[float, np.ndarray], None],
) -> np.ndarray:
    """Return the scores of a job's validation set, from its result if it has one."""
    checkpoints = CheckpointManager(job.folder)
    if checkpoints.load_result() is None:
        if workers is not None:
            run_distributed(fit_context, [job], workers, LogForwarder([], []))
        else:
            run_job(fit_context, job, ProcessGroup(), on_validation)
    result = checkpoints.load_result()
    if result is None:
        raise TrainingError(f"{job.folder}: the fit ended without a result")
    return result[0]["val"]
