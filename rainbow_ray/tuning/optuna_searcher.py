"""The searcher of a sweep: Optuna's TPE sampler proposes trials, by Optuna's ask and tell.

It is rebuilt from the trial log at each start of a sweep. Ray Tune's own state is not used.
"""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import optuna
from optuna.distributions import distribution_to_json
from ray.tune.search import Searcher
from typing_extensions import override

from rainbow_ray.config.schema import SEEDS
from rainbow_ray.training.cross_validation import RESTARTS
from rainbow_ray.tuning.optuna_study import TRIAL_STATES, direction_of, make_study, step_of, to_optuna_trial
from rainbow_ray.tuning.race_scheduler import DONE, SCORE, RaceScheduler
from rainbow_ray.tuning.search_space import apply_values, default_trial
from rainbow_ray.tuning.sweep import Sweep, input_key
from rainbow_ray.tuning.sweep_forecast import N_CANDIDATES, choice_weights
from rainbow_ray.tuning.trial import cache_seconds
from rainbow_ray.tuning.trial_log import FULL_BUDGET, Report, State, Trial
from rainbow_ray.utils.errors import InputError

# further keys of the results that trials report to Ray Tune
FAILED, DISK_FULL, SECONDS = "failed", "disk_full", "seconds"

Proposal = tuple[optuna.Trial, dict[str, Any]]  # a trial of the study, and its config values
Budget = tuple[float, float]  # the fraction that is spent, and the seconds that are left


