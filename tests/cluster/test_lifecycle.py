"""Creating, finding and terminating pods while the API fails, loses responses or returns outdated listings."""

from __future__ import annotations

import pytest

from cluster.lifecycle import CREATE_TRIES, ClusterError, NoCapacityError
from cluster.plan import Candidate
from cluster.pod_request import pod_request
from cluster.provision import end_surplus
from cluster.reconcile import own_pods, surplus
from cluster.runpod_api import Forbidden, NoBalance, Unauthorized, Unavailable, WrongRequest
from cluster.state import MARKER, VolumeRecord
from cluster.volumes import delete_created_volume, find_or_create_volume
from tests.cluster.fake_runpod import KEY

FIRST = Candidate("NVIDIA RTX A5000", "RTX A5000", 24, "EU-RO-1", "HIGH", 0.27)
SECOND = Candidate("NVIDIA GeForce RTX 4090", "RTX 4090", 24, "US-TX-3", "HIGH", 0.69)


def pod_names(account):
    return {pod.body["name"] for pod in account.living()}


@pytest.mark.parametrize("status", [400, 403])
def test_create_tries_the_next_candidate_without_capacity(account, make_cluster, status):
    cluster = make_cluster()
    account.fail("POST", "/v2/pods", status)
    record = cluster.create("head", [FIRST, SECOND])
    assert record.gpu == SECOND.gpu
    assert cluster.create("worker", [FIRST, SECOND]).gpu == SECOND.gpu, (
        "a candidate without capacity is not requested again"
    )
    assert len(cluster.folder.read_existing().pods) == len(account.living()) == 2


def test_no_capacity_lists_the_candidates(account, make_cluster):
    cluster = make_cluster()
    account.stock.clear()
    with pytest.raises(NoCapacityError, match="RTX A5000 in EU-RO-1: There are no longer") as caught:
        cluster.create("head", [FIRST, SECOND])
    assert "RTX 4090 in US-TX-3" in str(caught.value)
    assert cluster.folder.read_existing().pods == []


@pytest.mark.parametrize(("status", "kind"), [(402, NoBalance), (422, WrongRequest)])
def test_create_fails_at_once_on_other_rejections(account, make_cluster, status, kind):
    cluster = make_cluster()
    account.fail("POST", "/v2/pods", status)
    with pytest.raises(kind):
        cluster.create("head", [FIRST, SECOND])
    assert len(account.requests) == 1
    assert cluster.folder.read_existing().pods == []


@pytest.mark.parametrize("kind", ["lost", "silent", "garbled"])
def test_a_creation_with_a_lost_response_is_found_by_name(account, make_cluster, kind):
    cluster = make_cluster()
    account.fail("POST", "/v2/pods", kind)
    record = cluster.create("head", [FIRST])
    assert record.id == account.living()[0].id
    assert len(account.living()) == 1


def test_end_all_finds_creations_that_are_listed_late(account, make_cluster):
    cluster = make_cluster()
    account.listing_lag = 0.5  # longer than all listings of three creations
    cluster.poll = 0.01
    account.fail("POST", "/v2/pods", "lost", times=CREATE_TRIES)
    with pytest.raises(Unavailable):
        cluster.create("head", [FIRST])
    state = cluster.folder.read_existing()
    assert [record.step for record in state.pods] == ["asked"] * CREATE_TRIES
    assert (state.living, state.head, state.usd(cluster.clock() + 3600)) == ([], None, 0.0)
    cluster.end_all()
    assert account.living() == []
    assert cluster.folder.read_existing().uncertain == []


def test_end_all_terminates_pods_that_are_not_listed(account, make_cluster):
    cluster = make_cluster()
    account.listing_lag = 3600.0
    cluster.create("head", [FIRST])
    cluster.end_all()
    assert account.living() == []


