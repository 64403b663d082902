"""What fake pods run on: a home, an sshd and an address of the loopback each; all of it real processes.

Every process of a pod carries its id in its environment, which is how a pod is switched off as a whole; but for sshd,
which writes its title over it: that one is known by its parent.
"""

from __future__ import annotations

import contextlib
import os
import shlex
import subprocess
import sys
import time
from pathlib import Path

import psutil

from tests.cluster.fake_runpod import FakePod

MARK = "FAKE_POD"
SSHD = next((path for path in ("/usr/sbin/sshd", "/usr/local/sbin/sshd") if Path(path).exists()), None)
SSH_PORT = 2200
_LEADERS: dict[str, subprocess.Popen[bytes]] = {}  # each pod's first process


class Machines:
    """Pods' machines, under `root`; `root/volume` is the network volume that they share."""

    def __init__(self, root: Path, *, environment: str = sys.prefix) -> None:
        self.root, self.volume = root, root / "volume"
        self.volume.mkdir(parents=True)
        self.tools = root / "tools"  # first on the pods' path
        self.tools.mkdir()
        quick = self.tools / "sync"  # the real one waits for all that runs on this machine
        quick.write_text("#!/bin/sh\nexit 0\n")
        quick.chmod(0o755)
        self.path = f"{self.tools}:{os.environ['PATH']}"
        self.dead_ssh: set[int] = set()  # numbers of pods whose sshd never starts
        self.environment = environment  # the pods' Python
        self.by_hand: list[str] = []  # NAME=VALUE, of pods from the console
        self.started = 0  # so many pods

    def start(self, pod: FakePod) -> None:
        """As RunPod starts a container: its variables, its command; sshd belongs to the image's /start.sh."""
        self.started += 1
        number = self.started
        home = self.root / pod.id
        home.mkdir(mode=0o700)
        inside, listen = self.place(pod, number)
        container = {
            **pod.body["env"],
            MARK: pod.id,
            "HOME": str(home),
            "PATH": self.path,
            "RUNPOD_POD_ID": pod.id,
            "RUNPOD_API_KEY": pod.key,
            "RRAY_START": str(self._start_script(home, pod, listen, silent=number in self.dead_ssh)),
            "RRAY_ENV": self.environment,
            "RRAY_RAY_FOLDER": f"/tmp/rr{number}",
            "RRAY_PROBE_PORT": str(listen[1]),
            "RRAY_PROBE_SECONDS": "3",
            "RRAY_TICK": "0.2",
            "RRAY_END_PAUSE": "0.5",
            "RRAY_FLUSH_SECONDS": "1",
        }
        command = [*inside, *shlex.split(pod.body["args"])]
        with (home / "container.log").open("w") as log:
            _LEADERS[pod.id] = subprocess.Popen(
                command, env=container, stdout=log, stderr=log, stdin=subprocess.DEVNULL,
                start_new_session=True, cwd=home,
            )  # fmt: skip

    def place(self, pod: FakePod, number: int) -> tuple[list[str], tuple[str, int]]:
        """Give a pod its addresses: what its command is begun with, and where its sshd listens."""
        pod.address = (f"127.0.0.{10 + number}", SSH_PORT)
        pod.private_ip = pod.address[0]
        return [], pod.address

    def end(self, pod: FakePod) -> None:
        """Switched off: nothing of it is asked. Its own timer, which asked for this, goes last or not at all."""
        for _ in range(50):
            left = processes_of(pod.id)
            for process in left:
                try:
                    process.kill()
                except psutil.NoSuchProcess:
                    continue
            if not left:
                return
            time.sleep(0.02)

    def restart(self, pod: FakePod) -> None:
        """The container starts anew, with the variables it was made with."""
        self.end(pod)
        self.started -= 1
        home = self.root / pod.id
        home.rename(home.with_name(f"{pod.id}.before.{time.time_ns()}"))
        self.start(pod)

    def _start_script(self, home: Path, pod: FakePod, listen: tuple[str, int], *, silent: bool) -> Path:
        """The image's /start.sh: ssh with the key that the pod was given."""
        folder = home / "ssh"
        folder.mkdir(mode=0o700)
        subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(folder / "host")], check=True)
        (folder / "authorized").write_text(pod.body["env"].get("PUBLIC_KEY", "") + "\n")
        host, port = listen
        # a container's variables, for a pod of the console: other pods have theirs in a file of our own
        by_hand = "RRAY_CLUSTER" not in pod.body["env"]
        shown = f" RUNPOD_POD_ID={pod.id} RUNPOD_API_KEY={pod.key} {' '.join(self.by_hand)}" if by_hand else ""
        (folder / "config").write_text(
            f"ListenAddress {host}:{port}\nHostKey {folder}/host\n"
            f"AuthorizedKeysFile {folder}/authorized {home}/.ssh/authorized_keys\n"
            f"PidFile {folder}/pid\nStrictModes no\nUsePAM no\nPasswordAuthentication no\n"
            f"SetEnv HOME={home} {MARK}={pod.id} PATH={self.path}{shown}\nSubsystem sftp internal-sftp\n"
        )
        script = home / "start.sh"
        serve = "exec sleep infinity" if silent else f"exec {SSHD} -D -e -f {folder}/config"
        script.write_text(f"#!/usr/bin/env bash\nmkdir -p /run/sshd 2>/dev/null\n{serve}\n")
        script.chmod(0o755)
        return script


def processes_of(pod_id: str) -> list[psutil.Process]:
    """Everything that runs on a pod."""
    leader = _LEADERS.get(pod_id)
    found = {}
    if leader is not None and leader.poll() is None:
        with contextlib.suppress(psutil.Error):
            first = psutil.Process(leader.pid)
            found = {process.pid: process for process in [first, *first.children(recursive=True)]}
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error, OSError):
            if process.environ().get(MARK) == pod_id:
                found[process.pid] = process
    return [process for process in found.values() if not _is_dead(process)]


def _is_dead(process: psutil.Process) -> bool:
    try:
        return process.status() == psutil.STATUS_ZOMBIE
    except psutil.Error:
        return True
