"""Clusters begun, gone on with and scaled, in this process: Ray and ssh are left out, the account is there."""

from __future__ import annotations

import functools

import pytest

import cluster.garbage_collect
import cluster.registry
import cluster.up
from cluster import commands
from cluster.lifecycle import Cluster, ClusterError
from cluster.plan import Candidate
from cluster.pod_request import pod_request
from cluster.provision import _fill, end_surplus
from cluster.runpod_api import RunPod
from cluster.settings import Settings
from cluster.state import ClusterFolder, VolumeRecord
from rainbow_ray.utils.errors import InputError
from tests.cluster.fake_runpod import KEY

PLACES = ["EU-RO-1", "US-TX-3"]


@pytest.fixture
def doors(account, tmp_path, monkeypatch):
    """`up` and `scale`, as a person who agrees calls them; a pod is ready as soon as it is there."""
    monkeypatch.setenv("RRAY_CLUSTERS", str(tmp_path / "clusters"))
    monkeypatch.setenv("RUNPOD_API_URL", account.url)
    monkeypatch.setenv("RUNPOD_API_KEY", KEY)
    quick = functools.partial(Cluster, poll=0.01, listing_delay=0.3)
    for module in (cluster.up, cluster.registry):
        monkeypatch.setattr(module, "Cluster", quick)
    patient = functools.partial(RunPod, pause=lambda seconds: None)
    monkeypatch.setattr(cluster.registry, "RunPod", patient)

    def build(there, candidates):
        there.resolve()
        end_surplus(there)
        _fill(there, candidates)
        for record in there.state.living:
            record.step = "ready"
        there.save()

    monkeypatch.setattr(cluster.up, "build", build)
    return Doors()


class Doors:
    def up(self, *, yes=True, dry_run=False, **wishes):
        wished = {"gpu": ["A5000"], "data_centers": PLACES, **wishes}
        return cluster.up.up(Settings(**wished), wished, yes=yes, dry_run=dry_run)

    def scale(self, pods, *, yes=True, dry_run=False):
        return cluster.up.scale("rainbow", pods, yes=yes, dry_run=dry_run)

    @property
    def state(self):
        return ClusterFolder("rainbow").need()


def test_a_cluster_that_ended_itself_is_followed_by_a_new_one_on_its_volume(account, doors):
    doors.up(pods=2, **{"volume": {"name": "songs"}})
    before = doors.state
    for pod in account.living():
        account.end(pod)
    doors.up(pods=1)
    after = doors.state
    assert after.marker != before.marker, "DONE.json and FINISH are the former cluster's"
    assert (after.volume.id, after.volume.name, after.volume.ours) == (before.volume.id, "songs", True)
    assert len(account.living()) == len(after.living) == 1
    (over,) = ClusterFolder("rainbow").ended()
    assert (over.marker, over.living) == (before.marker, [])
    mounted = account.living()[0].body["mounts"]["network"]
    assert mounted[0]["volumeId"] == before.volume.id


def test_workers_without_their_head_are_ended_and_a_new_cluster_begins(account, doors):
    doors.up(pods=2)
    worker = next(record for record in doors.state.living if record.role == "worker")
    account.end(account.pods[doors.state.head.id])
    doors.up(pods=2)
    assert account.pods[worker.id].gone
    assert len(account.living()) == 2
    assert {pod.body["env"]["RRAY_CLUSTER"] for pod in account.living()} == {doors.state.marker}


