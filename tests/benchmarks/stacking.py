"""The model that is kept, beside its neural network and all baselines, over several seeds; and simulations of its bias.

    python -m tests.benchmarks.stacking                                 # the demo songs
    python -m tests.benchmarks.stacking --manifest songs.parquet --segments segments.parquet --phases 1 2 4 5
    python -m tests.benchmarks.stacking --simulate                      # reported against true scores, 84 songs

For each phase, a line of JSON has the means over seeds of the headline metric and of the log loss (or MAE), and the
margin of the kept model over the best baseline on the mean. A simulation draws targets and members' logits of songs
whose true score is known from a very large sample, and gives the bias of the reported score and the coverage of its 95%
intervals.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
from sklearn.model_selection import StratifiedKFold

from rainbow_ray.baselines.compute import compute_baselines
from rainbow_ray.config.load import resolve
from rainbow_ray.evaluation.bootstrap import ScoredPredictions, bootstrap_ci
from rainbow_ray.evaluation.results import evaluate
from rainbow_ray.setup.plan import make_plan
from rainbow_ray.stacking.fit import fit_weights
from rainbow_ray.stacking.links import apply_link
from rainbow_ray.stacking.stack import NEURAL
from rainbow_ray.tasks.binary import Binary
from rainbow_ray.training.cross_validation import FitContext, FitJob, FitResult
from tests.helpers import data_of, fit_fold

METRICS = {1: ("mcc", "log_loss"), 2: ("macro_f1", "log_loss"), 3: ("macro_f1", "log_loss"), 4: ("mae", "rmse"),
           5: ("macro_f1", "log_loss")}  # fmt: skip
LOWER_IS_BETTER = {"log_loss", "mae", "rmse"}
POPULATION = 20_000


def measure(keys: list[tuple[str, Any]], phase: int, seed: int) -> tuple[dict[str, dict[str, float]], dict[str, float]]:
    """Return the metrics of the kept model, of its neural network and of each baseline, and seconds by part."""
    plan = make_plan(resolve(None, {}, [("phase", phase), ("reproducibility.seed", seed), *keys]))
    data = data_of(plan)
    context = FitContext(plan.config, data.source, data.task, plan.input_spec, data.split.split_by)
    started = time.perf_counter()
    folds = []
    with tempfile.TemporaryDirectory() as folder:
        for fold in range(data.split.n_folds):
            train, val = data.split.train_val_indices(fold)
            _, output = fit_fold(plan, data, Path(folder) / str(fold), fold)
            job = FitJob(fold, train, val, Path(folder) / str(fold))
            folds.append(FitResult(job, output.train_scores, output.val_scores, output.facts, output.subset_scores))
    trained = time.perf_counter()
    baselines = compute_baselines(context, data.split, keep_fits=True)
    fitted = time.perf_counter()
    results = evaluate(plan, data, folds, baselines)
    assert results.neural is not None
    assert results.stack is not None
    by_name = {"kept": results.measurements.metrics, NEURAL: results.neural.metrics, **results.comparison.baselines}
    rows = {
        name: {metric: float(values[metric] or 0.0) for metric in METRICS[phase]} for name, values in by_name.items()
    }
    seconds = {"neural": trained - started, "baselines": fitted - trained, "evaluation": time.perf_counter() - fitted}
    return rows, seconds


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
    """Return bias and coverage of cross-fitted macro F1 and MCC of five members with correlated errors."""
    task, names = Binary(), [NEURAL, *"abcd"]

    def draw(rng: np.random.Generator, n: int) -> tuple[np.ndarray, dict[str, np.ndarray]]:
        targets = (rng.random(n) < 0.45).astype(np.float32)
        shared = rng.normal(size=n) + signal * (targets - 0.45)
        logits = {
            name: shared * skill + rng.normal(size=n) for name, skill in zip(names, (1, 0.8, 0.5, 0.2, 0), strict=True)
        }
        return targets, {name: apply_link(values, "sigmoid").astype(np.float32) for name, values in logits.items()}

    population, population_scores = draw(np.random.default_rng(10**6), POPULATION)
    errors: dict[str, list[float]] = {"mcc": [], "macro_f1": []}
    covered: dict[str, float] = dict.fromkeys(errors, 0)
    for repeat in range(repeats):
        rng = np.random.default_rng(seed + repeat)
        targets, scores = draw(rng, n_songs)
        folds = np.zeros(n_songs, dtype=np.int64)
        for number, (_, held_out) in enumerate(
            StratifiedKFold(5, shuffle=True, random_state=repeat).split(targets, targets)
        ):
            folds[held_out] = number
        # the estimand of pooled scores: what the models of all folds, each for its part, give for any number of songs
        combined, of_population = np.zeros(n_songs, dtype=np.float32), np.zeros(POPULATION, dtype=np.float32)
        for fold in range(5):
            held_out = folds == fold
            known = {name: values[~held_out] for name, values in scores.items()}
            weights = fit_weights("binary", known, targets[~held_out, None])
            combined[held_out] = weights.combine({name: values[held_out] for name, values in scores.items()})
            part = slice(fold, None, 5)
            of_population[part] = weights.combine({name: values[part] for name, values in population_scores.items()})
        intervals = bootstrap_ci(task, targets, ScoredPredictions(combined, combined), np.arange(n_songs), seed=repeat)
        for name in errors:
            value, expected = task.metric(name, targets, combined), task.metric(name, population, of_population)
            interval = intervals[name]
            if value is None or expected is None or interval is None:  # all predictions are equal
                continue
            errors[name].append(value - expected)
            covered[name] += float(interval[0] <= expected <= interval[1])
    return {
        "songs": n_songs, "signal": signal, "repeats": repeats,
        "bias": {name: round(float(np.mean(values)), 4) for name, values in errors.items()},
        "standard_error": {name: round(float(np.std(v) / np.sqrt(len(v))), 4) for name, v in errors.items()},
        "coverage": {name: round(count / len(errors[name]), 3) for name, count in covered.items()},
        "defined": {name: len(values) for name, values in errors.items()},
    }  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--manifest", default="demo")
    parser.add_argument("--segments")
    parser.add_argument("--phases", type=int, nargs="+", default=[1, 2, 4])
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--encoder", default="embedded")
    parser.add_argument("--simulate", action="store_true")
    parser.add_argument("--repeats", type=int, default=400)
    options = parser.parse_args()
    if options.simulate:
        for signal in (0.0, 1.0, 2.5):
            print(json.dumps(simulate(84, signal, options.repeats)), flush=True)
        return
    keys = [("data.manifest_path", options.manifest), ("model.text_encoder.model_name", options.encoder)]
    for phase in options.phases:
        segments = [("segments.path", options.segments)] if phase == 5 and options.segments else []
        results = [measure([*keys, *segments], phase, seed) for seed in range(options.seeds)]
        seconds = {part: round(float(np.median([s[part] for _, s in results])), 1) for part in results[0][1]}
        summary = summarize([rows for rows, _ in results], phase)
        print(json.dumps({"manifest": options.manifest, "phase": phase, "seeds": options.seeds, **summary,
                          "seconds": seconds}), flush=True)  # fmt: skip


if __name__ == "__main__":
    main()
