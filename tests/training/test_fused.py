"""Fits of several modalities are reproducible, resume exactly, and score independently of the batch."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from rainbow_ray.data.batch import make_batch
from rainbow_ray.model.device import ExecutionContext, pick_device, pick_precision
from rainbow_ray.training import trainer
from rainbow_ray.training.components import FitComponents, build_components
from rainbow_ray.training.optimizer import make_optimizer
from tests.helpers import data_of, fit_fold, plan_of

KEYS = {
    "phase": 3,
    "model__audio_encoder__model_name": "embedded",
    "data__window_seconds": 0.5,
    "data__windows_per_stem": 2,
    "training__min_steps": 0,
    "training__epochs": 3,
    "training__batch_size": 8,
}


@pytest.fixture
def make_plan(stems_file, tiny_encoder, tmp_path):
    def make_data(**keys):
        plan = plan_of(stems_file, tiny_encoder("bert"), data__media_cache=str(tmp_path / "cache"), **{**KEYS, **keys})
        return plan, data_of(plan)

    return make_data


def components_of(plan, data) -> FitComponents:
    train, _ = data.split.train_val_indices(0)
    device = pick_device("cpu")[0]
    task = data.task.fit(data.source.targets[train], plan.config.training)
    execution = ExecutionContext(device, pick_precision("off", device)[0])
    return build_components(plan.config, data.source, plan.input_spec, task, train, execution)


@pytest.mark.parametrize("kind", ["concat", "gated", "cross_attention"])
def test_scores_do_not_depend_on_the_batch(make_plan, kind):
    plan, data = make_plan(model__fusion__kind=kind)
    components = components_of(plan, data)
    torch.manual_seed(0)
    for parameter in components.model.head.parameters():
        torch.nn.init.normal_(parameter)  # its weights are 0 at first, so that all outputs would be equal
    components.model.eval()
    indices = np.arange(len(data.source))
    with torch.no_grad():
        all_logits = components.model(make_batch(data.examples, indices, components.features.collates))
        for i in indices[::5]:
            single = components.model(make_batch(data.examples, indices[i : i + 1], components.features.collates))
            torch.testing.assert_close(single[0], all_logits[i], atol=1e-5, rtol=1e-4)
    assert all_logits.std(dim=0).min() > 1e-3


def test_a_resumed_fit_equals_an_uninterrupted_one(make_plan, tmp_path, monkeypatch):
    plan, data = make_plan(training__save_every_n_epochs=1)
    _, uninterrupted = fit_fold(plan, data, tmp_path / "uninterrupted")
    _, repeated = fit_fold(plan, data, tmp_path / "again")
    assert (repeated.val_scores == uninterrupted.val_scores).all()
    evaluate, calls = trainer.Trainer.evaluate_epoch, {"n": 0}

    def evaluate_or_stop(self):
        calls["n"] += 1
        if calls["n"] == 3:
            raise KeyboardInterrupt
        evaluate(self)

    with monkeypatch.context() as patch:
        patch.setattr(trainer.Trainer, "evaluate_epoch", evaluate_or_stop)
        with pytest.raises(KeyboardInterrupt):
            fit_fold(plan, data, tmp_path / "killed")
    _, resumed = fit_fold(plan, data, tmp_path / "killed")
    assert (resumed.val_scores == uninterrupted.val_scores).all()
    assert resumed.facts["losses"] == uninterrupted.facts["losses"]
    for name, scores in uninterrupted.subset_scores.items():
        np.testing.assert_array_equal(resumed.subset_scores[name], scores)


def test_subsets_of_modalities_are_scored_as_if_the_others_were_missing(make_plan, tmp_path):
    plan, data = make_plan()
    val, fitted = fit_fold(plan, data, tmp_path / "fit")
    is_present = {
        name: np.array([len(row) > 0 for row in data.index.table[name].to_pylist()])[val] for name in ("audio", "midi")
    }
    text_only = np.flatnonzero(~is_present["audio"] & ~is_present["midi"])
    np.testing.assert_allclose(fitted.subset_scores["text"][text_only], fitted.val_scores[text_only], atol=1e-6)
    assert not np.allclose(
        fitted.subset_scores["text"][is_present["audio"]], fitted.val_scores[is_present["audio"]], atol=1e-6
    )
    for name, scores in fitted.subset_scores.items():
        masks = [
            np.ones(len(val), dtype=bool) if modality == "text" else is_present[modality]
            for modality in name.split("+")
        ]
        scored = np.isfinite(scores).all(axis=1)
        assert (scored == np.any(masks, axis=0)).all(), "examples without any of these modalities are not scored"


def test_each_component_has_its_own_learning_rate(make_plan):
    plan, data = make_plan(
        model__audio_encoder__learning_rate=3e-3, model__midi_encoder__learning_rate=4e-3,
        model__fusion__learning_rate=5e-3, training__head_learning_rate=6e-3,
    )  # fmt: skip
    components = components_of(plan, data)
    optimizer = make_optimizer(components.model, plan.config, components.execution.device)
    rates = {id(p): group["lr"] for group in optimizer.param_groups for p in group["params"]}
    parameters = components.model.parameters_by_component()
    rates_by_component = {name: {rates[id(p)] for p in tensors} for name, tensors in parameters.items()}
    assert rates_by_component == {"audio": {3e-3}, "midi": {4e-3}, "fusion": {5e-3}, "head": {6e-3}}
    assert sum(len(group["params"]) for group in optimizer.param_groups) == sum(map(len, parameters.values()))


def test_audio_features_are_computed_once_for_all_fits(make_plan, tmp_path, monkeypatch):
    plan, data = make_plan()
    _, first = fit_fold(plan, data, tmp_path / "a")
    monkeypatch.setattr(
        "rainbow_ray.model.audio_feature_cache.AudioFeatureCache._encode", lambda *_: pytest.fail("encoded again")
    )
    _, second = fit_fold(plan, data, tmp_path / "b")
    assert (first.val_scores == second.val_scores).all()


def test_missing_cache_files_are_an_error(make_plan, tmp_path):
    from rainbow_ray.modalities import array_cache
    from rainbow_ray.utils.errors import TrainingError

    plan, data = make_plan(modalities=["midi"])
    for file in (tmp_path / "cache").glob("midi/*/*.npy"):
        file.unlink()
    array_cache._IN_MEMORY.clear()
    with pytest.raises(TrainingError, match="missing or damaged"):
        fit_fold(plan, data, tmp_path / "a")
