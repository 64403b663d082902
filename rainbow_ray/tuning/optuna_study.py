"""Optuna studies: in memory for the search, and in a file for Optuna's own tools."""

from __future__ import annotations

import shutil
import tempfile
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import optuna
from optuna.distributions import json_to_distribution
from optuna.samplers import BaseSampler

from rainbow_ray.tuning.trial_log import State, Trial
from rainbow_ray.utils.io import atomic_write

TRIAL_STATES: dict[State, optuna.trial.TrialState] = {
    "complete": optuna.trial.TrialState.COMPLETE,
    "pruned": optuna.trial.TrialState.PRUNED,
    "failed": optuna.trial.TrialState.FAIL,
}


def direction_of(*, larger_is_better: bool) -> Literal["maximize", "minimize"]:
    """Return the direction of a study.

    Args:
        larger_is_better: Whether larger values of the metric are better.

    Returns:
        Optuna's name of the direction.
    """
    return "maximize" if larger_is_better else "minimize"


def make_study(direction: Literal["maximize", "minimize"], sampler: BaseSampler | None = None) -> optuna.Study:
    """Create a study in memory that does not prune trials and logs errors only.

    Args:
        direction: Whether the metric is maximized or minimized.
        sampler: Sampler of the study; None for Optuna's default.

    Returns:
        The empty study.
    """
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return optuna.create_study(direction=direction, sampler=sampler, pruner=optuna.pruners.NopPruner())


def step_of(percent: float) -> int:
    """Return the step of an intermediate value; Optuna's steps are whole numbers.

    Args:
        percent: Work done, in percent.

    Returns:
        Thousandths of a percent, which differ for any number of folds.
    """
    return round(1000 * percent)


def to_optuna_trial(trial: Trial) -> optuna.trial.FrozenTrial:
    """Convert a trial that has ended.

    Args:
        trial: A trial whose state is complete, pruned or failed.

    Returns:
        The trial with its parameters, intermediate values (by the work done, see `step_of`) and user attributes.
    """
    return optuna.trial.create_trial(
        state=TRIAL_STATES[trial.state],
        value=trial.score if trial.state == "complete" else None,
        params=trial.params,
        distributions={key: json_to_distribution(text) for key, text in trial.distributions.items()},
        intermediate_values={step_of(report.percent): report.score for report in trial.reports},
        user_attrs={"number": trial.number, "seconds": trial.seconds, "reason": trial.reason},
    )


def write_study(path: Path, name: str, trials: Sequence[Trial], *, larger_is_better: bool) -> None:
    """Write `study.db`, which optuna-dashboard and Optuna's plots read.

    Args:
        path: SQLite file to write; an existing one is replaced.
        name: Name of the study.
        trials: Trials that have ended.
        larger_is_better: Whether the metric is maximized.
    """
    optuna.logging.set_verbosity(optuna.logging.ERROR)

    def create(file: Path) -> None:
        storage = optuna.storages.RDBStorage(f"sqlite:///{file}")
        direction = direction_of(larger_is_better=larger_is_better)
        study = optuna.create_study(storage=storage, study_name=name, direction=direction)
        study.add_trials([to_optuna_trial(trial) for trial in sorted(trials, key=lambda trial: trial.number)])
        storage.remove_session()
        storage.engine.dispose()

    def write(file: Path) -> None:
        # SQLite's locks do not work on network volumes
        with tempfile.TemporaryDirectory() as local:
            create(Path(local) / file.name)
            shutil.copyfile(Path(local) / file.name, file)

    atomic_write(path, write)
