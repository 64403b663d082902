"""Which of an account's pods are a cluster's own, and what became of those that its state knows of."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from cluster.runpod_api import Pod
from cluster.state import MARKER, PodRecord, State

ANY_PREFIX = "rainbow-"
STOPPED = ("EXITED", "ERROR")  # it is there, and costs nothing but its disk


def own_pods(pods: Iterable[Pod], state: State) -> list[Pod]:
    """Pods that carry this cluster's prefix and its marker: either alone may be another one's."""
    return [pod for pod in pods if pod.name.startswith(state.prefix) and pod.env.get(MARKER) == state.marker]


def marked_pods(pods: Iterable[Pod]) -> list[Pod]:
    """Pods of any cluster of ours, also of those whose state is lost."""
    return [pod for pod in pods if pod.name.startswith(ANY_PREFIX) and pod.env.get(MARKER)]


def update_records(state: State, pods: Sequence[Pod], now: float) -> list[PodRecord]:
    """Bring the state up to what a listing says, and give the records that it contradicts.

    A listing may lag: a pod that it lacks may be there, and one that it has may be gone. Ask for both by their ids.
    A pod of ours that has no record (a creation whose answer was lost, by a command that was killed) gets one.
    """
    found = {pod.name: pod for pod in own_pods(pods, state) if pod.alive or pod.status in STOPPED}
    doubtful = []
    for record in state.pods:
        pod = found.pop(record.name, None)
        if pod is not None and record.step == "ended":
            record.id = pod.id
            doubtful.append(record)
        elif pod is not None:
            update_record(record, pod, now)
        elif record.step in ("made", "ready") and record.id is not None:
            doubtful.append(record)
    for pod in found.values():
        role = "head" if pod.env.get("RRAY_ROLE") == "head" else "worker"
        record = PodRecord(name=pod.name, role=role, since=now, deadline=state.deadline)
        update_record(record, pod, now)
        state.pods.append(record)
    return doubtful


def update_record(record: PodRecord, pod: Pod, now: float) -> None:
    """What the API says of a pod that is there."""
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
    """Which pods to end so that `pods` are left: a second head, then workers: those not ready, and the youngest."""
    living, head = state.living, state.head
    spare = [record for record in living if record.role == "head" and record is not head]
    workers = [record for record in living if record.role == "worker"]
    workers.sort(key=lambda record: (record.step != "ready", record.since))
    return spare + workers[max(0, pods - 1) :]