class TPESearcher(Searcher):  # type: ignore[misc]
    """Tree-structured Parzen estimator over a define-by-run space, as a searcher of Ray Tune.

    The searcher continues where the trial log ends, and writes every trial into it. Interrupted trials are proposed
    again first, then trial 0, which is the config itself. Running trials stay in the study, so that the constant liar
    keeps concurrent proposals away from them. Trials that the scheduler stopped are told as pruned.

    With `tune.cost_aware`, the sampler makes several proposals for each trial, and a cheap one is chosen with a higher
    probability (see `choice_weights`). The others are told as failed, which the sampler ignores.

    Args:
        sweep: The sweep, with its search space and trial log.
        on_disk_full: Called with the error message when a trial reports that no space is left on the disk.
        budget: Returns the fraction of the budget of time that is spent and the seconds that are left; None: no budget.

    Attributes:
        study: The Optuna study.
        scheduler: The scheduler whose decisions the searcher needs to know.
        numbers: Number of each trial by Ray Tune's trial id.

    Reference:
        Bergstra et al. 2011, "Algorithms for hyper-parameter optimization"; constant liar: Ginsbourger et al. 2010,
        "Kriging is well-suited to parallelize optimization".
    """

    def __init__(
        self, sweep: Sweep, on_disk_full: Callable[[str], None], budget: Callable[[], Budget] | None = None
    ) -> None:
        super().__init__(metric=SCORE, mode="max" if sweep.larger_is_better else "min")
        self.sweep, self.trial_log, self.on_disk_full, self.budget = sweep, sweep.trial_log, on_disk_full, budget
        direction = direction_of(larger_is_better=sweep.larger_is_better)
        self.study = make_study(direction, _make_sampler(sweep))
        self.scheduler = RaceScheduler(sweep)
        self.numbers = self.scheduler.numbers
        self._interrupted = sorted(self.trial_log.interrupted, key=lambda trial: trial.number)
        self._continued = {trial.number for trial in self._interrupted}
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
        if reports and reports[-1].percent > result[DONE]:
            self._continued.add(number)  # its actor died
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
        outcome = self._outcome(trial_id, trial, result, error=error)
        if outcome is None:
            return  # the sweep was interrupted: its next start runs this trial again
        state, score, reason = outcome
        seconds = time.monotonic() - self._started_at[trial_id]
        # the time of a trial that continued from finished folds is not that of its whole work
        if state != "failed" and self.sweep.forecast is not None and number not in self._continued:
            encode_seconds = cache_seconds(self.sweep.context, [number])["spent"]
            self.sweep.forecast.observe(trial, max(0.0, result.get(SECONDS, seconds) - encode_seconds))
        self.trial_log.end(number, state, score=score, seconds=seconds, reason=reason)
        self._tell(trial_id, self.trial_log.trials[number])

    @override
    def save(self, checkpoint_path: str) -> None:
        Path(checkpoint_path).touch()  # the trial log is the state

    def __getstate__(self) -> dict[str, Any]:
        return {}  # Ray Tune pickles the searcher for a restore that is never used

    def _outcome(
        self, trial_id: str, trial: Trial, result: dict[str, Any], *, error: bool
    ) -> tuple[State, float | None, str] | None:
        """Return how a trial ended, its score, and why it failed; None where it was interrupted."""
        if error:
            return "failed", None, f"its worker died {RESTARTS + 1} times"
        if FAILED in result:
            return "failed", None, result[FAILED]
        if trial.reports and trial.reports[-1].percent >= FULL_BUDGET:
            return "complete", trial.reports[-1].score, ""
        if trial_id in self.scheduler.stopped:
            return "pruned", trial.reports[-1].score, ""
        return None

    def _next_trial(self, trial_id: str) -> Trial:
        """Return an interrupted trial, the config itself, or a new proposal of the sampler."""
        if not self._interrupted and self.trial_log.trials:
            return self._propose(trial_id)
        trial = self._interrupted.pop(0) if self._interrupted else default_trial(self.sweep.space, self.sweep.config)
        if trial.params:
            # it runs in the study as well, so that the constant liar keeps concurrent proposals away from its point
            self.study.enqueue_trial(trial.params)
            self._optuna_trials[trial_id], _ = self._ask(trial.number)
        return trial

    def _propose(self, trial_id: str) -> Trial:
        number = self._next_number()
        optuna_trial, values = self._choose([self._ask(number) for _ in range(self._n_candidates)], number)
        self._optuna_trials[trial_id] = optuna_trial
        distributions = {key: distribution_to_json(value) for key, value in optuna_trial.distributions.items()}
        return Trial(number, values, dict(optuna_trial.params), distributions)

    def _ask(self, number: int) -> Proposal:
        """Start a trial in the study; return it with its config values."""
        optuna_trial = self.study.ask()
        return optuna_trial, self.sweep.space.draw(_NumberedTrial(optuna_trial, number))

    @property
    def _n_candidates(self) -> int:
        return N_CANDIDATES if self.sweep.config.tune.cost_aware and self.sweep.forecast is not None else 1

    def _choose(self, proposals: list[Proposal], number: int) -> Proposal:
        """Choose a proposal by its forecast cost; end the others in the study."""
        if len(proposals) == 1 or self.sweep.forecast is None:
            return proposals[0]
        costs = [self.sweep.forecast.cost_of(values) for _, values in proposals]
        seconds = np.array([np.nan if cost is None else cost.seconds for cost in costs])
        spent, seconds_left = self.budget() if self.budget is not None else (0.0, np.inf)
        exponent = 1 - min(1.0, max(spent, len(self.trial_log.trials) / self.sweep.n_trials))
        weights = choice_weights(seconds, exponent, seconds_left)
        rng = np.random.default_rng([self.sweep.config.reproducibility.seed, number])
        chosen = int(rng.choice(len(proposals), p=weights))
        for index, (optuna_trial, _) in enumerate(proposals):
            if index != chosen:
                self.study.tell(optuna_trial, state=optuna.trial.TrialState.FAIL)
        return proposals[chosen]

    def _tell(self, trial_id: str, trial: Trial) -> None:
        optuna_trial = self._optuna_trials.get(trial_id)
        if optuna_trial is None:
            self._add_to_study(trial)
            return
        for report in trial.reports:
            optuna_trial.report(report.score, step=step_of(report.percent))
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


class _NumberedTrial:
    """An Optuna trial under the number that it has in the sweep: a study has further trials, which were not chosen."""

    def __init__(self, trial: optuna.Trial, number: int) -> None:
        self._trial, self.number = trial, number

    def __getattr__(self, name: str) -> Any:
        return getattr(self._trial, name)


def _make_sampler(sweep: Sweep) -> optuna.samplers.TPESampler:
    """Return the sampler; its seed moves on with the log, or a resumed sweep would propose the same points again."""
    seed = (sweep.config.reproducibility.seed + len(sweep.trial_log.trials)) % SEEDS
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        return optuna.samplers.TPESampler(multivariate=True, group=True, constant_liar=True, seed=seed)
