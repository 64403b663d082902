"""Fixtures: a config and its check for search spaces, and a sweep without data."""

from __future__ import annotations

import functools
from types import SimpleNamespace

import pytest

from rainbow_ray.config.schema import Config
from rainbow_ray.setup.plan import resolve_defaults
from rainbow_ray.setup.validate import check_values
from rainbow_ray.tasks.registry import make_task
from rainbow_ray.tuning.search_space import Space
from rainbow_ray.tuning.trial import make_rungs
from rainbow_ray.tuning.trial_log import TrialLog


@pytest.fixture
def config(tiny_encoder) -> Config:
    config = resolve_defaults(Config(), make_task("binary")).model_copy(deep=True)
    config.model.text_encoder.model_name = str(tiny_encoder("bert"))
    return config


@pytest.fixture
def check():
    return functools.partial(check_values, task=make_task("binary"))


@pytest.fixture
def sweep(tmp_path):
    def suggest(trial):
        trial.suggest_float("training.head_learning_rate", 1e-4, 1e-2, log=True)

    rungs = make_rungs(5, 3.0)
    context = SimpleNamespace(
        rungs=rungs, folder=tmp_path / "trials", folder_of=lambda number: tmp_path / "trials" / f"{number:04d}"
    )
    context.folder.mkdir()
    return SimpleNamespace(
        config=Config(), space=Space(suggest, "test:space", __file__), context=context, larger_is_better=True,
        trial_log=TrialLog(tmp_path / "trials.jsonl"),
    )  # fmt: skip
