"""Regret of a race between trials, against running every fold of every trial, on recorded out-of-fold scores.

`python -m tests.benchmarks.racing record FOLDER [--manifest P] [--seeds 0 1 2] [--trials 30] [--frozen-only]` fits
random points of the space of phase 1 on all folds, and keeps the validation scores after each epoch and at the end with
their seconds. A second call continues where the first one was stopped.

`python -m tests.benchmarks.racing simulate FOLDER [--sweeps 100] [--alpha 0.05]` runs sweeps over the recorded points
in random order, trial 0 first, and prints JSON, for the race and for ASHA (reduction factor 3, at one and three folds):
the mean regret (best score on all folds minus that of the best trial that was not stopped), the fraction of sweeps that
stopped the eventual winner, the fraction of trials that were stopped, and the time against running everything.
"""

from __future__ import annotations

import argparse
import functools
import itertools
import json
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from rainbow_ray.config.solver import trains_no_encoder
from rainbow_ray.distributed.process_group import ProcessGroup
from rainbow_ray.tasks.scores import empty_scores
from rainbow_ray.training.checkpoint import CheckpointManager
from rainbow_ray.training.cross_validation import FitContext, FitJob, run_job
from rainbow_ray.tuning.racing import Folds, Race, pooled_score
from rainbow_ray.tuning.search_space import apply_values
from rainbow_ray.tuning.trial import make_rungs
from rainbow_ray.tuning.trial_log import FULL_BUDGET, is_end_of_fold
from tests.benchmarks.sweep import record as random_points
from tests.helpers import data_of, plan_of

FOLDS = 5


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    recorder = commands.add_parser("record")
    recorder.add_argument("folder", type=Path)
    recorder.add_argument("--manifest", type=Path, default=Path("../shared/data/base_manifest_db.parquet"))
    recorder.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    recorder.add_argument("--trials", type=int, default=30)
    recorder.add_argument(
        "--frozen-only", action="store_true", help="leave out trials that train layers of the encoder"
    )
    simulator = commands.add_parser("simulate")
    simulator.add_argument("folder", type=Path)
    simulator.add_argument("--manifest", type=Path, default=Path("../shared/data/base_manifest_db.parquet"))
    simulator.add_argument("--sweeps", type=int, default=100, help="for each recorded list")
    simulator.add_argument("--alpha", type=float, nargs="+", default=[0.05])
    options = parser.parse_args()
    (record if options.command == "record" else simulate)(options)


def record(options: argparse.Namespace) -> None:
    """Fit every recorded point on every fold, where the folder does not have it yet."""
    plan = plan_of(options.manifest.resolve(), data__folds=FOLDS)
    data = data_of(plan)
    options.folder.mkdir(parents=True, exist_ok=True)
    folds = [data.split.train_val_indices(fold) for fold in range(FOLDS)]
    points = {seed: random_points(options.trials, seed) for seed in options.seeds}
    (options.folder / "points.json").write_text(json.dumps(points))
    for fold, seed in itertools.product(range(FOLDS), options.seeds):
        for number, values in enumerate(points[seed]):
            path = options.folder / f"{seed}-{number:03d}-{fold}.npz"
            config = apply_values(plan.config, values, "recorded")
            if path.exists() or (options.frozen_only and not trains_no_encoder(config)):
                continue
            context = FitContext(
                config, data.source, plan.task, plan.input_spec, plan.config.data.split_by, options.folder / "frozen"
            )
            arrays = _fit(context, FitJob(fold, *folds[fold], Path()))
            with path.with_suffix(".tmp").open("wb") as file:
                np.savez(file, **arrays)  # type: ignore[arg-type]
            path.with_suffix(".tmp").replace(path)
            print(path.name, round(float(arrays["seconds"][-1]), 1), flush=True)


def _fit(context: FitContext, job: FitJob) -> dict[str, np.ndarray]:
    """Run a fit; return the fraction of its epochs, the seconds and the scores after each epoch, and at its end."""
    fractions: list[float] = []
    seconds: list[float] = []
    scores: list[np.ndarray] = []
    started = time.perf_counter()

    def on_validation(fraction: float, val_scores: np.ndarray) -> None:
        fractions.append(fraction)
        seconds.append(time.perf_counter() - started)
        scores.append(val_scores)

    with tempfile.TemporaryDirectory() as name:
        job = FitJob(job.fold, job.train, job.val, Path(name))
        run_job(context, job, ProcessGroup(), on_validation)
        result = CheckpointManager(job.folder).load_result()
    assert result is not None
    return {
        "fractions": np.array([*fractions, 1.0]),
        "seconds": np.array([*seconds, time.perf_counter() - started]),
        "scores": np.stack([*scores, result[0]["val"]]),
    }


@dataclass(frozen=True)
class Recorded:
    """A trial with all its folds: scores of all examples, seconds and percent of the work at each rung and the end."""

    number: int
    score: float
    final: np.ndarray
    reports: list[tuple[float, np.ndarray]]
    seconds: list[float]


