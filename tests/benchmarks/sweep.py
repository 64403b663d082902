"""A whole sweep against the two usual ways, on one recorded list of configurations a seed.

`python -m tests.benchmarks.sweep [--manifest P] [--seeds 0 1 2] [--trials 30] [--full]` prints JSON, for each seed:

- `ours`: `rainbow_ray.tune` with pruning and shared prefixes, from its start to the end of the last trial;
- `plain_loop`: one process, all CPUs, one config after the other, every epoch of every fold, nothing shared between
  fits. Its time is scaled: of each config an epoch and an evaluation of one fold are timed, after a first one;
- `nested_trainers`: the same, but each config in a TorchTrainer of its own inside a Tune trial, as Ray's documentation
  has it; three are started, and the median of what they cost beside their fits is added for each config;
- `best_ours` and, asked for by `--full`, `best_full`: the best score on all folds, of ours and with pruning off. The
  engine with pruning off scores what the plain loop would: states from the store are the encoder's own
  (`tests/model/test_frozen_cache.py`).
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
    parser.add_argument("--full", action="store_true", help="score every config on all folds as well: hours on 2 CPUs")
    options = parser.parse_args()
    manifest = options.manifest.resolve()  # trials have working folders of their own
    found = []
    with tempfile.TemporaryDirectory() as name:
        overhead = price_of_a_trainer(manifest, Path(name))
        print(json.dumps({"beside_a_trainers_fits": overhead}), flush=True)
        for seed in options.seeds:
            folder = Path(name) / str(seed)
            folder.mkdir()
            configs = record(options.trials, seed)
            found.append({"seed": seed, **compare(manifest, configs, folder, overhead)})
            print(json.dumps(found[-1]), flush=True)
            if options.full:
                found[-1] |= without_pruning(manifest, configs, folder)
                print(json.dumps(found[-1]), flush=True)
    medians = {key: statistics.median(run[key] for run in found) for key in ("times_plain_loop", "times_nested")}
    print(json.dumps({"runs": found, "beside_a_trainers_fits": overhead, "medians": medians}, indent=2))


def record(trials: int, seed: int) -> list[dict[str, Any]]:
    """The default config, and random points of phase 1's space."""
    study, space = make_study("maximize", optuna.samplers.RandomSampler(seed=seed)), load_space(None, 1)
    return [{}, *(space.draw(study.ask()) for _ in range(trials - 1))]


def compare(manifest: Path, configs: list[dict[str, Any]], folder: Path, overhead: float) -> dict[str, Any]:
    (folder / "configs.json").write_text(json.dumps(configs))
    (folder / "listed.py").write_text(SPACE)
    ours, kept = sweep(manifest, folder, "ours", len(configs))
    plain = [plain_seconds(manifest, values, folder / "plain") for values in configs]
    loop, nested = sum(plain), sum(plain) + overhead * len(configs)
    states = [trial.state for trial in kept.ended]
    return {
        "ours": round(ours, 1),
        "plain_loop": round(loop, 1),
        "nested_trainers": round(nested, 1),
        "times_plain_loop": round(loop / ours, 2),
        "times_nested": round(nested / ours, 2),
        "trials": {state: states.count(state) for state in sorted(set(states))},
        "best_ours": best(kept),
        "plain_seconds_of_a_config": [round(seconds, 1) for seconds in sorted(plain)],
    }


def without_pruning(manifest: Path, configs: list[dict[str, Any]], folder: Path) -> dict[str, Any]:
    """Every config on all folds: its scores are those of the plain loop, since states from the store are exact."""
    seconds, trial_log = sweep(manifest, folder, "full", len(configs), "tune.prune=false")
    return {"ours_without_pruning": round(seconds, 1), "best_full": best(trial_log)}


def best(trial_log: TrialLog) -> float:
    return round(float(trial_log.complete(larger_is_better=True)[0].score or 0.0), 4)


