"""Pods created in the console: adopted over ssh, or used with the two scripts alone."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

import pytest

from cluster.adopt import NO_TIMER, end_adopted, parse_address, start_timer
from cluster.lifecycle import ClusterError
from cluster.registry import without_api
from cluster.settings import Settings
from cluster.state import ClusterFolder, PodRecord
from rainbow_ray.utils.errors import InputError
from tests.cluster.machines import processes_of
from tests.cluster.test_commands import call  # noqa: F401
from tests.cluster.test_pods import until


@pytest.mark.parametrize(
    ("text", "address"),
    [
        ("root@213.173.105.8:10022", ("root", "213.173.105.8", 10022)),
        ("me@host.example", ("me", "host.example", 22)),
        ("ssh root@213.173.105.8 -p 10022", ("root", "213.173.105.8", 10022)),
    ],
)
def test_parse_address_reads_the_formats_of_the_console(text, address):
    assert parse_address(text) == address


@pytest.mark.parametrize("text", ["213.173.105.8", "root@", "root@host:port", "root@host;reboot", "-oProxyCommand=x@h"])
def test_invalid_addresses_are_rejected(text):
    with pytest.raises(InputError, match="USER@HOST:PORT"):
        parse_address(text)


@pytest.mark.parametrize("port", ["99999", "0"])
def test_invalid_ports_are_rejected(port):
    with pytest.raises(InputError, match="must be from 1 to 65535"):
        parse_address(f"root@host:{port}")


@pytest.fixture
def adopted(tmp_path, monkeypatch):
    """An adopted cluster whose pod is unreachable."""
    monkeypatch.setenv("RRAY_CLUSTERS", str(tmp_path / "clusters"))
    folder = ClusterFolder("rainbow")
    state = folder.create(Settings(), ttl=3600, api_url="", adopted=True)
    head = PodRecord(name=state.next_name("head"), role="head", step="made", host="127.0.0.9", port=9,
                     since=state.created, deadline=state.deadline)  # fmt: skip
    state.pods.append(head)
    folder.write(state)
    cluster = without_api(folder, state)
    cluster.report = lambda text: None
    return cluster


def test_an_unreachable_pod_counts_as_ended_after_its_deadline_only(adopted):
    with pytest.raises(ClusterError, match=r"console\.runpod\.io/pods.*down --gone"):
        end_adopted(adopted)
    assert adopted.folder.read_existing().living == adopted.state.living != []
    adopted.clock = lambda: adopted.state.deadline + 3600
    end_adopted(adopted)
    assert adopted.folder.read_existing().living == []


def test_an_unreachable_pod_without_a_timer_never_counts_as_ended(adopted):
    adopted.state.head.deadline = 0.0
    adopted.clock = lambda: adopted.state.deadline + 3600
    with pytest.raises(ClusterError, match="cannot reach the pod"):
        end_adopted(adopted)
    end_adopted(adopted, gone=True)
    assert adopted.folder.read_existing().living == []


@pytest.mark.parametrize(
    ("output", "has_timer"),
    [
        ("this pod will terminate itself at 2030-01-02T03:04:05Z\n", True),
        ("warning: this machine is not a RunPod pod …\n", False),
    ],
)
def test_start_timer_uses_the_deadline_of_the_pod(adopted, monkeypatch, output, has_timer):
    class Pod:
        def run(self, *_, **__):
            return output

    messages: list[str] = []
    adopted.report = messages.append
    monkeypatch.setattr("cluster.adopt.reach", lambda folder, record: Pod())
    monkeypatch.setattr("cluster.adopt.push_code", lambda remote, state: None)
    assert start_timer(adopted) is has_timer
    assert (NO_TIMER in messages) is not has_timer
    assert adopted.folder.read_existing().head.deadline == (1893553445 if has_timer else 0)


@pytest.fixture
def by_hand(account, machines, tmp_path, monkeypatch):
    """A pod created in the console with the user's key: the pod, its address, the key, and flags for `adopt`."""
    key = tmp_path / "own_key"
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(key)], check=True)
    # variables that only the pods of tests need, since they share a machine
    variables = {"RRAY_API_URL": account.url, "RRAY_ENV": sys.prefix,
            "RRAY_RAY_FOLDER": "/tmp/rrh", "RRAY_TICK": "0.2", "RRAY_END_PAUSE": "0.5", "RRAY_FLUSH_SECONDS": "1",
            "RRAY_WORKSPACE": str(machines.volume),
            "RRAY_DASHBOARD_PORT": str(machines.dashboard_port)}  # fmt: skip
    machines.by_hand = [f"{name}={value}" for name, value in variables.items()]
    pod = account.add_by_hand(key.with_suffix(".pub").read_text())
    (tmp_path / "cluster.yaml").write_text(f"workspace: {machines.volume}\n")
    host, port = pod.address
    return pod, f"root@{host}:{port}", key, ["--config", tmp_path / "cluster.yaml", "--key", key]