@pytest.mark.parametrize("when", ["begun", "volume asked for", "pod asked for", "pod made"])
def test_up_after_a_kill_goes_on(account, doors, when):
    folder = ClusterFolder("rainbow")
    state = folder.begin(Settings(data_centers=PLACES, gpu=["A5000"], pods=2), ttl=3600, api_url=account.url)
    killed = Cluster(folder, state, cluster.registry.open_api(), poll=0.01)
    if when != "begun":
        made = killed.client.create_volume("rainbow-rainbow", 50, PLACES[0])
        known = None if when == "volume asked for" else made.id
        state.volume = VolumeRecord(name=made.name, id=known, size=50, data_center=PLACES[0], ours=True)
        killed.save()
    if when.startswith("pod"):
        candidate = Candidate("NVIDIA RTX A5000", "RTX A5000", 24, PLACES[0], "HIGH", 0.27)
        record = killed._ask("head", candidate)
        if when == "pod made":
            killed.client.create_pod(pod_request(state, record, candidate, "ssh-ed25519 AAAA"))
    doors.up(pods=2)
    assert len(account.volumes) == 1
    assert [record.role for record in doors.state.living] == ["head", "worker"]
    assert len(account.living()) == 2
    assert all(pod.body["mounts"]["network"] for pod in account.living())
    assert doors.state.volume.ours


def test_a_full_data_centre_is_followed_by_the_next(account, doors):
    account.fail("POST", "/v2/pods", 400)
    doors.up(pods=2)
    assert {pod.center for pod in account.living()} == {PLACES[1]}
    assert [volume["dataCenter"] for volume in account.volumes.values()] == [PLACES[1]]


def test_room_for_the_head_alone_is_none(account, doors):
    account.stock["NVIDIA RTX A5000", PLACES[0]] = 1
    doors.up(pods=2)
    assert {pod.center for pod in account.living()} == {PLACES[1]}
    assert len(account.volumes) == 1


def test_nothing_is_left_where_nothing_could_be_made(account, doors):
    account.fail("POST", "/v2/pods", 400, times=9)
    with pytest.raises(ClusterError, match=r"no pod is left$"):
        doors.up(pods=2)
    assert account.volumes == {}
    account.faults.clear()
    account.fail("POST", "/v2/pods", 402)
    account.fail("DELETE", "/v2/network-volumes", 500, times=9)
    with pytest.raises(ClusterError, match=r"volume rainbow-rainbow .* stays: .* USD a month"):
        doors.up(pods=1)
    assert len(account.volumes) == 1


def test_the_dearest_that_it_may_come_to_is_told(account, doors, capsys):
    doors.up(pods=2, gpu=["A5000", "4090"], data_centers=["EU-RO-1"], dry_run=True, ttl=3600)
    said = capsys.readouterr().out
    assert "0.54 USD an hour; where that has no room, at most 1.38 USD an hour (RTX 4090)" in said
    assert "at most 1.38 USD until" in said


def test_pods_are_made_with_a_price_and_a_question(account, doors, capsys):
    doors.up(pods=3)
    assert doors.up(pods=3, yes=False) == 0, "nothing is made, so nothing is asked"
    capsys.readouterr()
    account.end(account.pods[doors.state.living[1].id])
    with pytest.raises(InputError, match="--yes"):
        doors.up(pods=3, yes=False)
    assert "1 × 1 RTX A5000 in EU-RO-1: 0.27 USD an hour" in capsys.readouterr().out
    assert len(account.living()) == 2
    with pytest.raises(InputError, match="--yes"):
        doors.scale(5, yes=False)
    assert doors.scale(5, yes=False, dry_run=True) == 0
    assert "3 × 1 RTX A5000 in EU-RO-1: 0.81 USD an hour" in capsys.readouterr().out
    assert len(account.living()) == 2
    assert doors.state.settings.pods == 3, "what was not agreed to is not written down"


def test_a_cluster_of_three_shrinks_and_grows_again(account, doors):
    doors.up(pods=3)
    account.on_start = lambda pod: None
    state = doors.state
    state.head.private_ip = "10.0.0.1"
    ClusterFolder("rainbow").write(state)
    doors.scale(1, yes=False)
    assert [pod.id for pod in account.living()] == [state.head.id]
    doors.scale(3)
    assert len(account.living()) == 3


def test_growing_beyond_the_cap_says_why_and_changes_nothing(account, doors):
    doors.up(pods=2, max_hourly=0.6)
    with pytest.raises(ClusterError, match="is more than --max-hourly 0"):
        doors.scale(3)
    assert doors.state.settings.pods == 2
    assert len(account.living()) == 2


