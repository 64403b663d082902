"""The model that is kept, beside its neural network and all baselines, over several seeds; and simulations of its bias.

    python -m tests.benchmarks.stacking                                 # the demo songs
    python -m tests.benchmarks.stacking --manifest songs.parquet --segments segments.parquet --phases 1 2 4 5
    python -m tests.benchmarks.stacking --simulate                      # reported against true scores, 84 songs

For each phase, a line of JSON has the means over seeds of the headline metric and of the log loss (or MAE), and the
margin of the kept model over the best baseline on the mean. A simulation draws songs, trains five members on each fold,
compares the reported score with that on a very large sample, and gives its bias and the coverage of its 95% intervals.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import StratifiedKFold

from rainbow_ray.baselines.common import Baselines
from rainbow_ray.baselines.compute import compute_baselines
from rainbow_ray.baselines.names import NO_CONTEXT
from rainbow_ray.config.load import resolve
from rainbow_ray.distributed.process_group import ProcessGroup
from rainbow_ray.evaluation.bootstrap import ScoredPredictions, bootstrap_ci
from rainbow_ray.evaluation.results import evaluate
from rainbow_ray.runs.fits import jobs_without_context
from rainbow_ray.setup.plan import RunPlan, make_plan
from rainbow_ray.setup.prepared import PreparedData
from rainbow_ray.stacking.fit import fit_weights
from rainbow_ray.stacking.stack import NEURAL
from rainbow_ray.tasks.base import Task
from rainbow_ray.tasks.binary import Binary
from rainbow_ray.tasks.multiclass import Multiclass
from rainbow_ray.tasks.regression import Regression
from rainbow_ray.training.cross_validation import FitContext, FitJob, FitResult, out_of_fold, read_result, run_job
from rainbow_ray.utils.stopwatch import Stopwatch
from tests.helpers import data_of

METRICS = {1: ("mcc", "log_loss"), 2: ("macro_f1", "log_loss"), 3: ("macro_f1", "log_loss"), 4: ("mae", "rmse"),
           5: ("macro_f1", "log_loss")}  # fmt: skip
LOWER_IS_BETTER = {"log_loss", "mae", "rmse"}
POPULATION = 5_000
N_FEATURES = 60
# columns that each member of a simulation reads, of which the first 12 carry the signal
MEMBERS = {NEURAL: slice(0, 60), "a": slice(0, 12), "b": slice(6, 30), "c": slice(12, 36), "d": slice(36, 60)}


def fit_everything(
    keys: list[tuple[str, Any]], phase: int, seed: int, stopwatch: Stopwatch | None = None
) -> tuple[RunPlan, PreparedData, list[FitResult], Baselines]:
    """Fit the folds of a run, its baselines, and its model without temporal context where it has one."""
    plan = make_plan(resolve(None, {}, [("phase", phase), ("reproducibility.seed", seed), *keys]))
    data = data_of(plan)
    context = FitContext(plan.config, data.source, data.task, plan.input_spec, data.split.split_by)
    stopwatch = stopwatch or Stopwatch(time.perf_counter())
    with tempfile.TemporaryDirectory() as folder:
        jobs = [FitJob(k, *data.split.train_val_indices(k), Path(folder) / str(k)) for k in range(data.split.n_folds)]
        folds = fit_folds(context, jobs)
        stopwatch.mark("neural")
        no_context = fit_folds(context, jobs_without_context(context, jobs))
    stopwatch.mark("no context")
    baselines = compute_baselines(context, data.split, keep_fits=True)
    stopwatch.mark("baselines")
    if no_context:
        scores = out_of_fold(data.source, data.task, no_context, lambda fold: fold.val_scores)
        baselines = dataclasses.replace(baselines, scores={**baselines.scores, NO_CONTEXT: scores})
    return plan, data, folds, baselines


def task_of_targets(phase: int, targets: np.ndarray) -> Task:
    """Return a task that measures scores of a phase of songs."""
    classes = tuple(str(number) for number in range(int(targets.max()) + 1))
    tasks: dict[int, Task] = {1: Binary(), 2: Multiclass(classes=classes), 4: Regression()}
    return tasks[phase]


def measure(keys: list[tuple[str, Any]], phase: int, seed: int) -> tuple[dict[str, dict[str, float]], dict[str, float]]:
    """Return the metrics of the kept model, of its neural network and of each baseline, and seconds by part."""
    stopwatch = Stopwatch(time.perf_counter())
    plan, data, folds, baselines = fit_everything(keys, phase, seed, stopwatch)
    results = evaluate(plan, data, folds, baselines)
    stopwatch.mark("evaluation")
    assert results.neural is not None
    assert results.stack is not None
    by_name = {"kept": results.measurements.metrics, NEURAL: results.neural.metrics, **results.comparison.baselines}
    rows = {
        name: {metric: float(values[metric] or 0.0) for metric in METRICS[phase]} for name, values in by_name.items()
    }
    return rows, stopwatch.seconds()["parts"]


def fit_folds(context: FitContext, jobs: list[FitJob]) -> list[FitResult]:
    """Run fits in this process."""
    for job in jobs:
        run_job(context, job, ProcessGroup())
    return [read_result(job) for job in jobs]


def summarize(rows: list[dict[str, dict[str, float]]], phase: int) -> dict[str, Any]:
    """Return means over seeds, and the margin over the best baseline, positive where the kept model is better."""
    names = [name for name in rows[0] if all(name in row for row in rows)]
    means = {
        name: {metric: float(np.mean([row[name][metric] for row in rows])) for metric in METRICS[phase]}
        for name in names
    }
    margins = {}
    for metric in METRICS[phase]:
        sign = -1 if metric in LOWER_IS_BETTER else 1
        best = max(
            (name for name in names if name not in ("kept", NEURAL)), key=lambda name: sign * means[name][metric]
        )
        margins[metric] = {"best": best, "margin": round(sign * (means["kept"][metric] - means[best][metric]), 4)}
    rounded = {name: {metric: round(value, 4) for metric, value in values.items()} for name, values in means.items()}
    return {"means": rounded, "margins": margins}


def simulate(n_songs: int, signal: float, repeats: int, seed: int = 0) -> dict[str, Any]:
    """Return bias and coverage of cross-fitted macro F1 and MCC, with members that are trained on each fold."""
    task = Binary()

    def draw(rng: np.random.Generator, n: int) -> tuple[np.ndarray, np.ndarray]:
        targets = (rng.random(n) < 0.45).astype(np.float32)
        features = rng.normal(size=(n, N_FEATURES))
        features[:, :12] += signal * (targets[:, None] - 0.45)
        return targets, features

    errors: dict[str, list[float]] = {"mcc": [], "macro_f1": [], "roc_auc": []}
    covered: dict[str, list[bool]] = {name: [] for name in errors}
    for repeat in range(repeats):
        rng = np.random.default_rng(seed + repeat)
        (targets, features), (population, population_features) = draw(rng, n_songs), draw(rng, POPULATION)
        splits = list(StratifiedKFold(5, shuffle=True, random_state=repeat).split(targets, targets))
        scores = {name: np.zeros(n_songs, dtype=np.float32) for name in MEMBERS}
        of_population = {name: np.zeros(POPULATION, dtype=np.float32) for name in MEMBERS}
        # the estimand of pooled scores: what the models of all folds, each for its part, give for any number of songs
        for fold, (train, val) in enumerate(splits):
            part = slice(fold, None, 5)
            for name, columns in MEMBERS.items():
                model = LogisticRegression(C=0.3).fit(features[train][:, columns], targets[train])
                scores[name][val] = model.predict_proba(features[val][:, columns])[:, 1]
                of_population[name][part] = model.predict_proba(population_features[part][:, columns])[:, 1]
        combined, expected_scores = np.zeros(n_songs, np.float32), np.zeros(POPULATION, np.float32)
        for fold, (train, val) in enumerate(splits):
            part = slice(fold, None, 5)
            weights = fit_weights("binary", {k: v[train] for k, v in scores.items()}, targets[train, None])
            combined[val] = weights.combine({k: v[val] for k, v in scores.items()})
            expected_scores[part] = weights.combine({k: v[part] for k, v in of_population.items()})
        intervals = bootstrap_ci(task, targets, ScoredPredictions(combined, combined), np.arange(n_songs), seed=repeat)
        for name in errors:
            value, expected = task.metric(name, targets, combined), task.metric(name, population, expected_scores)
            if value is None or expected is None:
                continue
            errors[name].append(value - expected)
            interval = intervals[name]
            if interval is not None:  # there is none where all predictions are of one class
                covered[name].append(interval[0] <= expected <= interval[1])
    return {
        "songs": n_songs, "signal": signal, "repeats": repeats,
        "bias": {name: round(float(np.mean(values)), 4) for name, values in errors.items()},
        "standard_error": {name: round(float(np.std(v) / np.sqrt(len(v))), 4) for name, v in errors.items()},
        "coverage": {name: round(float(np.mean(within)), 3) for name, within in covered.items()},
        "intervals": {name: len(within) for name, within in covered.items()},
    }  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--manifest", default="demo")
    parser.add_argument("--segments")
    parser.add_argument("--phases", type=int, nargs="+", default=[1, 2, 4])
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--encoder", default="embedded")
    parser.add_argument("--set", nargs="*", default=[], metavar="KEY=VALUE", help="keys of the config")
    parser.add_argument("--simulate", action="store_true")
    parser.add_argument("--repeats", type=int, default=400)
    options = parser.parse_args()
    if options.simulate:
        for signal in (0.0, 0.4, 0.8):
            print(json.dumps(simulate(84, signal, options.repeats)), flush=True)
        return
    keys = [("data.manifest_path", options.manifest), ("model.text_encoder.model_name", options.encoder)]
    keys += [(key, value) for key, _, value in (setting.partition("=") for setting in options.set)]
    for phase in options.phases:
        segments = [("segments.path", options.segments)] if phase == 5 and options.segments else []
        results = [measure([*keys, *segments], phase, seed) for seed in range(options.seeds)]
        seconds = {part: round(float(np.median([s[part] for _, s in results])), 1) for part in results[0][1]}
        summary = summarize([rows for rows, _ in results], phase)
        print(json.dumps({"manifest": options.manifest, "phase": phase, "seeds": options.seeds, **summary,
                          "seconds": seconds}), flush=True)  # fmt: skip


if __name__ == "__main__":
    main()
