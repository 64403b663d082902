"""Methods for rare classes: combinations of them cause a warning."""

from __future__ import annotations

import numpy as np
import pytest

from rainbow_ray.config.schema import Config, TrainingConfig
from rainbow_ray.data.sampling import conflicting_imbalance_settings
from rainbow_ray.training.checkpoint import CheckpointManager
from rainbow_ray.training.cross_validation import FitContext
from rainbow_ray.tuning.search_space import Space, find_conflicting_settings
from rainbow_ray.tuning.trial import TrialContext, make_rungs, out_of_fold, run_trial
from tests.distributed.test_process_group import KEYS, run_workers, without_dropout
from tests.helpers import data_of, fit_fold, plan_of
from tests.song_tables import labelled_songs


@pytest.mark.parametrize("method", ["oversample", "undersample"])
@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("pos_weight", 5.0),
        ("class_weights", [1.0, 2.0]),
        ("class_weights", {"a": 1.0, "b": 3.0}),
        ("loss", "class_balanced"),
        ("loss", "logit_adjusted"),
    ],
)
def test_weights_on_top_of_a_sampler_warn(method, key, value):
    training = TrainingConfig(sampling=method, **{key: value})
    (warning,) = conflicting_imbalance_settings(training, {"training.sampling", f"training.{key}"})
    assert f"training.{key}" in warning
    assert f"training.sampling={method}" in warning


def test_weights_without_effect_after_sampling_warn_only_if_the_user_set_them():
    training = TrainingConfig(sampling="oversample", class_weights="balanced")
    assert conflicting_imbalance_settings(training, {"training.sampling"}) == []
    (warning,) = conflicting_imbalance_settings(training, {"training.sampling", "training.class_weights"})
    assert "little or no effect" in warning


def test_a_single_method_gives_no_warning():
    user_keys = {"training.sampling", "training.pos_weight", "training.class_weights", "training.loss"}
    assert conflicting_imbalance_settings(TrainingConfig(pos_weight=5.0, class_weights=[1.0, 2.0]), user_keys) == []
    assert (
        conflicting_imbalance_settings(
            TrainingConfig(sampling="oversample", pos_weight=None, class_weights="none"), user_keys
        )
        == []
    )
    assert conflicting_imbalance_settings(TrainingConfig(sampling="oversample"), {"training.sampling"}) == []


def test_a_search_space_that_combines_methods_warns():
    def suggest(trial):
        trial.suggest_categorical("training.sampling", ["none", "oversample"])
        trial.suggest_categorical("training.pos_weight", ["auto", 4.0])

    messages = find_conflicting_settings(Space(suggest, "mine:space", __file__), Config(), seed=0)
    assert any(
        "training.pos_weight is applied on top of training.sampling=oversample" in message for message in messages
    )
    assert all(message.startswith("in some trials") for message in messages)


CLASSES = {"phase": 2}
LABELS = {"phase": 2, "data__multi_label": True, "data__target_column": "both"}


@pytest.mark.slow
@pytest.mark.parametrize(
    "keys",
    [
        {"training__sampling": "oversample", "training__pos_weight": None},
        {**CLASSES, "training__sampling": "undersample"},
        pytest.param({**CLASSES, "training__class_weights": {"causal": 4.0}}, marks=pytest.mark.long),
        pytest.param({**CLASSES, "training__loss": "logit_adjusted"}, marks=pytest.mark.long),
        pytest.param({**LABELS, "training__loss": "class_balanced"}, marks=pytest.mark.long),
        {**LABELS, "training__sampling": "oversample"},
        {"phase": 4, "training__loss": "zero_inflated"},
    ],
    ids=lambda keys: "-".join(map(str, keys.values())),
)
def test_two_workers_train_the_same_model_as_one(write_table, tiny_encoder, tmp_path, keys):
    manifest, encoder = write_table(labelled_songs()), without_dropout(tiny_encoder("bert"), tmp_path / "encoder")
    keys = {**KEYS, **keys, "model__text_encoder__freeze_layers": 1, "model__text_encoder__layer": 2}
    plan = plan_of(manifest, encoder, **keys)
    _, fitted = fit_fold(plan, data_of(plan), tmp_path / "one")
    run_workers(tmp_path / "two", manifest, encoder, keys)
    one_worker, two_workers = (CheckpointManager(tmp_path / name).load_model() for name in ("one", "two"))
    assert one_worker["problem"] == two_workers["problem"], "both fit the same class weights"
    for name, value in one_worker["model"].items():
        np.testing.assert_allclose(two_workers["model"][name], value, rtol=2e-3, atol=2e-5, err_msg=name)
    assert fitted.facts["workers"] == 1


def test_trials_with_different_class_balancing_have_different_scores(write_table, tiny_encoder, tmp_path):
    schedule = {"training__min_steps": 0, "training__epochs": 3, "data__folds": 3}
    plan = plan_of(write_table(labelled_songs()), tiny_encoder("bert"), **CLASSES, **schedule)
    data = data_of(plan)
    fit_context = FitContext(plan.config, data.source, data.task, plan.input_spec, "id", tmp_path / "prefix")
    context = TrialContext(
        fit_context, [data.split.train_val_indices(k) for k in range(3)], make_rungs(3), tmp_path / "trials"
    )
    trials = [
        {},
        {"training.sampling": "oversample"},
        {"training.sampling": "undersample"},
        {"training.class_weights": "none"},
        {"training.class_weights": {"causal": 9.0}},
        {"training.loss": "logit_adjusted"},
    ]
    scores_of_trials = []
    for number, values in enumerate(trials):
        run_trial(context, fit_context, number, values, lambda *_: None)
        scores_of_trials.append(out_of_fold(context, number))
    assert all(np.isfinite(scores).all() for scores in scores_of_trials)
    assert len({scores.tobytes() for scores in scores_of_trials}) == len(trials)
