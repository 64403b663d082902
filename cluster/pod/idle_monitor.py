"""Terminate idle pods: `python -m cluster.pod.idle_monitor head|worker`, started with Ray on every pod.

The head terminates itself when a job with `--finish` has ended, or after RRAY_IDLE seconds without jobs or logins. A
worker terminates itself when the head has written DONE.json, or has not answered for RRAY_GRACE seconds. The dead-man
timer is independent of this monitor.
"""

from __future__ import annotations

import fcntl
import os
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from cluster.pod.job import FINISH, is_running, jobs_folder, read_jobs
from cluster.pod.machine import can_connect
from cluster.pod.node import GCS_PORT, local_folder

ENTRY_POINTS = ("rainbow_ray.train", "rainbow_ray.tune", "rainbow_ray.predict")
DEADMAN = Path(__file__).parent / "deadman.sh"


@dataclass
class IdleMonitor:
    """Decides when a pod must stop.

    Attributes:
        role: `head` or `worker`.
        idle: Seconds without use after which the head stops.
        grace: Seconds without an answer of the head after which a worker stops.
        cluster: Folder of the cluster on the volume.
        in_use: Returns whether the pod is in use.
        head_answers: Returns whether the head answers.
        now: Returns seconds since 1970.
    """

    role: str
    idle: float
    grace: float
    cluster: Path
    in_use: Callable[[], bool]
    head_answers: Callable[[], bool]
    now: Callable[[], float] = time.time
    _last_active: float | None = None  # seconds since 1970

    def reason(self) -> str | None:
        """Return why this pod should stop now.

        Returns:
            The reason, or None.
        """
        if self.role == "worker":
            if (self.cluster / "DONE.json").exists():
                return "the head has terminated"
            return self._timeout_reason(self.head_answers(), self.grace, "the head has not answered")
        try:
            return (self.cluster / FINISH).read_text()
        except OSError:
            pass
        return self._timeout_reason(self.in_use(), self.idle, "no jobs or logins")

    def _timeout_reason(self, active: bool, timeout_seconds: float, description: str) -> str | None:
        now = self.now()
        if active or self._last_active is None:
            self._last_active = now
        inactive_seconds = now - self._last_active
        return f"{description} for {inactive_seconds:.0f} s" if inactive_seconds >= timeout_seconds else None


def in_use() -> bool:
    """Return whether the pod is in use: a job or a command of rainbow_ray runs, or somebody is logged in.

    Returns:
        True if the pod must not stop.
    """
    import psutil

    if any(is_running(job, time.time()) for job in read_jobs()):
        return True
    if any(set(ENTRY_POINTS) & set(process.info["cmdline"] or []) for process in psutil.process_iter(["cmdline"])):
        return True
    own_address, port = os.environ.get("RRAY_HEAD", ""), int(os.environ.get("RRAY_PROBE_PORT", "22"))
    for connection in psutil.net_connections(kind="tcp"):
        local_address = connection.laddr
        is_ssh = getattr(local_address, "port", None) == port
        # in tests, all pods share the loopback interface
        is_own = not own_address.startswith("127.") or getattr(local_address, "ip", None) == own_address
        if is_ssh and is_own and connection.status == psutil.CONN_ESTABLISHED:
            return True
    return False


def main(arguments: list[str]) -> int:
    """Run `python -m cluster.pod.idle_monitor`.

    Args:
        arguments: The role of the pod: `head` or `worker`.

    Returns:
        The exit code.
    """
    lock = (local_folder() / "keeper.lock").open("w")
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return 0  # another monitor is running
    head = os.environ.get("RRAY_HEAD", "127.0.0.1")
    monitor = IdleMonitor(
        role=arguments[0],
        idle=float(os.environ.get("RRAY_IDLE", "1800")),
        grace=float(os.environ.get("RRAY_GRACE", "600")),
        cluster=jobs_folder().parent,
        in_use=in_use,
        head_answers=lambda: can_connect(head, GCS_PORT),
    )
    while True:
        reason = monitor.reason()
        if reason is not None:
            subprocess.run(["bash", str(DEADMAN), "end", reason], check=False)
        time.sleep(float(os.environ.get("RRAY_TICK", "15")))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
