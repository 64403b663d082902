"""Which of an account's pods are a cluster's own, and what became of those that its state knows of."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from cluster.runpod_api import Pod
from cluster.state import MARKER, PodRecord, State

ANY_PREFIX = "rainbow-"


def own_pods(pods: Iterable[Pod], state: State) -> list[Pod]:
    """Pods that carry this cluster's prefix and its marker: either alone may be another one's."""
    return [pod for pod in pods if pod.name.startswith(state.prefix) and pod.env.get(MARKER) == state.marker]


def marked_pods(pods: Iterable[Pod]) -> list[Pod]:
    """Pods of any cluster of ours, also of those whose state is lost."""
    return [pod for pod in pods if pod.name.startswith(ANY_PREFIX) and pod.env.get(MARKER)]


def update_records(state: State, pods: Sequence[Pod], now: float) -> None:
    """Bring the state up to what a listing says. The listing must be whole: what it lacks is gone.

    A pod that was asked for and is not there stays asked for, since it may come later. A pod of ours that has no record
    (a creation whose answer was lost, by a command that was killed) gets one.
    """
    found = {pod.name: pod for pod in own_pods(pods, state) if pod.alive or pod.status in ("EXITED", "ERROR")}
    for record in state.living:
        pod = found.pop(record.name, None)
        if pod is not None:
            update_record(record, pod)
        elif record.id is not None:
            record.step, record.until = "ended", now
    for pod in found.values():
        ended = next((record for record in state.pods if record.name == pod.name), None)
        record = ended or PodRecord(name=pod.name, role="worker", since=now, deadline=state.deadline)
        record.step, record.until = "made", None
        update_record(record, pod)
        if ended is None:
            state.pods.append(record)


def update_record(record: PodRecord, pod: Pod) -> None:
    """What the API says of a pod."""
    record.id, record.data_center = pod.id, pod.dataCenterId
    record.usd_per_hour = pod.cost or record.usd_per_hour
    if record.step == "asked":
        record.step = "made"
    if pod.gpu is not None:
        record.gpu, record.gpus = pod.gpu.id, pod.gpu.count
    if pod.ssh.direct is not None:
        record.host, record.port, record.user = pod.ssh.direct.host, pod.ssh.direct.port, pod.ssh.direct.username
    record.private_ip = pod.globalNetworking.ip or record.private_ip
