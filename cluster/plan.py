"""Which GPU in which data centre, at what price: pure arithmetic on what the catalogue says."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from cluster.runpod_models import DataCenter, GpuType, Volume
from cluster.settings import Settings
from rainbow_ray.utils.errors import did_you_mean

STOCK = {"HIGH": 0, "MEDIUM": 1, "LOW": 2}  # everything else is none
# https://docs.runpod.io/pods/pricing: network storage, USD a GB and month, up to 1 TB and beyond
VOLUME_USD, VOLUME_USD_ABOVE_1TB = 0.07, 0.05


@dataclass(frozen=True)
class Candidate:
    """A GPU type in a data center that can be requested.

    Attributes:
        gpu: Id of the GPU type.
        name: Name of the GPU type.
        memory: Memory of one GPU in GB.
        data_center: Id of the data center.
        stock: `HIGH`, `MEDIUM` or `LOW`.
        usd_per_hour: Price of one pod with all its GPUs.
    """

    gpu: str  # id
    name: str
    memory: int  # GB of one GPU
    data_center: str
    stock: str
    usd_per_hour: float  # of one pod, all its GPUs


@dataclass(frozen=True)
class Ranked:
    """Ranked candidates.

    Attributes:
        candidates: Candidates, most wanted first.
        refused: A sentence for each excluded GPU type or data center.
    """

    candidates: list[Candidate]
    refused: list[str]


def rank(gpus: Sequence[GpuType], centers: Sequence[DataCenter], settings: Settings, volume: Volume | None) -> Ranked:
    """Rank GPU types and data centers. All pods of a cluster are in the data center of its volume.

    Args:
        gpus: GPU types of the catalog, with availability.
        centers: Data centers of the catalog.
        settings: Settings of the cluster.
        volume: Existing network volume, or None.

    Returns:
        Ranked candidates, and reasons for excluded ones.
    """
    chosen, refused = _choose_gpus(gpus, settings)
    places, told = _choose_centers(centers, settings, volume)
    refused += told
    found = []
    for order, gpu in enumerate(chosen):
        price = pod_price(gpu, settings)
        if settings.max_hourly is not None and price * settings.pods > settings.max_hourly + 1e-9:
            refused.append(
                f"{gpu.name}: {settings.pods} × {price:.2f} USD an hour is more than"
                f" --max-hourly {settings.max_hourly:g}"
            )
            continue
        there = {place.id: place.availability for place in gpu.dataCenters if place.availability in STOCK}
        here = [center for center in places if center in there]
        if not here:
            refused.append(f"{gpu.name}: none free in {', '.join(places) or 'any data centre that would do'}")
        for wish, center in enumerate(here):
            key = (order, wish if settings.data_centers else 0, STOCK[there[center]], center)
            candidate = Candidate(gpu.id, gpu.name, gpu.memory, center, there[center], price)
            found.append((key, candidate))
    return Ranked([candidate for _, candidate in sorted(found, key=lambda pair: pair[0])], refused)


def pod_price(gpu: GpuType, settings: Settings) -> float:
    """Return the price of one pod.

    Args:
        gpu: GPU type.
        settings: Settings of the cluster.

    Returns:
        USD per hour.
    """
    one = gpu.price.secure if settings.cloud == "SECURE" else gpu.price.community
    return one * settings.gpus_per_pod


def volume_usd_per_month(size: int) -> float:
    """Return the price of a network volume.

    Args:
        size: Size in GB.

    Returns:
        USD per month.

    Reference:
        https://docs.runpod.io/pods/pricing
    """
    return VOLUME_USD * min(size, 1000) + VOLUME_USD_ABOVE_1TB * max(0, size - 1000)


def _choose_gpus(gpus: Sequence[GpuType], settings: Settings) -> tuple[list[GpuType], list[str]]:
    """The GPUs that were named, in that order, or all that would do, cheapest first."""
    refused: list[str] = []
    if settings.gpu:
        wanted: list[GpuType] = []
        for name in settings.gpu:
            matches = match_gpu(name, gpus)
            if not matches:
                refused.append(f"{name}: no such GPU{did_you_mean(name, [gpu.name for gpu in gpus])}")
            wanted += [gpu for gpu in matches if gpu not in wanted]
    else:
        wanted = sorted(gpus, key=lambda gpu: (pod_price(gpu, settings), gpu.name))
        wanted = [gpu for gpu in wanted if gpu.memory >= settings.min_memory and gpu.manufacturer == "NVIDIA"]
    fit = []
    for gpu in wanted:
        reason = _unfit(gpu, settings)
        if reason is None:
            fit.append(gpu)
        elif settings.gpu:
            refused.append(f"{gpu.name}: {reason}")
    return fit, refused


def match_gpu(name: str, gpus: Iterable[GpuType]) -> list[GpuType]:
    """Find GPU types by id or name; a part of a name (`4090`) matches all that contain it.

    Args:
        name: Name, id or part of it.
        gpus: GPU types.

    Returns:
        Matching GPU types; exact matches only, if there are any.
    """
    asked = name.lower()
    exact = [gpu for gpu in gpus if asked in (gpu.id.lower(), gpu.name.lower())]
    return exact or [gpu for gpu in gpus if asked in gpu.name.lower() or asked in gpu.id.lower()]


def _unfit(gpu: GpuType, settings: Settings) -> str | None:
    secure = settings.cloud == "SECURE"
    if gpu.manufacturer != "NVIDIA":
        return f"made by {gpu.manufacturer}; the image needs NVIDIA"
    if not (gpu.secure if secure else gpu.community) or not pod_price(gpu, settings):
        return f"not in the {settings.cloud} cloud"
    most = gpu.maxCount.secure if secure else gpu.maxCount.community
    if most and settings.gpus_per_pod > most:
        return f"at most {most} in a pod, and {settings.gpus_per_pod} were asked for"
    return None


def _choose_centers(
    centers: Sequence[DataCenter], settings: Settings, volume: Volume | None
) -> tuple[list[str], list[str]]:
    """Ids of data centres that would do, in the order of the wish."""
    refused: list[str] = []
    by_id = {center.id: center for center in centers}
    wanted = settings.data_centers or sorted(by_id)
    if volume is not None:
        if settings.data_centers and volume.dataCenter not in settings.data_centers:
            refused.append(
                f"volume {volume.name} lies in {volume.dataCenter}, and pods can only be where it is:"
                f" --dc {volume.dataCenter}, or another --volume"
            )
            return [], refused
        wanted = [volume.dataCenter]
    fit = []
    for name in wanted:
        center = by_id.get(name)
        if center is None:
            refused.append(f"{name}: no such data centre{did_you_mean(name, by_id)}")
        elif settings.pods > 1 and not center.globalNetwork:
            if settings.data_centers or volume is not None:
                refused.append(f"{name}: no private network between pods there (needed for more than one)")
        elif volume is None and not center.networkVolumeTypes:
            if settings.data_centers:
                refused.append(f"{name}: no network volumes there")
        else:
            fit.append(name)
    return fit, refused
