"""The network volume that the pods of a cluster share: find, create and delete it, and record whether it is owned."""

from __future__ import annotations

from collections.abc import Iterable

from cluster.lifecycle import Cluster
from cluster.plan import volume_usd_per_month
from cluster.runpod_api import ApiError
from cluster.runpod_models import Pod, Volume
from cluster.state import State, VolumeRecord


def find_or_create_volume(cluster: Cluster, name: str, size: int, data_center: str) -> VolumeRecord:
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
            owned = volume.id in owned_volume_ids([state, *cluster.folder.read_ended()])
            # requested by a command that was killed before it received the response
            requested = state.volume if state.volume is not None and state.volume.id is None else None
            owned |= requested is not None and requested.ours and requested.name == volume.name
            return _record(cluster, volume, owned=owned)
    state.volume = VolumeRecord(name=name, size=size, data_center=data_center, ours=True)
    cluster.save()
    try:
        created = cluster.client.create_volume(name, size, data_center)
    except ApiError as error:
        if error.rejected:
            state.volume = None
            cluster.save()
            raise
        cluster.pause(cluster.poll)
        match = next((volume for volume in cluster.client.volumes() if volume.name == name), None)
        if match is None:
            raise
        created = match
    cluster.created_volume = True
    return _record(cluster, created, owned=True)


def delete_created_volume(cluster: Cluster) -> str:
    """Delete the volume that this command created.

    Args:
        cluster: Cluster whose state records the volume.

    Returns:
        A message about a volume that is kept, or an empty string.
    """
    volume = cluster.state.volume
    if volume is None:
        return ""
    reason = ""
    if volume.id is None:
        reason = "its creation is uncertain; "
    elif cluster.created_volume:
        try:
            cluster.client.delete_volume(volume.id)
        except ApiError as error:
            reason = f"{error} "
        else:
            cluster.state.volume, cluster.created_volume = None, False
            cluster.save()
            return ""
    return f"volume {volume.name} ({volume.id or 'id unknown'}) is kept: {reason}{format_volume_price(volume)}"


def format_volume_price(volume: VolumeRecord) -> str:
    """Describe the monthly cost of a volume and how to delete it.

    Args:
        volume: Record of the volume.

    Returns:
        A phrase for messages.
    """
    deletion = (
        "run `gc --volumes` to delete it"
        if volume.ours
        else "it was not created from this machine: delete it in the console"
    )
    return f"{volume_usd_per_month(volume.size):.2f} USD per month; {deletion}"


def owned_volume_ids(states: Iterable[State]) -> set[str]:
    """Return the ids of volumes that were created from this machine.

    Args:
        states: States of clusters.

    Returns:
        Volume ids.
    """
    volumes = (state.volume for state in states)
    return {volume.id for volume in volumes if volume is not None and volume.ours and volume.id is not None}


def mounted_volume_ids(pods: Iterable[Pod]) -> set[str]:
    """Return the ids of volumes that any pod has mounted.

    Args:
        pods: Pods of the account.

    Returns:
        Volume ids.
    """
    return {mount.volumeId for pod in pods for mount in pod.mounts.network}


def _record(cluster: Cluster, volume: Volume, *, owned: bool) -> VolumeRecord:
    record = VolumeRecord(
        name=volume.name, id=volume.id, size=volume.size, data_center=volume.dataCenter, ours=owned
    )  # fmt: skip
    cluster.state.volume = record
    cluster.save()
    return record
