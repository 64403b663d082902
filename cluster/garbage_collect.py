"""`gc`: pods of ours that no cluster of this machine knows, and volumes of ours that no pod uses."""

from __future__ import annotations

import sys
import time

from cluster.lifecycle import ClusterError
from cluster.plan import volume_usd_per_month
from cluster.pricing import agreed
from cluster.reconcile import marked_pods, own_pods
from cluster.registry import open_api
from cluster.runpod_api import ApiError, RunPod
from cluster.runpod_models import Pod, Volume
from cluster.state import MARKER, ClusterFolder, State, clusters_folder
from cluster.volumes import mounted_volumes, our_volumes
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
    listed = client.volumes() if volumes else []
    # first what there is, then what is known: a cluster that is being made is written down before it is asked for
    pods = client.pods()
    states, over = _read_states()
    lost = _lost_pods(pods, states, over, running=running)
    idle = [volume for volume in listed if volume.id in _idle_volumes(pods, states, over)]
    for volume in idle:
        print(
            f"volume {volume.name} ({volume.id}, {volume.size} GB): {volume_usd_per_month(volume.size):.2f} USD a month"
        )
    if not lost and not idle:
        print("nothing to end")
        return 0
    if dry_run or not (yes or agreed("End all of these? Volumes are gone with their data.")):
        return 0 if dry_run else 1
    _end(client, lost, idle)
    return 0


def _read_states() -> tuple[list[State], list[State]]:
    """Clusters that are there, and those that are over; a file that cannot be read is told, and hinders nothing."""
    states, over = [], []
    for path in sorted(clusters_folder().glob("*/")):
        try:
            folder = ClusterFolder(path.name)
            over += folder.ended()
            state = folder.read()
        except InputError as error:
            print(f"warning: {error}", file=sys.stderr)
            continue
        if state is not None:
            states.append(state)
    return states, over


def _lost_pods(pods: list[Pod], states: list[State], over: list[State], *, running: bool) -> list[Pod]:
    known = {pod.id for state in states for pod in own_pods(pods, state)}
    ended_here = {state.marker for state in over}
    lost = []
    for pod in marked_pods(pods):
        if pod.id in known or pod.status == "TERMINATED":
            continue
        told = f"pod {pod.name} ({pod.id}): {pod.cost:.2f} USD an hour, of no cluster that is known here"
        left = _seconds_left(pod)
        if left > 0 and pod.env[MARKER] not in ended_here and not running:
            at = time.strftime("%H:%M on %d %B", time.localtime(time.time() + left))
            print(f"{told}; it ends itself at {at} and may be another machine's: left alone (--running ends it too)")
            continue
        print(told)
        lost.append(pod)
    return lost


def _seconds_left(pod: Pod) -> float:
    try:
        return float(pod.env["RRAY_DEADLINE"]) - time.time()
    except (KeyError, ValueError):
        return 0.0


def _idle_volumes(pods: list[Pod], states: list[State], over: list[State]) -> set[str]:
    """Made by this machine, mounted nowhere, and of no cluster that is there."""
    used = {state.volume.id for state in states if state.volume is not None and (state.living or state.uncertain)}
    return {name for name in our_volumes([*states, *over]) - mounted_volumes(pods) if name not in used}


def _end(client: RunPod, pods: list[Pod], volumes: list[Volume]) -> None:
    """Each is tried. Raises `ClusterError` with what could not be ended."""
    problems = []
    for pod in pods:
        try:
            client.terminate(pod.id)
        except ApiError as error:
            problems.append(f"pod {pod.name} ({pod.id}): {error}")
    for volume in volumes:
        try:
            client.delete_volume(volume.id)
        except ApiError as error:
            problems.append(f"volume {volume.name} ({volume.id}): {error}")
    print(f"ended {len(pods) + len(volumes) - len(problems)} of {len(pods)} pods and {len(volumes)} volumes"
          if problems else f"ended {len(pods)} pods and {len(volumes)} volumes")  # fmt: skip
    if problems:
        raise ClusterError("\n".join(problems))
