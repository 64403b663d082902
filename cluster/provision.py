"""Turn pods into a Ray cluster: connect by ssh, check the private network, install, copy secrets, start Ray.

Every stage can be repeated, so that `up` resumes after an interruption.
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
PROBE_SECONDS = 120  # a private interface may appear two minutes late
SETUP_SECONDS = 1800.0
START_SECONDS = 420.0
INSTALL_RSYNC = (
    "command -v rsync > /dev/null || { { apt-get update -qq && apt-get install -y -qq rsync; } > /dev/null 2>&1;"
    " command -v rsync > /dev/null || { echo 'rsync is missing on the pod and cannot be installed' >&2; exit 1; }; }"
)
Result = TypeVar("Result")


def build(cluster: Cluster, candidates: Sequence[Candidate]) -> None:
    """Create the missing pods and start Ray on all of them.

    Args:
        cluster: The cluster.
        candidates: GPU types and data centers, in order of preference.

    Raises:
        ClusterError: The cluster cannot be built.
        ApiError: A request failed.
    """
    while True:
        converge(cluster, candidates)
        failed = bring_up_ray(cluster)
        if not failed:
            break
        for record, reason in failed:
            replace_pod(cluster, record, reason)
    if cluster.state.uncertain:
        # a pod with an uncertain creation may exist beside its replacement
        cluster.resolve()
        end_surplus(cluster)


def converge(cluster: Cluster, candidates: Sequence[Candidate]) -> None:
    """Create or terminate pods until the requested number is reachable; at most `retries` pods are replaced.

    Args:
        cluster: The cluster.
        candidates: GPU types and data centers, in order of preference.

    Raises:
        ClusterError: Too many pods had to be replaced.
        ApiError: A request failed.
    """
    with cluster.timed("pods"):
        if cluster.state.uncertain:
            cluster.resolve()
        while True:
            cluster.refresh()
            end_surplus(cluster)
            _create_missing_pods(cluster, candidates)
            dead = _unreachable(cluster) or _unconnected(cluster)
            if not dead:
                break
            for record, reason in dead:
                replace_pod(cluster, record, reason)
    cluster.save()


def end_surplus(cluster: Cluster) -> None:
    """Terminate pods that appeared late and pods that exceed the requested number.

    Args:
        cluster: The cluster.

    Raises:
        ApiError: A pod could not be terminated.
    """
    for record in surplus(cluster.state, cluster.state.settings.pods):
        cluster.end(record)
        cluster.report(f"terminated {record.name}: exceeds the requested number of pods")


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
            _on_each(cluster, state.living, _copy_secrets)
        with cluster.timed("ray"):
            if head.step != "ready":
                _remove_end_markers(cluster, head)
            start_node(cluster, head)
            workers = [record for record in state.living if record is not head]
            results = _map_pods(cluster, workers, lambda worker: _start_worker(cluster, worker))
    except RemoteError as error:
        raise ClusterError(
            f"{error}\nfix the problem and run `up` to resume, or `down` to terminate the pods"
        ) from error
    cluster.save()
    return [(worker, reason) for worker, reason in results if reason is not None]


def _start_worker(cluster: Cluster, worker: PodRecord) -> str | None:
    """Start Ray on a worker. Return the reason if it does not start."""
    try:
        start_node(cluster, worker)
    except RemoteError as error:
        return f"Ray does not start on this pod ({error})"
    return None


def _remove_end_markers(cluster: Cluster, head: PodRecord) -> None:
    """Remove files of an earlier head that would stop the new cluster. Raises `RemoteError`."""
    folder = shlex.quote(f"{cluster.state.settings.workspace}/clusters/{cluster.state.marker}")
    command = f"rm -f {folder}/DONE.json {folder}/FINISH"
    reach(cluster.folder, head).run(command, timeout=60, step=f"preparing {head.name}")


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
        raise ClusterError(f"{ROOT} lacks {', '.join(missing)}; run this command from a clone of the repository")
    remote.run(INSTALL_RSYNC, timeout=300, step="installing rsync on the pod")
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
    """Return a shell command that runs in the code folder, with the pod's environment variables and Python environment.

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
    """Start Ray on one pod; a running node is not changed.

    Args:
        cluster: The cluster.
        record: Record of the pod.

    Raises:
        RemoteError: Ray does not start.
    """
    state, head = cluster.state, cluster.state.head
    assert head is not None
    command = f"python -m cluster.pod.node start {record.role}"
    if record.private_ip is not None:  # also for a single pod: Ray identifies the node by this address
        command += f" --ip {record.private_ip}"
    if record.role == "worker":
        command += f" --head {head.private_ip}"
    step = f"starting Ray on {record.name}"
    reach(cluster.folder, record).run(on_pod(state, command), timeout=START_SECONDS, step=step)
    record.step = "ready"


