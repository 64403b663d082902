"""How many fits share a GPU, from the memory and the utilization of a few steps of one of them.

A fit of few songs launches kernels more slowly than a GPU computes them: beside others, it takes hardly longer.
"""

from __future__ import annotations

import itertools
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from rainbow_ray.config.schema import Config
from rainbow_ray.config.solver import trains_no_encoder
from rainbow_ray.distributed.assigned_resources import MEMORY_OF_ACTORS, require_assigned_gpu, use_assigned_resources
from rainbow_ray.distributed.process_group import ProcessGroup
from rainbow_ray.distributed.resources import RayResources
from rainbow_ray.model.device import gpu_utilization
from rainbow_ray.training.checkpoint import CheckpointManager
from rainbow_ray.training.fit_data import FitData
from rainbow_ray.training.fit_errors import user_facing_error
from rainbow_ray.training.loggers import NullLogger
from rainbow_ray.training.prefetch import prepare_ahead
from rainbow_ray.training.schedule import is_solved_run
from rainbow_ray.training.trainer import Trainer
from rainbow_ray.utils.errors import first_line
from rainbow_ray.utils.streams import print_note

MAX_FITS_PER_GPU = 4  # processes take turns on a GPU: more of them gain little
CPUS_PER_FIT = 2  # of a fit that shares a GPU: one launches kernels, and one prepares batches
MEMORY_MARGIN = 1.2  # of other folds and trials, whose texts may be longer
FITS_WITHOUT_UTILIZATION = 2  # where the driver does not tell how busy the GPU is
STEP_SECONDS = 3.0  # of measured steps: the driver averages the utilization over up to a second
MAX_EPOCHS = 1_000  # of steps that are measured
MANY_FITS = 10
MEASURED_DEVICE = "cuda"  # device type; on CPUs, fits share nothing that could be measured
WAIT_SECONDS = 600.0  # for the measurement, on a cluster whose GPUs may all be in use


@dataclass(frozen=True)
class GpuUse:
    """What one fit takes of a GPU.

    Attributes:
        needed_bytes: Largest memory of its process.
        total_bytes: Memory of the GPU.
        utilization: Fraction of the time in which the GPU computes; None where it is not known.
    """

    needed_bytes: float
    total_bytes: float
    utilization: float | None


