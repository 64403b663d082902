"""The end of a sweep: means over fresh seeds, and sentences that say no more than the numbers do."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pyarrow as pa
import pytest

from rainbow_ray.config.schema import SEEDS, Config
from rainbow_ray.data.examples import Examples
from rainbow_ray.evaluation.bootstrap import Difference
from rainbow_ray.tasks.registry import make_task
from rainbow_ray.tuning.bbc_cv import CorrectedScore
from rainbow_ray.tuning.revalidation import compare_fits, fresh_seeds
from rainbow_ray.tuning.summary import Revalidation, verdict
from rainbow_ray.tuning.trial_log import Trial

N = 400


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(0)


@pytest.fixture
def sweep():
    shared = SimpleNamespace(task=make_task("binary"))
    config = Config()
    config.training.metric = "accuracy"
    return SimpleNamespace(context=SimpleNamespace(shared=shared), config=config)


@pytest.fixture
def data(rng):
    targets = (rng.random(N) < 0.5).astype(np.float32)
    table = pa.table({"song": [f"song {i}" for i in range(N)]})
    examples = Examples(table, targets, np.ones(N, np.float32))
    return SimpleNamespace(source=examples, index=examples)


def scores_of(rng, targets, accuracies) -> np.ndarray:
    right = rng.random((len(accuracies), N)) < np.asarray(accuracies)[:, None]
    return np.where(right, targets, 1 - targets).astype(np.float32)


def test_each_seed_is_measured_on_its_own_songs(sweep, data, rng):
    targets = data.source.targets
    held = np.stack([np.isin(np.arange(N), rng.choice(N, N // 5, replace=False)) for _ in range(3)])
    assert held.all(axis=0).sum() < 10, "hardly a song is scored by all three splits"
    ours, theirs, base = (scores_of(rng, targets, [a] * 3) for a in (0.9, 0.6, 0.5))
    for scores in (ours, theirs, base):
        scores[~held] = np.nan
    found = compare_fits(sweep, data, [1, 2, 3], ours, theirs, {"majority": base}, has_fresh_splits=True)
    expected = np.mean([np.mean((ours[s] > 0.5)[held[s]] == (targets > 0.5)[held[s]]) for s in range(3)])
    assert found.winner == pytest.approx(expected)
    assert found.default == pytest.approx(0.6, abs=0.1)
    assert found.over_default.value == pytest.approx(found.winner - found.default)
    assert found.over_default.high - found.over_default.low < 0.4, "over all that were scored, not over those few"
    assert found.over_baseline.low > 0


def test_baselines_of_a_sample_are_compared_on_the_sample(sweep, data, rng):
    targets = data.source.targets
    ours, base = (scores_of(rng, targets, [a] * 2) for a in (0.9, 0.9))
    base[:, N // 2 :] = np.nan
    found = compare_fits(sweep, data, [1, 2], ours, ours, {"words": base}, has_fresh_splits=True)
    assert found.baseline == pytest.approx(0.9, abs=0.05)
    assert found.winner == pytest.approx(np.mean((ours[:, : N // 2] > 0.5) == (targets[: N // 2] > 0.5)))


def test_without_the_default_config_there_is_no_gain(sweep, data, rng):
    ours = scores_of(rng, data.source.targets, [0.8])
    found = compare_fits(sweep, data, [1], ours, None, {"words": ours}, has_fresh_splits=True)
    assert (found.default, found.over_default) == (None, None)
    assert "the default config failed" in verdict("accuracy", Trial(3, {}), None, found, N)


def test_fresh_seeds_are_fresh():
    config = Config()
    config.reproducibility.seed, config.data.random_seed, config.tune.revalidation_seeds = 42, 43, 3
    assert fresh_seeds(config) == [44, 45, 46]
    config.reproducibility.seed = SEEDS - 1
    assert fresh_seeds(config) == [0, 1, 2]


def said(*, gap: Difference | None, gain: Difference | None, behind: Difference | None = None, number: int = 4) -> str:
    fresh = Revalidation([43, 44, 45], True, 0.8, 0.7, "TF-IDF", 0.75, gap, behind)
    return verdict("accuracy", Trial(number, {}), CorrectedScore(0.85, 0.81, 0.7, 0.9, gain), fresh, 84)


CLEAR, UNCLEAR, WORSE = Difference(0.1, 0.02, 0.2), Difference(0.1, -0.02, 0.2), Difference(-0.1, -0.2, -0.01)


def test_something_is_found_only_where_the_corrected_gain_says_so_too():
    assert said(gap=CLEAR, gain=CLEAR).startswith("The sweep found something: trial 4 beats the default config")
    doubt = said(gap=CLEAR, gain=UNCLEAR)
    assert doubt.startswith("The sweep found nothing that 84 songs can show: trial 4 is ahead")
    assert "corrected for the selection it gains +0.100 [-0.020, +0.200]" in doubt
    assert said(gap=UNCLEAR, gain=CLEAR).startswith("The sweep found nothing that 84 songs can show")
    assert said(gap=WORSE, gain=CLEAR).startswith("The sweep found nothing: trial 4 is no better")
    assert said(gap=None, gain=None, number=0).startswith("The sweep found nothing: the default config is the best")


def test_a_winner_behind_the_words_is_told_so():
    assert "It loses to TF-IDF (0.750)." in said(gap=CLEAR, gain=CLEAR, behind=WORSE)
    assert "It loses to TF-IDF (0.750)." in said(gap=None, gain=None, behind=WORSE, number=0)
    assert "loses" not in said(gap=CLEAR, gain=CLEAR, behind=UNCLEAR)
