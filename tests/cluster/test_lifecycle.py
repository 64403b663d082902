"""Pods are asked for and ended: nothing is forgotten, nothing foreign is touched, whatever the API answers."""

from __future__ import annotations

import pytest

from cluster.lifecycle import ClusterError, find_or_make_volume
from cluster.plan import Candidate
from cluster.pod_request import pod_request
from cluster.runpod_api import NoBalance, Unavailable, WrongRequest
from cluster.state import MARKER, VolumeRecord
from cluster.survey import own_pods
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
    with pytest.raises(ClusterError, match="RTX A5000 in EU-RO-1: There are no longer") as caught:
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
    account.listing_lag = 0.4  # longer than four looks at 0.05 s
    account.fail("POST", "/v2/pods", "lost")
    with pytest.raises(Unavailable):
        cluster.create("head", [FIRST])
    assert [record.step for record in cluster.folder.need().pods] == ["asked"]
    cluster.poll = 0.3
    cluster.end_all()
    assert account.living() == []


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


def test_volumes_are_found_or_made_once(account, make_cluster):
    cluster = make_cluster()
    account.fail("POST", "/v2/network-volumes", "lost")
    made = find_or_make_volume(cluster, "rainbow-studio", 50, "EU-RO-1")
    assert made.ours
    assert find_or_make_volume(cluster, "rainbow-studio", 50, "EU-RO-1").id == made.id
    assert cluster.state.volume.ours
    assert len(account.volumes) == 1
    theirs = cluster.client.create_volume("mine", 10, "US-TX-3")
    found = find_or_make_volume(cluster, theirs.id, 50, "EU-RO-1")
    assert (found.name, found.ours) == ("mine", False)


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
