"""The training loop learns, is reproducible, resumes exactly, and has gradients independent of micro-batches."""

from __future__ import annotations

import copy
import dataclasses
import gc
import json
import math
import weakref
from pathlib import Path

import numpy as np
import pytest
import torch

from rainbow_ray.config.schema import TrainingConfig
from rainbow_ray.data.batching import fixed_training_schedule, make_training_schedule
from rainbow_ray.data.examples import Examples
from rainbow_ray.distributed.process_group import ProcessGroup
from rainbow_ray.modalities.spec import InputSpec
from rainbow_ray.model.build import build_model
from rainbow_ray.tasks.registry import make_task
from rainbow_ray.training import trainer
from rainbow_ray.training.checkpoint import CheckpointManager, load_fitted_model
from rainbow_ray.training.epoch_plan import EpochPlanner
from rainbow_ray.training.evaluator import forward_loss
from rainbow_ray.training.feature_provider import FeatureProvider
from rainbow_ray.training.fit_data import FitData
from rainbow_ray.training.loggers import JsonLinesLogger, read_records
from rainbow_ray.training.optimizer import make_optimizer
from rainbow_ray.utils.errors import TrainingError
from tests.helpers import data_of, fit_fold, plan_of, source_of

QUICK = {"training__min_steps": 0, "training__epochs": 3, "training__batch_size": 8}
UNFROZEN = {"model__text_encoder__freeze_layers": 0, "model__text_encoder__layer": 2}


@pytest.fixture
def encoder(tiny_encoder):
    return tiny_encoder("bert")


def run_of(plan, data, folder: Path, fold: int = 0):
    train, val = data.split.train_val_indices(fold)
    state = CheckpointManager(folder)
    fit_data = FitData(source_of(data.examples), train, val, plan.task, plan.input_spec, fold)
    return trainer.Trainer(plan.config, fit_data, JsonLinesLogger(state.metrics), state, ProcessGroup())


@pytest.mark.parametrize("keys", [{}, UNFROZEN, {"model__text_encoder__layer": "mix"}])
def test_a_fit_learns_an_indicative_word(songs_file, encoder, tmp_path, keys):
    plan = plan_of(songs_file, encoder, training__min_steps=100, training__head_learning_rate=3e-3, **keys)
    val, fitted = fit_fold(plan, data := data_of(plan), tmp_path)
    assert plan.task.metric("accuracy", data.examples.targets[val], fitted.val_scores) >= 0.8
    losses = fitted.facts["losses"]
    assert losses[-1] < 0.5 * losses[0]


@pytest.mark.parametrize("keys", [{}, UNFROZEN])
def test_the_same_config_gives_identical_numbers(songs_file, encoder, tmp_path, keys):
    plan = plan_of(songs_file, encoder, **QUICK, **keys)
    data = data_of(plan)
    first, second = (fit_fold(plan, data, tmp_path / name)[1] for name in "ab")
    assert (first.val_scores == second.val_scores).all()
    assert first.facts["losses"] == second.facts["losses"]
    other_plan = plan_of(songs_file, encoder, reproducibility__seed=1, data__random_seed=42, **QUICK, **UNFROZEN)
    assert (fit_fold(other_plan, data_of(other_plan), tmp_path / "c")[1].val_scores != first.val_scores).any()


@pytest.mark.parametrize("keys", [{}, {**UNFROZEN, "model__classifier__dropout": 0.2}])
@pytest.mark.parametrize("early_stopping", [False, True])
def test_a_fit_resumed_from_a_checkpoint_equals_an_uninterrupted_one(
    songs_file, encoder, tmp_path, monkeypatch, keys, early_stopping
):
    keys = {**keys, "training__save_every_n_epochs": 1, "training__early_stopping__enabled": early_stopping}
    plan = plan_of(songs_file, encoder, **QUICK, **keys)
    data = data_of(plan)
    _, uninterrupted = fit_fold(plan, data, tmp_path / "uninterrupted")

    calls = {"n": 0}
    evaluate = trainer.Trainer.evaluate_epoch

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


def test_a_lost_best_model_is_not_replaced_by_the_last_one(songs_file, encoder, tmp_path):
    keys = {"training__early_stopping__enabled": True, "training__checkpoint_seconds": 0.0}
    plan = plan_of(songs_file, encoder, **QUICK, **keys)
    data = data_of(plan)
    _, first = fit_fold(plan, data, tmp_path)
    for path in tmp_path.glob("best-*.pt"):
        path.write_bytes(b"torn")
    _, second = fit_fold(plan, data, tmp_path)
    assert (second.val_scores == first.val_scores).all()
    assert any("best epoch" in note for note in second.facts["notes"])


