"""ssh, rsync and tunnels to pods, with the cluster's own key and known hosts."""

from __future__ import annotations

import shlex
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from cluster.state import ClusterFolder, PodRecord
from rainbow_ray.utils.errors import InputError

CONNECT_SECONDS = 10


class RemoteError(Exception):
    """A command on a pod failed, or the pod could not be reached.

    Args:
        step: Description of the step.
        code: Exit code; 255 if ssh itself failed.
        output: Output of the command.
    """

    def __init__(self, step: str, code: int, output: str) -> None:
        self.code, self.output = code, output
        tail = "\n".join(output.strip().splitlines()[-12:])
        super().__init__(f"{step} failed (exit code {code})" + (f":\n{tail}" if tail else ""))

    @property
    def unreachable(self) -> bool:
        """Whether ssh itself failed, not the command."""
        return self.code == 255


@dataclass(frozen=True)
class Remote:
    """Connection to one pod by ssh.

    Attributes:
        host: Host name or address.
        port: ssh port.
        user: User name.
        alias: Name under which the host key is stored, since addresses are reused by other pods.
        key: Private key, or None for the user's agent.
        known_hosts: File of known hosts.
    """

    host: str
    port: int
    user: str
    alias: str  # name of the host key, since RunPod reuses addresses for other pods
    key: Path | None
    known_hosts: Path

    def options(self) -> list[str]:
        """Return the options of every ssh command; the user's own configuration is ignored.

        Returns:
            Arguments of ssh.
        """
        settings = {
            "UserKnownHostsFile": str(self.known_hosts),
            "HostKeyAlias": self.alias,
            "StrictHostKeyChecking": "accept-new",
            "BatchMode": "yes",
            "ConnectTimeout": str(CONNECT_SECONDS),
            "ServerAliveInterval": "15",
            "ServerAliveCountMax": "4",
            "LogLevel": "ERROR",
        }
        options = [part for key, value in settings.items() for part in ("-o", f"{key}={value}")]
        if self.key is not None:
            options += ["-o", "IdentitiesOnly=yes", "-i", str(self.key)]
        return ["-F", "none", *options]

    def ssh(self, *, interactive: bool = False) -> list[str]:
        """Return an ssh command without the remote command.

        Args:
            interactive: Whether a terminal is allocated.

        Returns:
            Command and arguments.
        """
        return ["ssh", *self.options(), *(["-t"] if interactive else []), "-p", str(self.port), self.target]

    @property
    def target(self) -> str:
        """Destination of ssh and rsync, `user@host`."""
        return f"{self.user}@{self.host}"

    def run(
        self, command: str, *, timeout: float | None = None, stdin: str | None = None, step: str | None = None
    ) -> str:
        """Run a command and return its output.

        Args:
            command: Shell command.
            timeout: Seconds, or None.
            stdin: Standard input; secrets are passed here and never as arguments.
            step: Description of the step, for errors.

        Returns:
            Standard output.

        Raises:
            RemoteError: The command failed, or the pod could not be reached.
        """
        try:
            process = _call([*self.ssh(), command], stdin=stdin, timeout=timeout)
        except subprocess.TimeoutExpired as error:
            raise RemoteError(step or command, 124, f"timed out after {timeout:g} s") from error
        if process.returncode:
            raise RemoteError(step or command, process.returncode, process.stderr or process.stdout)
        return process.stdout

    def answers(self) -> bool:
        """Return whether ssh answers.

        Returns:
            True if a command can be run.
        """
        try:
            self.run("true", timeout=CONNECT_SECONDS + 5)
        except RemoteError:
            return False
        return True

    def follow(self, command: str) -> int:
        """Run a command with the output on this terminal.

        Args:
            command: Shell command.

        Returns:
            The exit code.
        """
        return subprocess.run([*self.ssh(), command], check=False).returncode

    def shell(self) -> int:
        """Open an interactive login.

        Returns:
            The exit code.
        """
        return subprocess.run(self.ssh(interactive=True), check=False).returncode

    def put(self, sources: Sequence[Path | str], folder: str, *, options: Sequence[str] = ()) -> None:
        """Copy files into a remote folder, which is created.

        Args:
            sources: Local files and folders.
            folder: Remote folder.
            options: Further options of rsync.

        Raises:
            RemoteError: The copy failed.
        """
        self.run(f"mkdir -p {shlex.quote(folder)}")  # rsync of macOS has no --mkpath
        self._rsync([*options, *map(str, sources), f"{self.target}:{folder.rstrip('/')}/"], f"to {folder}")

    def get(self, source: str, folder: Path, *, options: Sequence[str] = ()) -> None:
        """Copy a remote file or folder into a local folder.

        Args:
            source: Remote path.
            folder: Local folder, which is created.
            options: Further options of rsync.

        Raises:
            RemoteError: The copy failed.
        """
        folder.mkdir(parents=True, exist_ok=True)
        self._rsync([*options, f"{self.target}:{source}", f"{folder}/"], f"from {source}")

    def _rsync(self, arguments: list[str], direction: str) -> None:
        shell = shlex.join(["ssh", *self.options(), "-p", str(self.port)])
        process = _call(["rsync", "-a", "--partial", "--no-owner", "--no-group", "-e", shell, *arguments])
        if process.returncode:
            raise RemoteError(f"copying {direction}", process.returncode, process.stderr)

    def tunnel(self, local_port: int, remote_port: int) -> list[str]:
        """Return the command that forwards a port of the pod's loopback interface to this machine's.

        Args:
            local_port: Local port.
            remote_port: Remote port.

        Returns:
            Command and arguments.
        """
        options = ["-N", "-o", "ExitOnForwardFailure=yes", "-L", f"127.0.0.1:{local_port}:127.0.0.1:{remote_port}"]
        return ["ssh", *self.options(), *options, "-p", str(self.port), self.target]


def reach(folder: ClusterFolder, pod: PodRecord) -> Remote:
    """Return the connection to a pod.

    Args:
        folder: Folder of the cluster.
        pod: Record of the pod.

    Returns:
        The connection.

    Raises:
        InputError: The pod has no address yet.
    """
    if pod.host is None or pod.port is None:
        raise InputError(f"pod {pod.name} has no ssh address yet; run `status` to check, then `up` to resume")
    key = folder.key if folder.key.exists() else None
    return Remote(pod.host, pod.port, pod.user, pod.id or pod.name, key, folder.known_hosts)


def _call(
    command: list[str], *, stdin: str | None = None, timeout: float | None = None
) -> subprocess.CompletedProcess[str]:
    try:
        # an empty input by default, since ssh would read from the terminal
        return subprocess.run(
            command, check=False, capture_output=True, text=True, errors="replace", timeout=timeout, input=stdin or ""
        )
    except FileNotFoundError as error:
        raise InputError(f"{command[0]} is not installed (packages openssh-client, rsync)") from error