@pytest.mark.slow
def test_an_adopted_pod_trains_and_terminates(call, account, by_hand):  # noqa: F811
    pod, address, _, flags = by_hand
    assert "as cluster 'rainbow'" in call("adopt", address, *flags, "--dry-run", key="")
    assert ClusterFolder("rainbow").read() is None
    output = call("adopt", address, *flags, "--ttl", "1h", "--usd-per-hour", "0.5", key="")
    assert "ready" in output
    assert "this pod will terminate itself at" in output
    assert call("adopt", address, *flags, key="").count("ready") == 1, "a second adopt changes nothing"
    output = call("status", key="")
    assert "adopted" in output
    assert "Ray alive" in output
    assert "0.50 USD per hour" in output
    assert "Ready to train" in call("check", "--demo", "--", "--phase", "1", "--encoder", "embedded", key="")
    assert "is an adopted pod" in call("scale", "2", key="", expect=2)
    assert "is an adopted pod" in call("up", "--yes", expect=2)
    assert "--yes" in call("down", key="", expect=2)
    assert "the pod is terminated" in call("down", "--yes", key="")
    assert until(lambda: not account.living())
    assert until(lambda: not processes_of(pod.id))


@pytest.mark.slow
def test_an_adopted_pod_terminates_itself_without_this_machine(call, account, by_hand):  # noqa: F811
    pod, address, _, flags = by_hand
    call("adopt", address, *flags, "--ttl", "90s", key="")
    assert until(lambda: not account.living(), 180)
    assert pod.ended >= ClusterFolder("rainbow").read_existing().deadline - 2


@pytest.mark.slow
def test_adopting_an_unreachable_pod_writes_no_state(call, by_hand, tmp_path):  # noqa: F811
    _, address, _, flags = by_hand
    output = call("adopt", address.rpartition(":")[0] + ":1", *flags, expect=1)
    assert "connecting to root@127.0.0.11:1 by ssh" in output
    assert "no such file" in call("adopt", address, "--key", tmp_path / "none", expect=2)
    assert ClusterFolder("rainbow").read() is None


@pytest.mark.slow
def test_setup_and_train_scripts_work_without_adopt(account, machines, by_hand):
    pod, _, key, _ = by_hand
    host, port = pod.address
    ssh = ["ssh", "-F", "none", "-i", str(key), "-p", str(port), "-o", "StrictHostKeyChecking=no", "-o",
           "UserKnownHostsFile=/dev/null", "-o", "LogLevel=ERROR", f"root@{host}"]  # fmt: skip
    assert until(lambda: subprocess.run([*ssh, "true"], capture_output=True).returncode == 0)
    code = Path(__file__).parents[2]
    command = "bash cluster/pod/train.sh --phase 1 --manifest demo --encoder embedded --dry-run"
    process = subprocess.run(
        [*ssh, f"cd {code} && {command}"], capture_output=True, text=True, timeout=200, check=False
    )
    assert process.returncode == 0, process.stdout + process.stderr
    assert "this pod will terminate itself at" in process.stdout
    assert f"127.0.0.1:{machines.dashboard_port}" in process.stdout
    home = machines.root / pod.id
    assert (home / ".rainbow" / "ray_token").stat().st_mode & 0o077 == 0
    deadline = int((machines.volume / "clusters" / f"deadline-{pod.id}").read_text())
    assert 7.9 < (deadline - time.time()) / 3600 < 8.1