def _create_missing_pods(cluster: Cluster, candidates: Sequence[Candidate]) -> None:
    state = cluster.state
    data_center = next((record.data_center for record in state.living), None)
    if state.volume is not None:
        data_center = state.volume.data_center
    eligible = [candidate for candidate in candidates if data_center in (None, candidate.data_center)]
    if state.head is None:
        for worker in state.living:
            cluster.report(f"terminating {worker.name}: its head is gone")
            cluster.end(worker)  # Ray's workers do not outlive their head
        head = cluster.create("head", eligible)
        eligible = [candidate for candidate in eligible if candidate.data_center == head.data_center]
        cluster.report(f"requested {head.name}: {head.gpu} in {head.data_center}")
    while len(state.living) < state.settings.pods:
        worker = cluster.create("worker", eligible)
        cluster.report(f"requested {worker.name}: {worker.gpu} in {worker.data_center}")


def _unreachable(cluster: Cluster) -> list[tuple[PodRecord, str]]:
    results = _map_pods(cluster, cluster.state.living, cluster.wait_for_ssh)
    return [(record, "ssh does not answer") for record, answers in results if not answers]


def _unconnected(cluster: Cluster) -> list[tuple[PodRecord, str]]:
    """Return workers that cannot connect to the head's private address; checked before anything is installed."""
    head = cluster.state.head
    workers = [record for record in cluster.state.living if record.role == "worker"]
    if head is None or not workers:
        return []
    results = _map_pods(cluster, workers, lambda worker: _connects(cluster, worker, head))
    dead = [(worker, "cannot reach the head on the private network") for worker, connects in results if not connects]
    if dead and len(dead) == len(workers) and (len(dead) > 1 or cluster.state.replaced):
        return [(head, "no worker can reach it on the private network")]
    return dead


def _connects(cluster: Cluster, worker: PodRecord, head: PodRecord) -> bool:
    # plain bash: nothing is installed yet
    attempt = f"timeout 3 bash -c '</dev/tcp/{head.private_ip}/'${{RRAY_PROBE_PORT:-22}} 2>/dev/null && exit 0"
    attempts = f'$(seq "${{RRAY_PROBE_SECONDS:-{PROBE_SECONDS}}}")'
    probe = f". ~/.rainbow/pod.env 2>/dev/null; for i in {attempts}; do {attempt}; sleep 1; done; exit 1"
    try:
        reach(cluster.folder, worker).run(f"bash -c {shlex.quote(probe)}", timeout=PROBE_SECONDS * 4 + 60)
    except RemoteError:
        return False
    return True


def replace_pod(cluster: Cluster, record: PodRecord, reason: str) -> None:
    """Terminate a pod that cannot be used, so that another one is created.

    Args:
        cluster: The cluster.
        record: Record of the pod.
        reason: Reason for messages.

    Raises:
        ClusterError: `retries` pods were replaced already.
    """
    state = cluster.state
    if state.replaced >= state.settings.retries:
        raise ClusterError(
            f"{record.name}: {reason}; giving up, since {state.replaced} pods were replaced already (retries:"
            f" {state.settings.retries}); try another data center (--dc) or GPU type (--gpu)"
        )
    state.replaced += 1
    cluster.report(f"{record.name}: {reason}; replacing it")
    cluster.end(record)


def _set_up(cluster: Cluster, record: PodRecord) -> None:
    command = on_pod(cluster.state, "bash cluster/pod/setup.sh")
    reach(cluster.folder, record).run(command, timeout=SETUP_SECONDS, step=f"setting up {record.name}")


def _copy_secrets(cluster: Cluster, record: PodRecord) -> None:
    """Copy token and secrets through standard input, so that they appear in no command, log or variable of the pod."""
    remote = reach(cluster.folder, record)
    secrets = {name: os.environ[name] for name in cluster.state.settings.secrets if os.environ.get(name)}
    for name, content in {"ray_token": cluster.folder.token.read_text(), "secrets.json": json.dumps(secrets)}.items():
        path = f"~/.rainbow/{name}"
        command = f"umask 077; mkdir -p ~/.rainbow; cat > {path}.new && mv {path}.new {path}"
        remote.run(command, stdin=content, timeout=60, step=f"copying {name} to {record.name}")


def _on_each(cluster: Cluster, records: Sequence[PodRecord], action: Callable[[Cluster, PodRecord], None]) -> None:
    _map_pods(cluster, records, lambda record: action(cluster, record))


def _map_pods(
    cluster: Cluster, records: Sequence[PodRecord], action: Callable[[PodRecord], Result]
) -> list[tuple[PodRecord, Result]]:
    """Run an action on all pods in parallel; an error is raised when all have finished, Ctrl-C at once."""
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
