"""Compare variants of the model with the baselines on small data, on the same folds, over several seeds.

`python -m tests.benchmarks.recipe [--phase 1] [--manifest P] [--seeds 5] [--only default,…]` prints JSON: the mean over
seeds of each pooled out-of-fold metric, and the number of seeds in which the variant's headline metric was at least
that of each baseline.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

from rainbow_ray.baselines.common import baseline_inputs, run_baselines
from rainbow_ray.baselines.features import mean_hidden_states
from rainbow_ray.tasks.scores import empty_scores
from tests.helpers import data_of, fit_fold, plan_of

METRICS = {
    1: ("macro_f1", "accuracy", "average_precision_rarer", "mcc", "log_loss"),
    2: ("macro_f1", "accuracy", "balanced_accuracy", "mcc", "log_loss"),
    4: ("mae", "rmse", "r2", "pearson", "spearman"),
}
ENCODER, HEAD, TRAINING = "model__text_encoder__", "model__classifier__", "training__"
VARIANTS: dict[str, dict[str, Any]] = {
    "default": {},
    "layer 0": {f"{ENCODER}layer": 0},
    "layer 1": {f"{ENCODER}layer": 1},
    "layer 2": {f"{ENCODER}layer": 2},
    "layer 3": {f"{ENCODER}layer": 3},
    "last layer": {f"{ENCODER}layer": "last"},
    "mix of layers": {f"{ENCODER}layer": "mix"},
    "max pooling": {f"{ENCODER}pooling": "max"},
    "attention pooling": {f"{ENCODER}pooling": "attention"},
    "no words": {"model__bag_of_words__enabled": False},
    "words unweighted": {"model__bag_of_words__weighting": "presence"},
    "64 word features": {"model__bag_of_words__hidden_size": 64},
    "1024 word features": {"model__bag_of_words__hidden_size": 1024},
    "not standardised": {f"{HEAD}standardize": False},
    "hidden 64": {f"{HEAD}hidden_dims": [64]},
    "hidden 256,128 dropout 0.3": {f"{HEAD}hidden_dims": [256, 128], f"{HEAD}dropout": 0.3},
    "dropout 0.3": {f"{HEAD}dropout": 0.3},
    "head rate 3e-4": {f"{TRAINING}head_learning_rate": 3e-4},
    "head rate 3e-3": {f"{TRAINING}head_learning_rate": 3e-3},
    "150 steps": {f"{TRAINING}min_steps": 150, f"{TRAINING}epochs": 5},
    "600 steps": {f"{TRAINING}min_steps": 600},
    "weight decay 1": {f"{TRAINING}weight_decay": 1.0},
    "no class weights": {f"{TRAINING}class_weights": "none"},
    "class balanced": {f"{TRAINING}loss": "class_balanced"},
    "logit adjusted": {f"{TRAINING}loss": "logit_adjusted"},
    "no class weights, no words": {f"{TRAINING}class_weights": "none", "model__bag_of_words__enabled": False},
    "all layers trained": {f"{ENCODER}freeze_layers": 0},
    "all trained, last layer": {f"{ENCODER}freeze_layers": 0, f"{ENCODER}layer": "last"},
    "one layer frozen of two": {f"{ENCODER}freeze_layers": 1, f"{ENCODER}layer": 2},
}


def measure(options: argparse.Namespace, keys: dict[str, Any]) -> list[dict[str, Any]]:
    """Return pooled out-of-fold metrics of a variant, one entry per seed."""
    rows = []
    for seed in range(options.seeds):
        plan = plan_of(options.manifest, options.encoder, phase=options.phase, reproducibility__seed=seed, **keys)
        data = data_of(plan)
        scores = empty_scores(data.task, len(data.examples))
        for fold in range(data.split.n_folds):
            with tempfile.TemporaryDirectory() as folder:
                val, fitted = fit_fold(plan, data, Path(folder), fold)
            scores[val] = fitted.val_scores
        metrics, _ = data.task.metrics(data.examples.targets, scores)
        rows.append({name: metrics[name] for name in METRICS[options.phase]})
    return rows


def measure_baselines(options: argparse.Namespace) -> dict[str, list[dict[str, Any]]]:
    rows_by_name: dict[str, list[dict[str, Any]]] = {}
    for seed in range(options.seeds):
        plan = plan_of(options.manifest, options.encoder, phase=options.phase, reproducibility__seed=seed)
        data = data_of(plan)
        states = mean_hidden_states(data.examples, plan.input_spec.text, plan.config.model.text_encoder, "auto")
        for name, scores in run_baselines(
            data.task, baseline_inputs(data.task, data.examples, states, seed=seed), data.split
        ).scores.items():
            metrics, _ = data.task.metrics(data.examples.targets, scores)
            rows_by_name.setdefault(name, []).append({metric: metrics[metric] for metric in METRICS[options.phase]})
    return rows_by_name


def summarize(rows: list[dict[str, Any]], baselines: dict[str, list[dict[str, Any]]]) -> dict[str, Any]:
    headline = next(iter(rows[0]))
    sign = -1 if headline == "mae" else 1
    means = {name: _mean([row[name] for row in rows]) for name in rows[0]}
    variant_scores = [row[headline] for row in rows]
    wins = {
        name: sum(sign * (score - other[headline]) >= 0 for score, other in zip(variant_scores, others, strict=True))
        for name, others in baselines.items()
    }
    return {
        **means,
        f"{headline}_by_seed": [round(value, 3) for value in variant_scores],
        "not_behind": {name: f"{count}/{len(variant_scores)}" for name, count in wins.items()},
    }


def _mean(values: list[float | None]) -> float | None:
    present = [value for value in values if value is not None]
    return round(float(np.mean(present)), 4) if present else None


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--phase", type=int, default=1, choices=sorted(METRICS))
    parser.add_argument("--manifest", type=Path, default=Path("../shared/data/base_manifest_db.parquet"))
    parser.add_argument("--encoder", default="embedded")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--only", default="default", help="variants, separated by commas; `all` for every one")
    options = parser.parse_args()
    variants = list(VARIANTS) if options.only == "all" else options.only.split(",")
    baselines = measure_baselines(options)
    for name, rows in baselines.items():
        print(json.dumps({"baseline": name, **summarize(rows, {})}), flush=True)
    for name in variants:
        rows = measure(options, VARIANTS[name])
        print(json.dumps({"variant": name, **summarize(rows, baselines)}), flush=True)


if __name__ == "__main__":
    main()
