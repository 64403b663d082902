"""The searcher of a sweep: Optuna's TPE sampler proposes trials, by Optuna's ask and tell.

It is rebuilt from the trial log at each start of a sweep. Ray Tune's own state is not used.
"""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import optuna
from optuna.distributions import distribution_to_json
from ray.tune.search import Searcher
from typing_extensions import override

from rainbow_ray.config.schema import SEEDS
from rainbow_ray.training.cross_validation import RESTARTS
from rainbow_ray.tuning.optuna_study import TRIAL_STATES, direction_of, make_study, to_optuna_trial
from rainbow_ray.tuning.race_scheduler import DONE, SCORE, RaceScheduler
from rainbow_ray.tuning.search_space import apply_values, default_trial
from rainbow_ray.tuning.sweep import Sweep, input_key
from rainbow_ray.tuning.trial_log import FULL_BUDGET, Report, Trial
from rainbow_ray.utils.errors import InputError

FAILED, DISK_FULL = "failed", "disk_full"  # further keys of the results that trials report to Ray Tune


class TPESearcher(Searcher):  # type: ignore[misc]
    """Tree-structured Parzen estimator over a define-by-run space, as a searcher of Ray Tune.

    The searcher continues where the trial log ends, and writes every trial into it. Interrupted trials are proposed
    again first, then trial 0, which is the config itself. Running trials stay in the study, so that the constant liar
    keeps concurrent proposals away from them. Trials that the scheduler stopped are told as pruned.

    Args:
        sweep: The sweep, with its search space and trial log.
        on_disk_full: Called with the error message when a trial reports that no space is left on the disk.

    Attributes:
        study: The Optuna study.
        scheduler: The scheduler whose decisions the searcher needs to know.
        numbers: Number of each trial by Ray Tune's trial id.

    Reference:
        Bergstra et al. 2011, "Algorithms for hyper-parameter optimization"; constant liar: Ginsbourger et al. 2010,
        "Kriging is well-suited to parallelize optimization".
    """

    def __init__(self, sweep: Sweep, on_disk_full: Callable[[str], None]) -> None:
        super().__init__(metric=SCORE, mode="max" if sweep.larger_is_better else "min")
        self.sweep, self.trial_log, self.on_disk_full = sweep, sweep.trial_log, on_disk_full
        direction = direction_of(larger_is_better=sweep.larger_is_better)
        self.study = make_study(direction, _make_sampler(sweep))
        self.scheduler = RaceScheduler(sweep)
        self.numbers = self.scheduler.numbers
        self._interrupted = sorted(self.trial_log.interrupted, key=lambda trial: trial.number)
        self._optuna_trials: dict[str, optuna.Trial] = {}
        self._started_at: dict[str, float] = {}
        self._variants: dict[str, list[Any]] = {}  # object references of data by input key
        for trial in self.trial_log.ended:
            self._add_to_study(trial)

    @override
    def suggest(self, trial_id: str) -> dict[str, Any]:
        trial = self._next_trial(trial_id)
        self.trial_log.start(trial)
        self.numbers[trial_id] = trial.number
        self._started_at[trial_id] = time.monotonic()
        return {"number": trial.number, "values": trial.values, **self._inputs_of(trial)}

    @override
    def on_trial_result(self, trial_id: str, result: dict[str, Any]) -> None:
        if DISK_FULL in result:
            self.on_disk_full(result[DISK_FULL])
        if SCORE not in result or FAILED in result:
            return
        number = self.numbers[trial_id]
        reports = self.trial_log.trials[number].reports
        if not reports or reports[-1].percent < result[DONE]:  # a trial whose actor died reports its rungs again
            comparison = self.scheduler.comparisons.get(trial_id)
            compared = (None, None) if comparison is None else (comparison.incumbent, comparison.incumbent_score)
            self.trial_log.report(number, Report(result[DONE], result[SCORE], *compared))

    @override
    def on_trial_complete(self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False) -> None:
        number, result = self.numbers[trial_id], result or {}
        trial = self.trial_log.trials[number]
        if trial.ended:
            return
        self.on_trial_result(trial_id, result)  # Ray Tune passes the last result to this method only
        seconds = time.monotonic() - self._started_at[trial_id]
        if error:
            reason = f"its worker died {RESTARTS + 1} times"
            self.trial_log.end(number, "failed", score=None, seconds=seconds, reason=reason)
        elif FAILED in result:
            self.trial_log.end(number, "failed", score=None, seconds=seconds, reason=result[FAILED])
        elif trial.reports and trial.reports[-1].percent >= FULL_BUDGET:
            self.trial_log.end(number, "complete", score=trial.reports[-1].score, seconds=seconds)
        elif trial_id in self.scheduler.stopped:
            self.trial_log.end(number, "pruned", score=trial.reports[-1].score, seconds=seconds)
        else:
            return  # the sweep was interrupted: its next start runs this trial again
        self._tell(trial_id, self.trial_log.trials[number])

    @override
    def save(self, checkpoint_path: str) -> None:
        Path(checkpoint_path).touch()  # the trial log is the state

    def __getstate__(self) -> dict[str, Any]:
        return {}  # Ray Tune pickles the searcher for a restore that is never used

    def _next_trial(self, trial_id: str) -> Trial:
        """Return an interrupted trial, the config itself, or a new proposal of the sampler."""
        if not self._interrupted and self.trial_log.trials:
            return self._propose(trial_id)
        trial = self._interrupted.pop(0) if self._interrupted else default_trial(self.sweep.space, self.sweep.config)
        if trial.params:
            # it runs in the study as well, so that the constant liar keeps concurrent proposals away from its point
            self.study.enqueue_trial(trial.params)
            self._ask(trial_id)
        return trial

    def _propose(self, trial_id: str) -> Trial:
        values = self._ask(trial_id)
        optuna_trial = self._optuna_trials[trial_id]
        distributions = {key: distribution_to_json(value) for key, value in optuna_trial.distributions.items()}
        return Trial(self._next_number(), values, dict(optuna_trial.params), distributions)

    def _ask(self, trial_id: str) -> dict[str, Any]:
        """Start a trial in the study; return its config values."""
        self._optuna_trials[trial_id] = self.study.ask()
        return self.sweep.space.draw(self._optuna_trials[trial_id])

    def _tell(self, trial_id: str, trial: Trial) -> None:
        optuna_trial = self._optuna_trials.get(trial_id)
        if optuna_trial is None:
            self._add_to_study(trial)
            return
        for report in trial.reports:
            optuna_trial.report(report.score, step=round(report.percent))
        value = trial.score if trial.state == "complete" else None
        self.study.tell(optuna_trial, value, state=TRIAL_STATES[trial.state])

    def _add_to_study(self, trial: Trial) -> None:
        """Add a trial that this study did not propose, if it is a point of the search space."""
        if trial.params:
            self.study.add_trial(to_optuna_trial(trial))

    def _next_number(self) -> int:
        """Return a number that no line of the log and no folder has: that folder holds fits of another config."""
        folders = [int(path.name) for path in self.sweep.context.folder.glob("[0-9]*") if path.name.isdigit()]
        return max([self.trial_log.highest, *folders]) + 1

    def _inputs_of(self, trial: Trial) -> dict[str, Any]:
        """Return a reference to the data of a trial that reads other inputs, or the error in its config."""
        import ray

        messages = self.sweep.space.check_values(trial.values)
        try:
            if messages:
                raise InputError(messages)
            config = apply_values(self.sweep.config, trial.values, f"trial {trial.number}")
            key = input_key(config)
            if key != input_key(self.sweep.config) and key not in self._variants:
                prepared = self.sweep.prepare(config)
                self._variants[key] = [ray.put(prepared)]  # in a list, so that Ray Tune does not fetch it
        except InputError as error:
            return {"error": str(error)}
        return {"fit_context": self._variants[key]} if key in self._variants else {}


def _make_sampler(sweep: Sweep) -> optuna.samplers.TPESampler:
    """Return the sampler; its seed moves on with the log, or a resumed sweep would propose the same points again."""
    seed = (sweep.config.reproducibility.seed + len(sweep.trial_log.trials)) % SEEDS
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        return optuna.samplers.TPESampler(multivariate=True, group=True, constant_liar=True, seed=seed)
