"""What can be had now, at what price, and whether somebody agrees to it: before anything is made."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from cluster.plan import Candidate, Ranked, rank, volume_usd_per_month
from cluster.runpod_api import RunPod
from cluster.runpod_models import Volume
from cluster.settings import Settings, say_duration
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
    gpus = client.gpu_types(count=settings.gpus_per_pod, cloud=settings.cloud)
    return rank(gpus, client.data_centers(), settings, volume)


def volume_of(state: State) -> Volume | None:
    """Return the network volume of a cluster's state.

    Args:
        state: State of the cluster.

    Returns:
        The volume, or None.
    """
    known = state.volume
    if known is None or known.id is None:
        return None
    return Volume(id=known.id, name=known.name, size=known.size, dataCenter=known.data_center)


def tell_price(settings: Settings, candidates: Sequence[Candidate], *, pods: int, seconds: float) -> None:
    """Print the price of new pods: of the first candidate, and of the most expensive one that may be used.

    Args:
        settings: Settings of the cluster.
        candidates: Candidates, most wanted first.
        pods: Number of new pods.
        seconds: Longest lifetime of the pods.
    """
    first, dearest = candidates[0], max(candidates, key=lambda candidate: candidate.usd_per_hour)
    hourly, most = first.usd_per_hour * pods, dearest.usd_per_hour * pods
    wanted = f"{pods} × {settings.gpus_per_pod} {first.name} in {first.data_center}: {hourly:.2f} USD an hour"
    if most > hourly:
        print(f"{wanted}; where that has no room, at most {most:.2f} USD an hour ({dearest.name})")
        wanted = "all in all"
    print(f"{wanted}, at most {most * seconds / 3600:.2f} USD until the pods end themselves after"
          f" {say_duration(seconds)}")  # fmt: skip


def tell_volume(settings: Settings, volume: Volume | None) -> None:
    """Print the size and the monthly price of the network volume.

    Args:
        settings: Settings of the cluster.
        volume: Existing network volume, or None.
    """
    size = volume.size if volume else settings.volume.size
    made = f"{volume.name} is there" if volume else "is made"
    print(f"volume of {size} GB {made}: {volume_usd_per_month(size):.2f} USD a month, also when no pod runs")


def agreed(question: str = "Go on?") -> bool:
    """Ask for confirmation on the terminal.

    Args:
        question: Question without the choices.

    Returns:
        Whether the user agreed.

    Raises:
        InputError: Standard input is not a terminal.
    """
    if not sys.stdin.isatty():
        raise InputError("nobody is there to be asked: --yes agrees")
    return input(f"{question} [y/N] ").strip().lower() in ("y", "yes")
