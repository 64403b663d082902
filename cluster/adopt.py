"""Pods that were created in the console: they are managed by ssh alone, without an API key."""

from __future__ import annotations

import re
import shlex
import time
from dataclasses import replace
from datetime import datetime
from pathlib import Path

from cluster.lifecycle import Cluster, ClusterError
from cluster.provision import bring_up_ray, code_folder, push_code
from cluster.registry import without_api
from cluster.remote import Remote, RemoteError, reach
from cluster.settings import Settings, format_duration
from cluster.state import LATE_SECONDS, ClusterFolder, PodRecord, State
from rainbow_ray.utils.errors import InputError

TERMINATION_SECONDS = 90.0  # longest wait for an adopted pod to terminate itself
NO_TIMER = (
    "WARNING: THIS MACHINE DOES NOT STOP BY ITSELF: terminate it at https://console.runpod.io/pods when you are done"
)


def parse_address(text: str) -> tuple[str, str, int]:
    """Parse the address of a pod.

    Args:
        text: `USER@HOST:PORT`, or an ssh command line as the console shows it.

    Returns:
        User, host and port.

    Raises:
        InputError: The text is not an address.
    """
    match = re.fullmatch(r"(?:ssh\s+)?([\w.-]+)@([\w.-]+)(?::(\d{1,5})|\s+-p\s+(\d{1,5}))?", text.strip())
    if match is None:
        raise InputError(f"invalid address {text!r}: expected USER@HOST:PORT, for example root@213.173.105.8:10022;"
                         " the console shows it under Connect, SSH over exposed TCP")  # fmt: skip
    port = int(match[3] or match[4] or 22)
    if not 1 <= port <= 65535:
        raise InputError(f"invalid address {text!r}: the port must be from 1 to 65535")
    return match[1], match[2], port


def adopt(address: str, settings: Settings, *, key: Path | None, usd_per_hour: float, dry_run: bool) -> int:
    """Make a cluster of one pod that was created in the console; its timer starts first.

    Args:
        address: `USER@HOST:PORT`.
        settings: Settings of the cluster.
        key: Private ssh key for the first login; None for the user's own configuration.
        usd_per_hour: Price of the pod.
        dry_run: Whether to print only.

    Returns:
        The exit code.

    Raises:
        InputError: The address, the key or the name of the cluster cannot be used.
        RemoteError: The pod cannot be reached.
        ClusterError: Ray cannot be started.
    """
    user, host, port = parse_address(address)
    if key is not None and not key.exists():
        raise InputError(f"--key: {key}: no such file")
    folder = ClusterFolder(settings.name)
    with folder.lock():
        state = folder.read()
        if state is not None and not _is_same_pod(state, host, port):
            raise InputError(f"cluster {settings.name!r} exists already with another pod: run `down` first, or choose"
                             " another name (--cluster NAME)")  # fmt: skip
        remaining_seconds = settings.ttl if state is None else max(0.0, state.deadline - time.time())
        print(
            f"adopting {user}@{host}:{port} as cluster {settings.name!r}; the pod will terminate itself in"
            f" {format_duration(remaining_seconds)}"
        )
        if dry_run:
            return 0
        if state is None:
            _check_login(ClusterFolder(settings.name), user, host, port, key)  # before any state is written
            state = folder.create(settings, ttl=settings.ttl, api_url="", adopted=True)
            now = time.time()
            state.pods.append(
                PodRecord(name=state.next_name("head"), role="head", step="made", host=host, port=port, user=user,
                          since=now, deadline=state.deadline, usd_per_hour=usd_per_hour)
            )  # fmt: skip
            folder.write(state)
        cluster = without_api(folder, state)
        _install_cluster_key(cluster, key)
        has_timer = start_timer(cluster)
        bring_up_ray(cluster)
        cluster.save()
    deadline = time.strftime("%H:%M", time.localtime(state.deadline))
    print(f"ready; the pod will terminate itself at {deadline}" if has_timer else f"ready. {NO_TIMER}")
    return 0


