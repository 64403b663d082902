"""A task that only this test knows is trained, evaluated, saved and loaded after it is registered."""

from __future__ import annotations

import dataclasses
import json
import pickle
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
import torch

from rainbow_ray.bundle.bundle import load_bundle
from rainbow_ray.config.phases import PHASES
from rainbow_ray.html_report.run_artifacts import read_run
from rainbow_ray.tasks.base import NO_METRICS, ParsedLabels, TaskDefaults, nothing_left_out
from rainbow_ray.tasks.example_task import ExampleTask
from rainbow_ray.tasks.registry import make_task, register_task, task_names, unregister_task
from rainbow_ray.utils.errors import InputError
from tests.helpers import finish_run, plan_of


@dataclass(frozen=True)
class Margin(ExampleTask):
    """Targets are 0 or 1; the loss is the hinge loss, and scores are logits divided by a fitted scale."""

    scale: float = 1.0

    name = "margin"
    target_type = "binary"
    supports_calibration = False
    prediction_type = pa.bool_()
    defaults = TaskDefaults("hinge", "agreement", ("loss", "agreement"))
    threshold_metrics = NO_METRICS
    outputs = 1
    metric_names = ("agreement",)
    score_names = ("score",)

    def check(self, config):
        return []

    def parse(self, labels, column, data):
        return ParsedLabels(self, np.asarray(labels, dtype=np.float32), nothing_left_out(len(labels)))

    def finalize_labels(self, targets, column, config):
        return ParsedLabels(self, targets, nothing_left_out(len(targets)))

    def strata(self, targets):
        return targets.astype(np.int64)

    def one_hot(self, targets):
        return targets[:, None] > 0.5

    def fit(self, targets, config):
        return dataclasses.replace(self, scale=2.0)

    def initial_bias(self, targets):
        return np.zeros(1, dtype=np.float32)

    def loss(self, logits, targets):
        return (1 - (2 * targets - 1) * logits[:, 0]).clamp(min=0)

    def scores(self, logits):
        return logits[:, 0].float() / self.scale

    def decode_predictions(self, scores):
        return (scores > 0).tolist()

    def encode_predictions(self, predictions):
        return 2 * np.asarray(predictions, dtype=np.float32) - 1

    def decode_targets(self, targets):
        return (targets > 0.5).tolist()

    def encode_targets(self, labels):
        return np.asarray(labels, dtype=np.float32)

    def describe(self, targets):
        return {"True": float(targets.sum())}

    def metrics(self, targets, scores):
        return {"agreement": self.metric("agreement", targets, scores)}, {}

    def metric(self, name, targets, scores):
        return float(np.mean((scores > 0) == (targets > 0.5))) if len(targets) else None

    def details(self, targets, scores):
        return {}

    def larger_is_better(self, metric):
        return metric != "loss"

    def perfect_scores(self, targets):
        return 2 * targets - 1

    def to_json(self) -> Mapping[str, Any]:
        return dataclasses.asdict(self)


@pytest.fixture
def margin():
    register_task("margin", Margin)
    yield
    unregister_task("margin")


def test_registered_tasks_are_made_by_name(margin):
    assert task_names()[-1] == "margin"
    assert make_task("margin", scale=3.0) == Margin(3.0)
    with pytest.raises(ValueError, match="registered already"):
        register_task("margin", Margin)


def test_an_unknown_name_is_refused_with_the_names_that_exist():
    with pytest.raises(InputError, match="the task 'margn' is unknown; available tasks: binary, multiclass"):
        make_task("margn")


def test_a_worker_restores_a_task_without_the_registry():
    task = pickle.loads(pickle.dumps(Margin(3.0)))  # noqa: S301
    assert task.from_json({"scale": 4.0}) == Margin(4.0)
    assert "margin" not in task_names()


def test_a_registered_task_is_trained_evaluated_saved_and_loaded(
    margin, monkeypatch, songs_file, tiny_encoder, tmp_path
):
    monkeypatch.setitem(PHASES, 1, dataclasses.replace(PHASES[1], task="margin"))
    keys = {"data__folds": 2, "training__min_steps": 60, "training__head_learning_rate": 3e-3,
            "logging__report": False}  # fmt: skip
    run = finish_run(plan_of(songs_file, tiny_encoder("bert"), **keys), tmp_path / "run")
    summary = json.loads((run / "summary.json").read_text())
    assert summary["task"] == "margin"
    assert summary["metrics"]["agreement"] > 0.7
    assert {"majority", "bag of words + boosting"} <= set(summary["baselines"])
    predictions = pd.read_parquet(run / "predictions.parquet")
    assert ((predictions["score"] > 0) == predictions["prediction"]).all()
    assert load_bundle(run / "model").task == Margin(2.0)
    artifacts = read_run(run)
    assert artifacts.task.metric("agreement", artifacts.targets, artifacts.scores) == summary["metrics"]["agreement"]
    assert torch.allclose(Margin(2.0).scores(torch.ones(1, 1)), torch.tensor([0.5]))
