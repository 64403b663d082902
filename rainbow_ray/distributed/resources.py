"""Division of a Ray cluster's CPUs and GPUs among fits, the workers of one fit, and the trials of a sweep."""

from __future__ import annotations

from dataclasses import dataclass

from rainbow_ray.utils.errors import InputError

MAX_CPUS_PER_GPU_WORKER = 4
# Of one process that reads songs for a worker. Without any CPU left, reader and worker would wait for each other.
READER_CPUS = 0.5
WAITING_CPUS = 0.01  # of a trial whose fits run in workers of their own


@dataclass(frozen=True)
class RayResources:
    """Resources of a Ray cluster.

    Attributes:
        cpus: Number of CPUs of all nodes.
        gpus: Number of GPUs of all nodes.
        dashboard: Host and port of the dashboard, or None where it does not run.
        node_cpus: Number of CPUs of the largest node. One worker cannot span two nodes.
        node_gpus: Largest number of GPUs of one node; None means that all GPUs are in one node.
    """

    cpus: int
    gpus: int
    dashboard: str | None
    node_cpus: int = 1
    node_gpus: int | None = None

    def allocate_fits(self, n_fits: int, *, fits_per_gpu: int = 1) -> tuple[int, dict[str, float]]:
        """Return how many actors run in parallel, and the resources of each.

        Args:
            n_fits: Number of fits to run, each in one actor.
            fits_per_gpu: Number of fits that share a GPU, where there are GPUs.

        Returns:
            The number of parallel actors, and the options of each one for Ray (`num_cpus`, `num_gpus`).
        """
        n_parallel = max(1, min(n_fits, self.gpus * fits_per_gpu or self.cpus))
        cpus = max(1, min(self.cpus // n_parallel, self.node_cpus))
        if self.gpus:
            num_gpus = 1 if fits_per_gpu == 1 else part_of_gpu(fits_per_gpu)
            return n_parallel, {"num_gpus": num_gpus, "num_cpus": min(MAX_CPUS_PER_GPU_WORKER, cpus)}
        return n_parallel, {"num_cpus": cpus}

    def uses_gpu(self, device: str) -> bool:
        """Return whether training takes GPUs.

        Args:
            device: Value of `training.device`.

        Returns:
            True where the cluster has GPUs and the config does not choose another device.
        """
        return self.gpus > 0 and device in ("auto", "cuda")


def part_of_gpu(n_fits: int) -> float:
    """Return the part of a GPU of each of several fits that share it.

    Args:
        n_fits: Number of fits.

    Returns:
        A fraction that Ray, which counts in ten-thousandths, can give to all of them.
    """
    return 10_000 // n_fits / 10_000


@dataclass(frozen=True)
class WorkerResources:
    """The workers of one fit. Training is elastic where `min_workers` and `max_workers` differ.

    Attributes:
        min_workers: Smallest number of workers.
        max_workers: Largest number of workers.
        use_gpu: Whether each worker has one GPU.
        cpus: CPUs of each worker, which Ray reserves.
        threads: Threads of each worker for PyTorch.
    """

    min_workers: int
    max_workers: int
    use_gpu: bool
    cpus: float
    threads: int


@dataclass(frozen=True)
class TrialResources:
    """The trials of a sweep that run in parallel.

    Attributes:
        max_concurrent: Number of trials that run in parallel.
        cpus: CPUs of each trial, which Ray Tune reserves.
        gpus: GPUs, or the fraction of one, of each trial.
        workers: Workers of each fit of a trial, or None where a trial computes its fits itself.
    """

    max_concurrent: int
    cpus: float
    gpus: float
    workers: WorkerResources | None


def allocate_workers(
    resources: RayResources, requested: tuple[int, int] | None, *, device: str, streams: bool
) -> WorkerResources:
    """Return the workers of one fit.

    Args:
        resources: Resources of the cluster.
        requested: Smallest and largest number of workers; None is one per GPU of the largest node, or one on CPUs.
        device: Value of `training.device`.
        streams: Whether songs are read while the fit runs: then a part of the CPUs is left to the readers.

    Returns:
        The workers, and the resources of each.

    Raises:
        InputError: More workers are requested than there are GPUs or CPUs.
    """
    use_gpu = resources.uses_gpu(device)
    available, kind = (resources.gpus, "GPU") if use_gpu else (resources.cpus, "CPU")
    # By default the workers of a fit share one node, so that the gradients of a step do not cross a network.
    gpus_of_node = resources.gpus if resources.node_gpus is None else resources.node_gpus
    min_workers, max_workers = requested or ((gpus_of_node, gpus_of_node) if use_gpu else (1, 1))
    if min_workers > available:
        value = min_workers if min_workers == max_workers else f"{min_workers}..{max_workers}"
        raise InputError(
            f"--workers {value}: {min_workers} workers need {min_workers} {kind}s, one each, but Ray has {available}:"
            f" at most --workers {available}"
        )
    n_parallel = min(max_workers, available)
    reader_cpus = max(READER_CPUS * n_parallel, min(1.0, resources.cpus / 2)) if streams else 0.0
    cpus = _whole_cpus(min((resources.cpus - reader_cpus) / n_parallel, resources.node_cpus))
    threads = max(1, min(resources.cpus // n_parallel, resources.node_cpus))
    cpus = min(cpus, MAX_CPUS_PER_GPU_WORKER) if use_gpu else cpus
    return WorkerResources(min_workers, max_workers, use_gpu, cpus, threads)


def describe_network(resources: RayResources, requested: tuple[int, int] | None, *, device: str) -> list[str]:
    """Return a warning where the workers of one fit would be on several nodes.

    Args:
        resources: Resources of the cluster.
        requested: Smallest and largest number of workers, or None.
        device: Value of `training.device`.

    Returns:
        One message, or none.
    """
    use_gpu = resources.uses_gpu(device)
    per_node = resources.node_gpus if use_gpu else resources.node_cpus
    if requested is None or per_node is None or requested[1] <= per_node:
        return []
    kind = "GPUs" if use_gpu else "CPUs"
    return [
        f"Note: --workers {requested[1]} exceeds the {per_node} {kind} of one machine, so each step waits for the"
        " network (100 Mbit/s between RunPod's pods: often slower than one GPU alone). Use one machine with several"
        f" {kind}; folds and trials are distributed over machines without --workers"
    ]


def describe_sharing(resources: RayResources, fits_per_gpu: int | None, *, device: str) -> list[str]:
    """Return a warning where fits cannot share a GPU as the user asks.

    Args:
        resources: Resources of the cluster.
        fits_per_gpu: Value of `training.fits_per_gpu`.
        device: Value of `training.device`.

    Returns:
        One message, or none.
    """
    if fits_per_gpu is None or resources.uses_gpu(device):
        return []
    return ["Note: training.fits_per_gpu has no effect: Ray has no GPU, or training.device excludes it"]


def allocate_trials(
    resources: RayResources,
    *,
    n_trials: int,
    max_concurrent: int | None,
    gpus_per_trial: float | None,
    workers_per_trial: int,
    device: str,
) -> TrialResources:
    """Return how many trials of a sweep run in parallel, and the resources of each.

    Args:
        resources: Resources of the cluster.
        n_trials: Number of trials of the sweep.
        max_concurrent: Requested number of parallel trials; None is as many as fit.
        gpus_per_trial: GPUs of a trial, at most 1; None is one GPU where there are GPUs.
        workers_per_trial: Workers that share each fit of a trial.
        device: Value of `training.device`.

    Returns:
        The allocation.

    Raises:
        InputError: More is requested than the cluster has, for which Ray Tune would wait forever.
    """
    use_gpu = resources.uses_gpu(device)
    _check_gpus_per_trial(gpus_per_trial, workers_per_trial, use_gpu=use_gpu)
    per_worker = (1.0 if gpus_per_trial is None else gpus_per_trial) if use_gpu else 1.0
    available, kind = (resources.gpus, "GPU") if use_gpu else (resources.cpus, "CPU")
    # The parts of a GPU that a trial uses never belong to two GPUs.
    limit = int(1 / per_worker + 1e-9) * int(available) // workers_per_trial
    n_parallel = max_concurrent or max(1, min(limit, n_trials))
    if n_parallel > limit:
        needed = n_parallel * workers_per_trial * per_worker
        arithmetic = f"{n_parallel} trials × {workers_per_trial} workers × {per_worker:g} {kind} = {needed:g} {kind}s"
        at_most = f"--max-concurrent {limit}" if limit else f"--workers-per-trial {int(available / per_worker)}"
        raise InputError(f"--max-concurrent {n_parallel}: {arithmetic}, but Ray has {available}: at most {at_most}")
    cpus = _whole_cpus(min(resources.cpus / (n_parallel * workers_per_trial), resources.node_cpus))
    worker_cpus = min(cpus, MAX_CPUS_PER_GPU_WORKER) if use_gpu else cpus
    if workers_per_trial == 1:
        return TrialResources(n_parallel, worker_cpus, per_worker if use_gpu else 0.0, None)
    # Tune does not count the workers of Ray Train, while the trial itself only waits for them.
    if n_parallel * (WAITING_CPUS + workers_per_trial * worker_cpus) > resources.cpus:
        worker_cpus = (resources.cpus / n_parallel - WAITING_CPUS) / workers_per_trial
    workers = WorkerResources(workers_per_trial, workers_per_trial, use_gpu, worker_cpus, max(1, int(cpus)))
    return TrialResources(n_parallel, WAITING_CPUS, 0.0, workers)


def parse_workers(value: int | str | None) -> tuple[int, int] | None:
    """Return the smallest and the largest number of workers that `training.workers` allows.

    Args:
        value: `4` for four workers, `1..4` for one to four (elastic), or None.

    Returns:
        The two numbers, or None.

    Raises:
        InputError: The value has another form.
    """
    if value is None:
        return None
    first, dots, last = str(value).partition("..")
    try:
        pair = int(first), int(last if dots else first)
    except ValueError:
        pair = 0, 0
    if not 1 <= pair[0] <= pair[1]:
        raise InputError(f"training.workers: {value!r} is neither a number of workers nor a range such as 1..4")
    return pair


def _check_gpus_per_trial(gpus_per_trial: float | None, workers_per_trial: int, *, use_gpu: bool) -> None:
    """Raise `InputError` for a fraction of a GPU that a trial cannot have."""
    if gpus_per_trial is None:
        return
    if not use_gpu:
        raise InputError(f"--gpus-per-trial {gpus_per_trial:g}: Ray has no GPU, or training.device excludes it")
    if gpus_per_trial > 1:
        raise InputError(
            f"--gpus-per-trial {gpus_per_trial:g}: a trial is one process, which uses one GPU or a fraction of it; for"
            " several GPUs, use --workers-per-trial"
        )
    if workers_per_trial > 1:
        raise InputError(
            f"--gpus-per-trial {gpus_per_trial:g}: with --workers-per-trial each worker has a GPU; leave one out"
        )


def _whole_cpus(cpus: float) -> float:
    """Round down to whole CPUs where there is at least one."""
    return float(int(cpus)) if cpus >= 1 else cpus
