"""A pod that was made by hand, in the console: reached by ssh alone, with no key of the account."""

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
from cluster.settings import Settings, say_duration
from cluster.state import LATE_SECONDS, ClusterFolder, PodRecord, State
from rainbow_ray.utils.errors import InputError

GONE_SECONDS = 90.0
NO_TIMER = "WARNING: NOTHING ENDS THIS MACHINE BY ITSELF: end it at https://console.runpod.io/pods when you are done"


def parse_place(text: str) -> tuple[str, str, int]:
    """Parse the address of a pod.

    Args:
        text: `USER@HOST:PORT`, or an ssh command line as the console shows it.

    Returns:
        User, host and port.

    Raises:
        InputError: The text is not an address.
    """
    found = re.fullmatch(r"(?:ssh\s+)?([\w.-]+)@([\w.-]+)(?::(\d{1,5})|\s+-p\s+(\d{1,5}))?", text.strip())
    if found is None:
        raise InputError(f"{text!r} is no USER@HOST:PORT, such as root@213.173.105.8:10022; the console shows it under"
                         " Connect, SSH over exposed TCP")  # fmt: skip
    port = int(found[3] or found[4] or 22)
    if not 1 <= port <= 65535:
        raise InputError(f"{text!r}: a port is a number from 1 to 65535")
    return found[1], found[2], port


def adopt(place: str, settings: Settings, *, key: Path | None, usd_per_hour: float, dry_run: bool) -> int:
    """Make a cluster of one pod that was created in the console; its timer starts first.

    Args:
        place: `USER@HOST:PORT`.
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
    user, host, port = parse_place(place)
    if key is not None and not key.exists():
        raise InputError(f"--key: {key}: no such file")
    folder = ClusterFolder(settings.name)
    with folder.lock():
        state = folder.read()
        if state is not None and not _is_same(state, host, port):
            raise InputError(f"cluster {settings.name!r} exists and is another one: `down` ends it, or take another"
                             " name (--cluster NAME)")  # fmt: skip
        ends = say_duration(settings.ttl if state is None else max(0.0, state.deadline - time.time()))
        print(f"{user}@{host}:{port} becomes cluster {settings.name!r}; the pod is to end itself in {ends}")
        if dry_run:
            return 0
        if state is None:
            _reach_first(ClusterFolder(settings.name), user, host, port, key)  # nothing is begun where nobody answers
            state = folder.begin(settings, ttl=settings.ttl, api_url="", adopted=True)
            now = time.time()
            state.pods.append(
                PodRecord(name=state.next_name("head"), role="head", step="made", host=host, port=port, user=user,
                          since=now, deadline=state.deadline, usd_per_hour=usd_per_hour)
            )  # fmt: skip
            folder.write(state)
        cluster = without_api(folder, state)
        _bring_our_key(cluster, key)
        timed = start_timer(cluster)
        bring_up_ray(cluster)
        cluster.save()
    at = time.strftime("%H:%M", time.localtime(state.deadline))
    print(f"ready; it ends itself at {at}" if timed else f"ready. {NO_TIMER}")
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
    known = {
        "RRAY_CLUSTER": state.marker, "RRAY_ROLE": "head", "RRAY_GRACE": f"{state.settings.grace:.0f}",
        "RRAY_IDLE": f"{state.settings.idle:.0f}", "RRAY_WORKSPACE": state.settings.workspace,
    }  # fmt: skip
    told = " ".join(f"{name}={shlex.quote(value)}" for name, value in known.items())
    hours = max(1.0, state.deadline - cluster.clock()) / 3600
    script = shlex.quote(f"{code_folder(state)}/cluster/pod/deadman.sh")
    said = remote.run(f"{told} bash {script} within {hours:.5f}", timeout=60, what="starting the pod's timer")
    cluster.say(said.strip())
    end = re.search(r"ends itself at (\S+Z)", said)
    if end is None:
        head.deadline = 0.0
        cluster.say(NO_TIMER)
    else:
        state.deadline = head.deadline = datetime.fromisoformat(end[1].replace("Z", "+00:00")).timestamp()
    cluster.save()
    return end is not None


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
        own = (
            '. ~/.rainbow/pod.env 2> /dev/null; [ -n "${RUNPOD_POD_ID:-}" ] && [ -n "${RUNPOD_API_KEY:-}" ] || exit 7;'
        )
        try:
            remote.run(f"{own} nohup bash {script} end 'down was asked for' > /dev/null 2>&1 < /dev/null &", timeout=60)
        except RemoteError as error:
            if error.unreachable:
                if not head.deadline or cluster.clock() < head.deadline + LATE_SECONDS:
                    raise ClusterError(
                        f"the pod at {head.host}:{head.port} does not answer, so nobody knows whether it runs:"
                        " look at https://console.runpod.io/pods and end it there; then `down --gone`"
                    ) from error
                cluster.say("the pod does not answer, and its time is over: it has ended itself")
            else:
                cluster.say("the pod has no key to end itself with: end it at https://console.runpod.io/pods")
                raise
        else:
            until = cluster.clock() + GONE_SECONDS
            while remote.answers():
                if cluster.clock() > until:
                    raise RemoteError("ending the pod", 1, "it still answers: end it at https://console.runpod.io/pods")
                cluster.pause(cluster.poll)
    for record in state.living:
        record.step, record.until = "ended", cluster.clock()
    cluster.save()


def _is_same(state: State, host: str, port: int) -> bool:
    head = state.head
    return state.adopted and head is not None and (head.host, head.port) == (host, port)


def _reach_first(folder: ClusterFolder, user: str, host: str, port: int, key: Path | None) -> None:
    """With the person's own key or agent. Raises `RemoteError`."""
    folder.path.mkdir(parents=True, exist_ok=True, mode=0o700)
    known = folder.path / "known_hosts.adopted"
    known.unlink(missing_ok=True)  # addresses are given to other pods later
    own = Remote(host, port, user, f"{host}:{port}", key, known)
    own.run("true", timeout=30, what=f"reaching {user}@{host}:{port} by ssh (--key FILE names your key)")


def _bring_our_key(cluster: Cluster, key: Path | None) -> None:
    """The cluster's own key, so that nobody's personal one is needed afterwards. Raises `RemoteError`."""
    head = cluster.state.head
    assert head is not None
    ours = reach(cluster.folder, head)
    if ours.answers():
        return
    public = f"{cluster.folder.public_key()}\n"
    kept = "~/.ssh/authorized_keys"
    bring = f"umask 077; mkdir -p ~/.ssh; touch {kept}; cat > ~/.ssh/.new && cat ~/.ssh/.new >> {kept}; rm ~/.ssh/.new"
    replace(ours, key=key).run(bring, given=public, timeout=60, what="bringing the cluster's key to the pod")
    if not ours.answers():
        raise RemoteError(
            "reaching the pod with the cluster's key", 255, "its sshd does not read ~/.ssh/authorized_keys"
        )
