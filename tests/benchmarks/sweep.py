"""Compare a sweep with the two usual ways to tune, on one recorded list of configurations per seed.

`python -m tests.benchmarks.sweep [--manifest P] [--seeds 0 1 2] [--trials 30] [--cheap-first] [--full]` prints JSON,
for each seed:

- `rainbow_ray`: `rainbow_ray.tune` with pruning and a shared cache of frozen features, from its start to the end of
  the last trial;
- `plain_loop`: one process, all CPUs, one config after the other, every epoch of every fold, nothing shared between
  fits. Its time is extrapolated: for each config, one epoch and one evaluation of one fold are timed after a warm-up;
- `nested_trainers`: the same, but each config in a TorchTrainer inside a Tune trial, as Ray's documentation describes.
  Three are started, and the median of their time outside of the fit is added for each config;
- `best_rainbow_ray` and, with `--full`, `best_full`: the best score on all folds, with and without pruning. Without
  pruning, scores equal those of the plain loop, because cached hidden states equal those of the encoder
  (`tests/model/test_frozen_feature_cache.py`).
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import optuna
import torch

from rainbow_ray.config.schema import Config
from rainbow_ray.distributed.process_group import ProcessGroup
from rainbow_ray.training.checkpoint import CheckpointManager
from rainbow_ray.training.fit_data import FitData
from rainbow_ray.training.loggers import NullLogger
from rainbow_ray.training.trainer import Trainer
from rainbow_ray.tuning.optuna_study import make_study
from rainbow_ray.tuning.search_space import apply_values, load_space
from rainbow_ray.tuning.trial_log import TrialLog
from tests.helpers import data_of, plan_of

FOLDS = 5
SPACE = """
import json
from pathlib import Path

CONFIGS = json.loads(Path(__file__).with_name("configs.json").read_text())


def space(trial):
    trial.suggest_categorical("training.schedule", ["linear"])
    return CONFIGS[trial.number % len(CONFIGS)]
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--manifest", type=Path, default=Path("../shared/data/base_manifest_db.parquet"))
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--trials", type=int, default=30)
    parser.add_argument("--cheap-first", action="store_true", help="order the list by time, as the searcher prefers it")
    parser.add_argument("--full", action="store_true", help="score every config on all folds as well: hours on 2 CPUs")
    options = parser.parse_args()
    manifest = options.manifest.resolve()  # trials have their own working folders
    results = []
    with tempfile.TemporaryDirectory() as name:
        trainer_overhead = trainer_overhead_seconds(manifest, Path(name))
        print(json.dumps({"seconds_outside_of_a_nested_fit": trainer_overhead}), flush=True)
        for seed in options.seeds:
            folder = Path(name) / str(seed)
            folder.mkdir()
            configs = record(options.trials, seed)
            results.append(
                {"seed": seed, **compare(manifest, configs, folder, trainer_overhead, cheap_first=options.cheap_first)}
            )
            print(json.dumps(results[-1]), flush=True)
            if options.full:
                results[-1] |= without_pruning(manifest, configs, folder)
                print(json.dumps(results[-1]), flush=True)
    medians = {key: statistics.median(run[key] for run in results) for key in ("times_plain_loop", "times_nested")}
    print(
        json.dumps({"runs": results, "seconds_outside_of_a_nested_fit": trainer_overhead, "medians": medians}, indent=2)
    )


def record(trials: int, seed: int) -> list[dict[str, Any]]:
    """Return the default config and random points of the space of phase 1."""
    study, space = make_study("maximize", optuna.samplers.RandomSampler(seed=seed)), load_space(None, 1)
    return [{}, *(space.draw(study.ask()) for _ in range(trials - 1))]


def compare(
    manifest: Path, configs: list[dict[str, Any]], folder: Path, overhead: float, *, cheap_first: bool
) -> dict[str, Any]:
    plain_by_config = [plain_seconds(manifest, values, folder / "plain") for values in configs]
    if cheap_first:  # the default config remains the first one
        configs = [configs[0], *(configs[i] for i in 1 + np.argsort(plain_by_config[1:], kind="stable"))]
    (folder / "configs.json").write_text(json.dumps(configs))
    (folder / "listed.py").write_text(SPACE)
    sweep_seconds, trial_log = sweep(manifest, folder, "rainbow_ray", len(configs))
    loop_seconds, nested_seconds = sum(plain_by_config), sum(plain_by_config) + overhead * len(configs)
    states = [trial.state for trial in trial_log.ended]
    return {
        "rainbow_ray": round(sweep_seconds, 1),
        "plain_loop": round(loop_seconds, 1),
        "nested_trainers": round(nested_seconds, 1),
        "times_plain_loop": round(loop_seconds / sweep_seconds, 2),
        "times_nested": round(nested_seconds / sweep_seconds, 2),
        "trials": {state: states.count(state) for state in sorted(set(states))},
        "best_rainbow_ray": best(trial_log),
        "plain_seconds_of_a_config": [round(seconds, 1) for seconds in sorted(plain_by_config)],
    }


