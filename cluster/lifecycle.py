"""Create, find, wait for and terminate the pods of a cluster.

A single response of the API may be lost or outdated, so pods are identified by their name and their marker.
"""

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

SWEEPS = 4  # listings that are searched for a pod with an uncertain creation before another pod is requested
CREATE_TRIES = 3  # creations with an uncertain outcome before `create` fails
EMPTY_LISTINGS = 2  # consecutive, before all pods count as terminated
NOT_FOUND_RESPONSES = 3  # consecutive, before a pod that is waited for counts as terminated
DOWN_SECONDS = 300.0
LISTING_DELAY_SECONDS = 60.0  # within which a requested pod may still appear in a listing


class ClusterError(Exception):
    """A command failed; the message names the pods that are still running."""


class NoCapacityError(ClusterError):
    """No candidate has capacity."""


@dataclass
class Cluster:
    """A cluster that a command changes.

    Attributes:
        folder: Folder of the cluster on this machine.
        state: State of the cluster.
        client: Client of RunPod's API.
        report: Prints a message.
        pause: Sleeps for some seconds.
        clock: Returns seconds since 1970.
        poll: Seconds between requests that wait for something.
        listing_delay: Seconds within which a created pod appears in a listing.
        stop: Set when a parallel step must end.
        created_volume: Whether this command created the volume.
    """

    folder: ClusterFolder
    state: State
    client: RunPod
    report: Callable[[str], None] = print
    pause: Callable[[float], None] = time.sleep
    clock: Callable[[], float] = time.time
    poll: float = 2.0  # seconds between listings
    listing_delay: float = LISTING_DELAY_SECONDS
    created_volume: bool = False  # by this command, so it has no data of the user
    stop: threading.Event = field(default_factory=threading.Event)  # set by Ctrl-C
    _no_capacity: set[Candidate] = field(default_factory=set)

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
        started_at = time.perf_counter()
        yield
        self.state.seconds[stage] = round(time.perf_counter() - started_at, 2)

    def refresh(self, *, save: bool = True) -> list[Pod]:
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
        pods_by_id = {pod.id: pod for pod in own_pods(pods, self.state)}
        for record in update_records(self.state, pods, now):
            assert record.id is not None
            try:
                pod = self.client.pod(record.id)
            except NotFound:
                pods_by_id.pop(record.id, None)
                _mark_ended(record, now)
            except (Unavailable, RateLimited):
                continue  # unknown: the record is not changed
            else:
                pods_by_id[pod.id] = pod
                if pod.status == "TERMINATED":
                    _mark_ended(record, now)
                else:
                    update_record(record, pod, now)
        if save:
            self.save()
        return [pod for pod in pods_by_id.values() if pod.status != "TERMINATED"]

    def resolve(self) -> None:
        """Search for pods with an uncertain creation by name until each is found or older than `listing_delay`.

        Raises:
            ApiError: The pods could not be listed.
        """
        while True:
            now = self.clock()
            self.refresh()
            for record in self.state.uncertain:
                if now - record.since >= self.listing_delay:
                    self._remove_record(record)
            if not self.state.uncertain or self.stop.is_set():
                return
            self.pause(self.poll)

    def create(self, role: str, candidates: Sequence[Candidate]) -> PodRecord:
        """Create one pod of the first candidate with capacity. The pod is recorded before the request is sent.

        When the outcome of a creation is unknown and the pod does not appear, another pod is requested; the
        record of the first is kept.

        Args:
            role: `head` or `worker`.
            candidates: GPU types and data centers, in order of preference.

        Returns:
            The record of the pod.

        Raises:
            ApiError: An error that no other candidate would resolve.
            NoCapacityError: No candidate has capacity.
        """
        self._check_volume()
        failures, uncertain_creations = [], 0
        remaining = [candidate for candidate in candidates if candidate not in self._no_capacity]
        while remaining:
            candidate = remaining[0]
            record = self._record_request(role, candidate)
            try:
                update_record(record, self._create_or_find(record, candidate), self.clock())
            except ApiError as error:
                if not error.rejected:  # the pod may exist, so the record is kept and `refresh` searches for it
                    uncertain_creations += 1
                    if uncertain_creations < CREATE_TRIES:
                        continue
                    raise
                self._remove_record(record)
                if not isinstance(error, NoCapacity | Forbidden):
                    raise
                self._no_capacity.add(candidate)
                failures.append(f"{candidate.name} in {candidate.data_center}: {error.detail}")
                remaining.pop(0)
            else:
                self.save()
                return record
        details = "\n  ".join(failures) or "no requested GPU is available"
        raise NoCapacityError(f"cannot create a pod, no capacity:\n  {details}\n{NoCapacity.advice}")

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
        give_up_at, not_found = self.clock() + self.state.settings.ready_within, 0
        while self.clock() < give_up_at and not self.stop.is_set():
            assert record.id is not None
            try:
                pod = self.client.pod(record.id)
            except NotFound:
                not_found += 1
                if not_found >= NOT_FOUND_RESPONSES:
                    return False
            except (Unavailable, RateLimited) as error:
                # an error of the API does not mean that the pod is unusable
                self.pause(min(error.retry_after or 0.0, max(0.0, give_up_at - self.clock())))
            else:
                not_found = 0
                update_record(record, pod, self.clock())
                if pod.status in (*STOPPED, "TERMINATED"):
                    return False
                has_private_ip = pod.globalNetworking.ip is not None or not pod.globalNetworking.enabled
                has_address = pod.runtime is not None and pod.ssh.direct is not None and has_private_ip
                if has_address and reach(self.folder, record).answers():
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
        give_up_at, empty_listings = self.clock() + DOWN_SECONDS + self.listing_delay, 0
        reported: set[str] = set()
        while True:
            now = self.clock()
            errors = [*self._terminate_recorded(reported), *self._refresh_errors()]
            recent = [record for record in self.state.uncertain if now - record.since < self.listing_delay]
            empty_listings = 0 if errors or recent or self.state.living else empty_listings + 1
            if empty_listings >= EMPTY_LISTINGS:
                break
            pause = max([self.poll, *(error.retry_after or 0.0 for error in errors)])
            if self.clock() + pause > give_up_at:
                raise ClusterError(self._describe_remaining(errors))
            self.pause(pause)
        for record in self.state.uncertain:
            self._remove_record(record)
        self.save()

    def _terminate_recorded(self, reported: set[str]) -> list[ApiError]:
        """Terminate each pod with a known id, and return the errors."""
        errors: list[ApiError] = []
        for record in self.state.living:
            if record.id is None:
                continue
            try:
                if self.client.terminate(record.id).how == "gone":
                    _mark_ended(record, self.clock())
            except ApiError as error:
                errors.append(error)
                continue
            if record.name not in reported:
                self.report(f"terminated {record.name}")
                reported.add(record.name)
        return errors

    def _refresh_errors(self) -> list[ApiError]:
        """Refresh the state and return errors that may be temporary. Raises `Unauthorized` and `Forbidden`."""
        try:
            self.refresh()
        except (Unauthorized, Forbidden):
            raise
        except ApiError as error:
            return [error]
        return []

    def _check_volume(self) -> None:
        volume = self.state.volume
        if volume is not None and volume.id is None:
            raise ClusterError(
                f"cannot confirm that volume {volume.name} exists; pods without it would lose their results"
            )

    def _record_request(self, role: str, candidate: Candidate) -> PodRecord:
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
        """Create a pod; after an error with an unknown outcome, search for it by name. Raises `ApiError`."""
        request = pod_request(self.state, record, candidate, self.folder.public_key())
        try:
            return self.client.create_pod(request)
        except ApiError as error:
            if error.rejected:
                raise
            for _ in range(SWEEPS):
                self.pause(self.poll)
                try:
                    pods = own_pods(self.client.pods(), self.state)
                except ApiError:
                    continue  # the creation stays uncertain
                for pod in pods:
                    if pod.name == record.name:
                        return pod
            raise

    def _remove_record(self, record: PodRecord) -> None:
        """Remove the record of a pod that was not created."""
        self.state.pods.remove(record)
        self.save()

    def _describe_remaining(self, errors: Sequence[ApiError]) -> str:
        pods = [f"{record.name} ({record.id})" for record in self.state.living]
        pods += [f"{record.name} (creation uncertain)" for record in self.state.uncertain]
        deadline = time.strftime("%H:%M on %d %B", time.localtime(self.state.deadline))
        causes = " ".join(dict.fromkeys(map(str, errors)))
        return (
            f"cannot confirm that all pods are terminated: {', '.join(pods) or 'the pods cannot be listed'}. {causes}"
            " Run `down` again, or terminate them at https://console.runpod.io/pods. In any case, they will terminate"
            f" themselves at {deadline}."
        )


def _mark_ended(record: PodRecord, now: float) -> None:
    record.step, record.until = "ended", record.until or now
