"""What the commands that change or show a cluster do; `__main__` reads the command line."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from typing import Any

from cluster.adopt import end_adopted, start_timer, without_api
from cluster.bring_up import bring_up_ray, converge, on_pod
from cluster.lifecycle import Cluster, ClusterError, find_or_make_volume
from cluster.plan import Candidate, Ranked, rank, volume_usd_per_month
from cluster.remote import Remote, RemoteError, reach
from cluster.runpod_api import DEFAULT_URL, ApiError, RunPod, Volume
from cluster.settings import Settings, say_duration
from cluster.state import ClusterFolder, PodRecord, State
from cluster.survey import marked_pods, own_pods
from rainbow_ray.errors import InputError

DASHBOARD_PORT = 8265


def open_api(url: str | None = None) -> RunPod:
    """Raises `InputError` without a key. The key stays in this process: no pod ever gets it."""
    key = os.environ.get("RUNPOD_API_KEY", "").strip()
    if not key:
        raise InputError(
            "RUNPOD_API_KEY is not set: make a key in RunPod's console under Settings, API Keys, and `export` it here"
            " (or make a pod by hand and `adopt` it: that needs none)"
        )
    return RunPod(key, url or os.environ.get("RUNPOD_API_URL", DEFAULT_URL))


def known_cluster(name: str) -> Cluster:
    """Raises `InputError` where none of this name is known."""
    folder = ClusterFolder(name)
    state = folder.need()
    return without_api(folder, state) if state.adopted else Cluster(folder, state, open_api(state.api_url))


def prices(settings: Settings) -> int:
    """The candidates, as `up` would take them."""
    from rich.console import Console
    from rich.table import Table

    found = _candidates(open_api(), settings, None)
    whole = (f"USD/h × {settings.pods}", f"USD in {say_duration(settings.ttl)}")
    table = Table("GPU", "GB", "data centre", "free", "USD/h a pod", *whole)
    for candidate in found.candidates[:40]:
        hourly = candidate.usd_per_hour * settings.pods
        table.add_row(
            candidate.name, f"{candidate.memory}", candidate.data_center, candidate.stock.lower(),
            f"{candidate.usd_per_hour:.2f}", f"{hourly:.2f}", f"{hourly * settings.ttl / 3600:.2f}",
        )  # fmt: skip
    Console().print(table)
    for reason in found.refused:
        print(reason, file=sys.stderr)
    return 0 if found.candidates else 1


def up(settings: Settings, wished: dict[str, Any], *, yes: bool, dry_run: bool) -> int:
    """From nothing, or from where a command before was cut off, to a cluster that takes jobs."""
    folder = ClusterFolder(settings.name)
    with folder.lock():
        state = folder.read()
        if state is not None:
            _not_adopted(state, "up")
            return _go_on(Cluster(folder, state, open_api(state.api_url)), settings, wished, dry_run=dry_run)
        client = open_api()
        volume = _volume(client, settings)
        found = _candidates(client, settings, volume)
        if not found.candidates:
            raise ClusterError("nothing that was asked for is free:\n  " + "\n  ".join(found.refused))
        _tell_price(settings, found.candidates[0], volume)
        if dry_run:
            return 0
        if not yes and not _agreed():
            print("nothing was made")
            return 1
        state = folder.begin(settings, ttl=settings.ttl, api_url=client.url)
        cluster = Cluster(folder, state, client)
        try:
            place = found.candidates[0].data_center
            name = settings.volume.name or f"rainbow-{settings.name}"
            find_or_make_volume(cluster, name, settings.volume.size, place)
            return _build(cluster, found.candidates)
        except (ApiError, ClusterError) as problem:
            if any(record.step == "ready" for record in state.living):
                raise
            print(f"{problem}\nending what was begun", file=sys.stderr)
            cluster.end_all()
            folder.archive(state)
            raise ClusterError("no cluster was made; no pod is left") from problem


def down(name: str, *, yes: bool, dry_run: bool) -> int:
    """End every pod, and say what stays and what that costs."""
    folder = ClusterFolder(name)
    with folder.lock():
        cluster = known_cluster(name)
        if cluster.state.adopted:
            return _down_adopted(cluster, yes=yes, dry_run=dry_run)
        if dry_run:
            for pod in cluster.look():
                print(f"would end {pod.name} ({pod.cost:.2f} USD an hour)")
            return 0
        cluster.end_all()
        folder.archive(cluster.state)
    usd, volume = cluster.state.usd(time.time()), cluster.state.volume
    print(f"no pod is left; this cluster cost about {usd:.2f} USD")
    if volume is not None and volume.id is not None:
        monthly = volume_usd_per_month(volume.size)
        print(f"volume {volume.name} ({volume.size} GB, {volume.data_center}) stays: {monthly:.2f} USD a month;"
              " `gc --volumes` ends it")  # fmt: skip
    return 0


def _down_adopted(cluster: Cluster, *, yes: bool, dry_run: bool) -> int:
    head = cluster.state.head
    where = "no pod" if head is None else f"the pod at {head.host}:{head.port}"
    if dry_run:
        print(f"would end {where}")
        return 0
    if not yes and not _agreed(f"End {where}? What is on its own disk is gone then (`pull` brings runs here)."):
        return 1
    end_adopted(cluster)
    cluster.folder.archive(cluster.state)
    print(f"no pod is left; it cost about {cluster.state.usd(time.time()):.2f} USD")
    return 0


def _not_adopted(state: State, what: str) -> None:
    if state.adopted:
        raise InputError(f"cluster {state.name!r} is a pod that was made by hand: `{what}` makes no others of it;"
                         " --cluster NAME names a new one")  # fmt: skip


def set_up(name: str) -> int:
    """Code, environment, secrets and Ray anew on pods that are there: after a change, or a pod's restart."""
    folder = ClusterFolder(name)
    with folder.lock():
        cluster = known_cluster(name)
        cluster.look()
        if cluster.state.head is None:
            raise InputError(f"cluster {name!r} has no head; `up` makes one")
        if cluster.state.adopted:
            start_timer(cluster)
        bring_up_ray(cluster)
        print(f"{len(cluster.state.living)} pods are set up")
    return 0


