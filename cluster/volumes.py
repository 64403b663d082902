"""The network volume that a cluster's pods share: found or made, remembered as ours, given back."""

from __future__ import annotations

from collections.abc import Iterable

from cluster.lifecycle import Cluster
from cluster.plan import volume_usd_per_month
from cluster.runpod_api import ApiError
from cluster.runpod_models import Pod, Volume
from cluster.state import State, VolumeRecord


def find_or_make_volume(cluster: Cluster, name: str, size: int, data_center: str) -> VolumeRecord:
    """Find a network volume, or create it.

    A creation with an unknown outcome is searched for by name.

    Args:
        cluster: Cluster whose state records the volume.
        name: Name or id of the volume.
        size: Size in GB of a new volume.
        data_center: Data center of a new volume.

    Returns:
        The record of the volume.

    Raises:
        ApiError: The volume could not be listed or created.
    """
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
    """Delete the volume that this command created.

    Args:
        cluster: Cluster whose state records the volume.

    Returns:
        A message about a volume that is left, or an empty string.
    """
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
    """Describe the monthly cost of a volume and how to delete it.

    Args:
        volume: Record of the volume.

    Returns:
        A phrase for messages.
    """
    how = "`gc --volumes` ends it" if volume.ours else "it was not made here: the console ends it"
    return f"{volume_usd_per_month(volume.size):.2f} USD a month; {how}"


def our_volumes(states: Iterable[State]) -> set[str]:
    """Return the ids of volumes that were created from this machine.

    Args:
        states: States of clusters.

    Returns:
        Volume ids.
    """
    volumes = (state.volume for state in states)
    return {volume.id for volume in volumes if volume is not None and volume.ours and volume.id is not None}


def mounted_volumes(pods: Iterable[Pod]) -> set[str]:
    """Return the ids of volumes that any pod has mounted.

    Args:
        pods: Pods of the account.

    Returns:
        Volume ids.
    """
    return {mount.volumeId for pod in pods for mount in pod.mounts.network}


def _remember(cluster: Cluster, volume: Volume, *, ours: bool) -> VolumeRecord:
    record = VolumeRecord(
        name=volume.name, id=volume.id, size=volume.size, data_center=volume.dataCenter, ours=ours
    )  # fmt: skip
    cluster.state.volume = record
    cluster.save()
    return record
