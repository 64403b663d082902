"""Pods in separate network namespaces, as on RunPod: the default interface does not reach other pods, the private one
does. From outside, only published ports are reachable, through forwarding by the host.

    this namespace ── out ── HOST ──── pub0 ── pod 1 ── priv0 ──┐
                               └────── pub0 ── pod 2 ── priv0 ──┴── BRIDGE
"""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

from tests.cluster.fake_runpod import FakePod
from tests.cluster.machines import Machines

HOST, BRIDGE = "rrhost", "rrbridge"
OUTSIDE, HOST_ADDRESS = "172.31.9.1", "172.31.9.2"
FIRST_PORT = 10000  # of the host, forwarded to pods
FORWARD = """
import asyncio, sys
async def pipe(reader, writer):
    while data := await reader.read(65536):
        writer.write(data); await writer.drain()
    writer.close()
async def serve(reader, writer):
    inner = await asyncio.open_connection(sys.argv[2], int(sys.argv[3]))
    await asyncio.gather(pipe(reader, inner[1]), pipe(inner[0], writer), return_exceptions=True)
async def main():
    async with await asyncio.start_server(serve, "0.0.0.0", int(sys.argv[1])) as server:
        await server.serve_forever()
asyncio.run(main())
"""


def can_make_namespaces() -> bool:
    """Return whether network namespaces can be created (as root, with iproute2)."""
    if os.geteuid() or shutil.which("ip") is None:
        return False
    process = subprocess.run(["ip", "netns", "add", "rrtry"], capture_output=True, check=False)
    subprocess.run(["ip", "netns", "del", "rrtry"], capture_output=True, check=False)
    return process.returncode == 0


def ip(*arguments: object, namespace: str | None = None) -> None:
    command = ["ip", *(["-n", namespace] if namespace else []), *map(str, arguments)]
    subprocess.run(command, check=True, capture_output=True)


class Networked(Machines):
    """Machines whose pods have separate networks; call `close` at the end."""

    dashboard_port = 8265

    def __init__(self, root: Path) -> None:
        super().__init__(root)
        self.dead_networks: set[int] = set()  # numbers of pods whose private network is disconnected
        self.late: dict[int, float] = {}  # seconds until the private interface of a pod appears
        self.forwards: list[subprocess.Popen[bytes]] = []
        self.close()
        for name in (HOST, BRIDGE):
            ip("netns", "add", name)
            ip("link", "set", "lo", "up", namespace=name)
        ip("link", "add", "rrout", "type", "veth", "peer", "name", "out", "netns", HOST)
        ip("addr", "add", f"{OUTSIDE}/24", "dev", "rrout")
        ip("link", "set", "rrout", "up")
        ip("addr", "add", f"{HOST_ADDRESS}/24", "dev", "out", namespace=HOST)
        ip("link", "set", "out", "up", namespace=HOST)
        ip("link", "add", "br0", "type", "bridge", namespace=BRIDGE)
        ip("link", "set", "br0", "up", namespace=BRIDGE)

    def assign_addresses(self, pod: FakePod, number: int) -> tuple[list[str], tuple[str, int]]:
        name = f"rrpod{number}"
        ip("netns", "add", name)
        ip("link", "set", "lo", "up", namespace=name)
        ip("link", "add", f"p{number}", "netns", HOST, "type", "veth", "peer", "name", "pub0", "netns", name)
        ip("addr", "add", f"172.30.{number}.1/24", "dev", f"p{number}", namespace=HOST)
        ip("link", "set", f"p{number}", "up", namespace=HOST)
        ip("addr", "add", f"172.30.{number}.2/24", "dev", "pub0", namespace=name)
        ip("link", "set", "pub0", "up", namespace=name)
        ip("route", "add", "default", "via", f"172.30.{number}.1", namespace=name)
        pod.address, pod.private_ip = (HOST_ADDRESS, FIRST_PORT + number), f"10.77.0.{number}"
        if number not in self.late:
            self.connect(number)
        for port in pod.body.get("ports", []):
            host_port = FIRST_PORT + number if port == "22/tcp" else int(port.partition("/")[0])
            command = [sys.executable, "-c", FORWARD, str(host_port), f"172.30.{number}.2", port.partition("/")[0]]
            self.forwards.append(subprocess.Popen(["ip", "netns", "exec", HOST, *command], stderr=subprocess.DEVNULL))
        return ["ip", "netns", "exec", name], ("0.0.0.0", 22)

    def connect(self, number: int) -> None:
        """Create the private interface of a pod."""
        name, port = f"rrpod{number}", f"v{number}"
        ip("link", "add", port, "netns", BRIDGE, "type", "veth", "peer", "name", "priv0", "netns", name)
        if number not in self.dead_networks:
            ip("link", "set", port, "master", "br0", namespace=BRIDGE)
        ip("link", "set", port, "up", namespace=BRIDGE)
        ip("addr", "add", f"10.77.0.{number}/24", "dev", "priv0", namespace=name)
        ip("link", "set", "priv0", "up", namespace=name)

    def close(self) -> None:
        for forward in self.forwards:
            forward.kill()
        namespaces = subprocess.run(["ip", "netns", "list"], capture_output=True, text=True, check=True).stdout
        for name in (line.split()[0] for line in namespaces.splitlines() if line.startswith("rr")):
            subprocess.run(["ip", "netns", "del", name], capture_output=True, check=False)
        with contextlib.suppress(subprocess.CalledProcessError):
            ip("link", "del", "rrout")
        time.sleep(0.1)
