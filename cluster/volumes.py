"""The network volume that a cluster's pods share: found or made, remembered as ours, given back."""

from __future__ import annotations

from collections.abc import Iterable

from cluster.lifecycle import Cluster
from cluster.plan import volume_usd_per_month
from cluster.runpod_api import ApiError, Pod, Volume
from cluster.state import State, VolumeRecord


def find_or_make_volume(cluster: Cluster, name: str, size: int, data_center: str) -> VolumeRecord:
    """The volume of this name, made where there is none; an uncertain creation is looked for. Raises `ApiError`."""
    state = cluster.state
    for volume in cluster.client.volumes():
        if name in (volume.id, volume.name):
            ours = volume.id in our_volumes([state, *cluster.folder.ended()])
            # asked for by a command that was killed before it had an answer
            asked = state.volume if state.volume is not None and state.volume.id is None else None
            ours |= asked is not None and asked.ours and asked.name == volume.name
            return _remember(cluster, volume, ours=ours)
    state.volume = VolumeRecord(name=name, size=size, data_center=data_center, ours=True)
    cluster.save()
    try:
        made = cluster.client.create_volume(name, size, data_center)
    except ApiError as uncertain:
        if uncertain.refused:
            state.volume = None
            cluster.save()
            raise
        cluster.pause(cluster.poll)
        found = next((volume for volume in cluster.client.volumes() if volume.name == name), None)
        if found is None:
            raise
        made = found
    cluster.made_volume = True
    return _remember(cluster, made, ours=True)


def give_back_volume(cluster: Cluster) -> str:
    """End the volume that this command made, and say which one is left, if any."""
    volume = cluster.state.volume
    if volume is None:
        return ""
    problem = ""
    if volume.id is None:
        problem = "it may have been made all the same; "
    elif cluster.made_volume:
        try:
            cluster.client.delete_volume(volume.id)
        except ApiError as error:
            problem = f"{error} "
        else:
            cluster.state.volume, cluster.made_volume = None, False
            cluster.save()
            return ""
    return f"volume {volume.name} ({volume.id or 'id unknown'}) stays: {problem}{say_price(volume)}"


def say_price(volume: VolumeRecord) -> str:
    """What it costs, and what ends it."""
    how = "`gc --volumes` ends it" if volume.ours else "it was not made here: the console ends it"
    return f"{volume_usd_per_month(volume.size):.2f} USD a month; {how}"


def our_volumes(states: Iterable[State]) -> set[str]:
    """Ids of volumes that this machine made."""
    volumes = (state.volume for state in states)
    return {volume.id for volume in volumes if volume is not None and volume.ours and volume.id is not None}


def mounted_volumes(pods: Iterable[Pod]) -> set[str]:
    return {mount.volumeId for pod in pods for mount in pod.mounts.network}


def _remember(cluster: Cluster, volume: Volume, *, ours: bool) -> VolumeRecord:
    record = VolumeRecord(
        name=volume.name, id=volume.id, size=volume.size, data_center=volume.dataCenter, ours=ours
    )  # fmt: skip
    cluster.state.volume = record
    cluster.save()
    return record
