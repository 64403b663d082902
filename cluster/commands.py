"""Commands that show, set up and stop a cluster; `__main__` parses the command line."""

from __future__ import annotations

import subprocess
import sys
import time
from typing import Any

from cluster.adopt import NO_TIMER, end_adopted, start_timer
from cluster.lifecycle import Cluster, ClusterError
from cluster.pricing import confirm, find_candidates
from cluster.provision import bring_up_ray, on_pod
from cluster.registry import head_of, load_cluster, open_api
from cluster.remote import RemoteError, reach
from cluster.settings import Settings, format_duration
from cluster.state import ClusterFolder, PodRecord
from cluster.volumes import format_volume_price
from rainbow_ray.utils.errors import InputError

DASHBOARD_PORT = 8265


def prices(settings: Settings) -> int:
    """Print the available candidates with their prices.

    Args:
        settings: Settings of the cluster.

    Returns:
        The exit code: 1 without candidates.
    """
    from rich.table import Table

    from rainbow_ray.utils.console import make_console

    ranked = find_candidates(open_api(), settings, None)
    total_columns = (f"USD/h × {settings.pods}", f"USD in {format_duration(settings.ttl)}")
    table = Table("GPU", "GB", "data center", "availability", "USD/h per pod", *total_columns)
    for candidate in ranked.candidates[:40]:
        hourly = candidate.usd_per_hour * settings.pods
        table.add_row(
            candidate.name, f"{candidate.memory}", candidate.data_center, candidate.stock.lower(),
            f"{candidate.usd_per_hour:.2f}", f"{hourly:.2f}", f"{hourly * settings.ttl / 3600:.2f}",
        )  # fmt: skip
    make_console().print(table, soft_wrap=False)
    for reason in ranked.excluded:
        print(reason, file=sys.stderr)
    return 0 if ranked.candidates else 1


def down(name: str, *, yes: bool, gone: bool, dry_run: bool) -> int:
    """Terminate every pod, and print the cost and the volume that is kept.

    Args:
        name: Name of the cluster.
        yes: Whether to skip the confirmation.
        gone: Whether the user has terminated an adopted pod.
        dry_run: Whether to print only.

    Returns:
        The exit code.
    """
    folder = ClusterFolder(name)
    with folder.lock():
        cluster = load_cluster(name)
        if cluster.state.adopted:
            return _down_adopted(cluster, yes=yes, gone=gone, dry_run=dry_run)
        if dry_run:
            for pod in cluster.refresh(save=False):
                print(f"would terminate {pod.name} ({pod.cost:.2f} USD per hour)")
            return 0
        cluster.end_all()
        folder.archive(cluster.state)
    usd, volume = cluster.state.usd(time.time()), cluster.state.volume
    print(f"all pods are terminated; the cluster cost about {usd:.2f} USD")
    if volume is not None and volume.id is not None:
        print(f"volume {volume.name} ({volume.size} GB, {volume.data_center}) is kept: {format_volume_price(volume)}")
    return 0


def _down_adopted(cluster: Cluster, *, yes: bool, gone: bool, dry_run: bool) -> int:
    head = cluster.state.head
    pod = "no pod" if head is None else f"the pod at {head.host}:{head.port}"
    if dry_run:
        print(f"would terminate {pod}")
        return 0
    if not (yes or gone) and not confirm(
        f"Terminate {pod}? The data on its own disk will be deleted (`pull` downloads runs)."
    ):
        return 1
    end_adopted(cluster, gone=gone)
    cluster.folder.archive(cluster.state)
    print(f"the pod is terminated; it cost about {cluster.state.usd(time.time()):.2f} USD")
    return 0


def set_up(name: str, *, dry_run: bool) -> int:
    """Install code, environment, secrets and Ray again on existing pods.

    Args:
        name: Name of the cluster.
        dry_run: Whether to print only.

    Returns:
        The exit code.

    Raises:
        InputError: The cluster has no head.
        ClusterError: Ray does not start on a pod.
    """
    folder = ClusterFolder(name)
    with folder.lock():
        cluster = load_cluster(name)
        cluster.refresh(save=not dry_run)
        if cluster.state.head is None:
            raise InputError(f"cluster {name!r} has no head node; run `up` to create one")
        if dry_run:
            for record in cluster.state.living:
                print(f"would set up {record.name} at {record.host}:{record.port}")
            return 0
        if cluster.state.adopted:
            start_timer(cluster)
        failed = bring_up_ray(cluster)
        if failed:
            raise ClusterError(
                "\n".join(f"{record.name}: {reason}" for record, reason in failed) + "\nrun `up` to replace these pods"
            )
        print(f"set up {len(cluster.state.living)} pods")
    return 0


