"""Pods in separate networks: Ray uses the private one, unconnected pods are replaced, only ssh is published."""

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
    pod_machines = Networked(tmp_path / "machines")
    account.on_start, account.on_end = pod_machines.start, pod_machines.end
    yield pod_machines
    for pod in list(account.pods.values()):
        pod_machines.end(pod)
    pod_machines.close()


def is_open(host, port):
    with socket.socket() as probe:
        probe.settimeout(1.0)
        return probe.connect_ex((host, port)) == 0


def open_ports(host):
    with ThreadPoolExecutor(64) as pool:
        return {
            port
            for port, port_is_open in enumerate(pool.map(lambda port: is_open(host, port), range(1, 65536)), 1)
            if port_is_open
        }


def listening_sockets(pod: int) -> str:
    process = subprocess.run(
        ["ip", "netns", "exec", f"rrpod{pod}", "ss", "-tlnH"], capture_output=True, text=True, check=True
    )
    return process.stdout


def test_ray_uses_the_private_network_and_only_ssh_is_published(call, account, networked, tmp_path):  # noqa: F811
    networked.dead_networks.add(2)  # of the first worker
    networked.late[3] = 4.0  # seconds until the interface of its replacement appears
    start_pod = networked.start

    def start_and_connect(pod):
        start_pod(pod)
        if networked.started in networked.late:
            threading.Timer(networked.late[networked.started], networked.connect, [networked.started]).start()

    account.on_start = start_and_connect
    (tmp_path / "cluster.yaml").write_text(f"workspace: {networked.volume}\n")
    output = call("up", "--config", tmp_path / "cluster.yaml", *SIZE, "--yes")
    assert "cannot reach the head on the private network; replacing it" in output
    assert "ready: 2 pods" in output
    assert {pod.private_ip for pod in account.living()} == {"10.77.0.1", "10.77.0.3"}
    assert call("status").count("Ray alive") == 2
    for number in (1, 3):
        (pod,) = [pod for pod in account.living() if pod.private_ip == f"10.77.0.{number}"]
        node_env = (networked.root / pod.id / ".rainbow" / "node.env").read_text()
        assert "NCCL_SOCKET_IFNAME=priv0" in node_env
        assert "GLOO_SOCKET_IFNAME=priv0" in node_env
        assert "RAINBOW_ADDRESS=10.77.0.1:6379" in node_env
    assert re.search(r"127\.0\.0\.1:8265 ", listening_sockets(1)), "the dashboard is on the loopback interface"
    assert not re.search(r"(0\.0\.0\.0|\*|10\.77\.0\.1):8265 ", listening_sockets(1))
    assert open_ports(HOST_ADDRESS) == {ssh_port(pod) for pod in account.pods.values()}, "only ssh is published"
    script = "import ray; ray.init('10.77.0.1:6379'); print(sorted(n['NodeManagerAddress'] for n in ray.nodes()))"
    assert "['10.77.0.1', '10.77.0.3']" in call("ssh", "--", "python", "-c", script)
    call("down")
    assert account.living() == []


def ssh_port(pod):
    return pod.address[1]


@pytest.mark.long
def test_an_unreachable_head_is_replaced(call, account, networked, tmp_path):  # noqa: F811
    networked.dead_networks.add(1)
    (tmp_path / "cluster.yaml").write_text(f"workspace: {networked.volume}\n")
    output = call("up", "--config", tmp_path / "cluster.yaml", *SIZE, "--yes")
    assert "no worker can reach it on the private network" in output
    assert "ready: 2 pods" in output
    assert "10.77.0.1" not in {pod.private_ip for pod in account.living()}
    assert call("status").count("Ray alive") == 2
    call("down")
    assert account.living() == []
