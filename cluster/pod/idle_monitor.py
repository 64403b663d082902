"""Ends a pod that nobody needs: `python -m cluster.pod.idle_monitor head|worker`, started with Ray on every pod.

The head ends when a job was to end the cluster, or when nobody ran or watched anything for RRAY_IDLE seconds. A worker
ends when the head has written DONE.json, or has not answered for RRAY_GRACE seconds. The dead-man timer does not depend
on any of this.
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

DOORS = ("rainbow_ray.train", "rainbow_ray.tune", "rainbow_ray.predict")
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
    cluster: Path  # of this cluster, on the volume
    in_use: Callable[[], bool]
    head_answers: Callable[[], bool]
    now: Callable[[], float] = time.time
    _since: float | None = None

    def reason(self) -> str | None:
        """Return why this pod should stop now.

        Returns:
            The reason, or None.
        """
        if self.role == "worker":
            if (self.cluster / "DONE.json").exists():
                return "the head has ended"
            return self._too_long(self.head_answers(), self.grace, "the head is gone")
        try:
            return (self.cluster / FINISH).read_text()
        except OSError:
            pass
        return self._too_long(self.in_use(), self.idle, "nobody uses it")

    def _too_long(self, fine: bool, seconds: float, what: str) -> str | None:
        now = self.now()
        if fine or self._since is None:
            self._since = now
        return f"{what} for {now - self._since:.0f} s" if now - self._since >= seconds else None


def in_use() -> bool:
    """Return whether the pod is in use: a job or a command of rainbow_ray runs, or somebody is logged in.

    Returns:
        True if the pod must not stop.
    """
    import psutil

    if any(is_running(job, time.time()) for job in read_jobs()):
        return True
    if any(set(DOORS) & set(process.info["cmdline"] or []) for process in psutil.process_iter(["cmdline"])):
        return True
    own, port = os.environ.get("RRAY_HEAD", ""), int(os.environ.get("RRAY_PROBE_PORT", "22"))
    for connection in psutil.net_connections(kind="tcp"):
        here = connection.laddr
        # other pods share a test's loopback
        at_ssh = getattr(here, "port", None) == port
        mine = at_ssh and (not own.startswith("127.") or getattr(here, "ip", None) == own)
        if mine and connection.status == psutil.CONN_ESTABLISHED:
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
        return 0  # one is enough
    head = os.environ.get("RRAY_HEAD", "127.0.0.1")
    keeper = IdleMonitor(
        role=arguments[0],
        idle=float(os.environ.get("RRAY_IDLE", "1800")),
        grace=float(os.environ.get("RRAY_GRACE", "600")),
        cluster=jobs_folder().parent,
        in_use=in_use,
        head_answers=lambda: can_connect(head, GCS_PORT),
    )
    while True:
        reason = keeper.reason()
        if reason is not None:
            subprocess.run(["bash", str(DEADMAN), "end", reason], check=False)
        time.sleep(float(os.environ.get("RRAY_TICK", "15")))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
