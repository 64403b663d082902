"""The Huber loss and the zero-inflated one, by the fraction of targets that are 0.

    python -m tests.benchmarks.zero_inflation                                # the demo songs
    python -m tests.benchmarks.zero_inflation --manifest songs.parquet

Songs whose target is 0 are left out at random until the fraction is reached, or all of them are kept. For each
fraction, a line of JSON has the means over seeds of the absolute error and of the RMSE of the neural network, by loss.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

from rainbow_ray.config.load import resolve
from rainbow_ray.setup.plan import make_plan
from rainbow_ray.tasks.scores import empty_scores
from rainbow_ray.training.checkpoint import CheckpointManager
from rainbow_ray.training.fit_data import FitData
from rainbow_ray.training.loggers import NullLogger
from rainbow_ray.training.trainer import fit
from tests.helpers import data_of

FRACTIONS = (0.05, 0.1, 0.2, 0.3, 0.45, 0.6)


def keep_fraction_of_zeros(targets: np.ndarray, fraction: float, seed: int) -> np.ndarray:
    """Return the mask of all examples but some of those whose target is 0."""
    zeros = np.flatnonzero(targets == 0)
    n_kept = min(len(zeros), round(fraction / (1 - fraction) * (len(targets) - len(zeros))))
    mask = np.ones(len(targets), dtype=bool)
    mask[np.random.default_rng(seed).permutation(zeros)[n_kept:]] = False
    return mask


def measure(keys: list[tuple[str, Any]], loss: str, fraction: float, seed: int) -> tuple[float, float]:
    """Return the absolute error and the RMSE of the out-of-fold scores."""
    overrides = [("phase", 4), ("reproducibility.seed", seed), ("training.loss", loss), *keys]
    plan = make_plan(resolve(None, {}, overrides))
    data = data_of(plan)
    targets, scores = data.source.targets, empty_scores(data.task, len(data.source))
    kept = keep_fraction_of_zeros(targets, fraction, seed)
    with tempfile.TemporaryDirectory() as folder:
        for fold in range(data.split.n_folds):
            train, val = (rows[kept[rows]] for rows in data.split.train_val_indices(fold))
            fit_data = FitData(data.source, train, val, data.task, plan.input_spec, fold, data.split.split_by)
            output = fit(plan.config, fit_data, NullLogger(), CheckpointManager(Path(folder) / str(fold)))
            scores[val] = output.val_scores
    errors = (scores - targets)[kept]
    return float(np.abs(errors).mean()), float(np.sqrt((errors**2).mean()))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--manifest", default="demo")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--encoder", default="embedded")
    options = parser.parse_args()
    keys = [("data.manifest_path", options.manifest), ("model.text_encoder.model_name", options.encoder)]
    for fraction in FRACTIONS:
        row: dict[str, Any] = {"zeros": fraction}
        for loss in ("huber", "zero_inflated"):
            means = np.mean([measure(keys, loss, fraction, seed) for seed in range(options.seeds)], axis=0)
            row[loss] = dict(zip(("mae", "rmse"), means.round(3).tolist(), strict=True))
        print(json.dumps(row), flush=True)


if __name__ == "__main__":
    main()
