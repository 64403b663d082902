"""The commands `up`, `scale` and `gc` in this process, with the fake account but without ssh and Ray."""

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
from cluster.provision import _create_missing_pods, end_surplus
from cluster.runpod_api import RunPod
from cluster.settings import Settings
from cluster.state import ClusterFolder, VolumeRecord
from rainbow_ray.utils.errors import InputError
from tests.cluster.fake_runpod import KEY

DATA_CENTERS = ["EU-RO-1", "US-TX-3"]


@pytest.fixture
def cli(account, tmp_path, monkeypatch):
    """Run `up` and `scale` with confirmation; created pods are ready at once."""
    monkeypatch.setenv("RRAY_CLUSTERS", str(tmp_path / "clusters"))
    monkeypatch.setenv("RUNPOD_API_URL", account.url)
    monkeypatch.setenv("RUNPOD_API_KEY", KEY)
    quick_cluster = functools.partial(Cluster, poll=0.01, listing_delay=0.3)
    for module in (cluster.up, cluster.registry):
        monkeypatch.setattr(module, "Cluster", quick_cluster)
    quick_client = functools.partial(RunPod, pause=lambda seconds: None)
    monkeypatch.setattr(cluster.registry, "RunPod", quick_client)

    def build(built_cluster, candidates):
        built_cluster.resolve()
        end_surplus(built_cluster)
        _create_missing_pods(built_cluster, candidates)
        for record in built_cluster.state.living:
            record.step = "ready"
        built_cluster.save()

    monkeypatch.setattr(cluster.up, "build", build)
    return Cli()


class Cli:
    def up(self, *, yes=True, dry_run=False, **settings):
        overrides = {"gpu": ["A5000"], "data_centers": DATA_CENTERS, **settings}
        return cluster.up.up(Settings(**overrides), overrides, yes=yes, dry_run=dry_run)

    def scale(self, pods, *, yes=True, dry_run=False):
        return cluster.up.scale("rainbow", pods, yes=yes, dry_run=dry_run)

    @property
    def state(self):
        return ClusterFolder("rainbow").read_existing()


def test_up_after_the_end_of_a_cluster_reuses_its_volume(account, cli):
    cli.up(pods=2, **{"volume": {"name": "songs"}})
    before = cli.state
    for pod in account.living():
        account.end(pod)
    cli.up(pods=1)
    after = cli.state
    assert after.marker != before.marker, "DONE.json and FINISH belong to the previous cluster"
    assert (after.volume.id, after.volume.name, after.volume.ours) == (before.volume.id, "songs", True)
    assert len(account.living()) == len(after.living) == 1
    (ended,) = ClusterFolder("rainbow").read_ended()
    assert (ended.marker, ended.living) == (before.marker, [])
    mounted = account.living()[0].body["mounts"]["network"]
    assert mounted[0]["volumeId"] == before.volume.id


def test_up_replaces_a_cluster_without_a_head(account, cli):
    cli.up(pods=2)
    worker = next(record for record in cli.state.living if record.role == "worker")
    account.end(account.pods[cli.state.head.id])
    cli.up(pods=2)
    assert account.pods[worker.id].gone
    assert len(account.living()) == 2
    assert {pod.body["env"]["RRAY_CLUSTER"] for pod in account.living()} == {cli.state.marker}


@pytest.mark.parametrize("stage", ["state created", "volume requested", "pod requested", "pod created"])
def test_up_resumes_after_a_kill(account, cli, stage):
    folder = ClusterFolder("rainbow")
    state = folder.create(Settings(data_centers=DATA_CENTERS, gpu=["A5000"], pods=2), ttl=3600, api_url=account.url)
    killed_cluster = Cluster(folder, state, cluster.registry.open_api(), poll=0.01)
    if stage != "state created":
        volume = killed_cluster.client.create_volume("rainbow-rainbow", 50, DATA_CENTERS[0])
        volume_id = None if stage == "volume requested" else volume.id
        state.volume = VolumeRecord(name=volume.name, id=volume_id, size=50, data_center=DATA_CENTERS[0], ours=True)
        killed_cluster.save()
    if stage.startswith("pod"):
        candidate = Candidate("NVIDIA RTX A5000", "RTX A5000", 24, DATA_CENTERS[0], "HIGH", 0.27)
        record = killed_cluster._record_request("head", candidate)
        if stage == "pod created":
            killed_cluster.client.create_pod(pod_request(state, record, candidate, "ssh-ed25519 AAAA"))
    cli.up(pods=2)
    assert len(account.volumes) == 1
    assert [record.role for record in cli.state.living] == ["head", "worker"]
    assert len(account.living()) == 2
    assert all(pod.body["mounts"]["network"] for pod in account.living())
    assert cli.state.volume.ours


