"""Plans, examples and fits without Ray: what `assemble.read_data` does, in this process."""

from __future__ import annotations

import functools
import time
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console

from rainbow_ray.baselines.compute import compute_baselines
from rainbow_ray.config.schema import resolve
from rainbow_ray.data.dataset import Resident
from rainbow_ray.data.examples import Examples
from rainbow_ray.data.reader import read_here
from rainbow_ray.data.splits import make_split
from rainbow_ray.distributed.process_group import Team
from rainbow_ray.distributed.ray_cluster import Stopwatch
from rainbow_ray.modalities.text import encoder as text_encoder
from rainbow_ray.model.frozen_cache import PrefixStore
from rainbow_ray.runs.run_dir import begin_run, keep_data
from rainbow_ray.runs.train_run import conclude
from rainbow_ray.setup.plan import Plan, make_plan
from rainbow_ray.setup.prepare import read_data
from rainbow_ray.setup.prepared import Data
from rainbow_ray.training.checkpoint import Checkpoints
from rainbow_ray.training.cross_validation import Job, Shared, read_outcome, run_job
from rainbow_ray.training.loggers import JsonLines, Silent
from rainbow_ray.training.trainer import FitData, Fitted, fit


def plan_of(manifest: Path, encoder: str | Path = "embedded", **keys: Any) -> Plan:
    """A plan from dotted keys written with `__`."""
    overrides = [(name.replace("__", "."), value) for name, value in keys.items()]
    named = [("data.manifest_path", str(manifest)), ("model.text_encoder.model_name", str(encoder))]
    # what is asserted to 1e-5 holds in fp32; `auto` is bf16 on CPUs that are fast at it
    named += [("training.mixed_precision", "off")] if "training__mixed_precision" not in keys else []
    return make_plan(resolve(None, {}, [*named, *overrides]))


def data_of(plan: Plan) -> Data:
    """`read_data` without Ray."""
    return read_data(plan, read_here)


def source_of(examples: Examples) -> Resident:
    return Resident(examples, text_encoder.lengths(examples))


def fit_fold(
    plan: Plan, data: Data, folder: Path, fold: int = 0, team: Team | None = None, prefix: PrefixStore | None = None
) -> tuple[np.ndarray, Fitted]:
    """Fit one fold of the data's split; returns the scored indices too."""
    train, val = data.split.sides(fold)
    state = Checkpoints(folder)
    fit_data = FitData(data.source, train, val, data.problem, plan.reading, fold, prefix=prefix)
    reporter = JsonLines(state.metrics) if team is None or team.leads else Silent()
    return val, fit(plan.config, fit_data, reporter, state, team)


def finish_run(plan: Plan, path: Path) -> Path:
    """What `train` does with a plan, in this process: all folds, baselines, refit, and everything that a run leaves."""
    data = data_of(plan)
    folder = begin_run(plan.config, path)
    keep_data(folder, data)
    shared = Shared(plan.config, data.source, data.problem, plan.reading, data.split.by)
    everything, nothing = np.arange(len(data.source)), np.array([], dtype=np.int64)
    sides = [data.split.sides(k) for k in range(data.split.folds)]
    sides += [] if plan.config.training.ensemble else [(everything, nothing)]
    outcomes = []
    for fold, (train, val) in enumerate(sides):
        refits = fold == data.split.folds
        job = Job(None if refits else fold, train, val, path / "checkpoints" / ("refit" if refits else f"fold-{fold}"))
        run_job(shared, job, Team())
        outcomes.append(read_outcome(job))
    baselines = compute_baselines(shared, data.split)
    quiet = Console(quiet=True)
    folds, refit = outcomes[: data.split.folds], outcomes[data.split.folds :]
    conclude(
        plan, data, folder, folds, refit[0] if refit else None, baselines, quiet, Stopwatch(time.perf_counter()), []
    )
    return path


split_songs = functools.partial(make_split, val_split=0.2, by="id", seed=1)
