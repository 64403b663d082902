"""Forecast of the time that a sweep takes: trials drawn from its search space, each with its forecast cost."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import optuna

from rainbow_ray.config.schema import Config
from rainbow_ray.tuning.optuna_study import make_study
from rainbow_ray.tuning.search_space import Space, apply_values
from rainbow_ray.tuning.trial_cost import CostModel, TrialCost
from rainbow_ray.tuning.trial_log import FULL_BUDGET, Trial, TrialLog
from rainbow_ray.utils.errors import InputError
from rainbow_ray.utils.number_format import format_duration

N_CANDIDATES = 8  # proposals that the searcher chooses a trial from
N_DRAWS = 200
N_SIMULATIONS = 200
MAX_SIMULATED_TRIALS = 200  # of more trials, the time is extrapolated
QUANTILES = (0.1, 0.5, 0.9)
# fractions of the work that trials did when they ended, before trials of this sweep have: most are stopped in a race
PRIOR_WORK = (0.05, 0.1, 0.2, 0.2, 0.4, 0.4, 0.6, 1.0, 1.0, 1.0)


@dataclass(frozen=True)
class TimeForecast:
    """Expected time with an 80% interval, in seconds.

    Attributes:
        low: 10% quantile.
        median: Median.
        high: 90% quantile.
    """

    low: float
    median: float
    high: float

    @property
    def text(self) -> str:
        """The median and the interval, for messages."""
        low, median, high = (format_duration(seconds) for seconds in (self.low, self.median, self.high))
        return f"{median} (80% interval: {low} to {high})"


def choice_weights(seconds: np.ndarray, exponent: float, seconds_left: float = math.inf) -> np.ndarray:
    """Return the probability of choosing each of several proposals.

    The searcher prefers gain per second. Its proposals have about the same expected gain, so that a proposal is chosen
    with a probability proportional to `seconds ** -exponent`. The exponent falls from 1 to 0 as the sweep goes on, so
    that costly configs are tried once cheap ones have been.

    Args:
        seconds: Forecast seconds of the proposals, `(n,)`; NaN for an invalid config.
        exponent: Between 0 and 1.
        seconds_left: Time that is left. Proposals that take longer are not chosen if any other can be.

    Returns:
        Probabilities, `(n,)`; 0 for invalid proposals unless all are.

    Reference:
        Lee et al. 2020, "Cost-aware Bayesian optimization", section 4.1 (cost cooling).
    """
    if np.isnan(seconds).all():
        return np.full(len(seconds), 1 / len(seconds))
    can_be_chosen = ~np.isnan(seconds)
    if (seconds <= seconds_left).any():
        can_be_chosen &= seconds <= seconds_left
    weights = np.where(can_be_chosen, np.fmax(seconds, 1e-3) ** -exponent, 0.0)
    return np.asarray(weights / weights.sum())


class SweepForecast:
    """Forecasts the trials that are left.

    Args:
        costs: Forecasts the cost of a config.
        space: Search space.
        config: Config that the values of trials are applied to, with the number of trials, and whether they are stopped
            early and chosen by their cost.
        n_concurrent: Trials that run in parallel.
    """

    def __init__(self, costs: CostModel, space: Space, config: Config, n_concurrent: int) -> None:
        self.costs, self.config, self.n_concurrent = costs, config, n_concurrent
        self.n_trials = config.tune.trials
        self._draws = _draw_configs(space, config)
        self._work: list[float] = []

    def observe(self, trial: Trial, seconds: float) -> None:
        """Correct the forecasts by a trial that has ended.

        Args:
            trial: The trial; one without a report is ignored.
            seconds: Its duration, without the start of its process.
        """
        if not trial.reports:
            return
        work = trial.reports[-1].percent / FULL_BUDGET
        self._work.append(work)
        self.costs.observe(apply_values(self.config, trial.values, f"trial {trial.number}"), work, seconds)

    def observe_log(self, path: Path) -> int:
        """Correct the forecasts by the trials of earlier starts.

        Args:
            path: The trial log, which need not exist.

        Returns:
            The number of trials that have ended.
        """
        ended = TrialLog(path).ended
        for trial in ended:
            if trial.state != "failed":
                self.observe(trial, trial.seconds)
        return len(ended)

    def cost_of(self, values: dict[str, Any]) -> TrialCost | None:
        """Forecast a trial that runs to its end.

        Args:
            values: Values of config keys.

        Returns:
            Its cost; None for an invalid config.
        """
        try:
            return self.costs.forecast(apply_values(self.config, values, "a trial"))
        except InputError:
            return None

    def expected_seconds(self, values: dict[str, Any]) -> float:
        """Forecast a trial, which may be stopped early.

        Args:
            values: Values of config keys.

        Returns:
            Expected seconds; 0 for an invalid config, which fails at once.
        """
        cost = self.cost_of(values)
        return 0.0 if cost is None else cost.seconds * float(np.mean(self._works()))

    def relative_cost(self, values: dict[str, Any], done: float) -> float:
        """Return what is left of a trial in relation to a whole trial of the default config.

        Args:
            values: Values of config keys.
            done: Fraction of its work that the trial has done.

        Returns:
            Ratio of the forecast seconds; 1 for an invalid config.
        """
        cost = self.cost_of(values)
        return 1.0 if cost is None else (1 - done) * cost.seconds / self.costs.forecast(self.config).seconds

    def time_left(self, n_ended: int, running: Sequence[float] = ()) -> TimeForecast:
        """Forecast the time until all trials have ended.

        Args:
            n_ended: Number of trials that have ended.
            running: Forecast seconds that are left of each running trial.

        Returns:
            Seconds from now on.
        """
        rng = np.random.default_rng(0)
        draws = [self.costs.forecast(config) for config in self._draws]
        seconds = np.array([cost.seconds for cost in draws])
        deviations = np.array([self.costs.deviation(trains_encoder=cost.trains_encoder) for cost in draws])
        kinds = np.array([cost.trains_encoder for cost in draws])
        n_left = max(0, self.n_trials - n_ended - len(running))
        n_simulated = min(n_left, MAX_SIMULATED_TRIALS)
        works = self._works()
        # nothing is stopped before the first trial, the config itself, is complete
        is_first = n_ended + len(running) == 0 and n_simulated > 0
        default = self.costs.forecast(self.config)
        default_deviation = self.costs.deviation(trains_encoder=default.trains_encoder)
        n_whole = min(self.n_concurrent, n_simulated) if n_ended == 0 else 0
        totals = np.empty(N_SIMULATIONS)
        for simulation in range(N_SIMULATIONS):
            chosen = self._choose(rng, seconds, n_ended + len(running), n_left, n_simulated)
            # an error of the forecast is common to all trials of a kind
            errors = np.exp(rng.normal(size=2)[kinds[chosen].astype(int)] * deviations[chosen])
            work = rng.choice(works, n_simulated)
            work[:n_whole] = 1.0
            trials = seconds[chosen] * errors * work
            if is_first:
                trials[0] = default.seconds * np.exp(rng.normal() * default_deviation)
            total = sum(running) + trials.sum() * (n_left / max(1, n_simulated))
            totals[simulation] = max(total / self.n_concurrent, trials.max(initial=0.0), max(running, default=0.0))
        if n_ended == 0:
            totals += self.costs.encode_seconds
        return TimeForecast(*(float(value) for value in np.quantile(totals, QUANTILES)))

    def _works(self) -> np.ndarray:
        """Return fractions of their work that trials do."""
        return np.array([*PRIOR_WORK, *self._work]) if self.config.tune.prune else np.ones(1)

    def _choose(
        self, rng: np.random.Generator, seconds: np.ndarray, n_before: int, n_left: int, n_trials: int
    ) -> np.ndarray:
        """Return indices of `n_trials` of the trials that are left, chosen from the draws as the searcher does."""
        if not self.config.tune.cost_aware:
            return rng.integers(0, len(seconds), n_trials)
        candidates = rng.integers(0, len(seconds), (n_trials, N_CANDIDATES))
        positions = n_before + np.arange(n_trials) * (n_left / max(1, n_trials))
        exponents = np.clip(1 - positions / self.n_trials, 0, 1)
        weights = seconds[candidates] ** -exponents[:, None]
        cumulative = np.cumsum(weights, axis=1)
        columns = (cumulative < rng.random((n_trials, 1)) * cumulative[:, -1:]).sum(axis=1)
        return np.asarray(candidates[np.arange(n_trials), columns])


def _draw_configs(space: Space, config: Config) -> list[Config]:
    """Return the configs of random points of a search space; the config itself where no point is valid."""
    study = make_study("maximize", optuna.samplers.RandomSampler(seed=config.reproducibility.seed))
    configs = []
    for _ in range(N_DRAWS):
        try:
            configs.append(apply_values(config, space.draw(study.ask()), "a draw"))
        except InputError:  # some points of a space may be invalid; their trials fail at once
            continue
    return configs or [config]
