"""Pods with networks of their own: Ray takes the private one, dead ones are replaced, nothing but ssh is published."""

from __future__ import annotations

import re
import socket
import subprocess
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from tests.cluster.machines import SSHD
from tests.cluster.networks import HOST_ADDRESS, Networked, can_make_namespaces
from tests.cluster.test_commands import SIZE, call  # noqa: F401

pytestmark = pytest.mark.slow


@pytest.fixture
def networked(account, tmp_path):
    if SSHD is None or not can_make_namespaces():
        pytest.skip("needs root, iproute2 and OpenSSH's server")
    there = Networked(tmp_path / "machines")
    account.on_start, account.on_end = there.start, there.end
    yield there
    for pod in list(account.pods.values()):
        there.end(pod)
    there.close()


def is_open(host, port):
    with socket.socket() as probe:
        probe.settimeout(1.0)
        return probe.connect_ex((host, port)) == 0


def open_ports(host):
    with ThreadPoolExecutor(64) as pool:
        return {
            port for port, found in enumerate(pool.map(lambda port: is_open(host, port), range(1, 65536)), 1) if found
        }


def listening(pod: int) -> str:
    done = subprocess.run(
        ["ip", "netns", "exec", f"rrpod{pod}", "ss", "-tlnH"], capture_output=True, text=True, check=True
    )
    return done.stdout


def test_ray_takes_the_private_network_and_a_scan_finds_ssh_alone(call, account, networked, tmp_path):  # noqa: F811
    networked.dead_networks.add(2)  # the first worker's
    networked.late[3] = 4.0  # and the interface of the one in its place comes late
    start = networked.start

    def start_and_connect(pod):
        start(pod)
        if networked.started in networked.late:
            threading.Timer(networked.late[networked.started], networked.connect, [networked.started]).start()

    account.on_start = start_and_connect
    (tmp_path / "cluster.yaml").write_text(f"workspace: {networked.volume}\n")
    said = call("up", "--config", tmp_path / "cluster.yaml", *SIZE, "--yes")
    assert "its private network is dead; another one takes its place" in said
    assert "ready: 2 pods" in said
    assert {pod.private_ip for pod in account.living()} == {"10.77.0.1", "10.77.0.3"}
    assert call("status").count("Ray alive") == 2
    for number in (1, 3):
        (pod,) = [pod for pod in account.living() if pod.private_ip == f"10.77.0.{number}"]
        known = (networked.root / pod.id / ".rainbow" / "node.env").read_text()
        assert "NCCL_SOCKET_IFNAME=priv0" in known
        assert "GLOO_SOCKET_IFNAME=priv0" in known
        assert "RAINBOW_ADDRESS=10.77.0.1:6379" in known
    assert re.search(r"127\.0\.0\.1:8265 ", listening(1)), "the dashboard is on the loopback"
    assert not re.search(r"(0\.0\.0\.0|\*|10\.77\.0\.1):8265 ", listening(1))
    assert open_ports(HOST_ADDRESS) == {account_port(pod) for pod in account.pods.values()}, "ssh, and nothing else"
    nodes = "import ray; ray.init('auto'); print(sorted(n['NodeManagerAddress'] for n in ray.nodes()))"
    assert "['10.77.0.1', '10.77.0.3']" in call("ssh", "--", "python", "-c", nodes)
    call("down")
    assert account.living() == []


def account_port(pod):
    return pod.address[1]


@pytest.mark.long
def test_a_head_that_nobody_reaches_is_replaced(call, account, networked, tmp_path):  # noqa: F811
    networked.dead_networks.add(1)
    (tmp_path / "cluster.yaml").write_text(f"workspace: {networked.volume}\n")
    said = call("up", "--config", tmp_path / "cluster.yaml", *SIZE, "--yes")
    assert "no pod reaches it on the private network" in said
    assert "ready: 2 pods" in said
    assert "10.77.0.1" not in {pod.private_ip for pod in account.living()}
    assert call("status").count("Ray alive") == 2
    call("down")
    assert account.living() == []