def scale(name: str, pods: int, *, dry_run: bool) -> int:
    """More pods, or fewer: the youngest workers go first."""
    folder = ClusterFolder(name)
    with folder.lock():
        cluster = known_cluster(name)
        _not_adopted(cluster.state, "scale")
        cluster.look()
        state = cluster.state
        workers = [record for record in state.living if record.role == "worker"]
        spare = sorted(workers, key=lambda record: record.since)[max(0, pods - 1) :]
        if dry_run:
            print(f"{len(state.living)} pods now, {pods} wished for; would end {len(spare)}")
            return 0
        if pods > 1 and state.settings.pods == 1:
            raise InputError(
                "this cluster began with one pod, which has no private network: `down`, then `up --pods N`"
            )
        state.settings.pods = pods
        for record in spare:
            cluster.end(record)
            print(f"ended {record.name}")
        return _build(cluster, _candidates(cluster.client, state.settings, _volume_of(state)).candidates)


def status(name: str) -> int:
    """Pods as the account lists them, joined with Ray's nodes, and dollars so far."""
    cluster = known_cluster(name)
    listed = {pod.name: pod for pod in cluster.look()}
    nodes = _ray_nodes(cluster)
    state, now = cluster.state, time.time()
    for record in state.living:
        pod = listed.get(record.name)
        node = _node_of(record, nodes) if nodes is not None else None
        ray = "Ray alive" if node else "no Ray node" if nodes is not None else "Ray unknown"
        where = f"{record.host}:{record.port}" if record.host else "no address"
        what = pod.status if pod else "adopted" if state.adopted else "not listed"
        gpus = f"{record.gpus} × {record.gpu}"
        print("  ".join([record.name, what, gpus, f"{record.data_center}", where, ray, f"{record.usd(now):.2f} USD"]))
    left = say_duration(max(0.0, state.deadline - now))
    print(f"{state.usd_per_hour:.2f} USD an hour, {state.usd(now):.2f} USD so far; pods end themselves in {left}")
    return 0


def cost(name: str) -> int:
    """By our clock and RunPod's price, this cluster and those before it."""
    folder, now = ClusterFolder(name), time.time()
    states = [*folder.ended(), *([state] if (state := folder.read()) else [])]
    if not states:
        folder.need()
    for state in states:
        when = time.strftime("%d %B %Y %H:%M", time.localtime(state.created))
        running = "" if not state.living else f", {state.usd_per_hour:.2f} USD an hour now"
        print(f"{when}: {len(state.pods)} pods, {state.usd(now):.2f} USD{running}")
    return 0


def gc(*, volumes: bool, yes: bool, dry_run: bool) -> int:
    """Pods of ours that no cluster of this machine knows, and (asked for) volumes that no pod uses."""
    from cluster.state import clusters_folder

    client = open_api()
    found = [ClusterFolder(path.parent.name).read() for path in clusters_folder().glob("*/state.json")]
    states = [state for state in found if state is not None]
    pods = client.pods()
    known = {pod.id for state in states for pod in own_pods(pods, state)}
    lost = [pod for pod in marked_pods(pods) if pod.id not in known]
    for pod in lost:
        print(f"pod {pod.name} ({pod.id}): {pod.cost:.2f} USD an hour, of no cluster that is known here")
    idle = []
    if volumes:
        idle = _unused_volumes(client, states)
        for volume in idle:
            print(f"volume {volume.name} ({volume.size} GB): {volume_usd_per_month(volume.size):.2f} USD a month")
    if not lost and not idle:
        print("nothing to end")
        return 0
    if dry_run or not (yes or _agreed("End all of these? Volumes are gone with their data.")):
        return 0 if dry_run else 1
    for pod in lost:
        client.terminate(pod.id)
    for volume in idle:
        client.delete_volume(volume.id)
    print(f"ended {len(lost)} pods and {len(idle)} volumes")
    return 0


