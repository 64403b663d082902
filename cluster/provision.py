"""From pods that were asked for to a Ray cluster: reached, probed, set up, given their token, joined.

Each stage can be run again: `up` after a kill goes on where it was.
"""

from __future__ import annotations

import json
import os
import shlex
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from pathlib import Path
from typing import TypeVar

from cluster.lifecycle import Cluster, ClusterError
from cluster.plan import Candidate
from cluster.reconcile import surplus
from cluster.remote import Remote, RemoteError, reach
from cluster.state import PodRecord, State

CODE = ("rainbow_ray", "tune_spaces", "cluster", "pyproject.toml", "requirements.lock")
ROOT = Path(__file__).parents[1]
PROBE_SECONDS = 120  # a private interface may come two minutes late
SETUP_SECONDS = 1800.0
START_SECONDS = 420.0
NEED_RSYNC = (
    "command -v rsync > /dev/null || { { apt-get update -qq && apt-get install -y -qq rsync; } > /dev/null 2>&1;"
    " command -v rsync > /dev/null || { echo 'rsync is missing on the pod and cannot be installed' >&2; exit 1; }; }"
)
Result = TypeVar("Result")


def build(cluster: Cluster, candidates: Sequence[Candidate]) -> None:
    """Create the missing pods and start Ray on all of them.

    Args:
        cluster: The cluster.
        candidates: GPU types and data centers, most wanted first.

    Raises:
        ClusterError: The cluster cannot be built.
        ApiError: A request failed.
    """
    while True:
        converge(cluster, candidates)
        failed = bring_up_ray(cluster)
        if not failed:
            break
        for record, why in failed:
            replace_pod(cluster, record, why)
    if cluster.state.uncertain:
        # a creation that seemed lost, in whose place another one came: it must not run on unseen
        cluster.resolve()
        end_surplus(cluster)


def converge(cluster: Cluster, candidates: Sequence[Candidate]) -> None:
    """Create or terminate pods until the wished number is alive and reachable; dead pods are replaced `retries` times.

    Args:
        cluster: The cluster.
        candidates: GPU types and data centers, most wanted first.

    Raises:
        ClusterError: Too many pods had to be replaced.
        ApiError: A request failed.
    """
    with cluster.timed("pods"):
        if cluster.state.uncertain:
            cluster.resolve()
        while True:
            cluster.look()
            end_surplus(cluster)
            _fill(cluster, candidates)
            dead = _unreachable(cluster) or _unconnected(cluster)
            if not dead:
                break
            for record, why in dead:
                replace_pod(cluster, record, why)
    cluster.save()


def end_surplus(cluster: Cluster) -> None:
    """Terminate pods that appeared late and pods that `scale` no longer wants.

    Args:
        cluster: The cluster.

    Raises:
        ApiError: A pod could not be terminated.
    """
    for record in surplus(cluster.state, cluster.state.settings.pods):
        cluster.end(record)
        cluster.say(f"ended {record.name}: one more than was wished for")


def bring_up_ray(cluster: Cluster) -> list[tuple[PodRecord, str]]:
    """Install code, environment, token and secrets on every pod, then start Ray, on the head first.

    Args:
        cluster: The cluster.

    Returns:
        Workers on which Ray does not start, with reasons.

    Raises:
        ClusterError: Any other step failed.
    """
    state = cluster.state
    head = state.head
    assert head is not None
    try:
        with cluster.timed("code"):
            push_code(reach(cluster.folder, head), state)
        with cluster.timed("environment"):
            _on_each(cluster, state.living, _set_up)
        with cluster.timed("secrets"):
            _on_each(cluster, state.living, _give_secrets)
        with cluster.timed("ray"):
            if head.step != "ready":
                _forget_the_end(cluster, head)
            start_node(cluster, head)
            workers = [record for record in state.living if record is not head]
            started = _together(cluster, workers, lambda worker: _start_worker(cluster, worker))
    except RemoteError as error:
        raise ClusterError(f"{error}\n`up` goes on from here once that is mended; `down` ends the pods") from error
    cluster.save()
    return [(worker, why) for worker, why in started if why is not None]


