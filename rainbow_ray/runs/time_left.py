"""Time that is left of a sweep, forecast anew whenever a trial has ended."""

from __future__ import annotations

import math
import time

from rich.console import Console

from rainbow_ray.tuning.sweep import Sweep
from rainbow_ray.tuning.sweep_forecast import TimeForecast
from rainbow_ray.tuning.trial_log import FULL_BUDGET, Trial
from rainbow_ray.utils.number_format import format_duration

MAX_RATIO = 3.0  # between the time of all trials as forecast now and before the first one
MIN_DIFFERENCE_SECONDS = 60.0


class TimeLeft:
    """Watcher of the trial log that forecasts the time left, and reports once that the first forecast was far off.

    Args:
        sweep: The sweep, which has a forecast.
        console: Where that is printed.
        budget_seconds: Time limit of the trials, or None.

    Attributes:
        first: The forecast before the first trial of this start.
        left: The newest forecast, from the time `forecast_at` on.
    """

    def __init__(self, sweep: Sweep, console: Console, budget_seconds: float | None = None) -> None:
        assert sweep.forecast is not None
        self.sweep, self.console, self.forecast = sweep, console, sweep.forecast
        self.budget_seconds = math.inf if budget_seconds is None else budget_seconds
        self.started_at = self.forecast_at = time.monotonic()
        self.first = self.left = self._forecast()
        self._is_reported = False

    def __call__(self, trial: Trial, event: str) -> None:  # noqa: ARG002
        """Forecast the time left after a trial has ended.

        Args:
            trial: The trial.
            event: What happened to it; only `end` matters.
        """
        if event != "end":
            return
        self.left, self.forecast_at = self._forecast(), time.monotonic()
        total, first = self.forecast_at - self.started_at + self.left.median, self.first.median
        total, first = (min(seconds, self.budget_seconds) for seconds in (total, first))
        is_far_off = not 1 / MAX_RATIO < total / max(first, 1.0) < MAX_RATIO
        if is_far_off and abs(total - first) > MIN_DIFFERENCE_SECONDS and not self._is_reported:
            self._is_reported = True
            self.console.print(
                f"The trials of this start take about {format_duration(total)} in all, not {format_duration(first)} as"
                " was expected before the first one; forecasts are corrected by the trials that have ended"
            )

    def text(self) -> str:
        """Return the time left for a progress line.

        Returns:
            A text such as `about 3 min left`, or `2 min of the budget left` where the budget ends before.
        """
        now = time.monotonic()
        budget_left = max(0.0, self.started_at + self.budget_seconds - now)
        seconds = max(0.0, self.left.median - (now - self.forecast_at))
        if budget_left < seconds:
            return f"{format_duration(budget_left)} of the budget left"
        return f"about {format_duration(seconds)} left"

    def _forecast(self) -> TimeForecast:
        log = self.sweep.trial_log
        running = []
        for trial in log.interrupted:
            done = trial.reports[-1].percent / FULL_BUDGET if trial.reports else 0.0
            running.append(self.forecast.expected_seconds(trial.values) * (1 - done))
        return self.forecast.time_left(len(log.ended), running)
