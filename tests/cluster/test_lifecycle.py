"""Pods are asked for and ended: nothing is forgotten, nothing foreign is touched, whatever the API answers."""

from __future__ import annotations

import pytest

from cluster.lifecycle import CREATE_TRIES, ClusterError, NoCapacityError
from cluster.plan import Candidate
from cluster.pod_request import pod_request
from cluster.provision import end_surplus
from cluster.reconcile import own_pods, surplus
from cluster.runpod_api import Forbidden, NoBalance, Unauthorized, Unavailable, WrongRequest
from cluster.state import MARKER, VolumeRecord
from cluster.volumes import find_or_make_volume, give_back_volume
from tests.cluster.fake_runpod import KEY

FIRST = Candidate("NVIDIA RTX A5000", "RTX A5000", 24, "EU-RO-1", "HIGH", 0.27)
SECOND = Candidate("NVIDIA GeForce RTX 4090", "RTX 4090", 24, "US-TX-3", "HIGH", 0.69)


def names(account):
    return {pod.body["name"] for pod in account.living()}


@pytest.mark.parametrize("status", [400, 403])
def test_without_room_the_next_candidate_is_asked(account, make_cluster, status):
    cluster = make_cluster()
    account.fail("POST", "/v2/pods", status)
    record = cluster.create("head", [FIRST, SECOND])
    assert record.gpu == SECOND.gpu
    assert cluster.create("worker", [FIRST, SECOND]).gpu == SECOND.gpu, "what had no room is not asked again"
    assert len(cluster.folder.need().pods) == len(account.living()) == 2


def test_no_room_anywhere_says_what_was_tried(account, make_cluster):
    cluster = make_cluster()
    account.stock.clear()
    with pytest.raises(NoCapacityError, match="RTX A5000 in EU-RO-1: There are no longer") as caught:
        cluster.create("head", [FIRST, SECOND])
    assert "RTX 4090 in US-TX-3" in str(caught.value)
    assert cluster.folder.need().pods == []


@pytest.mark.parametrize(("status", "kind"), [(402, NoBalance), (422, WrongRequest)])
def test_what_no_other_gpu_would_mend_stops_at_once(account, make_cluster, status, kind):
    cluster = make_cluster()
    account.fail("POST", "/v2/pods", status)
    with pytest.raises(kind):
        cluster.create("head", [FIRST, SECOND])
    assert len(account.requests) == 1
    assert cluster.folder.need().pods == []


@pytest.mark.parametrize("kind", ["lost", "silent", "garbled"])
def test_a_creation_that_happened_is_found_by_its_name(account, make_cluster, kind):
    cluster = make_cluster()
    account.fail("POST", "/v2/pods", kind)
    record = cluster.create("head", [FIRST])
    assert record.id == account.living()[0].id
    assert len(account.living()) == 1


def test_a_creation_that_turns_up_late_is_found_by_down(account, make_cluster):
    cluster = make_cluster()
    account.listing_lag = 0.5  # longer than four looks at 0.01 s, three times
    cluster.poll = 0.01
    account.fail("POST", "/v2/pods", "lost", times=CREATE_TRIES)
    with pytest.raises(Unavailable):
        cluster.create("head", [FIRST])
    state = cluster.folder.need()
    assert [record.step for record in state.pods] == ["asked"] * CREATE_TRIES
    assert (state.living, state.head, state.usd(cluster.clock() + 3600)) == ([], None, 0.0)
    cluster.end_all()
    assert account.living() == []
    assert cluster.folder.need().uncertain == []


def test_a_pod_that_no_listing_shows_is_ended_all_the_same(account, make_cluster):
    cluster = make_cluster()
    account.listing_lag = 3600.0
    cluster.create("head", [FIRST])
    cluster.end_all()
    assert account.living() == []


def test_a_fresh_pod_that_a_listing_lacks_is_there(account, make_cluster):
    cluster = make_cluster()
    account.listing_lag = 3600.0
    head = cluster.create("head", [FIRST])
    assert [pod.id for pod in cluster.look()] == [head.id]
    assert cluster.state.head is head
    account.fail("GET", f"/v2/pods/{head.id}", 500, times=9)
    cluster.look()
    assert cluster.state.head is head, "only `no such pod` ends a record"
    account.faults.clear()
    account.end(account.pods[head.id])
    assert cluster.look() == []
    assert cluster.state.head is None


def test_an_ended_pod_that_is_still_listed_does_not_come_back(account, make_cluster):
    cluster = make_cluster()
    head = cluster.create("head", [FIRST])
    there = account.pods[head.id]
    stale = cluster.client.pods()
    cluster.end(head)
    account.end(there)
    cluster.client.pods = lambda: stale
    assert cluster.look() == []
    assert cluster.state.living == []


