"""Pods as real processes, begun by the very command that they are made with: the timer that ends them, and ssh."""

from __future__ import annotations

import dataclasses
import json
import subprocess
import time

import pytest

from cluster.plan import Candidate
from cluster.remote import RemoteError, reach
from tests.cluster.fake_runpod import KEY, Refused
from tests.cluster.machines import MARK, processes_of

pytestmark = pytest.mark.slow

CANDIDATE = Candidate("NVIDIA RTX A5000", "RTX A5000", 24, "EU-RO-1", "HIGH", 0.27)


def until(true, seconds=90.0):
    """Wait for it; the failure is the assertion's to tell."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if true():
            return True
        time.sleep(0.05)
    return bool(true())


@pytest.fixture
def pod(account, machines, make_cluster):
    """A pod that answers to ssh, unless nobody waits for that: the cluster, its record, and how to reach it."""

    def make(*, answers=True, **wishes):
        cluster = make_cluster(workspace=str(machines.volume), **wishes)
        record = cluster.create("head", [CANDIDATE])
        if not answers:
            return cluster, record, None
        assert cluster.wait_for_ssh(record)
        return cluster, record, reach(cluster.folder, record)

    return make


def test_a_pod_ends_itself_at_its_deadline(account, pod):
    cluster, record, _ = pod(ttl=4, answers=False)
    assert until(lambda: not account.living())
    assert account.pods[record.id].ended >= cluster.state.deadline - 1.5
    assert until(lambda: not processes_of(record.id))


def test_the_deadline_survives_a_restart(account, machines, pod):
    cluster, record, _ = pod(ttl=20, answers=False)
    time.sleep(12)
    machines.restart(account.pods[record.id])
    restarted = time.time()
    assert len(account.living()) == 1
    assert until(lambda: not account.living())
    ended = account.pods[record.id].ended
    assert cluster.state.deadline - 1.5 <= ended < restarted + 20 - 4, "its time did not begin anew"


@pytest.mark.parametrize("fault", [500, 405, 429])
def test_the_timer_goes_on_until_the_pod_is_gone(account, pod, fault):
    account.fail("DELETE", "/v2/pods", fault, times=3)
    account.fail("POST", "/v2/pods/", 500, times=2)
    pod(ttl=3, answers=False)
    assert until(lambda: not account.living())


def test_one_fault_stops_no_pod_that_could_be_ended(account, pod):
    account.fail("DELETE", "/v2/pods", 500)
    account.fail("POST", "/v2/pods/", 500)
    _, record, _ = pod(ttl=3, answers=False)
    assert until(lambda: not account.living()), "a pod that is stopped costs on, and its timer is stopped with it"
    assert account.pods[record.id].status == "TERMINATED"
    assert {"action": "stop"} not in [body for method, _, body in account.requests if method == "POST"]


def test_a_pod_is_stopped_where_nothing_ends_it(account, machines, pod):
    account.fail("DELETE", "/v2/pods", 500, times=10_000)
    act = account._act

    def only_stop(pod, body):
        if body["action"] != "stop":
            raise Refused(500, "as the test wants it")
        return act(pod, body)

    account._act = only_stop
    _, record, _ = pod(ttl=3, answers=False)
    assert until(lambda: account.pods[record.id].status == "EXITED", 120)
    asked = [body["action"] for method, _, body in account.requests if method == "POST" and "action" in (body or {})]
    assert asked.count("terminate") > 20


def test_what_was_done_is_on_the_volume_before_a_pod_ends_itself(account, machines, pod):
    cluster, record, remote = pod()
    remote.run("nohup bash ~/.rainbow/deadman.sh end 'all trials are done' > /dev/null 2>&1 &")
    assert until(lambda: not account.living())
    done = json.loads((machines.volume / "clusters" / cluster.state.marker / "DONE.json").read_text())
    assert done["reason"] == "all trials are done"
    assert done["pod"] == record.id


def test_a_volume_that_cannot_be_written_keeps_no_pod_alive(account, machines, pod):
    machines.volume.rmdir()
    machines.volume.write_text("not a folder")
    pod(ttl=3, answers=False)
    assert until(lambda: not account.living())


def test_no_key_of_the_account_is_on_a_pod(account, machines, pod):
    _, record, _ = pod()
    mine = [process.environ() for process in processes_of(record.id)]
    assert mine
    assert all(KEY not in json.dumps(environment) for environment in mine)
    assert KEY not in json.dumps(account.pods[record.id].body)
    own = account.pods[record.id].key
    commands = subprocess.run(["ps", "axww", "-o", "args"], capture_output=True, text=True, check=True).stdout
    assert own not in commands


def test_ssh_brings_files_and_secrets_without_arguments(machines, pod, tmp_path):
    _, _, remote = pod()
    (tmp_path / "a b").mkdir()
    (tmp_path / "a b" / "song.txt").write_text("la")
    remote.put([tmp_path / "a b"], f"{machines.volume}/data")
    assert (machines.volume / "data" / "a b" / "song.txt").read_text() == "la"
    remote.get(f"{machines.volume}/data/a b", tmp_path / "back")
    assert (tmp_path / "back" / "a b" / "song.txt").read_text() == "la"
    remote.run("umask 077; cat > ~/secret", given="hush")
    assert remote.run("cat ~/secret; stat -c %a ~/secret").split() == ["hush600"]
    with pytest.raises(RemoteError, match="exit 3"):
        remote.run("echo no >&2; exit 3", what="looking")


def test_another_key_does_not_open_a_pod(pod, tmp_path):
    _, _, remote = pod()
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(tmp_path / "k")], check=True)
    assert not dataclasses.replace(remote, key=tmp_path / "k").answers()
    assert not dataclasses.replace(remote, key=None).answers()


def test_a_host_that_changed_its_key_is_not_spoken_to(account, machines, pod, tmp_path):
    _, record, remote = pod()
    machines.restart(account.pods[record.id])
    stranger = dataclasses.replace(remote, known_hosts=tmp_path / "nobody_known")
    assert until(stranger.answers)
    assert not remote.answers()


def test_machines_are_told_apart(account, machines, pod):
    cluster, record, remote = pod()
    other = cluster.create("worker", [CANDIDATE])
    assert cluster.wait_for_ssh(other)
    assert remote.run(f"echo ${MARK}").strip() == record.id
    cluster.end(other)
    assert until(lambda: not processes_of(other.id))
    assert remote.answers()
