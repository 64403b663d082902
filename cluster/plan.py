"""Rank GPU types and data centers of the catalog by preference, price and stock. No requests are sent."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from cluster.runpod_models import DataCenter, GpuType, Volume
from cluster.settings import Settings
from cluster.torch_cuda import is_too_old
from rainbow_ray.utils.errors import did_you_mean

STOCK = {"HIGH": 0, "MEDIUM": 1, "LOW": 2}  # any other value means no stock
# https://docs.runpod.io/pods/pricing: network storage, USD per GB and month, up to and above 1 TB
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
        candidates: Candidates, in order of preference.
        excluded: The reason for each excluded GPU type or data center.
    """

    candidates: list[Candidate]
    excluded: list[str]


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
    chosen, excluded = _choose_gpus(gpus, settings)
    center_ids, center_reasons = _choose_centers(centers, settings, volume)
    excluded += center_reasons
    ranked = []
    for gpu_rank, gpu in enumerate(chosen):
        price = pod_price(gpu, settings)
        if settings.max_hourly is not None and price * settings.pods > settings.max_hourly + 1e-9:
            excluded.append(
                f"{gpu.name}: {settings.pods} × {price:.2f} USD per hour exceeds --max-hourly {settings.max_hourly:g}"
            )
            continue
        stock = {center.id: center.availability for center in gpu.dataCenters if center.availability in STOCK}
        available = [center for center in center_ids if center in stock]
        if not available:
            excluded.append(f"{gpu.name}: not available in {', '.join(center_ids) or 'any suitable data center'}")
        for center_rank, center in enumerate(available):
            key = (gpu_rank, center_rank if settings.data_centers else 0, STOCK[stock[center]], center)
            candidate = Candidate(gpu.id, gpu.name, gpu.memory, center, stock[center], price)
            ranked.append((key, candidate))
    return Ranked([candidate for _, candidate in sorted(ranked, key=lambda pair: pair[0])], excluded)


def pod_price(gpu: GpuType, settings: Settings) -> float:
    """Return the price of one pod.

    Args:
        gpu: GPU type.
        settings: Settings of the cluster.

    Returns:
        USD per hour.
    """
    usd_per_gpu = gpu.price.secure if settings.cloud == "SECURE" else gpu.price.community
    return usd_per_gpu * settings.gpus_per_pod


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
    """Return the requested GPU types in that order, or all suitable ones by price, and reasons for excluded ones."""
    excluded: list[str] = []
    if settings.gpu:
        requested: list[GpuType] = []
        for name in settings.gpu:
            matches = match_gpu(name, gpus)
            if not matches:
                excluded.append(f"{name}: unknown GPU type{did_you_mean(name, [gpu.name for gpu in gpus])}")
            requested += [gpu for gpu in matches if gpu not in requested]
    else:
        requested = sorted(gpus, key=lambda gpu: (pod_price(gpu, settings), gpu.name))
        requested = [gpu for gpu in requested if gpu.memory >= settings.min_memory and gpu.manufacturer == "NVIDIA"]
    suitable = []
    for gpu in requested:
        reason = _unsuitable_reason(gpu, settings)
        if reason is None:
            suitable.append(gpu)
        elif settings.gpu:
            excluded.append(f"{gpu.name}: {reason}")
    return suitable, excluded


def match_gpu(name: str, gpus: Iterable[GpuType]) -> list[GpuType]:
    """Find GPU types by id or name; a part of a name (`4090`) matches all that contain it.

    Args:
        name: Name, id or part of it.
        gpus: GPU types.

    Returns:
        Matching GPU types; exact matches only, if there are any.
    """
    query = name.lower()
    exact = [gpu for gpu in gpus if query in (gpu.id.lower(), gpu.name.lower())]
    return exact or [gpu for gpu in gpus if query in gpu.name.lower() or query in gpu.id.lower()]


def _unsuitable_reason(gpu: GpuType, settings: Settings) -> str | None:
    secure = settings.cloud == "SECURE"
    if gpu.manufacturer != "NVIDIA":
        return f"manufactured by {gpu.manufacturer}; the image requires NVIDIA"
    if not (gpu.secure if secure else gpu.community) or not pod_price(gpu, settings):
        return f"not offered in the {settings.cloud} cloud"
    if is_too_old(gpu.name, settings.min_cuda):
        return f"PyTorch for CUDA {settings.min_cuda} has no code for it (Volta or older)"
    max_count = gpu.maxCount.secure if secure else gpu.maxCount.community
    if max_count and settings.gpus_per_pod > max_count:
        return f"at most {max_count} per pod, but --gpus-per-pod is {settings.gpus_per_pod}"
    return None


def _choose_centers(
    centers: Sequence[DataCenter], settings: Settings, volume: Volume | None
) -> tuple[list[str], list[str]]:
    """Return ids of suitable data centers in order of preference, and reasons for excluded ones."""
    excluded: list[str] = []
    by_id = {center.id: center for center in centers}
    requested = settings.data_centers or sorted(by_id)
    if volume is not None:
        if settings.data_centers and volume.dataCenter not in settings.data_centers:
            excluded.append(
                f"volume {volume.name} is in {volume.dataCenter} and pods must be in the same data center: use"
                f" --dc {volume.dataCenter} or another --volume"
            )
            return [], excluded
        requested = [volume.dataCenter]
    suitable = []
    for name in requested:
        center = by_id.get(name)
        if center is None:
            excluded.append(f"{name}: unknown data center{did_you_mean(name, by_id)}")
        elif settings.pods > 1 and not center.globalNetwork:
            if settings.data_centers or volume is not None:
                excluded.append(f"{name}: no private network between pods, which clusters of several pods require")
        elif volume is None and not center.networkVolumeTypes:
            if settings.data_centers:
                excluded.append(f"{name}: no network volumes")
        else:
            suitable.append(name)
    return suitable, excluded