def test_pods_too_many_are_ended(account, make_cluster):
    cluster = make_cluster(pods=2)
    head, worker = cluster.create("head", [FIRST]), cluster.create("worker", [FIRST])
    head.step = worker.step = "ready"
    late = [cluster.create("head", [FIRST]), cluster.create("worker", [FIRST])]
    assert surplus(cluster.state, 2) == late
    end_surplus(cluster)
    assert cluster.state.living == [head, worker]
    assert {pod.id for pod in account.living()} == {head.id, worker.id}


def test_one_that_cannot_be_ended_keeps_no_other_alive(account, make_cluster):
    cluster = make_cluster()
    stubborn, *others = [cluster.create(role, [FIRST]) for role in ("head", "worker", "worker")]
    account.fail("DELETE", f"/v2/pods/{stubborn.id}", 500, times=10_000)
    begun = cluster.clock()
    times = iter(range(0, 100_000, 20))
    cluster.clock = lambda: begun + next(times)
    with pytest.raises(ClusterError, match=stubborn.id) as caught:
        cluster.end_all()
    assert not any(other.id in str(caught.value) for other in others)
    assert [pod.id for pod in account.living()] == [stubborn.id]


@pytest.mark.parametrize(("status", "kind"), [(401, Unauthorized), (403, Forbidden)])
def test_a_key_that_may_not_look_is_told_at_once(account, make_cluster, status, kind):
    cluster = make_cluster()
    cluster.create("head", [FIRST])
    account.fail("GET", "/v2/pods", status, times=99)
    with pytest.raises(kind):
        cluster.end_all()


def test_down_waits_as_long_as_it_is_told(account, make_cluster):
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
    assert 7200 not in pauses, "two hours are the user's to wait"


def test_what_was_asked_for_and_never_came_is_given_up(account, make_cluster):
    cluster = make_cluster()
    record = cluster._ask("head", FIRST)
    cluster.resolve()
    assert record not in cluster.folder.need().pods
    assert cluster.clock() - record.since >= cluster.listing_delay


def test_what_was_asked_for_and_came_late_is_kept(account, make_cluster):
    cluster = make_cluster()
    account.listing_lag = 0.3
    record = cluster._ask("head", FIRST)
    cluster.client.create_pod(pod_request(cluster.state, record, FIRST, "ssh-ed25519 AAAA"))
    cluster.resolve()
    assert cluster.state.head is record
    assert record.id == account.living()[0].id


@pytest.mark.parametrize("status", [500, 408])
def test_a_fault_of_theirs_is_asked_again_under_another_name(account, make_cluster, status):
    cluster = make_cluster()
    account.fail("POST", "/v2/pods", status, times=CREATE_TRIES - 1)
    record = cluster.create("head", [FIRST])
    assert [pod.body["name"] for pod in account.living()] == [record.name]
    assert len(cluster.folder.need().uncertain) == CREATE_TRIES - 1
    cluster.resolve()
    assert cluster.folder.need().pods == [record]


@pytest.mark.parametrize("status", [401, 403])
def test_a_listing_that_is_refused_makes_no_creation_certain(account, make_cluster, status):
    cluster = make_cluster()
    account.fail("POST", "/v2/pods", "lost", times=CREATE_TRIES)
    account.fail("GET", "/v2/pods", status, times=99)
    with pytest.raises(Unavailable):
        cluster.create("head", [FIRST])
    assert len(cluster.folder.need().uncertain) == CREATE_TRIES


def test_no_pod_without_its_volume(account, make_cluster):
    cluster = make_cluster()
    cluster.state.volume = VolumeRecord(name="data", size=50, data_center="EU-RO-1", ours=True)
    with pytest.raises(ClusterError, match="volume data is not known to exist"):
        cluster.create("head", [FIRST])
    assert account.pods == {}


def test_it_is_written_down_before_it_is_asked_for(account, make_cluster):
    cluster = make_cluster()
    seen = []
    account.on_start = lambda pod: seen.append([record.name for record in cluster.folder.need().pods])
    record = cluster.create("head", [FIRST])
    assert seen == [[record.name]]


def test_what_a_killed_command_left_is_found_without_a_record(account, make_cluster):
    cluster = make_cluster()
    cluster.create("head", [FIRST])
    cluster.state.pods.clear()
    cluster.save()
    assert len(cluster.look()) == 1
    assert len(cluster.state.living) == 1
    cluster.end_all()
    assert account.living() == []


def test_nothing_foreign_is_touched(account, make_cluster):
    cluster = make_cluster()
    other = make_cluster(name="other")
    cluster.create("head", [FIRST])
    other.create("head", [FIRST])
    account.add_foreign("their own")
    account.add_foreign(f"{cluster.state.prefix}head-named-as-ours")  # our prefix, and no marker
    masked = account.add_foreign("marked as ours")
    masked.body["env"] = {MARKER: cluster.state.marker}  # our marker, and not our name
    before = names(account)
    cluster.end_all()
    assert before - names(account) == {record.name for record in cluster.state.pods}
    assert len(own_pods(other.client.pods(), other.state)) == 1


