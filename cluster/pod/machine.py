"""Resources and network interfaces of the container of a pod."""

from __future__ import annotations

import os
import socket
import time
from pathlib import Path

INTERFACE_SECONDS = 120.0
OBJECT_STORE_FRACTION = 0.3  # of memory, Ray's default
SHM_FRACTION = 0.9  # of /dev/shm; Ray falls back to the slower disk if its store does not fit
MIN_OBJECT_STORE_BYTES = 78 * 2**20  # Ray's minimum


class NodeError(Exception):
    """Ray cannot run on this pod; the message is one sentence."""


def cpu_count() -> int:
    """Return the number of CPUs that this container may use (affinity and cgroup quota).

    Returns:
        At least 1.
    """
    count = float(len(os.sched_getaffinity(0)))
    try:
        quota, period = Path("/sys/fs/cgroup/cpu.max").read_text().split()
        if quota != "max":
            count = min(count, int(quota) / int(period))
    except (OSError, ValueError):
        pass
    return max(1, int(count))


def memory_bytes() -> int:
    """Return the memory that this container may use.

    Returns:
        Bytes.
    """
    total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    try:
        limit = Path("/sys/fs/cgroup/memory.max").read_text().strip()
        return min(total, int(limit)) if limit != "max" else total
    except (OSError, ValueError):
        return total


def object_store_bytes(memory: int, shm_free: int) -> int:
    """Return the size of Ray's object store.

    Args:
        memory: Memory of the container in bytes.
        shm_free: Free bytes of `/dev/shm`.

    Returns:
        Bytes.

    Raises:
        NodeError: `/dev/shm` is too small.
    """
    size = int(min(OBJECT_STORE_FRACTION * memory, SHM_FRACTION * shm_free))
    if size < MIN_OBJECT_STORE_BYTES:
        required = MIN_OBJECT_STORE_BYTES / SHM_FRACTION
        raise NodeError(f"/dev/shm has {shm_free / 2**20:.0f} MB free; Ray requires {required / 2**20:.0f} MB")
    return size


def interface_of(ip: str) -> str | None:
    """Return the network interface of an address.

    Args:
        ip: IPv4 address.

    Returns:
        The name of the interface, or None.
    """
    import psutil

    for name, addresses in psutil.net_if_addrs().items():
        if any(address.family == socket.AF_INET and address.address == ip for address in addresses):
            return str(name)
    # all addresses of 127/8 belong to the loopback interface
    return "lo" if ip.startswith("127.") else None


def own_address() -> str:
    """Return the address of a pod without a private network, as Ray chooses it (never a loopback address).

    Returns:
        IPv4 address.
    """
    from ray.util import get_node_ip_address

    return str(get_node_ip_address())


def wait_for_interface(ip: str, seconds: float = INTERFACE_SECONDS) -> str:
    """Wait for the network interface of an address.

    Args:
        ip: IPv4 address.
        seconds: Longest wait.

    Returns:
        The name of the interface.

    Raises:
        NodeError: The interface did not appear in time.
    """
    deadline = time.monotonic() + seconds
    while True:
        name = interface_of(ip)
        if name is not None:
            return name
        if time.monotonic() > deadline:
            raise NodeError(f"no network interface with the private address {ip} after {seconds:.0f} s")
        time.sleep(1.0)


def can_connect(host: str, port: int, timeout: float = 3.0) -> bool:
    """Return whether a TCP connection succeeds.

    Args:
        host: Host name or address.
        port: TCP port.
        timeout: Seconds.

    Returns:
        True if the connection succeeded.
    """
    try:
        with socket.create_connection((host, port), timeout=timeout):
            return True
    except OSError:
        return False