def fits_per_gpu(use: GpuUse, cpus_per_gpu: float) -> int:
    """Return how many fits may share a GPU.

    Args:
        use: What one of them takes.
        cpus_per_gpu: CPUs of the cluster for each GPU.

    Returns:
        At least 1, and as many as there are memory, computing time and CPUs for, up to `MAX_FITS_PER_GPU`.
    """
    by_memory = int(MEMORY_OF_ACTORS * use.total_bytes / (MEMORY_MARGIN * use.needed_bytes))
    if use.utilization is None:
        by_time = FITS_WITHOUT_UTILIZATION
    else:
        by_time = round(1 / max(use.utilization, 1 / MAX_FITS_PER_GPU))
    return max(1, min(by_memory, by_time, int(cpus_per_gpu // CPUS_PER_FIT), MAX_FITS_PER_GPU))


def choose_fits_per_gpu(config: Config, data: FitData, resources: RayResources, n_fits: int) -> int:
    """Run a few steps of a fit on a GPU of the cluster, and return how many fits may share one.

    Args:
        config: Config of the fit.
        data: Data of the fit; what it caches is of use to the others.
        resources: Resources of the cluster.
        n_fits: Number of fits that could run in parallel.

    Returns:
        `training.fits_per_gpu` if it is set; 1 on CPUs, where each fit has a GPU of its own, where the GPUs of the
        cluster differ, and where the measurement fails or does not end; that is said.

    Raises:
        TrainingError: The fit failed with an error for the user.
        InputError: The input of the fit is wrong.
    """
    import ray

    if not resources.uses_gpu(config.training.device) or n_fits <= resources.gpus:
        return 1
    if config.training.fits_per_gpu is not None:
        return config.training.fits_per_gpu
    is_light = trains_no_encoder(config) and not data.input_spec.media
    is_short = is_light and n_fits < MANY_FITS  # all of them take less time than the measurement
    is_solved = is_solved_run(config, data.dataset, data.task, data.input_spec)
    if is_short or is_solved or resources.cpus // resources.gpus < 2 * CPUS_PER_FIT or _have_different_gpus():
        return 1
    options = {"num_gpus": 1, "num_cpus": 1, "max_calls": 1, "max_retries": 0}
    task = ray.remote(**options)(_measure).remote([ray.put((config, data))])
    finished, _ = ray.wait([task], timeout=WAIT_SECONDS)
    if not finished:
        ray.cancel(task, force=True)
        print_note(f"each fit has a GPU of its own, because measuring one took more than {WAIT_SECONDS:.0f} s")
        return 1
    try:
        use = ray.get(task)
    except ray.exceptions.RayTaskError as error:
        translated = user_facing_error(error)
        if translated is not None:
            raise translated from error
        print_note(f"each fit has a GPU of its own, because measuring one failed: {error.cause}")
        return 1
    except ray.exceptions.RayError as error:
        print_note(f"each fit has a GPU of its own, because measuring one failed: {first_line(error)}")
        return 1
    if use is None:
        return 1
    n = min(fits_per_gpu(use, resources.cpus / resources.gpus), -(-n_fits // resources.gpus))
    if n > 1:
        memory = f"{use.needed_bytes / 2**30:.1f} of {use.total_bytes / 2**30:.0f} GB"
        busy = "" if use.utilization is None else f", and computes {use.utilization:.0%} of the time"
        print_note(f"{n} fits share a GPU: one takes {memory}{busy}")
    return n


def _have_different_gpus() -> bool:
    """Return whether the cluster has several types of GPUs, of which one measurement would tell nothing."""
    import ray

    prefix = "accelerator_type:"
    types = {
        name for node in ray.nodes() if node["Alive"] and node["Resources"].get("GPU", 0)
        for name in node["Resources"] if name.startswith(prefix)
    }  # fmt: skip
    return len(types) > 1


def _measure(reference: list[Any]) -> GpuUse | None:
    """Return what the fit behind a reference takes of the GPU of this process."""
    import ray

    config, data = ray.get(reference[0])
    require_assigned_gpu(config.training.device)
    use_assigned_resources()
    return measure_gpu_use(config, data)


def measure_gpu_use(config: Config, data: FitData) -> GpuUse | None:
    """Train for some seconds, beginning with the longest texts, and score as many as a step has.

    Args:
        config: Config of the fit.
        data: Data of the fit.

    Returns:
        What the fit takes; None where it does not train on a GPU.
    """
    config = config.with_values({"training.compile": False})  # which takes longer than what is measured
    with tempfile.TemporaryDirectory() as folder:
        run = Trainer(config, data, NullLogger(), CheckpointManager(Path(folder)), ProcessGroup())
        if run.device.type != MEASURED_DEVICE:
            return None
        run.model.train()
        steps = run.planner.steps(0, run.schedule, random_access=True, by_length=True)
        lengths, weights = data.dataset.lengths, data.dataset.weights
        steps.sort(key=lambda step: -len(step.indices) * int(lengths[step.indices].max(initial=0)))
        # As many epochs as needed, in which batches are prepared ahead as in training.
        batches = prepare_ahead(run.features.iter_views(steps * MAX_EPOCHS), run.stepper.prepare, run.device)
        start = time.perf_counter()
        for number, (step, prepared) in enumerate(zip(itertools.cycle(steps), batches, strict=False), start=1):
            run.stepper.train_step(prepared, float(weights[step.indices].sum()), number=number)
            if time.perf_counter() - start > STEP_SECONDS:
                break
        utilization = gpu_utilization(run.device)
        run.evaluator.score(steps[0].indices)
        needed, total = _memory_of_process(run.device)
        return GpuUse(needed, total, utilization)


def _memory_of_process(device: torch.device) -> tuple[float, float]:
    """Return the largest memory of this process on its GPU, with that of CUDA itself, and the memory of the GPU."""
    free, total = torch.cuda.mem_get_info(device)
    outside_of_pytorch = total - free - torch.cuda.memory_reserved(device)
    return float(torch.cuda.max_memory_reserved(device) + max(0, outside_of_pytorch)), float(total)
