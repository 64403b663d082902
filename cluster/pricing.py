"""Available candidates, their prices, and the user's confirmation before anything is created."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from cluster.plan import Candidate, Ranked, rank, volume_usd_per_month
from cluster.runpod_api import RunPod
from cluster.runpod_models import Volume
from cluster.settings import Settings, format_duration
from cluster.state import State
from rainbow_ray.utils.errors import InputError


def find_candidates(client: RunPod, settings: Settings, volume: Volume | None) -> Ranked:
    """Return the GPU types and data centers that are available now.

    Args:
        client: Client of RunPod's API.
        settings: Settings of the cluster.
        volume: Existing network volume, or None.

    Returns:
        Ranked candidates, and reasons for excluded ones.
    """
    gpus = client.gpu_types(count=settings.gpus_per_pod, cloud=settings.cloud, min_cuda=settings.min_cuda)
    return rank(gpus, client.data_centers(), settings, volume)


def recorded_volume(state: State) -> Volume | None:
    """Return the network volume of a cluster's state.

    Args:
        state: State of the cluster.

    Returns:
        The volume, or None.
    """
    record = state.volume
    if record is None or record.id is None:
        return None
    return Volume(id=record.id, name=record.name, size=record.size, dataCenter=record.data_center)


def print_pod_price(settings: Settings, candidates: Sequence[Candidate], *, pods: int, seconds: float) -> None:
    """Print the price of new pods: of the first candidate, and of the most expensive one that may be used.

    Args:
        settings: Settings of the cluster.
        candidates: Candidates, in order of preference.
        pods: Number of new pods.
        seconds: Longest lifetime of the pods.
    """
    first, most_expensive = candidates[0], max(candidates, key=lambda candidate: candidate.usd_per_hour)
    hourly, max_hourly = first.usd_per_hour * pods, most_expensive.usd_per_hour * pods
    print(f"{pods} × {settings.gpus_per_pod} {first.name} in {first.data_center}: {hourly:.2f} USD per hour")
    if max_hourly > hourly:
        print(f"if it has no capacity: at most {max_hourly:.2f} USD per hour ({most_expensive.name})")
    max_usd = max_hourly * seconds / 3600
    print(f"at most {max_usd:.2f} USD in total until the pods terminate themselves after {format_duration(seconds)}")


def print_volume_price(settings: Settings, volume: Volume | None) -> None:
    """Print the size and the monthly price of the network volume.

    Args:
        settings: Settings of the cluster.
        volume: Existing network volume, or None.
    """
    size = volume.size if volume else settings.volume.size
    description = f"existing volume {volume.name}" if volume else "new volume"
    print(f"{description} of {size} GB: {volume_usd_per_month(size):.2f} USD per month, also without running pods")


def confirm(question: str = "Continue?") -> bool:
    """Ask for confirmation on the terminal.

    Args:
        question: Question without the choices.

    Returns:
        Whether the user confirmed.

    Raises:
        InputError: Standard input is not a terminal.
    """
    if not sys.stdin.isatty():
        raise InputError("cannot ask for confirmation: standard input is not a terminal; use --yes")
    return input(f"{question} [y/N] ").strip().lower() in ("y", "yes")