def test_checkpoints_of_another_encoder_are_not_used(songs_file, tiny_encoder, tmp_path):
    folders = [tiny_encoder("bert"), tiny_encoder("roberta")]
    for number, encoder in enumerate(folders):
        keys = {"training__checkpoint_seconds": 0.0, "training__epochs": 3 - number}
        plan = plan_of(songs_file, encoder, **{**QUICK, **keys})
        _, fitted = fit_fold(plan, data_of(plan), tmp_path)
    assert any("another encoder" in note for note in fitted.facts["notes"])
    records = read_records(tmp_path / "metrics.jsonl")
    assert [r["epoch"] for r in records if r["split"] == "val"] == [1, 2]
    assert CheckpointManager(tmp_path).load_latest()[0]["progress"]["epoch"] == 2


def test_shared_features_do_not_change_scores(songs_file, encoder, tmp_path, monkeypatch):
    plan = plan_of(songs_file, encoder, **QUICK)
    data = data_of(plan)
    _, shared = fit_fold(plan, data, tmp_path / "a")
    monkeypatch.setattr(FeatureProvider, "_compute_features", lambda _: None)
    _, computed = fit_fold(plan, data, tmp_path / "b")
    np.testing.assert_allclose(shared.val_scores, computed.val_scores, atol=1e-5)


MICRO_BATCH_KEYS = [
    {"training__batch_tokens": 30},
    {"training__batch_size": 2, "training__gradient_accumulation_steps": 4},
]


@pytest.mark.parametrize("batch_keys", MICRO_BATCH_KEYS)
def test_gradients_do_not_depend_on_micro_batches(songs_file, encoder, tmp_path, monkeypatch, batch_keys):
    gradients = []
    for number, keys in enumerate(({}, batch_keys)):
        plan = plan_of(songs_file, encoder, **{**QUICK, **UNFROZEN, "training__max_grad_norm": 0.0, **keys})
        data = data_of(plan)
        weights = np.linspace(0.5, 2.0, len(data.examples)).astype(np.float32)
        weighted = Examples(data.examples.table, data.examples.targets, weights)
        run = run_of(plan, dataclasses.replace(data, examples=weighted), tmp_path / str(number))
        run.model.eval()  # no dropout: only the division into micro-batches differs
        monkeypatch.setattr(run.stepper, "_update", list)
        step = run.train[:8]
        weight = weights[step].sum()
        total = run.stepper.train_step(run.dataset.in_memory_subset(step), weight, number=1).loss
        gradients.append([p.grad.clone() for p in run.model.parameters() if p.grad is not None])
        losses, _ = forward_loss(run.model, run.features, run.task, run.dataset.in_memory_subset(step))
        assert total == pytest.approx(losses.sum().item() / weight, rel=1e-5)
    for a, b in zip(*gradients, strict=True):
        torch.testing.assert_close(a, b, atol=1e-6, rtol=1e-4)


def test_a_loss_that_is_not_finite_stops_with_the_songs(songs_file, encoder, tmp_path, monkeypatch):
    plan = plan_of(songs_file, encoder, **QUICK)
    data = data_of(plan)
    loss = type(plan.task).loss
    monkeypatch.setattr(type(plan.task), "loss", lambda self, x, y: loss(self, x, y) * math.nan)
    with pytest.raises(TrainingError) as error:
        fit_fold(plan, data, tmp_path)
    songs = str(error.value).partition("songs ")[2].partition(":")[0].split(", ")
    assert 1 <= len(songs) <= 8
    assert set(songs) <= set(data.examples.songs)
    assert "learning_rate" in str(error.value)


def test_early_stopping_uses_only_an_inner_split(songs_file, encoder, tmp_path):
    keys = {"training__early_stopping__enabled": True, "training__early_stopping__patience": 2}
    plan = plan_of(songs_file, encoder, **{**QUICK, "training__epochs": 40}, **keys)
    data = data_of(plan)
    run = run_of(plan, data, tmp_path / "run")
    train, val = data.split.train_val_indices(0)
    assert set(run.train) | set(run.inner) == set(train)
    assert not set(run.inner) & (set(run.train) | set(val))
    _, fitted = fit_fold(plan, data, tmp_path / "fit")
    records = read_records(tmp_path / "fit" / "metrics.jsonl")
    inner = {r["epoch"]: r["macro_f1"] for r in records if r["split"] == "inner"}
    assert fitted.facts["epochs"] < 40
    assert fitted.facts["epochs"] == fitted.facts["best_epoch"] + 2
    assert inner[fitted.facts["best_epoch"]] == max(inner.values())
    # the saved model is the best one, not the last
    final = CheckpointManager(tmp_path / "fit").load_model()["model"]
    best = CheckpointManager(tmp_path / "fit").load_best(fitted.facts["best_epoch"])["model"]
    assert all(torch.equal(final[name], best[name]) for name in best)


