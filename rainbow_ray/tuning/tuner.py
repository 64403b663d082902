"""The sweep on Ray Tune: trials run in actors that are reused, until all have ended or the budget is spent.

No state of Ray Tune is kept: each start builds searcher, scheduler and tuner from the trial log.
"""

from __future__ import annotations

import errno
import gc
import math
import os
import shutil
import time
import traceback
from pathlib import Path
from typing import Any

import numpy as np
from ray import tune
from typing_extensions import override

from rainbow_ray.distributed.assigned_resources import require_assigned_gpu, use_assigned_resources
from rainbow_ray.modalities import encoder_cache
from rainbow_ray.model.device import is_broken
from rainbow_ray.training.cross_validation import RESTARTS
from rainbow_ray.training.fit_errors import user_facing_error
from rainbow_ray.tuning.optuna_searcher import DISK_FULL, FAILED, SECONDS, TPESearcher
from rainbow_ray.tuning.race_scheduler import DONE, SCORE, SCORES
from rainbow_ray.tuning.sweep import Sweep
from rainbow_ray.tuning.trial import remove_models, run_trial
from rainbow_ray.tuning.trial_log import Trial
from rainbow_ray.utils.errors import InputError, TrainingError, first_line
from rainbow_ray.utils.signals import DeferredSignal, Interrupted, defer_signals

# read by Ray Tune in this process
TUNE_ENVIRONMENT = {
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",
    "TUNE_DISABLE_STRICT_METRIC_CHECKING": "1",
    "TUNE_GLOBAL_CHECKPOINT_S": "1000000",  # its state is not used
    "TUNE_WARN_THRESHOLD_S": "1000",
    "RAY_AIR_NEW_OUTPUT": "0",
    "TUNE_DISABLE_SIGINT_HANDLER": "1",  # `SweepStopper` stops the trials after either signal
}
# multiple of the leading trial's seconds, beyond one for each fresh split, that training the best config takes
BEST_RUN_TRIALS = 1.5


def run_sweep(sweep: Sweep, *, seconds: float | None = None) -> bool:
    """Run the trials that are missing, until all have ended or the time is over.

    Args:
        sweep: The sweep, whose trial log shows which trials are missing.
        seconds: Time limit, or None.

    Returns:
        Whether the time limit ended the sweep.

    Raises:
        Interrupted: A signal arrived. Trials that were running are started again by the next start.
        TrainingError: The disk is full.
    """
    n_missing = sweep.n_trials - len(sweep.trial_log.ended)
    if n_missing <= 0:
        return False
    os.environ.update(TUNE_ENVIRONMENT)
    stopper = SweepStopper(sweep, seconds)
    # apart from the paths of Ray's sockets, since Tune wants a folder of its own; nothing in it is needed again
    storage = sweep.context.folder.resolve().parent / "ray"
    tuner = _make_tuner(sweep, stopper, storage, n_missing)
    try:
        with defer_signals() as stopper.signal:
            tuner.fit()
    except OSError as error:
        if error.errno != errno.ENOSPC:
            raise
        stopper.stop_for_full_disk(str(error))
    finally:
        shutil.rmtree(storage, ignore_errors=True)
    if stopper.disk_error:
        raise TrainingError(f"no space is left on the disk ({stopper.disk_error}); free some, then continue with"
                            " --resume")  # fmt: skip
    if stopper.signal.signal_number is not None:
        interrupted = Interrupted(stopper.signal.signal_number)
        interrupted.add_note(f"{sweep.n_trials - len(sweep.trial_log.ended)} trials to go")
        raise interrupted
    return stopper.is_out_of_time


class SweepStopper(tune.Stopper):  # type: ignore[misc]
    """Stops all trials when the time is over, after a signal, or when the disk is full.

    The time limit leaves room for what follows the trials: fresh splits and the run of the best config, which take the
    longer the slower the leading trial is.

    Args:
        sweep: The sweep.
        seconds: Time limit, or None.

    Attributes:
        is_out_of_time: Whether the time limit stopped the trials.
        disk_error: The error message of a full disk, or an empty text.
        signal: The signal that arrived, if any.
    """

    def __init__(self, sweep: Sweep, seconds: float | None) -> None:
        self.sweep = sweep
        self.is_out_of_time, self.disk_error = False, ""
        self.signal = DeferredSignal()
        self._seconds, self._started_at = seconds, time.monotonic()

    def __call__(self, trial_id: str, result: dict[str, Any]) -> bool:  # noqa: ARG002
        """Return False: the stopper stops no single trial."""
        return False

    @override
    def stop_all(self) -> bool:
        self.is_out_of_time = self.budget()[1] < 0
        return self.is_out_of_time or bool(self.disk_error) or self.signal.signal_number is not None

    def budget(self) -> tuple[float, float]:
        """Return how far the time limit is used up.

        Returns:
            The fraction that is spent, and the seconds that are left for trials; 0 and infinity without a limit.
        """
        if self._seconds is None:
            return 0.0, math.inf
        spent = time.monotonic() - self._started_at
        seconds = self._seconds - self._extra_seconds_at_end()
        return spent / max(seconds, 1e-9), seconds - spent

    def stop_for_full_disk(self, message: str) -> None:
        """Stop all trials, because no space is left on the disk.

        Args:
            message: The error message of the operating system.
        """
        self.disk_error = message

    def _extra_seconds_at_end(self) -> float:
        """Return by how much the leading trial's fresh splits and its run take longer than the default config's."""
        trial_log = self.sweep.trial_log
        best, default = trial_log.complete(larger_is_better=self.sweep.larger_is_better)[:1], trial_log.trials.get(0)
        if not best or default is None or not default.ended:
            return 0.0
        n_fits = self.sweep.config.tune.revalidation_seeds + BEST_RUN_TRIALS
        return n_fits * max(0.0, best[0].seconds - default.seconds)

    def __getstate__(self) -> dict[str, Any]:
        return {}  # Ray Tune pickles the stopper for a restore that is never used


