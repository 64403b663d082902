"""The sweep: Ray Tune runs trials in warm actors, Optuna proposes them, ASHA stops those that are behind.

Nothing of Tune's own state is kept: each start builds searcher, scheduler and tuner anew from the ledger.
"""

from __future__ import annotations

import errno
import gc
import os
import shutil
import time
import traceback
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import optuna
from optuna.distributions import distribution_to_json, json_to_distribution
from ray import tune
from ray.tune.schedulers import AsyncHyperBandScheduler, TrialScheduler
from ray.tune.search.optuna import OptunaSearch

from rainbow_ray.config.schema import SEEDS, Config
from rainbow_ray.distributed.resources import TrialResources
from rainbow_ray.modalities import encoder_cache
from rainbow_ray.model.device import is_broken
from rainbow_ray.training.cross_validation import RESTARTS, FitContext, user_facing_error
from rainbow_ray.tuning.search_space import Space, apply, default_trial
from rainbow_ray.tuning.trial import TrialContext, forget_models, run_trial
from rainbow_ray.tuning.trial_log import FULL_BUDGET, Trial, TrialLog
from rainbow_ray.utils.errors import InputError, TrainingError, first_line
from rainbow_ray.utils.signals import DeferredSignal, Interrupted, defer_signals

DONE, SCORE = "work_done", "score"  # Tune takes a result that has `done` for the last
# read by Tune, in this process
QUIET = {
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",
    "TUNE_DISABLE_STRICT_METRIC_CHECKING": "1",
    "TUNE_GLOBAL_CHECKPOINT_S": "1000000",  # its state is not used
    "TUNE_WARN_THRESHOLD_S": "1000",
    "RAY_AIR_NEW_OUTPUT": "0",
    "TUNE_DISABLE_SIGINT_HANDLER": "1",  # `SweepStopper` stops the trials after either signal
}
STATES = {
    "complete": optuna.trial.TrialState.COMPLETE,
    "pruned": optuna.trial.TrialState.PRUNED,
    "failed": optuna.trial.TrialState.FAIL,
}


@dataclass(frozen=True)
class Sweep:
    """What a start of a sweep works with. `prepare` gives the data of a config that reads its text in another way."""

    config: Config
    space: Space
    context: TrialContext
    trial_log: TrialLog
    resources: TrialResources
    larger_is_better: bool
    prepare: Callable[[Config], FitContext]
    weights: dict[str, Any] | None = None  # of the encoder, for all actors together

    @property
    def total(self) -> int:
        return self.config.tune.trials


def run_sweep(sweep: Sweep, *, seconds: float | None = None) -> bool:
    """Run the trials that are missing, until all have ended or the time is over.

    Args:
        sweep: What is searched, and the ledger that knows what is missing.
        seconds: Time limit, or None.

    Returns:
        Whether the time limit ended it.

    Raises:
        Interrupted: A signal ended it; running trials are started again by the next start.
        TrainingError: The disk is full.
    """
    import ray

    left = sweep.total - len(sweep.trial_log.ended)
    if left <= 0:
        return False
    os.environ.update(QUIET)
    halt = SweepStopper(sweep, seconds)
    search = Searcher(sweep, halt)
    common = [ray.put(sweep.context), ray.put(sweep.weights) if sweep.weights is not None else None]

    def trial(config: dict[str, Any]) -> None:
        _run_in_actor(common, config)

    # paths of Ray's sockets apart, Tune wants a folder of its own: it holds nothing that is needed again
    storage = sweep.context.folder.resolve().parent / "ray"
    resources = {"cpu": sweep.resources.cpus, **({"gpu": sweep.resources.gpus} if sweep.resources.gpus else {})}
    tuner = tune.Tuner(
        tune.with_resources(trial, resources),
        tune_config=tune.TuneConfig(
            search_alg=search,
            scheduler=search.scheduler,
            num_samples=left,
            max_concurrent_trials=sweep.resources.max_concurrent,
            reuse_actors=True,
        ),
        run_config=tune.RunConfig(
            name=f"sweep-{time.time_ns()}",
            storage_path=str(storage),
            verbose=0,
            failure_config=tune.FailureConfig(max_failures=RESTARTS),
            stop=halt,
        ),
    )
    try:
        with defer_signals() as halt.signal:
            tuner.fit()
    except OSError as error:
        if error.errno != errno.ENOSPC:
            raise
        halt.reason = str(error)
    finally:
        shutil.rmtree(storage, ignore_errors=True)
    if halt.reason:
        raise TrainingError(f"no space is left on the disk ({halt.reason}); free some, then go on with --resume")
    if halt.signal.signal_number is not None:
        interrupted = Interrupted(halt.signal.signal_number)
        interrupted.add_note(f"{sweep.total - len(sweep.trial_log.ended)} trials to go")
        raise interrupted
    return halt.is_over


