"""Machines of fake pods: real processes with a home folder, an sshd and a loopback address each.

Every process of a pod has the pod's id in its environment, so that all of them can be killed. sshd overwrites its
environment with its process title and is processes as a child of the pod's first process.
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
    """Machines of pods in the folder `root`; `root/volume` is their shared network volume."""

    dashboard_port = 9265  # below the ports of workers; tests that train meanwhile have dashboards from 8265 on

    def __init__(self, root: Path, *, environment: str = sys.prefix) -> None:
        self.root, self.volume = root, root / "volume"
        self.volume.mkdir(parents=True)
        self.tools = root / "tools"  # first entry of the pods' PATH
        self.tools.mkdir()
        fake_sync = self.tools / "sync"  # the real one waits for other processes of this machine
        fake_sync.write_text("#!/bin/sh\nexit 0\n")
        fake_sync.chmod(0o755)
        self.path = f"{self.tools}:{os.environ['PATH']}"
        self.dead_ssh: set[int] = set()  # numbers of pods whose sshd never starts
        self.environment = environment  # Python environment of the pods
        self.by_hand: list[str] = []  # NAME=VALUE for pods created in the console
        self.started = 0  # number of pods

    def start(self, pod: FakePod) -> None:
        """Start a container as RunPod does, with its variables and command; the image's /start.sh starts sshd."""
        self.started += 1
        number = self.started
        home = self.root / pod.id
        home.mkdir(mode=0o700)
        prefix, listen = self.assign_addresses(pod, number)
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
            "RRAY_DASHBOARD_PORT": str(self.dashboard_port),
            "RRAY_PROBE_PORT": str(listen[1]),
            "RRAY_PROBE_SECONDS": "3",
            "RRAY_TICK": "0.2",
            "RRAY_END_PAUSE": "0.5",
            "RRAY_FLUSH_SECONDS": "1",
        }
        command = [*prefix, *shlex.split(pod.body["args"])]
        with (home / "container.log").open("w") as log:
            _LEADERS[pod.id] = subprocess.Popen(
                command, env=container, stdout=log, stderr=log, stdin=subprocess.DEVNULL,
                start_new_session=True, cwd=home,
            )  # fmt: skip

    def assign_addresses(self, pod: FakePod, number: int) -> tuple[list[str], tuple[str, int]]:
        """Set the addresses of a pod; return the prefix of its command and the address of its sshd."""
        pod.address = (f"127.0.0.{10 + number}", SSH_PORT)
        pod.private_ip = pod.address[0]
        return [], pod.address

    def end(self, pod: FakePod) -> None:
        """Kill all processes of a pod."""
        for _ in range(50):
            remaining = processes_of(pod.id)
            for process in remaining:
                try:
                    process.kill()
                except psutil.NoSuchProcess:
                    continue
            if not remaining:
                return
            time.sleep(0.02)

    def restart(self, pod: FakePod) -> None:
        """Restart the container with the same variables."""
        self.end(pod)
        self.started -= 1
        home = self.root / pod.id
        home.rename(home.with_name(f"{pod.id}.before.{time.time_ns()}"))
        self.start(pod)

    def _start_script(self, home: Path, pod: FakePod, listen: tuple[str, int], *, silent: bool) -> Path:
        """Write the image's /start.sh, which starts sshd with the public key of the pod."""
        folder = home / "ssh"
        folder.mkdir(mode=0o700)
        subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(folder / "host")], check=True)
        (folder / "authorized").write_text(pod.body["env"].get("PUBLIC_KEY", "") + "\n")
        host, port = listen
        # ssh sessions of pods created in the console get the variables from sshd; other pods have them in pod.env
        by_hand = "RRAY_CLUSTER" not in pod.body["env"]
        variables = f" RUNPOD_POD_ID={pod.id} RUNPOD_API_KEY={pod.key} {' '.join(self.by_hand)}" if by_hand else ""
        (folder / "config").write_text(
            f"ListenAddress {host}:{port}\nHostKey {folder}/host\n"
            f"AuthorizedKeysFile {folder}/authorized {home}/.ssh/authorized_keys\n"
            f"PidFile {folder}/pid\nStrictModes no\nUsePAM no\nPasswordAuthentication no\n"
            f"SetEnv HOME={home} {MARK}={pod.id} PATH={self.path}{variables}\nSubsystem sftp internal-sftp\n"
        )
        script = home / "start.sh"
        run_sshd = "exec sleep infinity" if silent else f"exec {SSHD} -D -e -f {folder}/config"
        script.write_text(f"#!/usr/bin/env bash\nmkdir -p /run/sshd 2>/dev/null\n{run_sshd}\n")
        script.chmod(0o755)
        return script


def processes_of(pod_id: str) -> list[psutil.Process]:
    """Return all running processes of a pod."""
    leader = _LEADERS.get(pod_id)
    processes = {}
    if leader is not None and leader.poll() is None:
        with contextlib.suppress(psutil.Error):
            first_process = psutil.Process(leader.pid)
            processes = {process.pid: process for process in [first_process, *first_process.children(recursive=True)]}
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error, OSError):
            if process.environ().get(MARK) == pod_id:
                processes[process.pid] = process
    return [process for process in processes.values() if not _is_dead(process)]


def _is_dead(process: psutil.Process) -> bool:
    try:
        return process.status() == psutil.STATUS_ZOMBIE
    except psutil.Error:
        return True