def without_pruning(manifest: Path, configs: list[dict[str, Any]], folder: Path) -> dict[str, Any]:
    """Run every config on all folds; scores equal those of the plain loop, since cached states are exact."""
    seconds, trial_log = sweep(manifest, folder, "full", len(configs), "tune.prune=false")
    return {"rainbow_ray_without_pruning": round(seconds, 1), "best_full": best(trial_log)}


def best(trial_log: TrialLog) -> float:
    return round(float(trial_log.complete(larger_is_better=True)[0].score or 0.0), 4)


def sweep(manifest: Path, folder: Path, name: str, trials: int, *keys: str) -> tuple[float, TrialLog]:
    """Return the seconds from the start of the command to the end of its last trial, and the log of trials."""
    command = [sys.executable, "-m", "rainbow_ray.tune", "--manifest", str(manifest), "--encoder", "embedded",
               "--folds", str(FOLDS), "--space", f"{folder / 'listed.py'}:space", "--trials", str(trials),
               "--name", name, "--output-dir", str(folder / "runs"), *keys]  # fmt: skip
    path = folder / "runs" / name / "trials.jsonl"
    start_time = time.perf_counter()
    with (folder / f"{name}.txt").open("w") as output:
        process = subprocess.Popen(command, stdout=output, stderr=subprocess.STDOUT)
        while process.poll() is None and not (path.exists() and len(TrialLog(path).ended) == trials):
            time.sleep(0.5)
    seconds = time.perf_counter() - start_time
    assert path.exists(), (folder / f"{name}.txt").read_text()
    process.terminate()
    process.wait()
    return seconds, TrialLog(path)


def plain_seconds(manifest: Path, values: dict[str, Any], folder: Path) -> float:
    """Return the seconds of a config in a plain loop: all epochs of all folds, extrapolated from one epoch."""
    run = plain_fit(manifest, values, folder)
    for _ in range(2):
        start_time = time.perf_counter()
        run.train_epoch()
        run.evaluate_epoch()
        epoch = time.perf_counter() - start_time
    return FOLDS * (run.state.seconds["startup"] + run.schedule.epochs * epoch)


def plain_fit(manifest: Path, values: dict[str, Any], folder: Path) -> Trainer:
    plan = plan_of(manifest, data__folds=FOLDS, training__mixed_precision="auto")
    config: Config = apply_values(plan.config, values, "listed")
    data = data_of(plan)
    train, val = data.split.train_val_indices(0)
    run = Trainer(config, FitData(data.source, train, val, plan.task, plan.input_spec, 0), NullLogger(),
               CheckpointManager(folder),
               ProcessGroup())  # fmt: skip
    run.features.features = None  # otherwise a fit reuses its own features
    return run


def trainer_overhead_seconds(manifest: Path, folder: Path, starts: int = 3) -> float:
    """Return the median seconds that a Tune trial with a TorchTrainer takes outside of its fit."""
    os.environ["RAY_AIR_NEW_OUTPUT"] = "0"  # otherwise Tune prints tables between the lines of JSON

    from ray import tune

    def nested_trial(config: dict[str, Any]) -> None:
        from ray.train import RunConfig, ScalingConfig
        from ray.train.torch import TorchTrainer

        start_time = time.perf_counter()
        fit_folder = folder / f"fit-{config['number']}"
        TorchTrainer(
            _run_fit, train_loop_config={"manifest": str(manifest), "out": str(fit_folder)},
            scaling_config=ScalingConfig(num_workers=1, resources_per_worker={"CPU": 1}),
            run_config=RunConfig(storage_path=str(folder / "ray")),
        ).fit()  # fmt: skip
        tune.report({"seconds": time.perf_counter() - start_time - float((fit_folder / "seconds").read_text())})

    tuner = tune.Tuner(
        tune.with_resources(nested_trial, {"cpu": 1}),
        param_space={"number": tune.grid_search(list(range(starts)))},
        tune_config=tune.TuneConfig(max_concurrent_trials=1),
        run_config=tune.RunConfig(storage_path=str(folder / "ray"), verbose=0),
    )
    values = [result.metrics["seconds"] for result in tuner.fit()]
    import ray

    ray.shutdown()
    return round(statistics.median(values), 2)


def _run_fit(arguments: dict[str, Any]) -> None:
    """Run an epoch of the default config and write its seconds."""
    folder = Path(arguments["out"])
    run = plain_fit(Path(arguments["manifest"]), {}, folder)
    start_time = time.perf_counter()
    run.train_epoch()
    run.evaluate_epoch()
    seconds = time.perf_counter() - start_time + run.state.seconds["startup"]
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "seconds").write_text(str(seconds))


if __name__ == "__main__":
    torch.manual_seed(0)
    np.random.seed(0)
    main()