@pytest.mark.parametrize("status", [405, 409, 500, 429])
def test_down_goes_on_until_they_are_gone(account, make_cluster, status):
    cluster = make_cluster()
    for role in ("head", "worker", "worker"):
        cluster.create(role, [FIRST])
    account.fail("DELETE", "/v2/pods", status, times=7)
    account.fail("GET", "/v2/pods", 503, times=8)
    cluster.end_all()
    assert account.living() == []
    assert all(record.step == "ended" and record.until for record in cluster.folder.need().pods)


def test_pods_that_will_not_go_are_named_with_their_end(account, make_cluster):
    cluster = make_cluster()
    record = cluster.create("head", [FIRST])
    account.fail("DELETE", "/v2/pods", 500, times=10_000)
    begun = cluster.clock()
    times = iter(range(0, 100_000, 20))
    cluster.clock = lambda: begun + next(times)
    with pytest.raises(ClusterError, match="they end themselves at") as caught:
        cluster.end_all()
    assert record.id in str(caught.value)
    assert cluster.folder.need().living


def test_a_listing_that_fails_ends_no_record(account, make_cluster):
    cluster = make_cluster()
    cluster.create("head", [FIRST])
    account.fail("GET", "/v2/pods", 500, times=10)
    with pytest.raises(Unavailable):
        cluster.look()
    assert [record.step for record in cluster.folder.need().pods] == ["made"]


def test_a_pod_that_died_is_seen(account, make_cluster):
    cluster = make_cluster()
    record = cluster.create("head", [FIRST])
    account.end(account.pods[record.id])
    assert cluster.look() == []
    assert record.step == "ended"
    assert record.until is not None


@pytest.mark.parametrize("dead", ["no runtime", "exited", "no answer"])
def test_running_is_not_ready(account, make_cluster, dead):
    cluster = make_cluster(ready_within=0.5)
    record = cluster.create("head", [FIRST])
    there = account.pods[record.id]
    there.address = ("127.0.0.9", 9)
    there.runtime = dead != "no runtime"
    there.status = "EXITED" if dead == "exited" else there.status
    assert not cluster.wait_for_ssh(record)


def test_faults_of_the_api_are_no_death(account, make_cluster):
    cluster = make_cluster(ready_within=20)
    record = cluster.create("head", [FIRST])
    account.pods[record.id].status = "EXITED"
    asked = len(account.requests)
    account.fail("GET", "/v2/pods", 429, times=7)
    account.fail("GET", "/v2/pods", 404, times=2)
    assert not cluster.wait_for_ssh(record)
    assert len(account.requests) - asked == 10, "until it was told that the pod has exited"
    account.fail("GET", "/v2/pods", 404, times=99)
    assert not cluster.wait_for_ssh(record)
    account.faults.clear()
    account.fail("GET", "/v2/pods", 401, times=99)
    with pytest.raises(Unauthorized):
        cluster.wait_for_ssh(record)


def test_who_waits_gives_up_when_it_is_told(account, make_cluster):
    cluster = make_cluster(ready_within=60)
    record = cluster.create("head", [FIRST])
    account.pods[record.id].runtime = False
    cluster.pause = lambda seconds: cluster.stop.set()
    assert not cluster.wait_for_ssh(record)


def test_volumes_are_found_or_made_once(account, make_cluster):
    cluster = make_cluster()
    account.fail("POST", "/v2/network-volumes", "lost")
    made = find_or_make_volume(cluster, "rainbow-studio", 50, "EU-RO-1")
    assert made.ours
    assert find_or_make_volume(cluster, "rainbow-studio", 50, "EU-RO-1").id == made.id
    assert cluster.state.volume.ours
    assert len(account.volumes) == 1
    assert give_back_volume(cluster) == ""
    assert account.volumes == {}
    theirs = cluster.client.create_volume("mine", 10, "US-TX-3")
    found = find_or_make_volume(cluster, theirs.id, 50, "EU-RO-1")
    assert (found.name, found.ours) == ("mine", False)
    assert "mine" in give_back_volume(cluster)
    assert len(account.volumes) == 1


def test_the_request_holds_no_secret_and_one_port(make_cluster, account):
    cluster = make_cluster(pods=2, env={"RAINBOW_TRAINING__EPOCHS": "3"})
    cluster.state.volume = VolumeRecord(name="data", id="vol1", size=50, data_center="EU-RO-1", ours=True)
    record = cluster._ask("head", FIRST)
    body = pod_request(cluster.state, record, FIRST, "ssh-ed25519 AAAA")
    assert body["ports"] == ["22/tcp"]
    assert body["globalNetworking"]
    assert body["mounts"]["network"] == [{"volumeId": "vol1", "path": "/workspace"}]
    assert float(body["env"]["RRAY_DEADLINE"]) == pytest.approx(cluster.state.deadline, abs=1)
    text = str(body)
    assert KEY not in text
    assert cluster.folder.token.read_text() not in text
    assert len(text) < 8000
