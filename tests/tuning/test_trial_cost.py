"""Forecasts of the time of trials: from their trained layers and steps, corrected by the trials that have ended."""

from __future__ import annotations

import pytest

from rainbow_ray.config.schema import Config
from rainbow_ray.tuning.search_space import apply_values
from rainbow_ray.tuning.trial_cost import CostModel, CostRates
from tests.helpers import data_of, plan_of

RATES = CostRates(layer_seconds=0.01, step_seconds=0.002, text_layers=6)
LAST, HALF = {"model.text_encoder.layer": "last"}, {"model.text_encoder.layer": 0.5}


@pytest.fixture(scope="module")
def plan(tiny_encoder, tmp_path_factory):
    import pyarrow as pa
    import pyarrow.parquet as pq

    from tests.song_tables import song_rows

    path = tmp_path_factory.mktemp("songs") / "songs.parquet"
    pq.write_table(pa.table(song_rows(stems=1)), path)
    return plan_of(path, tiny_encoder("bert"), data__folds=3)


@pytest.fixture
def costs(plan) -> CostModel:
    return cost_model(plan)


def cost_model(plan) -> CostModel:
    data = data_of(plan)
    folds = [data.split.train_val_indices(fold) for fold in range(3)]
    return CostModel(data.source, data.task, plan.input_spec, folds, RATES)


def config_with(plan, values: dict) -> Config:
    return apply_values(plan.config, values, "test")


def seconds(costs: CostModel, plan, **frozen) -> float:
    return costs.forecast(config_with(plan, {**LAST, **frozen})).seconds


def test_time_grows_with_the_trained_layers_and_the_epochs(costs, plan):
    def of(freeze, layer="last", **values) -> float:
        keys = {"model.text_encoder.layer": layer, "model.text_encoder.freeze_layers": freeze, **values}
        return costs.forecast(config_with(plan, keys)).seconds

    frozen, one, all_layers = of("all"), of(5), of(0)
    assert frozen < one < all_layers
    assert of(3, layer=3) == pytest.approx(frozen), "no layer below the one that is read is trained"
    long = {"training.epochs": 100, "training.min_steps": 0}
    longer = {"training.epochs": 200, "training.min_steps": 0}
    passes = (of(0, **longer) - of(0, **long)) / 100
    n_train, n_val = costs._n_train, costs._n_val
    step_seconds = -(-n_train // 32) * 0.002
    assert passes == pytest.approx(3 * ((3 * n_train + n_val) * 7 * 0.01 + step_seconds), rel=0.01)


def test_forecasts_are_corrected_by_trials_of_the_same_kind(costs, plan):
    frozen = config_with(plan, {"model.text_encoder.freeze_layers": "all"})
    trained = config_with(plan, {**LAST, "model.text_encoder.freeze_layers": 0})
    before = costs.forecast(frozen).seconds, costs.forecast(trained).seconds
    for _ in range(20):
        costs.observe(trained, 0.2, 0.2 * 10 * before[1])
    assert costs.forecast(trained).seconds == pytest.approx(10 * before[1], rel=0.15)
    assert costs.forecast(frozen).seconds == before[0]
    assert costs.deviation(trains_encoder=True) < 0.7 * costs.deviation(trains_encoder=False)


def test_one_trial_corrects_a_forecast_in_part(costs, plan):
    config = config_with(plan, {"model.text_encoder.freeze_layers": "all"})
    before = costs.forecast(config).seconds
    costs.observe(config, 1.0, 4 * before)
    assert costs.forecast(config).seconds == pytest.approx(2 * before)