def test_refresh_requests_pods_that_are_not_listed_by_id(account, make_cluster):
    cluster = make_cluster()
    account.listing_lag = 3600.0
    head = cluster.create("head", [FIRST])
    assert [pod.id for pod in cluster.refresh()] == [head.id]
    assert cluster.state.head is head
    account.fail("GET", f"/v2/pods/{head.id}", 500, times=9)
    cluster.refresh()
    assert cluster.state.head is head, "only a 404 ends a record"
    account.faults.clear()
    account.end(account.pods[head.id])
    assert cluster.refresh() == []
    assert cluster.state.head is None


def test_a_terminated_pod_in_an_outdated_listing_stays_ended(account, make_cluster):
    cluster = make_cluster()
    head = cluster.create("head", [FIRST])
    pod = account.pods[head.id]
    outdated_listing = cluster.client.pods()
    cluster.end(head)
    account.end(pod)
    cluster.client.pods = lambda: outdated_listing
    assert cluster.refresh() == []
    assert cluster.state.living == []


def test_surplus_pods_are_terminated(account, make_cluster):
    cluster = make_cluster(pods=2)
    head, worker = cluster.create("head", [FIRST]), cluster.create("worker", [FIRST])
    head.step = worker.step = "ready"
    late = [cluster.create("head", [FIRST]), cluster.create("worker", [FIRST])]
    assert surplus(cluster.state, 2) == late
    end_surplus(cluster)
    assert cluster.state.living == [head, worker]
    assert {pod.id for pod in account.living()} == {head.id, worker.id}


def test_end_all_terminates_the_others_if_one_fails(account, make_cluster):
    cluster = make_cluster()
    failing, *others = [cluster.create(role, [FIRST]) for role in ("head", "worker", "worker")]
    account.fail("DELETE", f"/v2/pods/{failing.id}", 500, times=10_000)
    started_at = cluster.clock()
    times = iter(range(0, 100_000, 20))
    cluster.clock = lambda: started_at + next(times)
    with pytest.raises(ClusterError, match=failing.id) as caught:
        cluster.end_all()
    assert not any(other.id in str(caught.value) for other in others)
    assert [pod.id for pod in account.living()] == [failing.id]


@pytest.mark.parametrize(("status", "kind"), [(401, Unauthorized), (403, Forbidden)])
def test_end_all_fails_at_once_without_permission(account, make_cluster, status, kind):
    cluster = make_cluster()
    cluster.create("head", [FIRST])
    account.fail("GET", "/v2/pods", status, times=99)
    with pytest.raises(kind):
        cluster.end_all()


def test_end_all_respects_retry_after(account, make_cluster):
    cluster = make_cluster()
    cluster.create("head", [FIRST])
    pauses: list[float] = []
    cluster.pause = pauses.append
    account.fail("DELETE", "/v2/pods", 429, retry_after=120)
    cluster.end_all()
    assert 120 in pauses
    cluster.create("head", [FIRST])
    account.fail("GET", "/v2/pods", 429, times=99, retry_after=7200)
    with pytest.raises(ClusterError, match="Too many requests"):
        cluster.end_all()
    assert 7200 not in pauses, "the command does not wait for two hours"


def test_resolve_removes_a_pod_that_never_appears(account, make_cluster):
    cluster = make_cluster()
    record = cluster._record_request("head", FIRST)
    cluster.resolve()
    assert record not in cluster.folder.read_existing().pods
    assert cluster.clock() - record.since >= cluster.listing_delay


def test_resolve_keeps_a_pod_that_appears_late(account, make_cluster):
    cluster = make_cluster()
    account.listing_lag = 0.3
    record = cluster._record_request("head", FIRST)
    cluster.client.create_pod(pod_request(cluster.state, record, FIRST, "ssh-ed25519 AAAA"))
    cluster.resolve()
    assert cluster.state.head is record
    assert record.id == account.living()[0].id


