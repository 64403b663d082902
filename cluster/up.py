"""The commands `up` and `scale`, which create pods."""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from typing import Any

from cluster.lifecycle import Cluster, ClusterError, NoCapacityError
from cluster.plan import Candidate, Ranked
from cluster.pricing import confirm, find_candidates, print_pod_price, print_volume_price, recorded_volume
from cluster.provision import build
from cluster.reconcile import surplus
from cluster.registry import check_not_adopted, load_cluster, open_api
from cluster.runpod_api import ApiError, RunPod
from cluster.runpod_models import Volume
from cluster.settings import Settings
from cluster.state import ClusterFolder
from cluster.volumes import delete_created_volume, find_or_create_volume
from rainbow_ray.utils.errors import InputError


def up(settings: Settings, overrides: dict[str, Any], *, yes: bool, dry_run: bool) -> int:
    """Create a cluster, or continue an `up` that was interrupted, until it accepts jobs.

    Args:
        settings: Settings of the cluster.
        overrides: Values of flags, by dotted key.
        yes: Whether to skip the confirmation.
        dry_run: Whether to print only.

    Returns:
        The exit code.
    """
    folder = ClusterFolder(settings.name)
    with folder.lock():
        state = folder.read()
        previous = None
        if state is not None:
            check_not_adopted(state, "up")
            previous = Cluster(folder, state, open_api(state.api_url))
            if dry_run:
                previous.refresh(save=False)
            else:
                previous.resolve()
            if state.head is not None:
                return _resume(previous, settings, overrides, yes=yes, dry_run=dry_run)
        return _create(folder, settings, previous, yes=yes, dry_run=dry_run)


def scale(name: str, pods: int, *, yes: bool, dry_run: bool) -> int:
    """Change the number of pods; the youngest workers are terminated first.

    Args:
        name: Name of the cluster.
        pods: Number of pods.
        yes: Whether to skip the confirmation.
        dry_run: Whether to print only.

    Returns:
        The exit code.

    Raises:
        InputError: The cluster has no head, or no private network.
    """
    folder = ClusterFolder(name)
    with folder.lock():
        cluster = load_cluster(name)
        state = cluster.state
        check_not_adopted(state, "scale")
        if dry_run:
            cluster.refresh(save=False)
        else:
            cluster.resolve()
        if state.head is None:
            raise InputError(f"cluster {name!r} has no head node; run `up` to create one")
        if pods > 1 and state.settings.pods == 1 and state.head.private_ip is None:
            raise InputError(
                "a cluster that was created with one pod has no private network; run `down`, then `up --pods N`"
            )
        requested = Settings.model_validate({**state.settings.model_dump(), "pods": pods})
        extra = surplus(state, pods)
        missing = max(0, pods - (len(state.living) - len(extra)))
        print(f"scaling from {len(state.living)} to {pods} pods: {missing} to create, {len(extra)} to terminate")
        candidates = _price_missing_pods(cluster, requested, missing)
        if dry_run:
            return 0
        if missing and not yes and not confirm():
            print("canceled, nothing was changed")
            return 1
        state.settings = requested
        cluster.save()
        return _build(cluster, candidates)


def _create(folder: ClusterFolder, settings: Settings, previous: Cluster | None, *, yes: bool, dry_run: bool) -> int:
    """Create a cluster; it takes over the volume of a previous cluster of its name whose head is gone."""
    client = open_api()
    previous_volume = previous.state.volume if previous is not None else None
    volume = _find_volume(client, settings, previous_volume.id if previous_volume is not None else None)
    ranked = find_candidates(client, settings, volume)
    if not ranked.candidates:
        raise ClusterError(_no_candidates_message(ranked))
    if previous is not None:
        print(f"cluster {folder.name!r} has no running head; a new cluster will replace it")
    print_pod_price(settings, ranked.candidates, pods=settings.pods, seconds=settings.ttl)
    print_volume_price(settings, volume)
    if dry_run:
        return 0
    if not yes and not confirm():
        print("canceled, nothing was created")
        return 1
    if previous is not None:
        previous.end_all()
        folder.archive(previous.state)
    state = folder.create(settings, ttl=settings.ttl, api_url=client.url)
    state.volume = previous_volume  # also if its creation is uncertain: its name identifies it as owned
    cluster = Cluster(folder, state, client)
    try:
        return _build_in_data_center(cluster, ranked.candidates, volume)
    except (ApiError, ClusterError) as error:
        if any(record.step == "ready" for record in state.living):
            raise
        print(f"{error}\nterminating the pods that were created", file=sys.stderr)
        cluster.end_all()
        kept_volume = delete_created_volume(cluster)
        folder.archive(state)
        raise ClusterError(
            f"no cluster was created; all pods are terminated{kept_volume and '; ' + kept_volume}"
        ) from error


