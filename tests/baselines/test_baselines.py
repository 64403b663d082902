"""Baselines use the given folds, tune within the training set, and never read labels of the songs they score."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from rainbow_ray.baselines.common import baseline_inputs, run_baselines
from rainbow_ray.baselines.features import mean_hidden_states
from rainbow_ray.baselines.models import (
    INNER_FOLDS,
    STRONG_PENALTY,
    WEAK_PENALTY,
    BaselineInputs,
    fit_frozen_encoder,
    fit_trivial,
)
from rainbow_ray.baselines.registry import register_baseline, unregister_baseline
from rainbow_ray.stacking.linear_member import hidden_states_key
from tests.helpers import data_of, plan_of

NAMES = ["majority", "text length", "TF-IDF + linear", "bag of words + boosting", "frozen encoder + linear"]


@pytest.fixture(scope="module")
def data_and_states(tmp_path_factory):
    import pyarrow as pa
    import pyarrow.parquet as pq

    from tests.song_tables import song_rows

    path = tmp_path_factory.mktemp("songs") / "songs.parquet"
    pq.write_table(pa.table(song_rows(songs=40, stems=1)), path)
    plan = plan_of(path)
    data = data_of(plan)
    return data, mean_hidden_states(data.examples, plan.input_spec.text, plan.config.model.text_encoder, "cpu")


def test_all_five_baselines_score_every_song(data_and_states):
    data, states = data_and_states
    scores = run_baselines(data.task, baseline_inputs(data.task, data.examples, states, seed=0), data.split).scores
    assert list(scores) == NAMES
    assert all(np.isfinite(values).all() for values in scores.values())
    truth = data.examples.targets > 0.5
    assert ((scores["bag of words + boosting"] > 0.5) == truth).mean() > 0.95  # the label is one word
    assert len(np.unique(scores["majority"])) <= data.split.n_folds


def test_scores_do_not_depend_on_the_labels_of_the_validation_set(data_and_states):
    data, states = data_and_states
    scores = run_baselines(data.task, baseline_inputs(data.task, data.examples, states, seed=0), data.split).scores
    _, val = data.split.train_val_indices(0)
    data.examples.targets[val] = 1 - data.examples.targets[val]
    changed_scores = run_baselines(
        data.task, baseline_inputs(data.task, data.examples, states, seed=0), data.split
    ).scores
    data.examples.targets[val] = 1 - data.examples.targets[val]
    for name in NAMES:
        np.testing.assert_array_equal(scores[name][val], changed_scores[name][val], err_msg=name)


def test_a_weak_penalty_is_tried_for_the_two_layers_that_are_best_with_a_strong_one(data_and_states, monkeypatch):
    data, _ = data_and_states
    layers = np.random.default_rng(0).normal(size=(len(data.examples), 4, 3))
    layers[:, 1, 0] += 3 * data.examples.targets
    layers[:, 2, 0] += 9 * data.examples.targets
    inputs = baseline_inputs(data.task, data.examples, layers, seed=0)
    tried: list[tuple[int, float]] = []

    def record(inputs: BaselineInputs, model: Any, features: np.ndarray, *sides: np.ndarray) -> np.ndarray:
        (layer,) = (i for i in range(4) if np.array_equal(features, layers[:, i]))
        tried.append((layer, model[-1].C))
        return fit_predict(inputs, model, features, *sides)

    fit_predict = BaselineInputs.fit_predict
    monkeypatch.setattr(BaselineInputs, "fit_predict", record)
    member = fit_frozen_encoder(inputs, data.split.train_val_indices(0)[0])
    tries = list(dict.fromkeys(tried))
    assert tries[:4] == [(layer, STRONG_PENALTY) for layer in range(4)]
    assert {layer for layer, _ in tries[4:]} == {1, 2}
    assert {strength for _, strength in tries[4:]} == {WEAK_PENALTY}
    assert len(tried) == INNER_FOLDS * len(tries)
    assert member.key == hidden_states_key(2)


def test_mean_hidden_states_equal_those_of_the_encoder(data_and_states):
    import torch

    from rainbow_ray.modalities.text import encoder as text_encoder
    from rainbow_ray.modalities.text import tokenize

    data, states = data_and_states
    assert states.shape == (40, 7, 384)
    inputs = tokenize.load_tokenizer("embedded")([data.examples.texts[5]], return_tensors="pt")
    with torch.no_grad():
        hidden = text_encoder.load_encoder("embedded").eval()(**inputs, output_hidden_states=True).hidden_states
    expected = np.stack([h[0].mean(0).numpy() for h in hidden])
    np.testing.assert_allclose(states[5], expected, atol=1e-4)


def test_a_registered_baseline_is_scored_with_the_others(data_and_states):
    data, states = data_and_states
    register_baseline("copy of majority", lambda inputs: inputs.hidden_states is not None, fit_trivial)
    try:
        scores = run_baselines(data.task, baseline_inputs(data.task, data.examples, states, seed=0), data.split).scores
        assert list(scores) == [*NAMES, "copy of majority"]
        np.testing.assert_array_equal(scores["copy of majority"], scores["majority"])
        scores_without_states = run_baselines(
            data.task, baseline_inputs(data.task, data.examples, None, seed=0), data.split
        ).scores
        assert "copy of majority" not in scores_without_states
        with pytest.raises(ValueError, match="registered already"):
            register_baseline("copy of majority", lambda inputs: True, fit_trivial)
    finally:
        unregister_baseline("copy of majority")