def sweep(manifest: Path, folder: Path, name: str, trials: int, *keys: str) -> tuple[float, TrialLog]:
    """Seconds from the start of the command to the end of its last trial; what follows is the same for everybody."""
    command = [sys.executable, "-m", "rainbow_ray.tune", "--manifest", manifest, "--encoder", "embedded",
               "--folds", str(FOLDS), "--space", f"{folder / 'listed.py'}:space", "--trials", str(trials),
               "--name", name, "--output-dir", folder / "runs", *keys]  # fmt: skip
    path = folder / "runs" / name / "trials.jsonl"
    began = time.perf_counter()
    with (folder / f"{name}.txt").open("w") as said:
        process = subprocess.Popen(command, stdout=said, stderr=subprocess.STDOUT)
        while process.poll() is None and not (path.exists() and len(TrialLog(path).ended) == trials):
            time.sleep(0.5)
    seconds = time.perf_counter() - began
    assert path.exists(), (folder / f"{name}.txt").read_text()
    process.terminate()
    process.wait()
    return seconds, TrialLog(path)


def plain_seconds(manifest: Path, values: dict[str, Any], folder: Path) -> float:
    """A config's fits by a plain loop: all epochs of all folds, from an epoch that was timed."""
    run = plain_fit(manifest, values, folder)
    for _ in range(2):
        began = time.perf_counter()
        run.train_epoch()
        run.evaluate_epoch()
        epoch = time.perf_counter() - began
    return FOLDS * (run.state.seconds["startup"] + run.schedule.epochs * epoch)


def plain_fit(manifest: Path, values: dict[str, Any], folder: Path) -> Trainer:
    plan = plan_of(manifest, data__folds=FOLDS)
    config: Config = apply_values(plan.config, values, "listed")
    data = data_of(plan)
    train, val = data.split.train_val_indices(0)
    run = Trainer(config, FitData(data.source, train, val, plan.task, plan.reading, 0), NullLogger(),
               CheckpointManager(folder),
               ProcessGroup())  # fmt: skip
    run.features.features = None  # what a fit shares with itself
    return run


def price_of_a_trainer(manifest: Path, folder: Path, starts: int = 3) -> float:
    """Median seconds that a Tune trial with a TorchTrainer inside takes beside its fit."""
    os.environ["RAY_AIR_NEW_OUTPUT"] = "0"  # Tune's own tables would stand among the JSON

    from ray import tune

    def trial(config: dict[str, Any]) -> None:
        from ray.train import RunConfig, ScalingConfig
        from ray.train.torch import TorchTrainer

        began = time.perf_counter()
        out = folder / f"fit-{config['number']}"
        TorchTrainer(
            _one_fit, train_loop_config={"manifest": str(manifest), "out": str(out)},
            scaling_config=ScalingConfig(num_workers=1, resources_per_worker={"CPU": 1}),
            run_config=RunConfig(storage_path=str(folder / "ray")),
        ).fit()  # fmt: skip
        tune.report({"beside": time.perf_counter() - began - float((out / "seconds").read_text())})

    tuner = tune.Tuner(
        tune.with_resources(trial, {"cpu": 1}),
        param_space={"number": tune.grid_search(list(range(starts)))},
        tune_config=tune.TuneConfig(max_concurrent_trials=1),
        run_config=tune.RunConfig(storage_path=str(folder / "ray"), verbose=0),
    )
    values = [result.metrics["beside"] for result in tuner.fit()]
    import ray

    ray.shutdown()
    return round(statistics.median(values), 2)


def _one_fit(arguments: dict[str, Any]) -> None:
    """An epoch of the default config: only its end is of interest."""
    out = Path(arguments["out"])
    run = plain_fit(Path(arguments["manifest"]), {}, out)
    began = time.perf_counter()
    run.train_epoch()
    run.evaluate_epoch()
    seconds = time.perf_counter() - began + run.state.seconds["startup"]
    out.mkdir(parents=True, exist_ok=True)
    (out / "seconds").write_text(str(seconds))


if __name__ == "__main__":
    torch.manual_seed(0)
    np.random.seed(0)
    main()
