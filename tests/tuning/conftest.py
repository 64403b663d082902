"""Fixtures: a config and its check for search spaces, and a sweep without data."""

from __future__ import annotations

import functools
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from rainbow_ray.config.schema import Config, TrainingConfig
from rainbow_ray.setup.plan import resolve_defaults
from rainbow_ray.setup.validate import check_values
from rainbow_ray.tasks.registry import make_task
from rainbow_ray.training.cross_validation import FitContext
from rainbow_ray.tuning.search_space import Space
from rainbow_ray.tuning.trial import TrialContext, make_rungs
from rainbow_ray.tuning.trial_log import TrialLog


@pytest.fixture
def config(tiny_encoder) -> Config:
    config = resolve_defaults(Config(), make_task("binary")).model_copy(deep=True)
    config.model.text_encoder.model_name = str(tiny_encoder("bert"))
    return config


@pytest.fixture
def check():
    return functools.partial(check_values, task=make_task("binary"))


N_SONGS, N_FOLDS = 50, 5


class Songs:
    """A dataset of songs that are independent examples, every second one positive, one after the other in the folds."""

    songs = None
    sequence_index = None

    def __init__(self, n_songs: int = N_SONGS) -> None:
        self.targets = np.arange(n_songs, dtype=np.float32) % 2

    def __len__(self) -> int:
        return len(self.targets)


def scores_of(accuracy: float, n_folds: float, *, first: bool = False) -> np.ndarray:
    """Return the scores of a trial with the same accuracy in each fold, after so many folds.

    It is wrong about the last songs of each fold, or about the first ones.
    """
    dataset = Songs()
    per_fold = len(dataset) // N_FOLDS
    n_right, position = round(accuracy * per_fold), np.arange(len(dataset)) % per_fold
    is_wrong = position < per_fold - n_right if first else position >= n_right
    scores = np.where(is_wrong, 1 - dataset.targets, dataset.targets).astype(np.float32)
    scores[int(np.ceil(n_folds)) * per_fold :] = np.nan
    return scores


def song_context(folder, n_folds: int = N_FOLDS) -> TrialContext:
    dataset: Any = Songs(n_folds * N_SONGS // N_FOLDS)
    indices = np.arange(len(dataset))
    folds = [(np.delete(indices, val), val) for val in np.split(indices, n_folds)]
    config = Config(training=TrainingConfig(metric="accuracy"))
    shared = FitContext(config, dataset, make_task("binary"), None, "id")
    return TrialContext(shared, folds, make_rungs(n_folds), folder)


@pytest.fixture
def sweep(tmp_path):
    def suggest(trial):
        trial.suggest_float("training.head_learning_rate", 1e-4, 1e-2, log=True)

    context = song_context(tmp_path / "trials")
    context.folder.mkdir()
    return SimpleNamespace(
        config=context.shared.config, space=Space(suggest, "test:space", __file__), context=context,
        larger_is_better=True, trial_log=TrialLog(tmp_path / "trials.jsonl"), forecast=None, n_trials=30,
    )  # fmt: skip
