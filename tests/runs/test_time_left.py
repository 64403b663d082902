"""The time left of a sweep is forecast anew as trials end, and a first forecast that was far off is said once."""

from __future__ import annotations

import io
from types import SimpleNamespace

import pytest

from rainbow_ray.config.schema import Config
from rainbow_ray.runs.sweep_plan import budget_seconds
from rainbow_ray.runs.time_left import TimeLeft
from rainbow_ray.tuning.sweep_forecast import TimeForecast
from rainbow_ray.tuning.trial_log import Report, Trial, TrialLog
from rainbow_ray.utils.console import make_console
from rainbow_ray.utils.errors import InputError


class Forecast:
    """Forecasts that are set by the test."""

    def __init__(self) -> None:
        self.median = 100.0
        self.calls: list[tuple[int, list[float]]] = []

    def expected_seconds(self, values) -> float:
        return 10.0

    def time_left(self, n_ended: int, running: list[float]) -> TimeForecast:
        self.calls.append((n_ended, running))
        return TimeForecast(0.0, self.median, 1000.0)


@pytest.fixture
def clock(monkeypatch):
    clock = SimpleNamespace(now=0.0)
    monkeypatch.setattr("time.monotonic", lambda: clock.now)
    return clock


def test_the_forecast_is_corrected_and_counted_down(tmp_path, clock):
    sweep = SimpleNamespace(forecast=Forecast(), trial_log=TrialLog(tmp_path / "trials.jsonl"))
    left = TimeLeft(sweep, make_console(file := io.StringIO()))
    assert left.text() == "about 100 s left"
    sweep.trial_log.watchers.append(left)
    for number in range(2):
        sweep.trial_log.start(Trial(number, {}))
    sweep.trial_log.report(1, Report(40.0, 0.5))
    clock.now = 10.0
    assert left.text() == "about 90 s left"
    sweep.forecast.median = 80.0
    sweep.trial_log.end(0, "complete", score=0.5, seconds=1.0)
    assert sweep.forecast.calls[-1] == (1, [pytest.approx(6.0)]), "40% of the running trial is done"
    assert left.text() == "about 80 s left"
    assert file.getvalue() == ""


def test_a_budget_that_ends_before_is_named(tmp_path, clock):
    sweep = SimpleNamespace(forecast=Forecast(), trial_log=TrialLog(tmp_path / "trials.jsonl"))
    left = TimeLeft(sweep, make_console(file := io.StringIO()), budget_seconds=60.0)
    clock.now = 20.0
    assert left.text() == "40 s of the budget left"
    sweep.forecast.median = 5000.0
    left(Trial(0, {}), "end")
    assert file.getvalue() == "", "the sweep takes no longer than its budget"
    sweep.forecast.median = 5.0
    left(Trial(0, {}), "end")
    assert left.text() == "about 5 s left"


@pytest.mark.parametrize(("median", "said"), [(400.0, "about 7 min in all, not 100 s"), (20.0, "about 30 s in all")])
def test_a_first_forecast_that_was_far_off_is_said_once(tmp_path, clock, median, said):
    sweep = SimpleNamespace(forecast=Forecast(), trial_log=TrialLog(tmp_path / "trials.jsonl"))
    left = TimeLeft(sweep, make_console(file := io.StringIO()))
    clock.now, sweep.forecast.median = 10.0, median
    for _ in range(2):
        left(Trial(0, {}), "report")
        left(Trial(0, {}), "end")
    assert file.getvalue().count(said) == 1
    assert len(file.getvalue().splitlines()) == 1


@pytest.mark.parametrize(
    ("minutes", "usd", "flags"),
    [
        (0.5, None, ["--budget-minutes"]),
        (2.0, 0.001, ["--budget-usd"]),
        (0.5, 0.001, ["--budget-minutes", "--budget-usd"]),
    ],
)
def test_budgets_that_are_too_small_for_a_trial_name_the_least_that_works(monkeypatch, minutes, usd, flags):
    now = SimpleNamespace(seconds=20.0)
    monkeypatch.setattr("time.perf_counter", lambda: now.seconds)
    config = Config()
    config.tune.budget_minutes, config.tune.budget_usd, config.logging.usd_per_hour = minutes, usd, 0.1
    with pytest.raises(InputError, match="minutes are too few for one trial") as caught:
        budget_seconds(config, 0.0, closing_seconds=30.0, trial_seconds=12.0)
    assert [message.split(":")[0] for message in caught.value.problems] == flags
    for message in caught.value.problems:
        flag, value = message.rpartition("at least ")[2].split()[:2]
        setattr(config.tune, flag.removeprefix("--").replace("-", "_"), float(value))
    now.seconds = 23.0  # the next start takes a little longer
    seconds = budget_seconds(config, 0.0, closing_seconds=30.0, trial_seconds=12.0)
    assert 12.0 <= seconds < 60.0
    assert budget_seconds(config, 0.0, closing_seconds=30.0, trial_seconds=0.0) == seconds