class SweepStopper(tune.Stopper):  # type: ignore[misc]
    """Ends all trials when the budget is spent, after a signal, or when a worker says that the disk is full.

    The budget keeps what the end of the sweep will take, and that depends on the trial that leads.
    """

    def __init__(self, sweep: Sweep, seconds: float | None) -> None:
        self.sweep, self.reason, self.is_over = sweep, "", False
        self.signal = DeferredSignal()
        self.deadline = None if seconds is None else time.monotonic() + seconds

    def __call__(self, trial_id: str, result: dict[str, Any]) -> bool:  # noqa: ARG002
        return False

    def stop_all(self) -> bool:
        if self.deadline is not None:
            self.is_over = time.monotonic() + self._more_than_the_default() > self.deadline
        return self.is_over or bool(self.reason) or self.signal.signal_number is not None

    def _more_than_the_default(self) -> float:
        """Seconds that the leading trial's fresh splits and its own run take longer than the default config's."""
        trial_log = self.sweep.trial_log
        best, default = trial_log.complete(larger_is_better=self.sweep.larger_is_better)[:1], trial_log.trials.get(0)
        if not best or default is None or not default.ended:
            return 0.0
        return (self.sweep.config.tune.revalidation_seeds + 1.5) * max(0.0, best[0].seconds - default.seconds)

    def __getstate__(self) -> dict[str, Any]:
        return {}  # Tune pickles it for a restore that we do not use


class KeepBest:
    """A watcher of the ledger: only the best few of the trials that have ended keep their models."""

    def __init__(self, sweep: Sweep) -> None:
        self.sweep = sweep
        self.kept = {trial.number for trial in sweep.trial_log.ended}

    def __call__(self, trial: Trial, event: str) -> None:
        if event != "end":
            return
        complete = self.sweep.trial_log.complete(larger_is_better=self.sweep.larger_is_better)
        keep = {best.number for best in complete[: self.sweep.config.tune.keep_best_models]}
        for number in (self.kept | {trial.number}) - keep:
            forget_models(self.sweep.context, number)
        self.kept = keep


