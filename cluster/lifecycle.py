"""Pods are made, waited for, replaced and ended. Nothing here trusts one answer: names and markers say what is ours."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

from cluster.plan import Candidate
from cluster.pod_request import pod_request
from cluster.remote import reach
from cluster.runpod_api import ApiError, Forbidden, NoCapacity, Pod, RunPod, Unavailable
from cluster.state import ClusterFolder, PodRecord, State, VolumeRecord
from cluster.survey import own_pods, update_record, update_records

SWEEPS = 4  # listings in which a pod whose creation is uncertain is looked for
EMPTY_LISTINGS = 3  # in a row, before a cluster counts as gone
DOWN_SECONDS = 300.0


class ClusterError(Exception):
    """Something that was tried and did not come about; nothing is left running unsaid."""


@dataclass
class Cluster:
    """A cluster that a command changes: its folder and state, and RunPod's API."""

    folder: ClusterFolder
    state: State
    client: RunPod
    say: Callable[[str], None] = print
    pause: Callable[[float], None] = time.sleep
    clock: Callable[[], float] = time.time
    poll: float = 2.0  # seconds between listings
    _unplaced: set[Candidate] = field(default_factory=set)

    def save(self) -> None:
        self.folder.write(self.state)

    @contextlib.contextmanager
    def timed(self, stage: str) -> Iterator[None]:
        """How long a stage takes, into the state."""
        begun = time.perf_counter()
        yield
        self.state.seconds[stage] = round(time.perf_counter() - begun, 2)

    def look(self) -> list[Pod]:
        """The cluster's own pods, as the account lists them now; the state follows. Raises `ApiError`.

        Nothing is asked about a pod that was made by hand: there may be no key.
        """
        if self.state.adopted:
            return []
        pods = self.client.pods()
        update_records(self.state, pods, self.clock())
        self.save()
        return own_pods(pods, self.state)

    def create(self, role: str, candidates: Sequence[Candidate]) -> PodRecord:
        """One pod of the first candidate that has room. It is written down before it is asked for.

        Raises `ApiError` for what no other candidate would mend, `ClusterError` when none has room.
        """
        told = []
        for candidate in candidates:
            if candidate in self._unplaced:
                continue
            record = self._ask(role, candidate)
            try:
                update_record(record, self._create_or_find(record, candidate))
            except (NoCapacity, Forbidden) as refused:
                self._forget(record)
                self._unplaced.add(candidate)
                told.append(f"{candidate.name} in {candidate.data_center}: {refused.detail}")
                continue
            except Unavailable:
                raise  # it may exist: the record stays, and whoever looks for the cluster's pods finds it
            except ApiError:
                self._forget(record)
                raise
            self.save()
            return record
        tried = "\n  ".join(told) or "nothing that was asked for is free"
        raise ClusterError(f"no pod could be placed:\n  {tried}\n{NoCapacity.advice}")

    def end(self, record: PodRecord) -> None:
        """End one pod. Raises `ApiError`."""
        if record.id is not None:
            self.client.terminate(record.id)
        record.step, record.until = "ended", self.clock()
        self.save()

    def wait_for_ssh(self, record: PodRecord) -> bool:
        """RUNNING is not ready: it has a runtime, an address, and ssh answers there. False when that takes too long."""
        until = self.clock() + self.state.settings.ready_within
        while self.clock() < until:
            assert record.id is not None
            try:
                pod = self.client.pod(record.id)
            except Unavailable:
                self.pause(self.poll)
                continue
            except ApiError:
                return False
            update_record(record, pod)
            if pod.status in ("EXITED", "ERROR", "TERMINATED"):
                return False
            networked = pod.globalNetworking.ip is not None or not pod.globalNetworking.enabled
            addressed = pod.runtime is not None and pod.ssh.direct is not None and networked
            if addressed and reach(self.folder, record).answers():
                return True
            self.pause(self.poll)
        return False

    def end_all(self) -> None:
        """End every pod of the cluster, and go on until the account lists none of them, several times over.

        Raises `ClusterError` with the pods that are left, and when they end themselves.
        """
        until, empty, problem = self.clock() + DOWN_SECONDS, 0, ""
        needed = EMPTY_LISTINGS if any(record.step == "asked" for record in self.state.living) else 2
        while empty < needed:
            if self.clock() > until:
                raise ClusterError(self._left(problem))
            try:
                own = [pod for pod in self.look() if pod.status != "TERMINATED"]
                empty = 0 if own else empty + 1
                for pod in own:
                    self.client.terminate(pod.id)
                    self.say(f"ended {pod.name}")
            except ApiError as error:
                problem, empty = str(error), 0
            if empty < needed:
                self.pause(self.poll)
        now = self.clock()
        for record in self.state.living:
            record.step, record.until = "ended", record.until or now
        self.save()

    def _ask(self, role: str, candidate: Candidate) -> PodRecord:
        now = self.clock()
        record = PodRecord(
            name=self.state.next_name(role), role="head" if role == "head" else "worker", gpu=candidate.gpu,
            gpus=self.state.settings.gpus_per_pod, data_center=candidate.data_center, deadline=self.state.deadline,
            usd_per_hour=candidate.usd_per_hour, since=now,
        )  # fmt: skip
        self.state.pods.append(record)
        self.save()
        return record

    def _create_or_find(self, record: PodRecord, candidate: Candidate) -> Pod:
        """Raises `ApiError`; `Unavailable` when the pod's name does not turn up after an uncertain creation."""
        public_key = self.folder.key.with_suffix(".pub").read_text().strip()
        try:
            return self.client.create_pod(pod_request(self.state, record, candidate, public_key))
        except Unavailable as uncertain:
            for _ in range(SWEEPS):
                self.pause(self.poll)
                try:
                    pods = own_pods(self.client.pods(), self.state)
                except Unavailable:
                    continue
                for pod in pods:
                    if pod.name == record.name:
                        return pod
            raise uncertain

    def _forget(self, record: PodRecord) -> None:
        """It was refused, so it never was."""
        self.state.pods.remove(record)
        self.save()

    def _left(self, problem: str) -> str:
        left = [record for record in self.state.living if record.id is not None]
        named = (
            ", ".join(f"{record.name} ({record.id})" for record in left) or "perhaps a pod whose creation is uncertain"
        )
        at = time.strftime("%H:%M on %d %B", time.localtime(self.state.deadline))
        return (
            f"not all pods are known to be gone: {named}. {problem} Run `down` again, or end them at"
            f" https://console.runpod.io/pods; whatever happens they end themselves at {at}."
        )


def find_or_make_volume(cluster: Cluster, name: str, size: int, data_center: str) -> VolumeRecord:
    """The volume of this name, made where there is none; an uncertain creation is looked for. Raises `ApiError`."""
    state = cluster.state
    for volume in cluster.client.volumes():
        if name in (volume.id, volume.name):
            known = state.volume is not None and state.volume.name == volume.name and state.volume.ours
            state.volume = VolumeRecord(
                name=volume.name, id=volume.id, size=volume.size, data_center=volume.dataCenter, ours=known
            )
            cluster.save()
            return state.volume
    state.volume = VolumeRecord(name=name, size=size, data_center=data_center, ours=True)
    cluster.save()
    try:
        made = cluster.client.create_volume(name, size, data_center)
    except Unavailable as uncertain:
        cluster.pause(cluster.poll)
        found = next((volume for volume in cluster.client.volumes() if volume.name == name), None)
        if found is None:
            raise uncertain
        made = found
    state.volume.id = made.id
    cluster.save()
    return state.volume