@pytest.mark.parametrize("status", [500, 408])
def test_an_uncertain_creation_is_retried_with_another_name(account, make_cluster, status):
    cluster = make_cluster()
    account.fail("POST", "/v2/pods", status, times=CREATE_TRIES - 1)
    record = cluster.create("head", [FIRST])
    assert [pod.body["name"] for pod in account.living()] == [record.name]
    assert len(cluster.folder.read_existing().uncertain) == CREATE_TRIES - 1
    cluster.resolve()
    assert cluster.folder.read_existing().pods == [record]


@pytest.mark.parametrize("status", [401, 403])
def test_a_creation_stays_uncertain_if_listings_fail(account, make_cluster, status):
    cluster = make_cluster()
    account.fail("POST", "/v2/pods", "lost", times=CREATE_TRIES)
    account.fail("GET", "/v2/pods", status, times=99)
    with pytest.raises(Unavailable):
        cluster.create("head", [FIRST])
    assert len(cluster.folder.read_existing().uncertain) == CREATE_TRIES


def test_no_pod_is_created_without_its_volume(account, make_cluster):
    cluster = make_cluster()
    cluster.state.volume = VolumeRecord(name="data", size=50, data_center="EU-RO-1", ours=True)
    with pytest.raises(ClusterError, match="cannot confirm that volume data exists"):
        cluster.create("head", [FIRST])
    assert account.pods == {}


def test_a_pod_is_recorded_before_it_is_requested(account, make_cluster):
    cluster = make_cluster()
    recorded = []
    account.on_start = lambda pod: recorded.append([record.name for record in cluster.folder.read_existing().pods])
    record = cluster.create("head", [FIRST])
    assert recorded == [[record.name]]


def test_pods_without_a_record_are_found(account, make_cluster):
    cluster = make_cluster()
    cluster.create("head", [FIRST])
    cluster.state.pods.clear()
    cluster.save()
    assert len(cluster.refresh()) == 1
    assert len(cluster.state.living) == 1
    cluster.end_all()
    assert account.living() == []


def test_foreign_pods_are_not_changed(account, make_cluster):
    cluster = make_cluster()
    other = make_cluster(name="other")
    cluster.create("head", [FIRST])
    other.create("head", [FIRST])
    account.add_foreign("foreign pod")
    account.add_foreign(f"{cluster.state.prefix}head-same-prefix")  # same prefix, but no marker
    same_marker = account.add_foreign("same marker")
    same_marker.body["env"] = {MARKER: cluster.state.marker}  # same marker, but no prefix
    before = pod_names(account)
    cluster.end_all()
    assert before - pod_names(account) == {record.name for record in cluster.state.pods}
    assert len(own_pods(other.client.pods(), other.state)) == 1


@pytest.mark.parametrize("status", [405, 409, 500, 429])
def test_end_all_retries_until_all_pods_are_terminated(account, make_cluster, status):
    cluster = make_cluster()
    for role in ("head", "worker", "worker"):
        cluster.create(role, [FIRST])
    account.fail("DELETE", "/v2/pods", status, times=7)
    account.fail("GET", "/v2/pods", 503, times=8)
    cluster.end_all()
    assert account.living() == []
    assert all(record.step == "ended" and record.until for record in cluster.folder.read_existing().pods)


def test_end_all_names_remaining_pods_and_their_deadline(account, make_cluster):
    cluster = make_cluster()
    record = cluster.create("head", [FIRST])
    account.fail("DELETE", "/v2/pods", 500, times=10_000)
    started_at = cluster.clock()
    times = iter(range(0, 100_000, 20))
    cluster.clock = lambda: started_at + next(times)
    with pytest.raises(ClusterError, match="they will terminate themselves at") as caught:
        cluster.end_all()
    assert record.id in str(caught.value)
    assert cluster.folder.read_existing().living


