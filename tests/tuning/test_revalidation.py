"""Revalidation after a sweep: means over fresh seeds, and a verdict that follows from the numbers."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pyarrow as pa
import pytest

from rainbow_ray.config.schema import SEEDS, Config
from rainbow_ray.data.examples import Examples
from rainbow_ray.evaluation.bootstrap import Difference
from rainbow_ray.tasks.registry import make_task
from rainbow_ray.tasks.scores import decode_folds
from rainbow_ray.training.cross_validation import FitContext
from rainbow_ray.tuning.bbc_cv import CorrectedScore
from rainbow_ray.tuning.revalidation import (
    _final_scores,
    _members,
    _score_baselines,
    compare_fits,
    fresh_seeds,
    fresh_split,
)
from rainbow_ray.tuning.summary import Revalidation, verdict
from rainbow_ray.tuning.trial_log import Trial
from tests.helpers import data_of, plan_of
from tests.song_tables import song_rows

N = 400


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(0)


@pytest.fixture
def sweep():
    fit_context = SimpleNamespace(task=make_task("binary"))
    config = Config()
    config.training.metric = "accuracy"
    return SimpleNamespace(context=SimpleNamespace(shared=fit_context), config=config)


@pytest.fixture
def data(rng):
    targets = (rng.random(N) < 0.5).astype(np.float32)
    table = pa.table({"song": [f"song {i}" for i in range(N)]})
    examples = Examples(table, targets, np.ones(N, np.float32))
    return SimpleNamespace(source=examples, index=examples)


def scores_of(rng, targets, accuracies) -> np.ndarray:
    is_correct = rng.random((len(accuracies), N)) < np.asarray(accuracies)[:, None]
    return np.where(is_correct, targets, 1 - targets).astype(np.float32)


def test_each_seed_is_measured_on_its_own_songs(sweep, data, rng):
    targets = data.source.targets
    validation_mask = np.stack([np.isin(np.arange(N), rng.choice(N, N // 5, replace=False)) for _ in range(3)])
    assert validation_mask.all(axis=0).sum() < 10, "few songs are scored in all three splits"
    winner_scores, default_scores, baseline_scores = (scores_of(rng, targets, [a] * 3) for a in (0.9, 0.6, 0.5))
    for scores in (winner_scores, default_scores, baseline_scores):
        scores[~validation_mask] = np.nan
    result = compare_fits(
        sweep, data, [1, 2, 3], winner_scores, default_scores, {"majority": baseline_scores}, has_fresh_splits=True
    )
    expected = np.mean(
        [np.mean((winner_scores[s] > 0.5)[validation_mask[s]] == (targets > 0.5)[validation_mask[s]]) for s in range(3)]
    )
    assert result.winner == pytest.approx(expected)
    assert result.default == pytest.approx(0.6, abs=0.1)
    assert result.over_default.value == pytest.approx(result.winner - result.default)
    # computed over all scored songs, not only over those few
    assert result.over_default.high - result.over_default.low < 0.4
    assert result.over_baseline.low > 0


def test_baselines_of_a_sample_are_compared_on_the_sample(sweep, data, rng):
    targets = data.source.targets
    winner_scores, baseline_scores = (scores_of(rng, targets, [a] * 2) for a in (0.9, 0.9))
    baseline_scores[:, N // 2 :] = np.nan
    result = compare_fits(
        sweep, data, [1, 2], winner_scores, winner_scores, {"words": baseline_scores}, has_fresh_splits=True
    )
    assert result.baseline == pytest.approx(0.9, abs=0.05)
    assert result.winner == pytest.approx(np.mean((winner_scores[:, : N // 2] > 0.5) == (targets[: N // 2] > 0.5)))


def test_without_the_default_config_there_is_no_gain(sweep, data, rng):
    winner_scores = scores_of(rng, data.source.targets, [0.8])
    result = compare_fits(sweep, data, [1], winner_scores, None, {"words": winner_scores}, has_fresh_splits=True)
    assert (result.default, result.over_default) == (None, None)
    assert "the default config failed" in verdict("accuracy", Trial(3, {}), None, result, N)


def test_fresh_seeds_differ_from_those_of_the_config():
    config = Config()
    config.reproducibility.seed, config.data.random_seed, config.tune.revalidation_seeds = 42, 43, 3
    assert fresh_seeds(config) == [44, 45, 46]
    config.reproducibility.seed = SEEDS - 1
    assert fresh_seeds(config) == [0, 1, 2]


def verdict_text(
    *, difference: Difference | None, gain: Difference | None, to_baseline: Difference | None = None, number: int = 4
) -> str:
    revalidation = Revalidation([43, 44, 45], True, 0.8, 0.7, "TF-IDF", 0.75, difference, to_baseline)
    return verdict("accuracy", Trial(number, {}), CorrectedScore(0.85, 0.81, 0.7, 0.9, gain), revalidation, 84)


CLEAR, UNCLEAR, WORSE = Difference(0.1, 0.02, 0.2), Difference(0.1, -0.02, 0.2), Difference(-0.1, -0.2, -0.01)


def test_an_improvement_needs_a_positive_corrected_gain():
    assert verdict_text(difference=CLEAR, gain=CLEAR).startswith(
        "The sweep found something: trial 4 beats the default config"
    )
    text = verdict_text(difference=CLEAR, gain=UNCLEAR)
    assert text.startswith("The sweep found nothing that 84 songs can show: trial 4 is ahead")
    assert "corrected for the selection it gains +0.100 [-0.020, +0.200]" in text
    assert verdict_text(difference=UNCLEAR, gain=CLEAR).startswith("The sweep found nothing that 84 songs can show")
    assert verdict_text(difference=WORSE, gain=CLEAR).startswith("The sweep found nothing: trial 4 is no better")
    assert verdict_text(difference=None, gain=None, number=0).startswith(
        "The sweep found nothing: the default config is the best"
    )


def test_a_winner_worse_than_a_baseline_is_named():
    assert "It loses to TF-IDF (0.750)." in verdict_text(difference=CLEAR, gain=CLEAR, to_baseline=WORSE)
    assert "It loses to TF-IDF (0.750)." in verdict_text(difference=None, gain=None, to_baseline=WORSE, number=0)
    assert "loses" not in verdict_text(difference=CLEAR, gain=CLEAR, to_baseline=UNCLEAR)


def test_both_configs_are_compared_as_their_runs_are_scored(write_table, tiny_encoder, rng):
    """A network without skill scores like the baselines that are stacked with it, and like itself without them."""
    plan = plan_of(write_table(song_rows(songs=40, stems=1)), tiny_encoder("bert"))
    data = data_of(plan)
    shared = FitContext(plan.config, data.source, data.task, plan.input_spec, data.split.split_by)
    splits = [fresh_split(plan.config, data, seed) for seed in (43, 44)]
    neural = rng.random((2, len(data.source))).astype(np.float32)
    baselines = _score_baselines(shared, splits)

    def final_scores(config: Config) -> np.ndarray:
        members = _members(shared, data, config, neural, baselines)
        return _final_scores(shared, data, [43, 44], splits, neural, members)

    stacked = final_scores(plan.config)
    assert all(plan.task.metric("accuracy", data.source.targets, scores) > 0.9 for scores in stacked)
    alone = final_scores(plan.config.with_values({"training.combine": "none"}))
    folds = [[split.train_val_indices(fold) for fold in range(split.n_folds)] for split in splits]
    expected = [decode_folds(data.task, data.source.targets, *pair) for pair in zip(folds, neural, strict=True)]
    np.testing.assert_array_equal(alone, expected)
    assert "majority" in baselines
    assert "majority" not in _members(shared, data, plan.config, neural, baselines)
