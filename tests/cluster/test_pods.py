"""Pods as real processes, started with the command of their request: the dead-man timer and ssh."""

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


def until(condition, timeout_seconds=90.0):
    """Wait for a condition and return whether it became true."""
    deadline = time.monotonic() + timeout_seconds
    while time.monotonic() < deadline:
        if condition():
            return True
        time.sleep(0.05)
    return bool(condition())


@pytest.fixture
def pod(account, machines, make_cluster):
    """Return a function that creates a pod and waits for ssh: the cluster, the record and the connection."""

    def make(*, wait=True, **settings):
        cluster = make_cluster(workspace=str(machines.volume), **settings)
        record = cluster.create("head", [CANDIDATE])
        if not wait:
            return cluster, record, None
        assert cluster.wait_for_ssh(record)
        return cluster, record, reach(cluster.folder, record)

    return make


def test_a_pod_terminates_itself_at_its_deadline(account, pod):
    cluster, record, _ = pod(ttl=4, wait=False)
    assert until(lambda: not account.living())
    assert account.pods[record.id].ended >= cluster.state.deadline - 1.5
    assert until(lambda: not processes_of(record.id))


def test_the_deadline_survives_a_restart(account, machines, pod):
    cluster, record, _ = pod(ttl=20, wait=False)
    time.sleep(12)
    machines.restart(account.pods[record.id])
    restarted = time.time()
    assert len(account.living()) == 1
    assert until(lambda: not account.living())
    ended = account.pods[record.id].ended
    assert cluster.state.deadline - 1.5 <= ended < restarted + 20 - 4, "the restart does not extend the deadline"


@pytest.mark.parametrize("fault", [500, 405, 429])
def test_the_timer_retries_until_the_pod_is_terminated(account, pod, fault):
    account.fail("DELETE", "/v2/pods", fault, times=3)
    account.fail("POST", "/v2/pods/", 500, times=2)
    pod(ttl=3, wait=False)
    assert until(lambda: not account.living())


def test_a_pod_is_not_stopped_after_a_single_fault(account, pod):
    account.fail("DELETE", "/v2/pods", 500)
    account.fail("POST", "/v2/pods/", 500)
    _, record, _ = pod(ttl=3, wait=False)
    assert until(lambda: not account.living()), "a stopped pod would still be billed, without a timer"
    assert account.pods[record.id].status == "TERMINATED"
    assert {"action": "stop"} not in [body for method, _, body in account.requests if method == "POST"]


def test_a_pod_is_stopped_if_it_cannot_be_terminated(account, machines, pod):
    account.fail("DELETE", "/v2/pods", 500, times=10_000)
    original_act = account._act

    def reject_terminate(pod, body):
        if body["action"] != "stop":
            raise Refused(500, "injected fault")
        return original_act(pod, body)

    account._act = reject_terminate
    _, record, _ = pod(ttl=3, wait=False)
    assert until(lambda: account.pods[record.id].status == "EXITED", 120)
    actions = [body["action"] for method, _, body in account.requests if method == "POST" and "action" in (body or {})]
    assert actions.count("terminate") > 20


def test_the_end_marker_is_written_before_a_pod_terminates_itself(account, machines, pod):
    cluster, record, remote = pod()
    remote.run("nohup bash ~/.rainbow/deadman.sh end 'all trials are done' > /dev/null 2>&1 &")
    assert until(lambda: not account.living())
    end_marker = json.loads((machines.volume / "clusters" / cluster.state.marker / "DONE.json").read_text())
    assert end_marker["reason"] == "all trials are done"
    assert end_marker["pod"] == record.id


def test_a_pod_terminates_itself_without_a_writable_volume(account, machines, pod):
    machines.volume.rmdir()
    machines.volume.write_text("not a folder")
    pod(ttl=3, wait=False)
    assert until(lambda: not account.living())


def test_the_account_key_is_not_on_pods(account, machines, pod):
    _, record, _ = pod()
    environments = [process.environ() for process in processes_of(record.id)]
    assert environments
    assert all(KEY not in json.dumps(environment) for environment in environments)
    assert KEY not in json.dumps(account.pods[record.id].body)
    pod_key = account.pods[record.id].key
    commands = subprocess.run(["ps", "axww", "-o", "args"], capture_output=True, text=True, check=True).stdout
    assert pod_key not in commands


def test_ssh_copies_files_and_secrets(machines, pod, tmp_path):
    _, _, remote = pod()
    (tmp_path / "a b").mkdir()
    (tmp_path / "a b" / "song.txt").write_text("la")
    remote.put([tmp_path / "a b"], f"{machines.volume}/data")
    assert (machines.volume / "data" / "a b" / "song.txt").read_text() == "la"
    remote.get(f"{machines.volume}/data/a b", tmp_path / "back")
    assert (tmp_path / "back" / "a b" / "song.txt").read_text() == "la"
    remote.run("umask 077; cat > ~/secret", stdin="hush")
    assert remote.run("cat ~/secret; stat -c %a ~/secret").split() == ["hush600"]
    with pytest.raises(RemoteError, match="exit code 3"):
        remote.run("echo no >&2; exit 3", step="looking")


def test_other_keys_cannot_log_in(pod, tmp_path):
    _, _, remote = pod()
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(tmp_path / "k")], check=True)
    assert not dataclasses.replace(remote, key=tmp_path / "k").answers()
    assert not dataclasses.replace(remote, key=None).answers()


def test_a_changed_host_key_is_rejected(account, machines, pod, tmp_path):
    _, record, remote = pod()
    machines.restart(account.pods[record.id])
    without_host_key = dataclasses.replace(remote, known_hosts=tmp_path / "empty_known_hosts")
    assert until(without_host_key.answers)
    assert not remote.answers()


def test_machines_are_separate(account, machines, pod):
    cluster, record, remote = pod()
    other = cluster.create("worker", [CANDIDATE])
    assert cluster.wait_for_ssh(other)
    assert remote.run(f"echo ${MARK}").strip() == record.id
    cluster.end(other)
    assert until(lambda: not processes_of(other.id))
    assert remote.answers()
