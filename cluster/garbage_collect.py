"""The command `gc`: pods that belong to no cluster of this machine, and owned volumes that no pod uses."""

from __future__ import annotations

import sys
import time

from cluster.lifecycle import ClusterError
from cluster.plan import volume_usd_per_month
from cluster.pricing import confirm
from cluster.reconcile import marked_pods, own_pods
from cluster.registry import open_api
from cluster.runpod_api import ApiError, RunPod
from cluster.runpod_models import Pod, Volume
from cluster.state import MARKER, ClusterFolder, State, clusters_folder
from cluster.volumes import mounted_volume_ids, owned_volume_ids
from rainbow_ray.utils.errors import InputError


def gc(*, volumes: bool, running: bool, yes: bool, dry_run: bool) -> int:
    """Terminate pods that belong to no cluster of this machine, and delete unused volumes.

    A pod with a deadline in the future may belong to another machine: it is listed, and terminated with `running` only.

    Args:
        volumes: Whether to delete unused volumes that were created from this machine.
        running: Whether to terminate pods with a deadline in the future.
        yes: Whether to skip the confirmation.
        dry_run: Whether to print only.

    Returns:
        The exit code.
    """
    client = open_api()
    account_volumes = client.volumes() if volumes else []
    # list the pods before reading the states: a new cluster's state is written before its pods are requested
    pods = client.pods()
    states, ended_states = _read_states()
    orphaned = _orphaned_pods(pods, states, ended_states, running=running)
    unused_ids = _unused_volume_ids(pods, states, ended_states)
    unused = [volume for volume in account_volumes if volume.id in unused_ids]
    for volume in unused:
        usd_per_month = volume_usd_per_month(volume.size)
        print(f"volume {volume.name} ({volume.id}, {volume.size} GB): {usd_per_month:.2f} USD per month")
    if not orphaned and not unused:
        print("nothing to clean up")
        return 0
    if dry_run or not (yes or confirm("Terminate these pods and delete these volumes with their data?")):
        return 0 if dry_run else 1
    _delete(client, orphaned, unused)
    return 0


def _read_states() -> tuple[list[State], list[State]]:
    """Return the states of existing and of ended clusters; a file that cannot be read is skipped with a warning."""
    states, ended_states = [], []
    for path in sorted(clusters_folder().glob("*/")):
        try:
            folder = ClusterFolder(path.name)
            ended_states += folder.read_ended()
            state = folder.read()
        except InputError as error:
            print(f"warning: {error}", file=sys.stderr)
            continue
        if state is not None:
            states.append(state)
    return states, ended_states


def _orphaned_pods(pods: list[Pod], states: list[State], ended_states: list[State], *, running: bool) -> list[Pod]:
    owned_ids = {pod.id for state in states for pod in own_pods(pods, state)}
    ended_markers = {state.marker for state in ended_states}
    orphaned = []
    for pod in marked_pods(pods):
        if pod.id in owned_ids or pod.status == "TERMINATED":
            continue
        description = f"pod {pod.name} ({pod.id}): {pod.cost:.2f} USD per hour, belongs to no local cluster"
        remaining_seconds = _remaining_seconds(pod)
        if remaining_seconds > 0 and pod.env[MARKER] not in ended_markers and not running:
            deadline = time.strftime("%H:%M on %d %B", time.localtime(time.time() + remaining_seconds))
            print(
                f"{description}; skipped, since it terminates itself at {deadline} and may belong to another machine"
                " (use --running to terminate it)"
            )
            continue
        print(description)
        orphaned.append(pod)
    return orphaned


def _remaining_seconds(pod: Pod) -> float:
    try:
        return float(pod.env["RRAY_DEADLINE"]) - time.time()
    except (KeyError, ValueError):
        return 0.0


def _unused_volume_ids(pods: list[Pod], states: list[State], ended_states: list[State]) -> set[str]:
    """Return the volumes that were created from this machine, are not mounted and belong to no existing cluster."""
    used_ids = {state.volume.id for state in states if state.volume is not None and (state.living or state.uncertain)}
    return owned_volume_ids([*states, *ended_states]) - mounted_volume_ids(pods) - used_ids


def _delete(client: RunPod, pods: list[Pod], volumes: list[Volume]) -> None:
    """Terminate pods and delete volumes. Raises `ClusterError` that lists all failures."""
    errors = []
    for pod in pods:
        try:
            client.terminate(pod.id)
        except ApiError as error:
            errors.append(f"pod {pod.name} ({pod.id}): {error}")
    for volume in volumes:
        try:
            client.delete_volume(volume.id)
        except ApiError as error:
            errors.append(f"volume {volume.name} ({volume.id}): {error}")
    if not errors:
        print(f"deleted {len(pods)} pods and {len(volumes)} volumes")
    else:
        total = len(pods) + len(volumes)
        print(f"deleted {total - len(errors)} of {total} ({len(pods)} pods and {len(volumes)} volumes)")
        raise ClusterError("\n".join(errors))