def test_up_tries_the_next_data_center_without_capacity(account, cli):
    account.fail("POST", "/v2/pods", 400)
    cli.up(pods=2)
    assert {pod.center for pod in account.living()} == {DATA_CENTERS[1]}
    assert [volume["dataCenter"] for volume in account.volumes.values()] == [DATA_CENTERS[1]]


def test_up_needs_capacity_for_all_pods_in_one_data_center(account, cli):
    account.stock["NVIDIA RTX A5000", DATA_CENTERS[0]] = 1
    cli.up(pods=2)
    assert {pod.center for pod in account.living()} == {DATA_CENTERS[1]}
    assert len(account.volumes) == 1


def test_a_failed_up_leaves_no_pod(account, cli):
    account.fail("POST", "/v2/pods", 400, times=9)
    with pytest.raises(ClusterError, match=r"all pods are terminated$"):
        cli.up(pods=2)
    assert account.volumes == {}
    account.faults.clear()
    account.fail("POST", "/v2/pods", 402)
    account.fail("DELETE", "/v2/network-volumes", 500, times=9)
    with pytest.raises(ClusterError, match=r"volume rainbow-rainbow .* is kept: .* USD per month"):
        cli.up(pods=1)
    assert len(account.volumes) == 1


def test_up_prints_the_highest_possible_price(account, cli, capsys):
    cli.up(pods=2, gpu=["A5000", "4090"], data_centers=["EU-RO-1"], dry_run=True, ttl=3600)
    output = capsys.readouterr().out
    assert "0.54 USD per hour\nif it has no capacity: at most 1.38 USD per hour (RTX 4090)" in output
    assert "at most 1.38 USD in total until" in output


def test_new_pods_need_a_price_and_confirmation(account, cli, capsys):
    cli.up(pods=3)
    assert cli.up(pods=3, yes=False) == 0, "no confirmation is needed if nothing is created"
    capsys.readouterr()
    account.end(account.pods[cli.state.living[1].id])
    with pytest.raises(InputError, match="--yes"):
        cli.up(pods=3, yes=False)
    assert "1 × 1 RTX A5000 in EU-RO-1: 0.27 USD per hour" in capsys.readouterr().out
    assert len(account.living()) == 2
    with pytest.raises(InputError, match="--yes"):
        cli.scale(5, yes=False)
    assert cli.scale(5, yes=False, dry_run=True) == 0
    assert "3 × 1 RTX A5000 in EU-RO-1: 0.81 USD per hour" in capsys.readouterr().out
    assert len(account.living()) == 2
    assert cli.state.settings.pods == 3, "unconfirmed settings are not written"


def test_scale_down_and_up(account, cli):
    cli.up(pods=3)
    account.on_start = lambda pod: None
    state = cli.state
    state.head.private_ip = "10.0.0.1"
    ClusterFolder("rainbow").write(state)
    cli.scale(1, yes=False)
    assert [pod.id for pod in account.living()] == [state.head.id]
    cli.scale(3)
    assert len(account.living()) == 3


def test_scale_respects_max_hourly(account, cli):
    cli.up(pods=2, max_hourly=0.6)
    with pytest.raises(ClusterError, match="exceeds --max-hourly 0"):
        cli.scale(3)
    assert cli.state.settings.pods == 2
    assert len(account.living()) == 2


@pytest.mark.parametrize("pods", [0, -1, 33])
def test_scale_rejects_invalid_numbers(account, cli, pods):
    cli.up(pods=2)
    with pytest.raises(ValueError, match="pods"):
        cli.scale(pods)
    assert cli.state.settings.pods == 2


