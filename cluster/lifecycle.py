"""Pods are made, waited for, replaced and ended. Nothing here trusts one answer: names and markers say what is ours."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

from cluster.plan import Candidate
from cluster.pod_request import pod_request
from cluster.reconcile import STOPPED, own_pods, update_record, update_records
from cluster.remote import reach
from cluster.runpod_api import ApiError, Forbidden, NoCapacity, NotFound, RateLimited, RunPod, Unauthorized, Unavailable
from cluster.runpod_models import Pod
from cluster.state import ClusterFolder, PodRecord, State

SWEEPS = 4  # listings in which a pod whose creation is uncertain is looked for, before another one is asked for
CREATE_TRIES = 3  # creations of uncertain outcome, before it is given up
EMPTY_LOOKS = 2  # in a row, before a cluster counts as gone
GONE_ANSWERS = 3  # in a row, before a pod that is waited for counts as gone
DOWN_SECONDS = 300.0
SETTLE_SECONDS = 60.0  # for so long, a pod that was asked for may still turn up


class ClusterError(Exception):
    """Something that was tried and did not come about; nothing is left running unsaid."""


class NoCapacityError(ClusterError):
    """None of the candidates could be placed."""


@dataclass
class Cluster:
    """A cluster that a command changes.

    Attributes:
        folder: Folder of the cluster on this machine.
        state: State of the cluster.
        client: Client of RunPod's API.
        say: Prints a message.
        pause: Sleeps for some seconds.
        clock: Returns seconds since 1970.
        poll: Seconds between requests that wait for something.
        listing_delay: Seconds within which a created pod appears in a listing.
        stop: Set when a parallel step must end.
        made_volume: Whether this command created the volume.
    """

    folder: ClusterFolder
    state: State
    client: RunPod
    say: Callable[[str], None] = print
    pause: Callable[[float], None] = time.sleep
    clock: Callable[[], float] = time.time
    poll: float = 2.0  # seconds between listings
    listing_delay: float = SETTLE_SECONDS
    made_volume: bool = False  # by this command: nothing lies on it that anybody would miss
    stop: threading.Event = field(default_factory=threading.Event)  # Ctrl-C: whoever waits gives up
    _unplaced: set[Candidate] = field(default_factory=set)

    def save(self) -> None:
        """Write the state to the cluster's folder."""
        self.folder.write(self.state)

    @contextlib.contextmanager
    def timed(self, stage: str) -> Iterator[None]:
        """Record the duration of a stage in the state.

        Args:
            stage: Name of the stage.

        Yields:
            Nothing.
        """
        begun = time.perf_counter()
        yield
        self.state.seconds[stage] = round(time.perf_counter() - begun, 2)

    def look(self, *, save: bool = True) -> list[Pod]:
        """List the cluster's own pods and update the state.

        Where the listing and the state differ, the pod is requested by id; only "no such pod" ends a record. Nothing is
        requested for an adopted pod, since there may be no key.

        Args:
            save: Whether the updated state is written.

        Returns:
            The cluster's pods in the account.

        Raises:
            ApiError: The pods could not be listed.
        """
        if self.state.adopted:
            return []
        pods, now = self.client.pods(), self.clock()
        found = {pod.id: pod for pod in own_pods(pods, self.state)}
        for record in update_records(self.state, pods, now):
            assert record.id is not None
            try:
                pod = self.client.pod(record.id)
            except NotFound:
                found.pop(record.id, None)
                _mark_ended(record, now)
            except (Unavailable, RateLimited):
                continue  # nobody knows: the state stays as it is
            else:
                found[pod.id] = pod
                if pod.status == "TERMINATED":
                    _mark_ended(record, now)
                else:
                    update_record(record, pod, now)
        if save:
            self.save()
        return [pod for pod in found.values() if pod.status != "TERMINATED"]

    def resolve(self) -> None:
        """Pods that were asked for and never heard of: found by name, or given up when they were not for `settle`.

        Raises `ApiError`.
        """
        while True:
            now = self.clock()
            self.look()
            for record in self.state.uncertain:
                if now - record.since >= self.listing_delay:
                    self._forget(record)
            if not self.state.uncertain or self.stop.is_set():
                return
            self.pause(self.poll)

    def create(self, role: str, candidates: Sequence[Candidate]) -> PodRecord:
        """Create one pod of the first candidate with capacity. The pod is recorded before the request is sent.

        When the outcome of a creation is unknown and the pod does not appear, another pod is requested; the
        record of the first is kept.

        Args:
            role: `head` or `worker`.
            candidates: GPU types and data centers, most wanted first.

        Returns:
            The record of the pod.

        Raises:
            ApiError: An error that no other candidate would resolve.
            NoCapacityError: No candidate has capacity.
        """
        self._need_volume()
        told, uncertain = [], 0
        left = [candidate for candidate in candidates if candidate not in self._unplaced]
        while left:
            candidate = left[0]
            record = self._ask(role, candidate)
            try:
                update_record(record, self._create_or_find(record, candidate), self.clock())
            except ApiError as problem:
                if not problem.refused:  # it may exist: the record stays, and whoever looks for pods finds it
                    uncertain += 1
                    if uncertain < CREATE_TRIES:
                        continue
                    raise
                self._forget(record)
                if not isinstance(problem, NoCapacity | Forbidden):
                    raise
                self._unplaced.add(candidate)
                told.append(f"{candidate.name} in {candidate.data_center}: {problem.detail}")
                left.pop(0)
            else:
                self.save()
                return record
        tried = "\n  ".join(told) or "nothing that was asked for is free"
        raise NoCapacityError(f"no pod could be placed:\n  {tried}\n{NoCapacity.advice}")

    def end(self, record: PodRecord) -> None:
        """Terminate one pod.

        Args:
            record: Record of the pod.

        Raises:
            ApiError: The pod could not be terminated.
        """
        if record.id is not None:
            self.client.terminate(record.id)
        _mark_ended(record, self.clock())
        self.save()

    def wait_for_ssh(self, record: PodRecord) -> bool:
        """Wait until ssh answers on a pod.

        Args:
            record: Record of the pod.

        Returns:
            Whether ssh answered within `ready_within` seconds.

        Raises:
            ApiError: An error that waiting does not resolve.
        """
        until, gone = self.clock() + self.state.settings.ready_within, 0
        while self.clock() < until and not self.stop.is_set():
            assert record.id is not None
            try:
                pod = self.client.pod(record.id)
            except NotFound:
                gone += 1
                if gone >= GONE_ANSWERS:
                    return False
            except (Unavailable, RateLimited) as problem:
                # no fault of the pod's
                self.pause(min(problem.retry_after or 0.0, max(0.0, until - self.clock())))
            else:
                gone = 0
                update_record(record, pod, self.clock())
                if pod.status in (*STOPPED, "TERMINATED"):
                    return False
                networked = pod.globalNetworking.ip is not None or not pod.globalNetworking.enabled
                addressed = pod.runtime is not None and pod.ssh.direct is not None and networked
                if addressed and reach(self.folder, record).answers():
                    return True
            self.pause(self.poll)
        return False

    def end_all(self) -> None:
        """Terminate every pod of the cluster, and wait until none exists, neither by id nor in two listings in a row.

        Pods are terminated by id whether they are listed or not. A pod whose creation is uncertain is searched for
        until it can no longer appear.

        Raises:
            ClusterError: Pods that may still exist, and when they stop by themselves.
        """
        until, empty = self.clock() + DOWN_SECONDS + self.listing_delay, 0
        told: set[str] = set()
        while True:
            now = self.clock()
            problems = [*self._end_known(told), *self._look_again()]
            young = [record for record in self.state.uncertain if now - record.since < self.listing_delay]
            empty = 0 if problems or young or self.state.living else empty + 1
            if empty >= EMPTY_LOOKS:
                break
            pause = max([self.poll, *(problem.retry_after or 0.0 for problem in problems)])
            if self.clock() + pause > until:
                raise ClusterError(self._left(problems))
            self.pause(pause)
        for record in self.state.uncertain:
            self._forget(record)
        self.save()

    def _end_known(self, told: set[str]) -> list[ApiError]:
        """Ask for the end of each pod with a known id, also when another one's fails."""
        problems: list[ApiError] = []
        for record in self.state.living:
            if record.id is None:
                continue
            try:
                if self.client.terminate(record.id).how == "gone":
                    _mark_ended(record, self.clock())
            except ApiError as problem:
                problems.append(problem)
                continue
            if record.name not in told:
                self.say(f"ended {record.name}")
                told.add(record.name)
        return problems

    def _look_again(self) -> list[ApiError]:
        """Raises `Unauthorized` and `Forbidden`: a key that may not look will not be able to in a minute either."""
        try:
            self.look()
        except (Unauthorized, Forbidden):
            raise
        except ApiError as problem:
            return [problem]
        return []

    def _need_volume(self) -> None:
        volume = self.state.volume
        if volume is not None and volume.id is None:
            raise ClusterError(f"volume {volume.name} is not known to exist: pods without it would lose what they make")

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
        """Raises `ApiError`; one that is not `refused` when the pod's name does not turn up."""
        request = pod_request(self.state, record, candidate, self.folder.public_key())
        try:
            return self.client.create_pod(request)
        except ApiError as uncertain:
            if uncertain.refused:
                raise
            for _ in range(SWEEPS):
                self.pause(self.poll)
                try:
                    pods = own_pods(self.client.pods(), self.state)
                except ApiError:
                    continue  # whatever the listing says, the creation stays uncertain
                for pod in pods:
                    if pod.name == record.name:
                        return pod
            raise

    def _forget(self, record: PodRecord) -> None:
        """It was refused, or did not turn up, so it never was."""
        self.state.pods.remove(record)
        self.save()

    def _left(self, problems: Sequence[ApiError]) -> str:
        left = [f"{record.name} ({record.id})" for record in self.state.living]
        left += [f"perhaps {record.name}, whose creation is uncertain" for record in self.state.uncertain]
        at = time.strftime("%H:%M on %d %B", time.localtime(self.state.deadline))
        told = " ".join(dict.fromkeys(map(str, problems)))
        return (
            f"not all pods are known to be gone: {', '.join(left) or 'the account cannot be read'}. {told} Run `down`"
            f" again, or end them at https://console.runpod.io/pods; whatever happens they end themselves at {at}."
        )


def _mark_ended(record: PodRecord, now: float) -> None:
    record.step, record.until = "ended", record.until or now