def test_records_are_unique_and_complete(songs_file, encoder, tmp_path):
    plan = plan_of(songs_file, encoder, logging__log_every_n_steps=1, **QUICK)
    fit_fold(plan, data_of(plan), tmp_path)
    records = read_records(tmp_path / "metrics.jsonl")
    record_keys = [(r["fold"], r["epoch"], r["step"], r["split"]) for r in records]
    assert len(record_keys) == len(set(record_keys))
    val = [r for r in records if r["split"] == "val"]
    assert [r["epoch"] for r in val] == [1, 2, 3]
    assert {"loss", "seconds", *plan.task.metric_names} <= set(val[0])
    assert json.dumps(val)


def test_lower_layers_have_lower_learning_rates(encoder):
    from rainbow_ray.config.schema import Config

    config = Config()
    config.model.text_encoder.layer = 3
    config.model.text_encoder.freeze_layers = 1
    config.training.layer_decay = 0.5
    config.training.learning_rate = 1e-4
    model = build_model(config, InputSpec(text=str(encoder)), make_task("binary"))
    optimizer = make_optimizer(model, config, torch.device("cpu"))
    rates = {id(p): g["lr"] for g in optimizer.param_groups for p in g["params"]}
    decays = {id(p): g["weight_decay"] for g in optimizer.param_groups for p in g["params"]}
    layers = model.text.layers[0]
    assert not any(id(p) in rates for p in layers[0].parameters())
    assert {rates[id(p)] for p in layers[1].parameters()} == {5e-5}
    assert {rates[id(p)] for p in layers[2].parameters()} == {1e-4}
    assert {rates[id(p)] for p in model.head.parameters()} == {config.training.head_learning_rate}
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            assert (decays[id(parameter)] == 0) == (parameter.ndim < 2), name
    assert {decays[id(p)] for p in layers[2].parameters() if p.ndim > 1} == {config.training.weight_decay}
    assert {decays[id(p)] for p in model.head.parameters() if p.ndim > 1} == {config.training.head_weight_decay}


@pytest.mark.parametrize("schedule", ["linear", "cosine", "constant"])
def test_schedules_warm_up_and_decay(songs_file, encoder, tmp_path, schedule):
    keys = {"training__schedule": schedule, "training__warmup_ratio": 0.2, "logging__log_every_n_steps": 1}
    plan = plan_of(songs_file, encoder, **{**QUICK, "training__epochs": 10}, **keys)
    fit_fold(plan, data_of(plan), tmp_path)
    rates = [r["lr"] for r in read_records(tmp_path / "metrics.jsonl") if r["split"] == "train"]
    peak = max(rates)
    assert rates[0] < peak == pytest.approx(1e-3)
    assert rates[-1] == pytest.approx(peak if schedule == "constant" else 0.0, abs=1e-9)


OPTIONS = [
    {"training__mixed_precision": "bf16"},
    {"training__sampling": "oversample"},
    {"training__sampling": "undersample"},
    {"training__loss": "focal"},
    {"training__loss": "asymmetric"},
    {"model__text_encoder__pooling": "attention"},
    {"model__bag_of_words__enabled": False, "model__classifier__standardize": False},
]


@pytest.mark.parametrize("keys", OPTIONS)
def test_training_works_with_every_option(songs_file, encoder, tmp_path, keys):
    schedule = {**QUICK, "training__epochs": 20, "training__learning_rate": 1e-3}
    plan = plan_of(songs_file, encoder, **schedule, **UNFROZEN, **keys)
    _, fitted = fit_fold(plan, data_of(plan), tmp_path)
    assert fitted.facts["losses"][-1] < fitted.facts["losses"][0]
    assert np.isfinite(fitted.val_scores).all()
    if "training__mixed_precision" in keys:
        assert fitted.facts["precision"] == "bf16"


def test_a_finished_fit_is_loaded(songs_file, encoder, tmp_path):
    plan = plan_of(songs_file, encoder, **QUICK, **UNFROZEN)
    data = data_of(plan)
    val, fitted = fit_fold(plan, data, tmp_path)
    model, task = load_fitted_model(plan.config, plan.input_spec, plan.task, tmp_path)
    run = run_of(plan, data, tmp_path / "other")
    run.features.model = copy.deepcopy(model)
    scores, _ = run.evaluator.score(val)
    np.testing.assert_allclose(scores, fitted.val_scores, atol=1e-6)
    assert vars(task)["pos_weight"] > 0