class KeepBest:
    """A watcher of the trial log that removes the models of all trials but the best.

    Args:
        sweep: The sweep. `tune.keep_best_models` trials keep their models.
    """

    def __init__(self, sweep: Sweep) -> None:
        self.sweep = sweep
        self._kept_numbers = {trial.number for trial in sweep.trial_log.ended}

    def __call__(self, trial: Trial, event: str) -> None:
        """Remove models that are no longer among the best.

        Args:
            trial: The trial that changed.
            event: What happened to it; only `end` matters.
        """
        if event != "end":
            return
        complete = self.sweep.trial_log.complete(larger_is_better=self.sweep.larger_is_better)
        best = {trial.number for trial in complete[: self.sweep.config.tune.keep_best_models]}
        for number in (self._kept_numbers | {trial.number}) - best:
            remove_models(self.sweep.context, number)
        self._kept_numbers = best


def _make_tuner(sweep: Sweep, stopper: SweepStopper, storage: Path, n_samples: int) -> tune.Tuner:
    import ray

    searcher = TPESearcher(sweep, stopper.stop_for_full_disk, stopper.budget)
    references = [ray.put(sweep.context), ray.put(sweep.weights) if sweep.weights is not None else None]

    def trainable(config: dict[str, Any]) -> None:
        _run_in_actor(references, config)

    resources = {"cpu": sweep.resources.cpus, **({"gpu": sweep.resources.gpus} if sweep.resources.gpus else {})}
    return tune.Tuner(
        tune.with_resources(trainable, resources),
        tune_config=tune.TuneConfig(
            search_alg=searcher,
            scheduler=searcher.scheduler,
            num_samples=n_samples,
            max_concurrent_trials=sweep.resources.max_concurrent,
            reuse_actors=True,
        ),
        run_config=tune.RunConfig(
            name=f"sweep-{time.time_ns()}",
            storage_path=str(storage),
            verbose=0,
            failure_config=tune.FailureConfig(max_failures=RESTARTS),
            stop=stopper,
        ),
    )


def _run_in_actor(references: list[Any], config: dict[str, Any]) -> None:
    """Run one trial in a reused actor; every error but a broken GPU is reported as a result, to keep the actor."""
    started, number = time.perf_counter(), config["number"]

    def report(percent: float, score: float, scores: np.ndarray) -> None:
        tune.report({DONE: percent, SCORE: score, SCORES: [scores], SECONDS: time.perf_counter() - started})

    use_assigned_resources()
    context = _fetch(references)
    try:
        if "error" in config:
            raise InputError(config["error"])
        require_assigned_gpu(context.shared.config.training.device)
        fit_context = _fetch(config["fit_context"]) if "fit_context" in config else context.shared
        run_trial(context, fit_context, number, config["values"], report)
        return
    except Exception as error:
        if isinstance(error, OSError) and error.errno == errno.ENOSPC:
            tune.report({DONE: 0.0, DISK_FULL: str(error)})
            return
        if is_broken(error):
            os._exit(1)  # this process cannot use its GPU again; Ray Tune restarts the trial in another one
        user_error = user_facing_error(error)
        reason = str(user_error) if user_error is not None else _write_traceback(context.folder_of(number), error)
    gc.collect()  # frees what the failed fit held
    tune.report({DONE: 0.0, FAILED: reason})


_FETCHED: dict[Any, Any] = {}  # by object reference: each process fetches what all trials share once


def _fetch(references: list[Any]) -> Any:
    """Return the first object; the second, if any, holds encoder weights that the process uses from then on."""
    import ray

    reference, *optional_references = references
    if reference not in _FETCHED:
        _FETCHED[reference] = ray.get(reference)
        if optional_references and optional_references[0] is not None:
            encoder_cache.use_shared_weights(
                _FETCHED[reference].shared.input_spec.text, ray.get(optional_references[0])
            )
    return _FETCHED[reference]


def _write_traceback(folder: Path, error: BaseException) -> str:
    """Write the traceback of an unexpected error; return the reason that the trial log keeps."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "error.txt"
    path.write_text("".join(traceback.format_exception(error)), encoding="utf-8")
    return f"{type(error).__name__}: {first_line(error)} (traceback in {path})"