def _start_worker(cluster: Cluster, worker: PodRecord) -> str | None:
    """Why Ray does not run there, or None."""
    try:
        start_node(cluster, worker)
    except RemoteError as error:
        return f"Ray does not start there ({error})"
    return None


def _forget_the_end(cluster: Cluster, head: PodRecord) -> None:
    """A head before this one may have ended itself: what it left would end the new one. Raises `RemoteError`."""
    folder = shlex.quote(f"{cluster.state.settings.workspace}/clusters/{cluster.state.marker}")
    command = f"rm -f {folder}/DONE.json {folder}/FINISH"
    reach(cluster.folder, head).run(command, timeout=60, what=f"preparing {head.name}")


def push_code(remote: Remote, state: State) -> None:
    """Upload this package to the volume.

    Args:
        remote: Connection to the head.
        state: State of the cluster.

    Raises:
        ClusterError: This is not a clone of the repository.
        RemoteError: The upload failed.
    """
    missing = [name for name in CODE if not (ROOT / name).exists()]
    if missing:
        raise ClusterError(f"{ROOT}: no {', '.join(missing)}; run this from a clone of the repository")
    remote.run(NEED_RSYNC, timeout=300, what="installing rsync on the pod")
    excluded = ["--exclude=__pycache__", "--exclude=*.pyc", "--delete"]
    remote.put([ROOT / name for name in CODE], code_folder(state), options=excluded)


def code_folder(state: State) -> str:
    """Return the folder of the code on the volume.

    Args:
        state: State of the cluster.

    Returns:
        An absolute path on the pods.
    """
    return f"{state.settings.workspace}/code"


def on_pod(state: State, command: str) -> str:
    """Return a shell command that runs in the code folder, with the pod's variables and environment.

    Args:
        state: State of the cluster.
        command: Command to run.

    Returns:
        A shell command.
    """
    code = code_folder(state)
    script = f". {shlex.quote(code)}/cluster/pod/env.sh && cd {shlex.quote(code)} && {command}"
    return f"bash -c {shlex.quote(script)}"


def start_node(cluster: Cluster, record: PodRecord) -> None:
    """Start Ray on one pod; nothing happens where it runs already.

    Args:
        cluster: The cluster.
        record: Record of the pod.

    Raises:
        RemoteError: Ray does not start.
    """
    state, head = cluster.state, cluster.state.head
    assert head is not None
    command = f"python -m cluster.pod.node start {record.role}"
    if record.private_ip is not None:  # also when others are gone: it is the name that Ray knows this node by
        command += f" --ip {record.private_ip}"
    if record.role == "worker":
        command += f" --head {head.private_ip}"
    what = f"starting Ray on {record.name}"
    reach(cluster.folder, record).run(on_pod(state, command), timeout=START_SECONDS, what=what)
    record.step = "ready"


def _fill(cluster: Cluster, candidates: Sequence[Candidate]) -> None:
    state = cluster.state
    here = next((record.data_center for record in state.living), None)
    if state.volume is not None:
        here = state.volume.data_center
    near = [candidate for candidate in candidates if here in (None, candidate.data_center)]
    if state.head is None:
        for worker in state.living:
            cluster.say(f"{worker.name} had another head: ended")
            cluster.end(worker)  # Ray's workers do not outlive their head
        head = cluster.create("head", near)
        near = [candidate for candidate in near if candidate.data_center == head.data_center]
        cluster.say(f"asked for {head.name}: {head.gpu} in {head.data_center}")
    while len(state.living) < state.settings.pods:
        worker = cluster.create("worker", near)
        cluster.say(f"asked for {worker.name}: {worker.gpu} in {worker.data_center}")


def _unreachable(cluster: Cluster) -> list[tuple[PodRecord, str]]:
    waited = _together(cluster, cluster.state.living, cluster.wait_for_ssh)
    return [(record, "it does not answer") for record, fine in waited if not fine]