def test_scores_do_not_depend_on_the_order_of_rows(songs_file, encoder, tmp_path):
    plan = plan_of(songs_file, encoder, **QUICK)
    data = data_of(plan)
    _, first = fit_fold(plan, data, tmp_path / "a")
    order = np.arange(len(data.examples))[::-1].copy()
    reversed_examples = data.examples.take(order)
    train, val = data.split.train_val_indices(0)
    new_positions = np.argsort(order)
    state = CheckpointManager(tmp_path / "b")
    fit_data = FitData(
        source_of(reversed_examples), new_positions[train], new_positions[val], plan.task, plan.input_spec, 0
    )
    second = trainer.fit(plan.config, fit_data, JsonLinesLogger(state.metrics), state)
    np.testing.assert_allclose(second.val_scores, first.val_scores, atol=1e-5)


def test_sampling_disables_automatic_pos_weight(songs_file, encoder, tmp_path):
    for sampling, is_balanced in (("oversample", True), ("none", False)):
        plan = plan_of(songs_file, encoder, training__sampling=sampling, **QUICK)
        data = data_of(plan)
        data.examples.targets[:] = 0
        data.examples.targets[::6] = 1
        run = run_of(plan, data, tmp_path / sampling)
        assert (run.task.pos_weight == 1.0) == is_balanced


def test_early_stopping_falls_back_to_the_loss_with_a_note(songs_file, encoder, tmp_path):
    plan = plan_of(songs_file, encoder, training__early_stopping__enabled=True, **QUICK)
    data = data_of(plan)
    train, _ = data.split.train_val_indices(0)
    data.examples.targets[:] = 0
    data.examples.targets[train[0]] = 1  # a single positive cannot be in both sets
    _, fitted = fit_fold(plan, data, tmp_path)
    assert any("early stopping monitors the loss" in note for note in fitted.facts["notes"])
    assert fitted.facts["epochs"] == 3


def test_scoring_no_songs_gives_no_scores(songs_file, encoder, tmp_path):
    plan = plan_of(songs_file, encoder, **QUICK)
    run = run_of(plan, data_of(plan), tmp_path)
    scores, loss = run.evaluator.score(np.array([], dtype=np.int64))
    assert (scores.shape, loss) == ((0,), None)


def test_the_refit_has_the_steps_of_the_folds():
    fold = make_training_schedule(TrainingConfig(), 192)
    refit = fixed_training_schedule(fold.global_batch_size, 12, 240)
    assert (refit.global_batch_size, refit.epochs, refit.steps_per_epoch) == (fold.global_batch_size, 12, 30)


def test_a_fit_that_has_ended_frees_its_memory_at_once(songs_file, encoder, tmp_path):
    """Without waiting for Python's search for cycles: its tensors may be on a GPU that the next fit needs."""
    plan = plan_of(songs_file, encoder, **QUICK, model__text_encoder__freeze_layers=1)
    data = data_of(plan)
    train, val = data.split.train_val_indices(0)
    fit_data = FitData(data.source, train, val, plan.task, plan.input_spec, 0)
    gc.collect()
    gc.disable()
    try:
        run = trainer.Trainer(
            plan.config, fit_data, JsonLinesLogger(tmp_path / "metrics"), CheckpointManager(tmp_path), ProcessGroup()
        )
        run.train_epoch()
        run.evaluate_epoch()
        kept = [weakref.ref(part) for part in (run.features, run.model, run)]
        del run
        assert [part() for part in kept] == [None] * len(kept)
    finally:
        gc.enable()


def test_copies_of_a_song_are_spread_over_steps(songs_file, encoder):
    """Copies have the same length, so that steps of similar lengths would hold all of them."""
    plan = plan_of(songs_file, encoder, **{**QUICK, "training__sampling": "oversample"})
    data = data_of(plan)
    rare = np.flatnonzero(data.source.targets == 1)[:2]
    train = np.concatenate([np.flatnonzero(data.source.targets == 0), rare])
    planner = EpochPlanner(plan.config, data.source, plan.task, train)
    schedule = fixed_training_schedule(4, 1, len(planner.sample(0)))
    by_length, random = (
        [step.indices.tolist() for step in planner.steps(0, schedule, random_access=True, by_length=by_length)]
        for by_length in (True, False)
    )
    assert by_length == random