def test_a_failed_listing_ends_no_record(account, make_cluster):
    cluster = make_cluster()
    cluster.create("head", [FIRST])
    account.fail("GET", "/v2/pods", 500, times=10)
    with pytest.raises(Unavailable):
        cluster.refresh()
    assert [record.step for record in cluster.folder.read_existing().pods] == ["made"]


def test_refresh_ends_the_record_of_a_terminated_pod(account, make_cluster):
    cluster = make_cluster()
    record = cluster.create("head", [FIRST])
    account.end(account.pods[record.id])
    assert cluster.refresh() == []
    assert record.step == "ended"
    assert record.until is not None


@pytest.mark.parametrize("failure", ["no runtime", "exited", "no answer"])
def test_wait_for_ssh_needs_runtime_status_and_answer(account, make_cluster, failure):
    cluster = make_cluster(ready_within=0.5)
    record = cluster.create("head", [FIRST])
    pod = account.pods[record.id]
    pod.address = ("127.0.0.9", 9)
    pod.runtime = failure != "no runtime"
    pod.status = "EXITED" if failure == "exited" else pod.status
    assert not cluster.wait_for_ssh(record)


def test_wait_for_ssh_tolerates_api_errors(account, make_cluster):
    cluster = make_cluster(ready_within=20)
    record = cluster.create("head", [FIRST])
    account.pods[record.id].status = "EXITED"
    request_count = len(account.requests)
    account.fail("GET", "/v2/pods", 429, times=7)
    account.fail("GET", "/v2/pods", 404, times=2)
    assert not cluster.wait_for_ssh(record)
    assert len(account.requests) - request_count == 10, "until the pod has the status EXITED"
    account.fail("GET", "/v2/pods", 404, times=99)
    assert not cluster.wait_for_ssh(record)
    account.faults.clear()
    account.fail("GET", "/v2/pods", 401, times=99)
    with pytest.raises(Unauthorized):
        cluster.wait_for_ssh(record)


def test_wait_for_ssh_stops_when_requested(account, make_cluster):
    cluster = make_cluster(ready_within=60)
    record = cluster.create("head", [FIRST])
    account.pods[record.id].runtime = False
    cluster.pause = lambda seconds: cluster.stop.set()
    assert not cluster.wait_for_ssh(record)


def test_volumes_are_created_once(account, make_cluster):
    cluster = make_cluster()
    account.fail("POST", "/v2/network-volumes", "lost")
    created = find_or_create_volume(cluster, "rainbow-studio", 50, "EU-RO-1")
    assert created.ours
    assert find_or_create_volume(cluster, "rainbow-studio", 50, "EU-RO-1").id == created.id
    assert cluster.state.volume.ours
    assert len(account.volumes) == 1
    assert delete_created_volume(cluster) == ""
    assert account.volumes == {}
    foreign = cluster.client.create_volume("data", 10, "US-TX-3")
    existing = find_or_create_volume(cluster, foreign.id, 50, "EU-RO-1")
    assert (existing.name, existing.ours) == ("data", False)
    assert "data" in delete_created_volume(cluster)
    assert len(account.volumes) == 1


def test_pod_requests_have_no_secret_and_one_port(make_cluster, account):
    cluster = make_cluster(pods=2, env={"RAINBOW_TRAINING__EPOCHS": "3"})
    cluster.state.volume = VolumeRecord(name="data", id="vol1", size=50, data_center="EU-RO-1", ours=True)
    record = cluster._record_request("head", FIRST)
    body = pod_request(cluster.state, record, FIRST, "ssh-ed25519 AAAA")
    assert body["ports"] == ["22/tcp"]
    assert body["globalNetworking"]
    assert body["mounts"]["network"] == [{"volumeId": "vol1", "path": "/workspace"}]
    assert float(body["env"]["RRAY_DEADLINE"]) == pytest.approx(cluster.state.deadline, abs=1)
    text = str(body)
    assert KEY not in text
    assert cluster.folder.token.read_text() not in text
    assert len(text) < 8000