def status(name: str) -> int:
    """Print the pods with Ray's nodes and costs. Nothing is written, so no lock is taken.

    Args:
        name: Name of the cluster.

    Returns:
        The exit code.
    """
    cluster = load_cluster(name)
    pods = {pod.name: pod for pod in cluster.refresh(save=False)}
    nodes = _ray_nodes(cluster)
    state, now = cluster.state, time.time()
    for record in state.living:
        pod = pods.get(record.name)
        node = _node_of(record, nodes) if nodes is not None else None
        ray_status = "Ray alive" if node else "no Ray node" if nodes is not None else "Ray unknown"
        address = f"{record.host}:{record.port}" if record.host else "no address"
        pod_status = pod.status if pod else "adopted" if state.adopted else "not listed"
        gpus = f"{record.gpus} × {record.gpu}"
        columns = [record.name, pod_status, gpus, f"{record.data_center}", address, ray_status]
        print("  ".join([*columns, f"{record.usd(now):.2f} USD"]))
    for record in state.uncertain:
        print(f"{record.name}  requested, not confirmed by RunPod yet: run `up` or `down` to check")
    has_timer = not state.adopted or any(record.deadline for record in state.living)
    remaining_seconds = max(0.0, state.deadline - now)
    lifetime = f"pods terminate themselves in {format_duration(remaining_seconds)}" if has_timer else NO_TIMER
    print(f"{state.usd_per_hour:.2f} USD per hour, {state.usd(now):.2f} USD so far; {lifetime}")
    return 0


def cost(name: str) -> int:
    """Print the costs of this cluster and of earlier ones of this name.

    Args:
        name: Name of the cluster.

    Returns:
        The exit code.
    """
    folder, now = ClusterFolder(name), time.time()
    states = [*folder.read_ended(), *([state] if (state := folder.read()) else [])]
    if not states:
        folder.read_existing()
    for state in states:
        created = time.strftime("%d %B %Y %H:%M", time.localtime(state.created))
        current_price = "" if not state.living else f", currently {state.usd_per_hour:.2f} USD per hour"
        print(f"{created}: {len(state.pods)} pods, {state.usd(now):.2f} USD{current_price}")
    return 0


def ssh(name: str, command: list[str]) -> int:
    """Open a login on the head, or run a command on it with the pod's environment variables.

    Args:
        name: Name of the cluster.
        command: Command; empty for a login.

    Returns:
        The exit code of the command.
    """
    remote, state = head_of(name)
    if not command:
        return remote.shell()
    import shlex

    return remote.follow(on_pod(state, shlex.join(command)))


def dashboard(name: str, port: int) -> int:
    """Forward Ray's dashboard to this machine's loopback interface until Ctrl-C.

    Args:
        name: Name of the cluster.
        port: Local port.

    Returns:
        The exit code.
    """
    remote, _ = head_of(name)
    token = ClusterFolder(name).token
    print(
        f"Ray dashboard at http://127.0.0.1:{port}; log in with the token in {token}\npress Ctrl-C to stop forwarding"
    )
    return subprocess.run(remote.tunnel(port, DASHBOARD_PORT), check=False).returncode


def _ray_nodes(cluster: Cluster) -> dict[str, Any] | None:
    import json

    head = cluster.state.head
    if head is None or head.host is None:
        return None
    try:
        output = reach(cluster.folder, head).run(on_pod(cluster.state, "python -m cluster.pod.node status"), timeout=60)
    except RemoteError:
        return None
    return {node["ip"]: node for node in json.loads(output.splitlines()[-1])["nodes"] if node["alive"]}


def _node_of(record: PodRecord, nodes: dict[str, Any]) -> Any:
    """Return the Ray node of a pod; a pod without a private network is the only node."""
    if record.private_ip is None and len(nodes) == 1:
        return next(iter(nodes.values()))
    return nodes.get(record.private_ip or "")