def ssh(name: str, command: list[str]) -> int:
    """A login on the head, or one command there, with the pod's variables."""
    remote, state = head_of(name)
    if not command:
        return remote.shell()
    import shlex

    return remote.follow(on_pod(state, shlex.join(command)))


def dashboard(name: str, port: int) -> int:
    """Ray's dashboard on this machine's loopback, until Ctrl-C."""
    remote, _ = head_of(name)
    token = ClusterFolder(name).token
    print(f"http://127.0.0.1:{port}\nlog in with the token in {token} (until Ctrl-C)")
    return subprocess.run(remote.tunnel(port, DASHBOARD_PORT), check=False).returncode


def head_of(name: str) -> tuple[Remote, State]:
    """Raises `InputError` without one."""
    folder = ClusterFolder(name)
    state = folder.need()
    if state.head is None:
        raise InputError(f"cluster {name!r} has no head; `up` makes one")
    return reach(folder, state.head), state


def _go_on(cluster: Cluster, wish: Settings, wished: dict[str, Any], *, dry_run: bool) -> int:
    """An `up` that was cut off, or a cluster whose pods died."""
    settings = cluster.state.settings
    parts = dict.fromkeys(key.partition(".")[0] for key in wished)
    other = [key for key in parts if getattr(settings, key) != getattr(wish, key)]
    if other:
        named = ", ".join(f"--{key.replace('_', '-')}" for key in other)
        raise InputError(f"cluster {cluster.state.name!r} exists and was made otherwise ({named}): `scale` changes how"
                         " many pods it has, `down` ends it")  # fmt: skip
    if cluster.clock() > cluster.state.deadline:
        raise InputError(f"cluster {cluster.state.name!r} is past its time to live; `down`, then `up`")
    if dry_run:
        print(f"{len(cluster.look())} of {settings.pods} pods are there; `up` would go on with them")
        return 0
    found = _candidates(cluster.client, settings, _volume_of(cluster.state))
    return _build(cluster, found.candidates)


def _build(cluster: Cluster, candidates: list[Candidate]) -> int:
    converge(cluster, candidates)
    bring_up_ray(cluster)
    state = cluster.state
    gpus = sum(record.gpus for record in state.living)
    pods, at = len(state.living), time.strftime("%H:%M", time.localtime(state.deadline))
    print(f"ready: {pods} pods, {gpus} GPUs, {state.usd_per_hour:.2f} USD an hour; they end themselves at {at}")
    return 0


def _candidates(client: RunPod, settings: Settings, volume: Volume | None) -> Ranked:
    gpus = client.gpu_types(count=settings.gpus_per_pod, cloud=settings.cloud)
    return rank(gpus, client.data_centers(), settings, volume)


def _volume(client: RunPod, settings: Settings) -> Volume | None:
    name = settings.volume.name or f"rainbow-{settings.name}"
    return next((volume for volume in client.volumes() if name in (volume.id, volume.name)), None)


def _volume_of(state: State) -> Volume | None:
    known = state.volume
    if known is None or known.id is None:
        return None
    return Volume(id=known.id, name=known.name, size=known.size, dataCenter=known.data_center)


def _unused_volumes(client: RunPod, states: list[State]) -> list[Volume]:
    used = {state.volume.id for state in states if state.volume is not None}
    return [volume for volume in client.volumes() if volume.name.startswith("rainbow-") and volume.id not in used]


def _ray_nodes(cluster: Cluster) -> dict[str, Any] | None:
    import json

    head = cluster.state.head
    if head is None or head.host is None:
        return None
    try:
        told = reach(cluster.folder, head).run(on_pod(cluster.state, "python -m cluster.pod.node status"), timeout=60)
    except RemoteError:
        return None
    return {node["ip"]: node for node in json.loads(told.splitlines()[-1])["nodes"] if node["alive"]}


def _node_of(record: PodRecord, nodes: dict[str, Any]) -> Any:
    """Ray's node of a pod; one without a private network is alone."""
    if record.private_ip is None and len(nodes) == 1:
        return next(iter(nodes.values()))
    return nodes.get(record.private_ip or "")


def _tell_price(settings: Settings, first: Candidate, volume: Volume | None) -> None:
    hourly = first.usd_per_hour * settings.pods
    print(f"{settings.pods} × {settings.gpus_per_pod} {first.name} in {first.data_center}: {hourly:.2f} USD an hour,"
          f" at most {hourly * settings.ttl / 3600:.2f} USD until the pods end themselves after"
          f" {say_duration(settings.ttl)}")  # fmt: skip
    size = volume.size if volume else settings.volume.size
    made = "is there" if volume else "is made"
    print(f"volume of {size} GB {made}: {volume_usd_per_month(size):.2f} USD a month, also when no pod runs")


def _agreed(question: str = "Go on?") -> bool:
    """Raises `InputError` where nobody can be asked."""
    if not sys.stdin.isatty():
        raise InputError("nobody is there to be asked: --yes agrees")
    return input(f"{question} [y/N] ").strip().lower() in ("y", "yes")