def start_timer(cluster: Cluster) -> bool:
    """Start the dead-man timer of an adopted pod. A pod with a deadline keeps the earlier one.

    Args:
        cluster: The adopted cluster.

    Returns:
        Whether the pod will stop by itself.

    Raises:
        RemoteError: The timer cannot be started.
    """
    state, head = cluster.state, cluster.state.head
    assert head is not None
    remote = reach(cluster.folder, head)
    push_code(remote, state)
    variables = {
        "RRAY_CLUSTER": state.marker, "RRAY_ROLE": "head", "RRAY_GRACE": f"{state.settings.grace:.0f}",
        "RRAY_IDLE": f"{state.settings.idle:.0f}", "RRAY_WORKSPACE": state.settings.workspace,
    }  # fmt: skip
    assignments = " ".join(f"{name}={shlex.quote(value)}" for name, value in variables.items())
    hours = max(1.0, state.deadline - cluster.clock()) / 3600
    script = shlex.quote(f"{code_folder(state)}/cluster/pod/deadman.sh")
    output = remote.run(f"{assignments} bash {script} within {hours:.5f}", timeout=60, step="starting the pod's timer")
    cluster.report(output.strip())
    match = re.search(r"will terminate itself at (\S+Z)", output)
    if match is None:
        head.deadline = 0.0
        cluster.report(NO_TIMER)
    else:
        state.deadline = head.deadline = datetime.fromisoformat(match[1].replace("Z", "+00:00")).timestamp()
    cluster.save()
    return match is not None


def end_adopted(cluster: Cluster, *, gone: bool = False) -> None:
    """Ask an adopted pod to terminate itself with its own key, and wait until it is gone.

    Args:
        cluster: The adopted cluster.
        gone: Whether the user has terminated the pod.

    Raises:
        RemoteError: The pod cannot terminate itself.
        ClusterError: It is unknown whether the pod runs.
    """
    state = cluster.state
    head = state.head
    if head is not None and not gone:
        remote = reach(cluster.folder, head)
        script = shlex.quote(f"{code_folder(state)}/cluster/pod/deadman.sh")
        check_key = (
            '. ~/.rainbow/pod.env 2> /dev/null; [ -n "${RUNPOD_POD_ID:-}" ] && [ -n "${RUNPOD_API_KEY:-}" ] || exit 7;'
        )
        try:
            remote.run(
                f"{check_key} nohup bash {script} end 'requested by down' > /dev/null 2>&1 < /dev/null &", timeout=60
            )
        except RemoteError as error:
            if error.unreachable:
                if not head.deadline or cluster.clock() < head.deadline + LATE_SECONDS:
                    raise ClusterError(
                        f"cannot reach the pod at {head.host}:{head.port}, so it may still be running and billed:"
                        " terminate it at https://console.runpod.io/pods, then run `down --gone`"
                    ) from error
                cluster.report(
                    "cannot reach the pod, and its deadline has passed: assuming that it has terminated itself"
                )
            else:
                cluster.report(
                    "the pod has no API key and cannot terminate itself: terminate it at https://console.runpod.io/pods"
                )
                raise
        else:
            give_up_at = cluster.clock() + TERMINATION_SECONDS
            while remote.answers():
                if cluster.clock() > give_up_at:
                    raise RemoteError(
                        "terminating the pod", 1, "it is still running: terminate it at https://console.runpod.io/pods"
                    )
                cluster.pause(cluster.poll)
    for record in state.living:
        record.step, record.until = "ended", cluster.clock()
    cluster.save()


def _is_same_pod(state: State, host: str, port: int) -> bool:
    head = state.head
    return state.adopted and head is not None and (head.host, head.port) == (host, port)


def _check_login(folder: ClusterFolder, user: str, host: str, port: int, key: Path | None) -> None:
    """Log in with the user's own key or agent. Raises `RemoteError`."""
    folder.path.mkdir(parents=True, exist_ok=True, mode=0o700)
    known_hosts = folder.path / "known_hosts.adopted"
    known_hosts.unlink(missing_ok=True)  # RunPod reuses addresses for other pods
    remote = Remote(host, port, user, f"{host}:{port}", key, known_hosts)
    remote.run("true", timeout=30, step=f"connecting to {user}@{host}:{port} by ssh (select a key with --key FILE)")


def _install_cluster_key(cluster: Cluster, key: Path | None) -> None:
    """Add the cluster's key to the pod, so that the user's key is not needed later. Raises `RemoteError`."""
    head = cluster.state.head
    assert head is not None
    remote = reach(cluster.folder, head)
    if remote.answers():
        return
    public_key = f"{cluster.folder.public_key()}\n"
    file = "~/.ssh/authorized_keys"
    append = f"umask 077; mkdir -p ~/.ssh; touch {file}; cat > ~/.ssh/.new && cat ~/.ssh/.new >> {file}; rm ~/.ssh/.new"
    replace(remote, key=key).run(append, stdin=public_key, timeout=60, step="copying the cluster's key to the pod")
    if not remote.answers():
        raise RemoteError(
            "connecting with the cluster's key", 255, "the pod's sshd does not read ~/.ssh/authorized_keys"
        )