def _unconnected(cluster: Cluster) -> list[tuple[PodRecord, str]]:
    """Workers that cannot reach the head's private address: told early, before anything is installed on them."""
    head = cluster.state.head
    workers = [record for record in cluster.state.living if record.role == "worker"]
    if head is None or not workers:
        return []
    probed = _together(cluster, workers, lambda worker: _connects(cluster, worker, head))
    dead = [(worker, "its private network is dead") for worker, fine in probed if not fine]
    if dead and len(dead) == len(workers) and (len(dead) > 1 or cluster.state.replaced):
        return [(head, "no pod reaches it on the private network")]
    return dead


def _connects(cluster: Cluster, worker: PodRecord, head: PodRecord) -> bool:
    # plain bash: nothing is installed yet
    once = f"timeout 3 bash -c '</dev/tcp/{head.private_ip}/'${{RRAY_PROBE_PORT:-22}} 2>/dev/null && exit 0"
    times = f'$(seq "${{RRAY_PROBE_SECONDS:-{PROBE_SECONDS}}}")'
    probe = f". ~/.rainbow/pod.env 2>/dev/null; for i in {times}; do {once}; sleep 1; done; exit 1"
    try:
        reach(cluster.folder, worker).run(f"bash -c {shlex.quote(probe)}", timeout=PROBE_SECONDS * 4 + 60)
    except RemoteError:
        return False
    return True


def replace_pod(cluster: Cluster, record: PodRecord, why: str) -> None:
    """Terminate a pod that cannot be used, so that another one is created.

    Args:
        cluster: The cluster.
        record: Record of the pod.
        why: Reason, for messages.

    Raises:
        ClusterError: `retries` pods were replaced already.
    """
    state = cluster.state
    if state.replaced >= state.settings.retries:
        raise ClusterError(
            f"{record.name}: {why}, and {state.replaced} pods were replaced already (retries:"
            f" {state.settings.retries}); try another data centre (--dc) or GPU (--gpu)"
        )
    state.replaced += 1
    cluster.say(f"{record.name}: {why}; another one takes its place")
    cluster.end(record)


def _set_up(cluster: Cluster, record: PodRecord) -> None:
    command = on_pod(cluster.state, "bash cluster/pod/setup.sh")
    reach(cluster.folder, record).run(command, timeout=SETUP_SECONDS, what=f"setting up {record.name}")


def _give_secrets(cluster: Cluster, record: PodRecord) -> None:
    """Through standard input into closed files: no command line, log or variable of the pod shows them."""
    remote = reach(cluster.folder, record)
    secrets = {name: os.environ[name] for name in cluster.state.settings.secrets if os.environ.get(name)}
    for name, content in {"ray_token": cluster.folder.token.read_text(), "secrets.json": json.dumps(secrets)}.items():
        place = f"~/.rainbow/{name}"
        closed = f"umask 077; mkdir -p ~/.rainbow; cat > {place}.new && mv {place}.new {place}"
        remote.run(closed, given=content, timeout=60, what=f"bringing {name} to {record.name}")


def _on_each(cluster: Cluster, records: Sequence[PodRecord], action: Callable[[Cluster, PodRecord], None]) -> None:
    _together(cluster, records, lambda record: action(cluster, record))


def _together(
    cluster: Cluster, records: Sequence[PodRecord], action: Callable[[PodRecord], Result]
) -> list[tuple[PodRecord, Result]]:
    """On all pods at once; an error of one is raised when all have ended, Ctrl-C at once."""
    if not records:
        return []
    pool = ThreadPoolExecutor(max_workers=len(records))
    futures: list[Future[Result]] = [pool.submit(action, record) for record in records]
    try:
        wait(futures)
    except BaseException:
        cluster.stop.set()
        pool.shutdown(wait=False, cancel_futures=True)
        raise
    pool.shutdown()
    return [(record, future.result()) for record, future in zip(records, futures, strict=True)]