class Searcher(OptunaSearch):  # type: ignore[misc]
    """Optuna's TPE over a define-by-run space, which begins where the ledger ends and writes into it.

    Trials that were interrupted come first, then trial 0, the config as it is. Where Ray's `OptunaSearch` takes a trial
    that the scheduler stopped for complete, this one tells it as pruned.
    """

    def __init__(self, sweep: Sweep, halt: SweepStopper) -> None:
        self.sweep, self.trial_log = sweep, sweep.trial_log
        mode = "max" if sweep.larger_is_better else "min"
        known = len(self.trial_log.trials)
        # a sampler that started anew with the same seed would propose the same points again
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
            sampler = optuna.samplers.TPESampler(
                multivariate=True,
                group=True,
                constant_liar=True,
                seed=(sweep.config.reproducibility.seed + known) % SEEDS,
            )
        optuna.logging.set_verbosity(optuna.logging.ERROR)
        super().__init__(space=sweep.space.draw, metric=SCORE, mode=mode, sampler=sampler)
        self.scheduler = AshaScheduler(sweep, mode)
        self.halt = halt
        self.again = sorted(self.trial_log.interrupted, key=lambda trial: trial.number)
        self.numbers: dict[str, int] = {}
        self.began: dict[str, float] = {}
        self.shared: dict[str, list[Any]] = {}
        for trial in self.trial_log.ended:
            self._tell_anew(trial)

    def suggest(self, trial_id: str) -> dict[str, Any]:
        trial = self.again.pop(0) if self.again else None
        if trial is None and not self.trial_log.trials:
            trial = default_trial(self.sweep.space, self.sweep.config)
        if trial is None:
            values = super().suggest(trial_id)
            asked = self._ot_trials[trial_id]
            distributions = {key: distribution_to_json(d) for key, d in asked.distributions.items()}
            trial = Trial(self._next_number(), values, dict(asked.params), distributions)
        elif trial.params:
            # it runs in the study as well, so that the constant liar keeps those beside it away from its point
            self._ot_study.enqueue_trial(trial.params)
            super().suggest(trial_id)
        self.trial_log.start(trial)
        self.numbers[trial_id] = trial.number
        self.began[trial_id] = time.monotonic()
        return {"number": trial.number, "values": trial.values, **self._data_of(trial)}

    def on_trial_result(self, trial_id: str, result: dict[str, Any]) -> None:
        if "no_space" in result:
            self.halt.reason = result["no_space"]
        if SCORE not in result or "failed" in result:
            return
        number = self.numbers[trial_id]
        known = self.trial_log.trials[number].reports
        if not known or known[-1][0] < result[DONE]:  # one whose actor died tells its rungs again
            self.trial_log.report(number, result[DONE], result[SCORE])

    def on_trial_complete(self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False) -> None:
        number, result = self.numbers[trial_id], result or {}
        trial = self.trial_log.trials[number]
        if trial.ended:
            return
        self.on_trial_result(trial_id, result)  # Tune hands the last one only to this method
        seconds = time.monotonic() - self.began[trial_id]
        if error:
            reason = f"its worker died {RESTARTS + 1} times"
            self.trial_log.end(number, "failed", score=None, seconds=seconds, reason=reason)
        elif "failed" in result:
            self.trial_log.end(number, "failed", score=None, seconds=seconds, reason=result["failed"])
        elif trial.reports and trial.reports[-1][0] >= FULL_BUDGET:
            self.trial_log.end(number, "complete", score=trial.reports[-1][1], seconds=seconds)
        elif trial_id in self.scheduler.stopped:
            self.trial_log.end(number, "pruned", score=trial.reports[-1][1], seconds=seconds)
        else:
            return  # interrupted: it is run again when the sweep goes on
        self._tell(trial_id, self.trial_log.trials[number])

    def save(self, checkpoint_path: str) -> None:
        """Nothing: the ledger is what is kept."""
        Path(checkpoint_path).touch()

    def __getstate__(self) -> dict[str, Any]:
        return {}  # Tune pickles it for a restore that we do not use

    def _tell(self, trial_id: str, trial: Trial) -> None:
        asked = self._ot_trials.get(trial_id)
        if asked is None:
            self._tell_anew(trial)
            return
        for done, score in trial.reports:
            asked.report(score, step=round(done))
        value = trial.score if trial.state == "complete" else None
        self._ot_study.tell(asked, value, state=STATES[trial.state])

    def _tell_anew(self, trial: Trial) -> None:
        """Add a trial that this study did not propose."""
        if trial.params:
            self._ot_study.add_trial(as_optuna(trial))

    def _next_number(self) -> int:
        """One that no line and no folder knows: what lies there is of another config."""
        folders = [int(path.name) for path in self.sweep.context.folder.glob("[0-9]*") if path.name.isdigit()]
        return max([self.trial_log.highest, *folders]) + 1

    def _data_of(self, trial: Trial) -> dict[str, Any]:
        """The data of a trial whose text is read in another way, or what is wrong with its config."""
        import ray

        wrong = self.sweep.space.objections(trial.values)
        try:
            if wrong:
                raise InputError(wrong)
            config = apply(self.sweep.config, trial.values, f"trial {trial.number}")
            key = text_key(config)
            if key != text_key(self.sweep.config) and key not in self.shared:
                prepared = self.sweep.prepare(config)
                self.shared[key] = [ray.put(prepared)]
        except InputError as error:
            return {"wrong": str(error)}
        return {"shared": self.shared[key]} if key in self.shared else {}


