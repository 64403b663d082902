"""Plans, data and fits without Ray, in the test process."""

from __future__ import annotations

import functools
import time
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console

from rainbow_ray.baselines.compute import compute_baselines
from rainbow_ray.config.load import resolve
from rainbow_ray.data.dataset import InMemoryDataset
from rainbow_ray.data.examples import Examples
from rainbow_ray.data.reader import read_rows_locally
from rainbow_ray.data.splits import make_split
from rainbow_ray.distributed.process_group import ProcessGroup
from rainbow_ray.distributed.resources import RayResources
from rainbow_ray.evaluation.stacked_scores import wants_stack
from rainbow_ray.modalities.text import tokenize
from rainbow_ray.model.frozen_feature_cache import FrozenFeatureCache
from rainbow_ray.runs.context import RunContext
from rainbow_ray.runs.results import complete_report, evaluate_and_save
from rainbow_ray.runs.run_dir import init_run_dir, save_data_profile
from rainbow_ray.setup.plan import RunPlan, make_plan
from rainbow_ray.setup.prepare import prepare_data
from rainbow_ray.setup.prepared import PreparedData
from rainbow_ray.training.checkpoint import CheckpointManager
from rainbow_ray.training.cross_validation import FitContext, FitJob, read_result, run_job
from rainbow_ray.training.fit_data import FitData, FitOutput
from rainbow_ray.training.loggers import JsonLinesLogger, NullLogger
from rainbow_ray.training.trainer import fit
from rainbow_ray.utils.stopwatch import Stopwatch


def plan_of(manifest: Path, encoder: str | Path = "embedded", **keys: Any) -> RunPlan:
    """Return the plan of a config whose dotted keys are given with `__` in place of dots."""
    overrides = [(name.replace("__", "."), value) for name, value in keys.items()]
    defaults = [("data.manifest_path", str(manifest)), ("model.text_encoder.model_name", str(encoder))]
    # tolerances of 1e-5 hold in fp32 only; `auto` selects bf16 on CPUs that support it
    defaults += [("training.mixed_precision", "off")] if "training__mixed_precision" not in keys else []
    return make_plan(resolve(None, {}, [*defaults, *overrides]))


def data_of(plan: RunPlan) -> PreparedData:
    """Run `prepare_data` without Ray."""
    return prepare_data(plan, read_rows_locally)


def source_of(examples: Examples) -> InMemoryDataset:
    return InMemoryDataset(examples, tokenize.lengths(examples.table))


def fit_fold(
    plan: RunPlan,
    data: PreparedData,
    folder: Path,
    fold: int = 0,
    process_group: ProcessGroup | None = None,
    frozen_cache: FrozenFeatureCache | None = None,
) -> tuple[np.ndarray, FitOutput]:
    """Fit one fold of the split; return the validation indices and the output of the fit."""
    train, val = data.split.train_val_indices(fold)
    state = CheckpointManager(folder)
    fit_data = FitData(data.source, train, val, data.task, plan.input_spec, fold, frozen_cache=frozen_cache)
    logger = JsonLinesLogger(state.metrics) if process_group is None or process_group.is_main else NullLogger()
    return val, fit(plan.config, fit_data, logger, state, process_group)


def finish_run(plan: RunPlan, path: Path) -> Path:
    """Do what `train` does, in this process: fit folds and refit, compute baselines, write all files of a run."""
    data = data_of(plan)
    run_dir = init_run_dir(plan.config, path)
    save_data_profile(run_dir, data)
    context = FitContext(plan.config, data.source, data.task, plan.input_spec, data.split.split_by)
    all_indices, no_indices = np.arange(len(data.source)), np.array([], dtype=np.int64)
    splits = [data.split.train_val_indices(k) for k in range(data.split.n_folds)]
    splits += [] if plan.config.training.ensemble else [(all_indices, no_indices)]
    results = []
    for fold, (train, val) in enumerate(splits):
        is_refit = fold == data.split.n_folds
        job = FitJob(
            None if is_refit else fold, train, val, path / "checkpoints" / ("refit" if is_refit else f"fold-{fold}")
        )
        run_job(context, job, ProcessGroup())
        results.append(read_result(job))
    keep_fits = wants_stack(plan.config.training, data.profile["songs"], data.split.n_folds)
    baselines = compute_baselines(context, data.split, keep_fits=keep_fits)
    folds, refit = results[: data.split.n_folds], results[data.split.n_folds :]
    resources, stopwatch = RayResources(1, 0, None), Stopwatch(time.perf_counter())
    run = RunContext(plan, data, run_dir, resources, Console(quiet=True), stopwatch)
    evaluate_and_save(run, folds, refit[0] if refit else None, baselines)
    complete_report(run_dir, plan.config)
    return path


split_songs = functools.partial(make_split, val_fraction=0.2, split_by="id", seed=1)