def _build_in_data_center(cluster: Cluster, candidates: Sequence[Candidate], volume: Volume | None) -> int:
    """Build the cluster in the first data center with capacity for all pods, since they share one volume."""
    settings = cluster.state.settings
    name = volume.id if volume is not None else settings.volume.name or f"rainbow-{settings.name}"
    center_ids = list(dict.fromkeys(candidate.data_center for candidate in candidates))
    for center_id in center_ids:
        find_or_create_volume(cluster, name, settings.volume.size, center_id)
        try:
            return _build(cluster, [candidate for candidate in candidates if candidate.data_center == center_id])
        except NoCapacityError as error:
            if center_id == center_ids[-1] or not cluster.created_volume:
                raise
            print(f"{error}\ntrying the next data center", file=sys.stderr)
            cluster.end_all()
            kept_volume = delete_created_volume(cluster)
            if kept_volume:
                raise ClusterError(kept_volume) from error
    raise AssertionError("_create checks that there are candidates")


def _resume(cluster: Cluster, requested: Settings, overrides: dict[str, Any], *, yes: bool, dry_run: bool) -> int:
    """Continue an interrupted `up`, or replace pods that are gone."""
    state = cluster.state
    settings = state.settings
    keys = dict.fromkeys(key.partition(".")[0] for key in overrides)
    changed = [key for key in keys if getattr(settings, key) != getattr(requested, key)]
    if changed:
        flags = ", ".join(f"--{key.replace('_', '-')}" for key in changed)
        raise InputError(f"cluster {state.name!r} exists with different settings ({flags}); run `scale` to change the"
                         " number of pods, or `down` and `up` to create it again")  # fmt: skip
    if cluster.clock() > state.deadline:
        raise InputError(f"the time to live of cluster {state.name!r} has expired; run `down`, then `up`")
    missing = max(0, settings.pods - len(state.living))
    print(f"resuming cluster {state.name!r}: {len(state.living)} of {settings.pods} pods exist")
    candidates = _price_missing_pods(cluster, settings, missing)
    if dry_run:
        return 0
    if missing and not yes and not confirm():
        print("canceled, nothing was created")
        return 1
    return _build(cluster, candidates)


def _price_missing_pods(cluster: Cluster, settings: Settings, missing: int) -> list[Candidate]:
    """Return candidates for missing pods and print their price. Raises `ClusterError` without candidates."""
    ranked = find_candidates(cluster.client, settings, recorded_volume(cluster.state))
    if missing:
        if not ranked.candidates:
            raise ClusterError(_no_candidates_message(ranked))
        remaining_seconds = max(0.0, cluster.state.deadline - cluster.clock())
        print_pod_price(settings, ranked.candidates, pods=missing, seconds=remaining_seconds)
    return ranked.candidates


def _no_candidates_message(ranked: Ranked) -> str:
    return "no requested GPU is available:\n  " + "\n  ".join(ranked.excluded)


def _build(cluster: Cluster, candidates: list[Candidate]) -> int:
    state = cluster.state
    if state.volume is None or state.volume.id is None:  # an earlier command was killed before this step
        data_center = state.head.data_center if state.head is not None else None
        name = state.settings.volume.name or f"rainbow-{state.name}"
        find_or_create_volume(cluster, name, state.settings.volume.size, data_center or candidates[0].data_center)
    build(cluster, candidates)
    gpus = sum(record.gpus for record in state.living)
    pods, deadline = len(state.living), time.strftime("%H:%M", time.localtime(state.deadline))
    price = f"{state.usd_per_hour:.2f} USD per hour"
    print(f"ready: {pods} pods, {gpus} GPUs, {price}; pods will terminate themselves at {deadline}")
    return 0


def _find_volume(client: RunPod, settings: Settings, previous_id: str | None) -> Volume | None:
    """Return the volume of the settings, else that of the previous cluster, else the one named after the cluster."""
    volumes = client.volumes()
    names = [settings.volume.name] if settings.volume.name else [previous_id, f"rainbow-{settings.name}"]
    matches = (volume for name in names for volume in volumes if name in (volume.id, volume.name))
    return next(matches, None)