def test_status_and_dry_runs_write_nothing(account, cli, monkeypatch, capsys):
    cli.up(pods=2)
    head, worker = cli.state.living
    account.end(account.pods[worker.id])
    before = ClusterFolder("rainbow").state_file.read_bytes()
    monkeypatch.setattr(commands, "_ray_nodes", lambda cluster: None)
    capsys.readouterr()
    with ClusterFolder("rainbow").lock():  # while another command holds the lock
        commands.status("rainbow")
    output = capsys.readouterr().out
    assert head.name in output
    assert worker.name not in output
    commands.set_up("rainbow", dry_run=True)
    assert f"would set up {head.name}" in capsys.readouterr().out
    commands.down("rainbow", yes=True, gone=False, dry_run=True)
    cli.up(pods=2, dry_run=True)
    cli.scale(3, dry_run=True)
    assert ClusterFolder("rainbow").state_file.read_bytes() == before
    assert len(account.living()) == 1


def orphaned_pod(account, name, **env):
    pod = account.add_foreign(name)
    pod.body["env"] = {"RRAY_CLUSTER": "abcdef", **env}
    return pod


def run_gc(**flags):
    return cluster.garbage_collect.gc(**{"volumes": False, "running": False, "yes": True, "dry_run": False, **flags})


def test_gc_skips_a_damaged_state(account, cli, capsys):
    cli.up(pods=1)
    pod_ids = {pod.id for pod in account.living()}
    damaged = ClusterFolder("damaged")
    damaged.create(Settings(name="damaged"), ttl=60, api_url=account.url)
    damaged.state_file.write_text("{")
    orphaned_pod(account, "rainbow-damaged-abcdef-head-1", RRAY_DEADLINE="1000")
    assert run_gc() == 0
    assert "damaged/state.json: cannot be read" in capsys.readouterr().err
    assert {pod.id for pod in account.living()} == pod_ids


def test_gc_skips_pods_before_their_deadline(account, cli, capsys):
    orphaned_pod(account, "rainbow-other-abcdef-head-1", RRAY_DEADLINE="99999999999")
    assert run_gc() == 0
    assert "may belong to another machine" in capsys.readouterr().out
    assert len(account.living()) == 1
    run_gc(running=True)
    assert account.living() == []


def test_gc_skips_a_cluster_created_meanwhile(account, cli):
    def create_meanwhile(method):
        account.on_answer = lambda method: None
        cli.up(pods=1)

    # the cluster is created between the listing of gc and its reading of the states
    account.on_answer = create_meanwhile
    run_gc(running=True)
    assert len(account.living()) == 1


def test_gc_reports_failures_and_continues(account, cli):
    failing = orphaned_pod(account, "rainbow-x-abcdef-head-1")
    orphaned_pod(account, "rainbow-x-abcdef-worker-1")
    account.fail("DELETE", f"/v2/pods/{failing.id}", 500, times=99)
    with pytest.raises(ClusterError, match=failing.id):
        run_gc()
    assert account.living() == [failing]


def test_gc_deletes_only_unused_owned_volumes(account, cli):
    client = cluster.registry.open_api()
    foreign = client.create_volume("rainbow-foreign", 10, "EU-RO-1")
    cli.up(pods=1, volume={"name": "songs"})
    run_gc(volumes=True)
    assert len(account.volumes) == 2, "the volume is in use"
    ended_cluster = Cluster(ClusterFolder("rainbow"), cli.state, client, poll=0.01)
    ended_cluster.end_all()
    ended_cluster.folder.archive(ended_cluster.state)
    foreign_pod = account.add_foreign("foreign pod")
    foreign_pod.body["mounts"] = {"network": [{"volumeId": ended_cluster.state.volume.id, "path": "/workspace"}]}
    run_gc(volumes=True)
    assert len(account.volumes) == 2, "a foreign pod has mounted the volume"
    account.end(foreign_pod)
    run_gc(volumes=True)
    assert list(account.volumes) == [foreign.id]
