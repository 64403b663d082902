"""What the steps of a run share."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from rich.console import Console

from rainbow_ray.distributed.resources import RayResources, WorkerResources, allocate_workers, parse_workers
from rainbow_ray.runs.run_dir import RunDir
from rainbow_ray.setup.plan import RunPlan
from rainbow_ray.setup.prepared import PreparedData
from rainbow_ray.training.cross_validation import FitContext
from rainbow_ray.utils.stopwatch import Stopwatch


@dataclass(frozen=True)
class RunContext:
    """One start of a run or a sweep.

    Attributes:
        plan: Plan of the run.
        data: Prepared data.
        run_dir: Folder of the run.
        resources: Resources of the Ray cluster.
        console: Where progress and results are printed.
        stopwatch: Time of each part.
        loggers: Receivers of every record of training, besides the files of the fits: the run's `metrics.jsonl`,
            Weights & Biases, TensorBoard.
    """

    plan: RunPlan
    data: PreparedData
    run_dir: RunDir
    resources: RayResources
    console: Console
    stopwatch: Stopwatch
    loggers: list[Any] = field(default_factory=list)

    def fit_context(self) -> FitContext:
        """Return what all fits share.

        Returns:
            Config, data, task and inputs, and the folder of the features of frozen layers.
        """
        plan, data = self.plan, self.data
        cache = self.run_dir.file("frozen_features")
        return FitContext(plan.config, data.source, data.task, plan.input_spec, data.split.split_by, cache)

    def worker_resources(self) -> WorkerResources:
        """Return the workers of each fit.

        Returns:
            The workers.

        Raises:
            InputError: `training.workers` exceeds the resources.
        """
        training = self.plan.config.training
        requested = parse_workers(training.workers)
        streams = not self.data.source.in_memory
        return allocate_workers(self.resources, requested, device=training.device, streams=streams)
