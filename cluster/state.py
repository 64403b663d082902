"""The folder of a cluster on this machine: `state.json`, which is written before anything is created, and keys.

    ~/.config/rainbow_ray/clusters/NAME/
        state.json      requested and existing resources; no secrets
        id_ed25519      ssh key for the pods of this cluster
        known_hosts     host keys of the pods
        ray_token       Ray token of this cluster

Only the owner can read these files.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import subprocess
import time
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from cluster.runpod_api import DEFAULT_URL
from cluster.settings import Settings, check_name
from rainbow_ray.utils.errors import InputError

VERSION = 1
LATE_SECONDS = 60.0  # within which a pod terminates itself after its deadline
MARKER = "RRAY_CLUSTER"  # environment variable of a pod that identifies its cluster
Step = Literal["asked", "made", "ready", "ended"]


class _ValidatedModel(BaseModel):
    """Validates assignments, since pods of a state that cannot be read again could not be terminated."""

    model_config = ConfigDict(validate_assignment=True, allow_inf_nan=False)


class PodRecord(_ValidatedModel):
    """Record of a pod, written with step `asked` before the creation is requested.

    Attributes:
        name: Name of the pod.
        role: `head` or `worker`.
        step: `asked` (requested), `made` (created), `ready` (runs Ray) or `ended` (terminated).
        id: Id of the pod; None until RunPod has returned it.
        gpu: Id of the GPU type.
        gpus: Number of GPUs.
        data_center: Id of the data center.
        usd_per_hour: Price in USD per hour.
        deadline: When the pod terminates itself, in seconds since 1970.
        since: Time of the request, in seconds since 1970.
        until: When it was found to be terminated or stopped, in seconds since 1970, or None.
        host: ssh host.
        port: ssh port.
        user: ssh user.
        private_ip: Address in the private network.
    """

    name: str
    role: Literal["head", "worker"]
    step: Step = "asked"
    id: str | None = None
    gpu: str | None = None
    gpus: int = 1
    data_center: str | None = None
    usd_per_hour: float = Field(0.0, ge=0)
    deadline: float = 0.0
    since: float = 0.0  # start of billing
    until: float | None = None
    host: str | None = None
    port: int | None = None
    user: str = "root"
    private_ip: str | None = None

    def usd(self, now: float) -> float:
        """Return the cost of the pod so far, from its price and this machine's clock.

        Args:
            now: Seconds since 1970.

        Returns:
            USD.
        """
        if not self.since or self.step == "asked":
            return 0.0
        billed_until = now if self.until is None else self.until
        if self.deadline:  # the pod has terminated itself, even if no command has noticed it yet
            billed_until = min(billed_until, self.deadline + LATE_SECONDS)
        return max(0.0, billed_until - self.since) / 3600 * self.usd_per_hour


class VolumeRecord(_ValidatedModel):
    """A network volume.

    Attributes:
        name: Name of the volume.
        id: Id; None if the volume was requested and may not exist.
        size: Size in GB.
        data_center: Id of the data center.
        ours: Whether it was created from this machine, so that `gc --volumes` may delete it.
    """

    name: str
    id: str | None = None
    size: int
    data_center: str
    ours: bool


class State(_ValidatedModel):
    """State of a cluster, stored in `state.json`.

    Attributes:
        version: Version of the format.
        name: Name of the cluster.
        marker: Value in the environment of the pods; unique, also among clusters of the same name.
        created: Seconds since 1970.
        deadline: When the pods terminate themselves, in seconds since 1970.
        settings: Settings of the cluster.
        api_url: URL of RunPod's API.
        adopted: Whether the pod was created in the console; the API is then never used.
        volume: Network volume, or None.
        pods: Records of all pods.
        replaced: Number of pods that were replaced.
        seconds: Durations of the stages of the last `up`, by name.
    """

    version: int = VERSION
    name: str
    marker: str
    created: float
    deadline: float
    settings: Settings
    api_url: str = DEFAULT_URL
    adopted: bool = False
    volume: VolumeRecord | None = None
    pods: list[PodRecord] = []
    replaced: int = 0
    seconds: dict[str, float] = {}

    @property
    def prefix(self) -> str:
        """Prefix of the names of all pods of the cluster."""
        return f"rainbow-{self.name}-{self.marker[:6]}-"

    @property
    def head(self) -> PodRecord | None:
        """The head of the cluster, or None."""
        heads = [pod for pod in self.living if pod.role == "head"]
        return min(heads, key=lambda pod: (pod.step != "ready", pod.since), default=None)

    @property
    def living(self) -> list[PodRecord]:
        """Pods that exist, without those whose creation is uncertain."""
        return [pod for pod in self.pods if pod.step in ("made", "ready")]

    @property
    def uncertain(self) -> list[PodRecord]:
        """Pods that were requested and may or may not exist."""
        return [pod for pod in self.pods if pod.step == "asked"]

    @property
    def usd_per_hour(self) -> float:
        """Current price of all running pods."""
        return sum(pod.usd_per_hour for pod in self.living if pod.until is None)

    def usd(self, now: float) -> float:
        """Return the cost of all pods so far.

        Args:
            now: Seconds since 1970.

        Returns:
            USD.
        """
        return sum(pod.usd(now) for pod in self.pods)

    def next_name(self, role: str) -> str:
        """Return a new unique pod name, by which an uncertain creation is searched for.

        Args:
            role: `head` or `worker`.

        Returns:
            The name.
        """
        return f"{self.prefix}{role}-{uuid.uuid4().hex[:6]}"


def clusters_folder() -> Path:
    """Return the folder of all clusters of this machine.

    Returns:
        The folder.
    """
    return Path(os.environ.get("RRAY_CLUSTERS", "~/.config/rainbow_ray/clusters")).expanduser()


class ClusterFolder:
    """The folder of one cluster.

    Args:
        name: Name of the cluster.

    Raises:
        InputError: The name is invalid, for example a path.
    """

    def __init__(self, name: str) -> None:
        try:
            self.name = check_name(name)
        except ValueError as error:
            raise InputError(f"--cluster: {error}") from error
        self.path = clusters_folder() / name
        self.state_file = self.path / "state.json"
        self.key = self.path / "id_ed25519"
        self.known_hosts = self.path / "known_hosts"
        self.token = self.path / "ray_token"

    def read(self) -> State | None:
        """Read the state.

        Returns:
            The state, or None where there is no such cluster.

        Raises:
            InputError: The file cannot be read.
        """
        try:
            state = State.model_validate_json(self.state_file.read_bytes())
        except FileNotFoundError:
            return None
        except (OSError, ValidationError) as error:
            raise InputError(
                f"{self.state_file}: cannot be read ({type(error).__name__}). Pods of this cluster may be running: run"
                f" `python -m cluster gc` to find pods named rainbow-{self.name}-…, then move the file away"
            ) from error
        if state.version > VERSION:
            raise InputError(f"{self.state_file}: written by a newer version of rainbow_ray (format {state.version})")
        return state

    def read_existing(self) -> State:
        """Read the state of a cluster that must exist.

        Returns:
            The state.

        Raises:
            InputError: There is no such cluster.
        """
        state = self.read()
        if state is None:
            names = sorted(path.parent.name for path in clusters_folder().glob("*/state.json"))
            hint = f"choose one with --cluster NAME: {', '.join(names)}" if names else "run `up` to create one"
            raise InputError(f"cluster {self.name!r} not found; {hint}")
        return state

    def write(self, state: State) -> None:
        """Write the state atomically, readable by its owner only, after a check that `read` accepts it.

        Args:
            state: State to write.
        """
        temporary = self.state_file.with_name(f".state.{uuid.uuid4().hex}")
        text = state.model_dump_json(indent=1)
        State.model_validate_json(text)
        try:
            _write_private(temporary, text)
            temporary.replace(self.state_file)
        finally:
            temporary.unlink(missing_ok=True)

    def create(self, settings: Settings, *, ttl: float, api_url: str, adopted: bool = False) -> State:
        """Create the folder, keys, token and state of a new cluster.

        Args:
            settings: Settings of the cluster.
            ttl: Lifetime in seconds.
            api_url: URL of RunPod's API.
            adopted: Whether the pod was created in the console.

        Returns:
            The new state.
        """
        self.make_folder()
        self.path.chmod(0o700)
        now = time.time()
        state = State(
            name=self.name,
            marker=uuid.uuid4().hex[:16],
            created=now,
            deadline=now + ttl,
            settings=settings,
            api_url=api_url,
            adopted=adopted,
        )
        self.known_hosts.unlink(missing_ok=True)
        if not self.key.exists():
            _ssh_keygen("-t", "ed25519", "-N", "", "-C", f"rainbow_ray {self.name}", "-f", str(self.key))
        _write_private(self.token, secrets.token_hex(32))
        self.write(state)
        return state

    def make_folder(self) -> None:
        """Create the folder.

        Raises:
            InputError: It cannot be created.
        """
        try:
            self.path.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise InputError(
                f"{self.path}: {error.strerror} (RRAY_CLUSTERS selects another folder for clusters)"
            ) from error

    def public_key(self) -> str:
        """Return the public ssh key; it is derived from the private key if its file is missing.

        Returns:
            The key in OpenSSH format.

        Raises:
            InputError: ssh-keygen failed.
        """
        path = self.key.with_suffix(".pub")
        if not path.exists():
            path.write_text(_ssh_keygen("-y", "-f", str(self.key)))
        return path.read_text().strip()

    def archive(self, state: State) -> None:
        """Keep the state of an ended cluster for `cost`, and delete its token.

        Args:
            state: Final state.
        """
        self.write(state)
        self.state_file.replace(self.path / f"ended-{state.marker}.json")
        self.token.unlink(missing_ok=True)

    def read_ended(self) -> list[State]:
        """Return the states of ended clusters of this name.

        Returns:
            States, oldest first.
        """
        states = []
        for path in sorted(self.path.glob("ended-*.json"), key=lambda path: path.stat().st_mtime):
            with contextlib.suppress(ValidationError, OSError):
                states.append(State.model_validate_json(path.read_bytes()))
        return states

    @contextlib.contextmanager
    def lock(self) -> Iterator[None]:
        """Hold the lock of the cluster: one command at a time changes it.

        Yields:
            Nothing.

        Raises:
            InputError: Another command holds the lock.
        """
        from filelock import FileLock, Timeout

        self.make_folder()
        try:
            with FileLock(self.path / ".lock", timeout=0):
                yield
        except Timeout as error:
            raise InputError(
                f"cluster {self.name!r} is locked by another command; try again when it has finished"
            ) from error


def _ssh_keygen(*arguments: str) -> str:
    try:
        return subprocess.run(["ssh-keygen", "-q", *arguments], check=True, capture_output=True, text=True).stdout
    except FileNotFoundError as error:
        raise InputError("ssh-keygen is not installed (package openssh-client)") from error
    except subprocess.CalledProcessError as error:
        raise InputError(f"ssh-keygen: {error.stderr.strip()}") from error


def _write_private(path: Path, text: str) -> None:
    """Write a file that has mode 0600 from its creation."""
    path.unlink(missing_ok=True)
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "w") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
