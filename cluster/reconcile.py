"""Compare the pods of the account with the records in a cluster's state, and update the records."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from cluster.runpod_models import Pod
from cluster.state import MARKER, PodRecord, State

ANY_PREFIX = "rainbow-"
STOPPED = ("EXITED", "ERROR")  # the pod exists; only its disk is billed


def own_pods(pods: Iterable[Pod], state: State) -> list[Pod]:
    """Return the pods with this cluster's name prefix and marker; either alone may belong to another cluster.

    Args:
        pods: Pods of the account.
        state: State of the cluster.

    Returns:
        The cluster's pods.
    """
    return [pod for pod in pods if pod.name.startswith(state.prefix) and pod.env.get(MARKER) == state.marker]


def marked_pods(pods: Iterable[Pod]) -> list[Pod]:
    """Return the pods of any cluster of rainbow_ray, also of clusters whose state is lost.

    Args:
        pods: Pods of the account.

    Returns:
        Pods with a marker.
    """
    return [pod for pod in pods if pod.name.startswith(ANY_PREFIX) and pod.env.get(MARKER)]


def update_records(state: State, pods: Sequence[Pod], now: float) -> list[PodRecord]:
    """Update the state from a listing, and return the records that the listing contradicts.

    A listing may be delayed: a missing pod may exist, and a listed pod may be gone; both must be requested by id. A pod
    without a record (a creation whose answer was lost) gets one.

    Args:
        state: State of the cluster, which is updated.
        pods: Listing of the account.
        now: Seconds since 1970.

    Returns:
        Records that must be checked by id.
    """
    listed = {pod.name: pod for pod in own_pods(pods, state) if pod.alive or pod.status in STOPPED}
    unconfirmed = []
    for record in state.pods:
        pod = listed.pop(record.name, None)
        if pod is not None and record.step == "ended":
            record.id = pod.id
            unconfirmed.append(record)
        elif pod is not None:
            update_record(record, pod, now)
        elif record.step in ("made", "ready") and record.id is not None:
            unconfirmed.append(record)
    for pod in listed.values():
        role = "head" if pod.env.get("RRAY_ROLE") == "head" else "worker"
        record = PodRecord(name=pod.name, role=role, since=now, deadline=state.deadline)
        update_record(record, pod, now)
        state.pods.append(record)
    return unconfirmed


def update_record(record: PodRecord, pod: Pod, now: float) -> None:
    """Update a record from the API's description of an existing pod.

    Args:
        record: Record, which is updated.
        pod: Description of the pod.
        now: Seconds since 1970.
    """
    record.id, record.data_center = pod.id, pod.dataCenterId
    record.usd_per_hour = pod.cost or record.usd_per_hour
    if record.step in ("asked", "ended"):
        record.step = "made"
    record.until = (record.until or now) if pod.status in STOPPED else None
    if pod.gpu is not None:
        record.gpu, record.gpus = pod.gpu.id, pod.gpu.count
    if pod.ssh.direct is not None:
        record.host, record.port, record.user = pod.ssh.direct.host, pod.ssh.direct.port, pod.ssh.direct.username
    record.private_ip = pod.globalNetworking.ip or record.private_ip


def surplus(state: State, pods: int) -> list[PodRecord]:
    """Return the pods to terminate so that `pods` remain.

    A second head is first, then workers that are not ready, then the youngest workers.

    Args:
        state: State of the cluster.
        pods: Number of pods to keep.

    Returns:
        Records of pods.
    """
    living, head = state.living, state.head
    extra_heads = [record for record in living if record.role == "head" and record is not head]
    workers = [record for record in living if record.role == "worker"]
    workers.sort(key=lambda record: (record.step != "ready", record.since))
    return extra_heads + workers[max(0, pods - 1) :]
