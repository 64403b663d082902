"""Forecast of a sweep: the cost of its space's draws, chosen as the searcher does, with an interval."""

from __future__ import annotations

from typing import Any, cast

import numpy as np
import pytest

from rainbow_ray.tuning.search_space import Space
from rainbow_ray.tuning.sweep_forecast import SweepForecast, TimeForecast, choice_weights
from rainbow_ray.tuning.trial_cost import TrialCost
from rainbow_ray.tuning.trial_log import Report, Trial, TrialLog

CHEAP, COSTLY = 1.0, 100.0


class Costs:
    """Forecasts of two kinds of trials, which a key tells apart."""

    encode_seconds = 0.0

    def __init__(self) -> None:
        self.observed: list[tuple[float, float]] = []

    def forecast(self, config) -> TrialCost:
        is_costly = config.model.classifier.dropout > 0.25
        return TrialCost(COSTLY if is_costly else CHEAP, is_costly)

    def deviation(self, *, trains_encoder: bool) -> float:
        return 0.01

    def observe(self, config, work: float, seconds: float) -> None:
        self.observed.append((work, seconds))


def suggest(trial) -> None:
    trial.suggest_float("model.classifier.dropout", 0.0, 0.5)


def forecast_of(config, **keys) -> SweepForecast:
    config = config.model_copy(deep=True)
    for name, value in {"trials": 40, "prune": False, "cost_aware": False, **keys}.items():
        setattr(config.tune, name, value)
    return SweepForecast(Costs(), Space(suggest, "test:space", __file__), config, keys.get("n_concurrent", 2))


def test_the_interval_holds_the_time_of_sweeps_of_the_space(config):
    forecast = forecast_of(config).time_left(0)
    rng = np.random.default_rng(1)
    totals = [(CHEAP + rng.choice([CHEAP, COSTLY], 39).sum()) / 2 for _ in range(2000)]
    inside = np.mean([forecast.low <= total <= forecast.high for total in totals])
    assert 0.7 < inside < 0.9
    assert forecast.median == pytest.approx(np.median(totals), rel=0.05)


def test_a_searcher_that_prefers_cheap_trials_takes_less_time(config):
    plain, cost_aware = (forecast_of(config, cost_aware=value).time_left(0).median for value in (False, True))
    assert cost_aware < 0.6 * plain


def test_trials_that_are_stopped_take_less_time(config):
    forecast = forecast_of(config, prune=True)
    before = forecast.time_left(0).median
    assert before < forecast_of(config).time_left(0).median
    trial = Trial(1, {"model.classifier.dropout": 0.1}, reports=[Report(5.0, 0.4)], state="pruned", score=0.4)
    for _ in range(100):
        forecast.observe(trial, 3.0)
    assert forecast.time_left(0).median < 0.4 * before
    assert cast("Any", forecast.costs).observed[0] == (0.05, 3.0)


def test_running_trials_and_those_that_ended_count(config):
    forecast = forecast_of(config)
    assert forecast.time_left(40).high == 0
    assert forecast.time_left(39, [30.0]).median == 30.0
    assert forecast.time_left(20).median == pytest.approx(forecast.time_left(0).median / 2, rel=0.1)


@pytest.mark.parametrize("cost_aware", [False, True])
def test_a_sweep_of_many_trials_is_extrapolated(config, cost_aware):
    few, many = (forecast_of(config, trials=n, cost_aware=cost_aware).time_left(0) for n in (200, 20_000))
    assert many.median == pytest.approx(100 * few.median, rel=0.1)


def test_the_first_trial_is_the_config_itself_and_runs_to_its_end(config):
    forecast = forecast_of(config, trials=1, prune=True)
    forecast.config.model.classifier.dropout = 0.0
    assert forecast.time_left(0).high == pytest.approx(CHEAP, rel=0.05)
    assert forecast.time_left(0).low == pytest.approx(CHEAP, rel=0.05)
    forecast.costs.encode_seconds = 50.0
    assert forecast.time_left(0).median == pytest.approx(50.0 + CHEAP, rel=0.05), "hidden states are computed first"
    assert forecast_of(config, trials=2).time_left(1).median < 50.0 + COSTLY


def test_trials_of_earlier_starts_correct_the_forecast(config, tmp_path):
    log = TrialLog(tmp_path / "trials.jsonl")
    for number, state in enumerate(("complete", "failed", "pruned")):
        log.start(Trial(number, {"model.classifier.dropout": 0.1}))
        log.report(number, Report(20.0, 0.5))
        log.end(number, state, score=0.5, seconds=2.0)
    forecast = forecast_of(config)
    assert forecast.observe_log(tmp_path / "trials.jsonl") == 3
    assert cast("Any", forecast.costs).observed == [(0.2, 2.0)] * 2
    assert forecast_of(config).observe_log(tmp_path / "missing.jsonl") == 0


def test_invalid_points_of_a_space_are_left_out(config):
    def suggest_badly(trial) -> None:
        suggest(trial)
        trial.suggest_int("training.epochs", -5, 20)

    bad = Space(suggest_badly, "test:space", __file__)
    forecast = SweepForecast(Costs(), bad, config, 1)
    assert 100 < len(forecast._draws) < 200
    assert forecast.expected_seconds({"training.epochs": -1}) == 0


def test_the_text_has_the_median_and_the_interval():
    assert TimeForecast(30.0, 60.0, 600.0).text == "60 s (80% interval: 30 s to 10 min)"


def test_cheap_proposals_are_preferred_the_less_the_further_the_sweep_is():
    seconds = np.array([1.0, 4.0])
    np.testing.assert_allclose(choice_weights(seconds, 1.0), [0.8, 0.2])
    np.testing.assert_allclose(choice_weights(seconds, 0.5), [2 / 3, 1 / 3])
    np.testing.assert_allclose(choice_weights(seconds, 0.0), [0.5, 0.5])


def test_invalid_proposals_and_those_that_take_too_long_are_avoided():
    seconds = np.array([1.0, np.nan, 50.0])
    np.testing.assert_allclose(choice_weights(seconds, 0.0), [0.5, 0.0, 0.5])
    np.testing.assert_allclose(choice_weights(seconds, 0.0, seconds_left=10.0), [1.0, 0.0, 0.0])
    np.testing.assert_allclose(choice_weights(seconds, 0.0, seconds_left=0.5), [0.5, 0.0, 0.5])
    np.testing.assert_allclose(choice_weights(np.full(4, np.nan), 1.0), np.full(4, 0.25))