def simulate(options: argparse.Namespace) -> None:
    """Print the results of simulated sweeps."""
    plan = plan_of(options.manifest.resolve(), data__folds=FOLDS)
    data = data_of(plan)
    context = FitContext(plan.config, data.source, plan.task, plan.input_spec, plan.config.data.split_by)
    folds = [data.split.train_val_indices(fold) for fold in range(FOLDS)]
    lists = [trials for seed in range(100) if len(trials := _read(options.folder, seed, context, folds)) > 1]
    larger = plan.task.larger_is_better(plan.config.training.headline)
    print(json.dumps({"trials": [len(trials) for trials in lists]}), flush=True)
    for alpha in options.alpha:
        runs = functools.partial(_race, context=context, folds=folds, alpha=alpha, larger=larger)
        print(
            json.dumps({"stopping": f"race, alpha {alpha:g}", **_repeat(runs, lists, options.sweeps, larger)}),
            flush=True,
        )
    asha = functools.partial(_asha, context=context, folds=folds, larger=larger)
    print(json.dumps({"stopping": "ASHA", **_repeat(asha, lists, options.sweeps, larger)}))


def _read(folder: Path, seed: int, context: FitContext, folds: Folds) -> list[Recorded]:
    numbers = sorted({path.name.split("-")[1] for path in folder.glob(f"{seed}-*-0.npz")})
    return [
        _recorded(folder, seed, number, context, folds) for number in numbers
        if all((folder / f"{seed}-{number}-{fold}.npz").exists() for fold in range(FOLDS))
    ]  # fmt: skip


def _recorded(folder: Path, seed: int, number: str, context: FitContext, folds: Folds) -> Recorded:
    scores = empty_scores(context.task, len(context.dataset))
    remaining, spent = list(make_rungs(FOLDS)), 0.0
    reports, seconds = [], []
    for fold, (_, val) in enumerate(folds):
        with np.load(folder / f"{seed}-{number}-{fold}.npz") as file:
            arrays = dict(file)
        rows = list(zip(arrays["fractions"], arrays["seconds"], arrays["scores"], strict=True))
        for position, (fraction, time_spent, val_scores) in enumerate(rows):
            is_end = position == len(rows) - 1
            percent = (fold + (1.0 if is_end else min(fraction, 1 - 1e-6))) * FULL_BUDGET / FOLDS
            scores[val] = val_scores
            if is_end or (remaining and percent >= remaining[0]):
                while remaining and percent >= remaining[0] - 1e-9:
                    remaining.pop(0)
                reports.append((percent, scores.copy()))
                seconds.append(spent + time_spent)
        spent += arrays["seconds"][-1]
    value = pooled_score(context, folds, scores)
    assert value is not None
    return Recorded(int(number), value, scores, reports, seconds)


Outcome = tuple[list[Recorded], float]  # the trials that completed, and the seconds of all


def _race(order: list[Recorded], *, context: FitContext, folds: Folds, alpha: float, larger: bool) -> Outcome:
    race = Race(context, folds, alpha=alpha, larger_is_better=larger)
    complete, seconds, usual_seconds = [], 0.0, order[0].seconds[-1]
    for position, trial in enumerate(order):
        in_first_fold: dict[float, np.ndarray] = {}
        for (percent, scores), spent in zip(trial.reports, trial.seconds, strict=True):
            fraction = None if is_end_of_fold(percent, FOLDS) else percent * FOLDS / FULL_BUDGET
            if fraction is not None:
                in_first_fold[fraction] = scores
            relative_cost = (trial.seconds[-1] - spent) / usual_seconds
            comparison = race.compare(
                scores, fraction=fraction, relative_cost=relative_cost, n_earlier=position,
                decide=percent < FULL_BUDGET,
            )  # fmt: skip
            if comparison is not None and comparison.loses:
                seconds += spent
                break
        else:
            race.add_complete(position, trial.score, trial.final, in_first_fold)
            complete.append(trial)
            seconds += trial.seconds[-1]
    return complete, seconds


def _asha(order: list[Recorded], *, context: FitContext, folds: Folds, larger: bool) -> Outcome:
    """Run trials as ASHA does with a reduction factor of 3, which compares after one and after three folds."""
    sign = 1.0 if larger else -1.0
    rungs: dict[float, list[float]] = {20.0: [], 60.0: []}
    complete, seconds = [], 0.0
    for trial in order:
        for (percent, scores), spent in zip(trial.reports, trial.seconds, strict=True):
            if (earlier := rungs.get(round(percent, 6))) is None:
                continue
            value = sign * (pooled_score(context, folds, scores) or 0.0)
            is_stopped = bool(earlier) and value < np.percentile(earlier, 100 * 2 / 3)
            earlier.append(value)
            if is_stopped:
                seconds += spent
                break
        else:
            complete.append(trial)
            seconds += trial.seconds[-1]
    return complete, seconds


def _repeat(
    run: Callable[[list[Recorded]], Outcome], lists: list[list[Recorded]], sweeps: int, larger: bool
) -> dict[str, Any]:
    sign, regrets, lost, stopped, times = (1.0 if larger else -1.0), [], [], [], []
    for trials in lists:
        best = max(sign * trial.score for trial in trials)
        everything = sum(trial.seconds[-1] for trial in trials)
        for seed in range(sweeps):
            order = [trials[0], *(trials[1 + i] for i in np.random.default_rng(seed).permutation(len(trials) - 1))]
            complete, seconds = run(order)
            reached = max(sign * trial.score for trial in complete)
            regrets.append(best - reached)
            lost.append(reached < best)
            stopped.append(1 - len(complete) / len(trials))
            times.append(seconds / everything)
    return {
        "regret": round(float(np.mean(regrets)), 4),
        "winner_stopped": round(float(np.mean(lost)), 3),
        "trials_stopped": round(float(np.mean(stopped)), 2),
        "time": round(float(np.mean(times)), 3),
    }


if __name__ == "__main__":
    main()