@pytest.mark.parametrize("pods", [0, -1, 33])
def test_a_number_of_pods_that_cannot_be_is_never_written(account, doors, pods):
    doors.up(pods=2)
    with pytest.raises(ValueError, match="pods"):
        doors.scale(pods)
    assert doors.state.settings.pods == 2


def test_what_only_looks_writes_nothing(account, doors, monkeypatch, capsys):
    doors.up(pods=2)
    head, worker = doors.state.living
    account.end(account.pods[worker.id])
    before = ClusterFolder("rainbow").state_file.read_bytes()
    monkeypatch.setattr(commands, "_ray_nodes", lambda there: None)
    capsys.readouterr()
    with ClusterFolder("rainbow").lock():  # beside a command that changes it
        commands.status("rainbow")
    said = capsys.readouterr().out
    assert head.name in said
    assert worker.name not in said
    commands.set_up("rainbow", dry_run=True)
    assert f"would set up {head.name}" in capsys.readouterr().out
    commands.down("rainbow", yes=True, gone=False, dry_run=True)
    doors.up(pods=2, dry_run=True)
    doors.scale(3, dry_run=True)
    assert ClusterFolder("rainbow").state_file.read_bytes() == before
    assert len(account.living()) == 1


def lost_pod(account, name, **env):
    pod = account.add_foreign(name)
    pod.body["env"] = {"RRAY_CLUSTER": "abcdef", **env}
    return pod


def collect(**flags):
    return cluster.garbage_collect.gc(**{"volumes": False, "running": False, "yes": True, "dry_run": False, **flags})


def test_gc_goes_on_beside_a_state_that_cannot_be_read(account, doors, capsys):
    doors.up(pods=1)
    kept = {pod.id for pod in account.living()}
    torn = ClusterFolder("torn")
    torn.begin(Settings(name="torn"), ttl=60, api_url=account.url)
    torn.state_file.write_text("{")
    lost_pod(account, "rainbow-torn-abcdef-head-1", RRAY_DEADLINE="1000")
    assert collect() == 0
    assert "torn/state.json: cannot be read" in capsys.readouterr().err
    assert {pod.id for pod in account.living()} == kept


def test_gc_leaves_what_may_be_another_machines(account, doors, capsys):
    lost_pod(account, "rainbow-other-abcdef-head-1", RRAY_DEADLINE="99999999999")
    assert collect() == 0
    assert "may be another machine's" in capsys.readouterr().out
    assert len(account.living()) == 1
    collect(running=True)
    assert account.living() == []


def test_gc_knows_a_cluster_that_is_just_being_made(account, doors):
    def begin_meanwhile(method):
        account.on_answer = lambda method: None
        doors.up(pods=1)

    # between the listing and what is read after it, or before it
    account.on_answer = begin_meanwhile
    collect(running=True)
    assert len(account.living()) == 1


def test_gc_tries_each(account, doors):
    stubborn = lost_pod(account, "rainbow-x-abcdef-head-1")
    lost_pod(account, "rainbow-x-abcdef-worker-1")
    account.fail("DELETE", f"/v2/pods/{stubborn.id}", 500, times=99)
    with pytest.raises(ClusterError, match=stubborn.id):
        collect()
    assert account.living() == [stubborn]


def test_gc_ends_the_volumes_that_were_made_here_and_no_others(account, doors):
    client = cluster.registry.open_api()
    theirs = client.create_volume("rainbow-theirs", 10, "EU-RO-1")
    doors.up(pods=1, volume={"name": "songs"})
    collect(volumes=True)
    assert len(account.volumes) == 2, "it is in use"
    there = Cluster(ClusterFolder("rainbow"), doors.state, client, poll=0.01)
    there.end_all()
    there.folder.archive(there.state)
    reader = account.add_foreign("their own")
    reader.body["mounts"] = {"network": [{"volumeId": there.state.volume.id, "path": "/workspace"}]}
    collect(volumes=True)
    assert len(account.volumes) == 2, "somebody's pod uses it"
    account.end(reader)
    collect(volumes=True)
    assert list(account.volumes) == [theirs.id]
