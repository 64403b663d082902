"""Ray nodes on pods: token, object store, network interface and variables."""

from __future__ import annotations

import contextlib
import socket
import subprocess
import sys
import tempfile

import pytest

from cluster.pod import job, machine, node
from tests.cluster.test_pods import until


@pytest.fixture
def home(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("RAY_AUTH_TOKEN_PATH", raising=False)
    return tmp_path


def test_ray_does_not_start_without_a_token(home, capsys):
    assert node.main(["start", "head"]) == 1
    assert "Ray would accept commands from anyone" in capsys.readouterr().err
    (home / ".rainbow" / "ray_token").write_text(" \n")
    assert node.main(["start", "head"]) == 1


def test_the_token_file_becomes_private(home):
    path = home / ".rainbow" / "ray_token"
    path.parent.mkdir()
    path.write_text("a token")
    path.chmod(0o644)
    assert node.token_file() == path
    assert path.stat().st_mode & 0o077 == 0


def test_the_object_store_fits_into_shared_memory():
    gigabyte = 2**30
    assert machine.object_store_bytes(100 * gigabyte, 1000 * gigabyte) == 30 * gigabyte
    assert machine.object_store_bytes(100 * gigabyte, gigabyte) < gigabyte
    with pytest.raises(machine.NodeError, match="/dev/shm"):
        machine.object_store_bytes(100 * gigabyte, 64 * 2**20)


def test_an_address_without_an_interface_is_reported():
    assert machine.interface_of("127.0.0.1") == "lo"
    with pytest.raises(machine.NodeError, match=r"10\.255\.255\.1"):
        machine.wait_for_interface("10.255.255.1", seconds=0.0)


def test_node_env_is_private_and_reads_back(home):
    node.write_node_env({"RAINBOW_ADDRESS": "10.0.0.1:6379", "ODD": "a b'c"})
    assert node.read_node_env() == {"RAINBOW_ADDRESS": "10.0.0.1:6379", "ODD": "a b'c"}
    assert (home / ".rainbow" / "node.env").stat().st_mode & 0o077 == 0


def test_cpu_and_memory_limits_are_positive():
    assert machine.cpu_count() >= 1
    assert machine.memory_bytes() > 2**28


@pytest.fixture
def head(home, monkeypatch):
    """Return the address of a pod that can become a head; its Ray is killed afterwards."""
    ip = "127.0.0.77"
    token = home / ".rainbow" / "ray_token"
    token.parent.mkdir()
    token.write_text("a" * 40)
    monkeypatch.setattr(node, "start_idle_monitor", lambda role: None)
    monkeypatch.setenv("RRAY_RAY_FOLDER", tempfile.mkdtemp(prefix="rr", dir="/tmp"))
    monkeypatch.setenv("RRAY_DASHBOARD_PORT", "9266")
    yield ip
    for process in node.node_processes(ip):
        process.kill()


@pytest.mark.slow
def test_a_failed_start_leaves_nothing_that_refuses_the_next_one(head, monkeypatch, capsys):
    """The dashboard's port is taken at first: Ray's GCS outlives such a start and knows only its own session."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        monkeypatch.setenv("RRAY_DASHBOARD_PORT", str(taken.getsockname()[1]))
        assert node.main(["start", "head", "--ip", head]) == 1
    assert "does not match persisted value" not in capsys.readouterr().err
    assert not node.node_processes(head)
    assert node.main(["start", "head", "--ip", head]) == 0
    assert node.is_alive(head, f"{head}:{node.GCS_PORT}")


@pytest.mark.slow
def test_jobs_are_accepted_while_the_usual_port_of_the_agent_is_taken(head, home, monkeypatch, tmp_path):
    for name, value in {
        "RRAY_WORKSPACE": str(tmp_path),
        "RRAY_CLUSTER": "marker",
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN_PATH": str(home / ".rainbow" / "ray_token"),
    }.items():
        monkeypatch.setenv(name, value)
    with contextlib.ExitStack() as stack:
        with contextlib.suppress(OSError):  # another Ray holds Ray's usual port
            stack.enter_context(socket.create_server(("127.0.0.1", 52365)))
        assert node.main(["start", "head", "--ip", head]) == 0
        submit = [sys.executable, "-m", "cluster.pod.job", "submit", "one", "--", "true"]
        subprocess.run(submit, check=True, timeout=120)
        assert until(lambda: any(record["code"] == 0 for record in job.read_jobs()), 60)