class AshaScheduler(AsyncHyperBandScheduler):  # type: ignore[misc]
    """ASHA (Li et al. 2020, algorithm 2) over the work done, with the rungs as the ledger's trials left them."""

    def __init__(self, sweep: Sweep, mode: str) -> None:
        self.stopped: set[str] = set()
        self.on = sweep.config.tune.prune
        super().__init__(
            time_attr=DONE, metric=SCORE, mode=mode, max_t=FULL_BUDGET, grace_period=sweep.context.rungs[0],
            reduction_factor=sweep.config.tune.reduction_factor,
        )  # fmt: skip
        for trial in sweep.trial_log.ended:
            known = SimpleNamespace(trial_id=f"known-{trial.number}")
            self.on_trial_add(None, known)
            for done, score in trial.reports:
                super().on_trial_result(None, known, {DONE: done, SCORE: score})

    def on_trial_result(self, tune_controller: Any, trial: Any, result: dict[str, Any]) -> str:
        decision = str(super().on_trial_result(tune_controller, trial, result))
        if decision != TrialScheduler.STOP or result.get(DONE, FULL_BUDGET) >= FULL_BUDGET:
            return decision
        if not self.on:
            return str(TrialScheduler.CONTINUE)
        self.stopped.add(trial.trial_id)
        return decision

    def __getstate__(self) -> dict[str, Any]:
        return {}  # as above


def as_optuna(trial: Trial) -> optuna.trial.FrozenTrial:
    """A trial that has ended as Optuna keeps it."""
    return optuna.trial.create_trial(
        state=STATES[trial.state],
        value=trial.score if trial.state == "complete" else None,
        params=trial.params,
        distributions={key: json_to_distribution(text) for key, text in trial.distributions.items()},
        intermediate_values={round(done): score for done, score in trial.reports},
        user_attrs={"number": trial.number, "seconds": trial.seconds, "reason": trial.reason},
    )


def text_key(config: Config) -> str:
    """Configs with the same key read the same token ids and windows."""
    encoder, data = config.model.text_encoder, config.data
    windows = (data.window_seconds, data.window_position, data.windows_per_stem, config.model.audio_encoder.model_name)
    return repr((data.text_columns, encoder.model_name, encoder.max_length, *windows))


def _run_in_actor(common: list[Any], config: dict[str, Any]) -> None:
    """What a warm actor runs for each trial. Whatever goes wrong is told as a result, and the actor lives on."""
    began, number = time.perf_counter(), config["number"]

    def report(done: float, score: float) -> None:
        tune.report({DONE: done, SCORE: score, "seconds": time.perf_counter() - began})

    context = _take(common)
    try:
        if "wrong" in config:
            raise InputError(config["wrong"])
        run_trial(
            context, _take(config["shared"]) if "shared" in config else context.shared, number, config["values"], report
        )
        return
    except Exception as error:
        if isinstance(error, OSError) and error.errno == errno.ENOSPC:
            tune.report({DONE: 0.0, "no_space": str(error)})
            return
        if is_broken(error):
            os._exit(1)  # this process cannot use its GPU again; the trial is started in another
        known = user_facing_error(error)
        reason = str(known) if known is not None else _keep_traceback(context.folder_of(number), error)
    gc.collect()  # what a failed fit held
    tune.report({DONE: 0.0, "failed": reason})


_TAKEN: dict[Any, Any] = {}  # a process's own view of what all trials share, by its place in Ray's object store


def _take(common: list[Any]) -> Any:
    import ray

    ref, *more = common
    if ref not in _TAKEN:
        _TAKEN[ref] = ray.get(ref)
        if more and more[0] is not None:
            encoder_cache.use_shared_weights(_TAKEN[ref].shared.reading.text, ray.get(more[0]))
    return _TAKEN[ref]


def _keep_traceback(folder: Path, error: BaseException) -> str:
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "error.txt"
    path.write_text("".join(traceback.format_exception(error)), encoding="utf-8")
    return f"{type(error).__name__}: {first_line(error)} (traceback in {path})"
