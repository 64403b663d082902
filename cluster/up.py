"""Clusters are begun, gone on with, and scaled: the commands that make pods."""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from typing import Any

from cluster.lifecycle import Cluster, ClusterError, NoCapacityError
from cluster.plan import Candidate
from cluster.pricing import agreed, find_candidates, tell_price, tell_volume, volume_of
from cluster.provision import build
from cluster.reconcile import surplus
from cluster.registry import known_cluster, not_adopted, open_api
from cluster.runpod_api import ApiError, RunPod
from cluster.runpod_models import Volume
from cluster.settings import Settings
from cluster.state import ClusterFolder
from cluster.volumes import find_or_make_volume, give_back_volume
from rainbow_ray.utils.errors import InputError


def up(settings: Settings, wished: dict[str, Any], *, yes: bool, dry_run: bool) -> int:
    """Create a cluster, or continue an `up` that was interrupted, until it accepts jobs.

    Args:
        settings: Settings of the cluster.
        wished: Values that the user set, by dotted key.
        yes: Whether to skip the confirmation.
        dry_run: Whether to print only.

    Returns:
        The exit code.
    """
    folder = ClusterFolder(settings.name)
    with folder.lock():
        state = folder.read()
        before = None
        if state is not None:
            not_adopted(state, "up")
            before = Cluster(folder, state, open_api(state.api_url))
            if dry_run:
                before.look(save=False)
            else:
                before.resolve()
            if state.head is not None:
                return _go_on(before, settings, wished, yes=yes, dry_run=dry_run)
        return _begin(folder, settings, before, yes=yes, dry_run=dry_run)


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
        cluster = known_cluster(name)
        state = cluster.state
        not_adopted(state, "scale")
        if dry_run:
            cluster.look(save=False)
        else:
            cluster.resolve()
        if state.head is None:
            raise InputError(f"cluster {name!r} has no head; `up` makes one")
        if pods > 1 and state.settings.pods == 1 and state.head.private_ip is None:
            raise InputError(
                "this cluster began with one pod, which has no private network: `down`, then `up --pods N`"
            )
        wish = Settings.model_validate({**state.settings.model_dump(), "pods": pods})
        spare = surplus(state, pods)
        missing = max(0, pods - (len(state.living) - len(spare)))
        print(f"{len(state.living)} pods now, {pods} wished for; would end {len(spare)}")
        found = _offer(cluster, wish, missing)
        if dry_run:
            return 0
        if missing and not yes and not agreed():
            print("nothing was changed")
            return 1
        state.settings = wish
        cluster.save()
        return _build(cluster, found)


def _begin(folder: ClusterFolder, settings: Settings, before: Cluster | None, *, yes: bool, dry_run: bool) -> int:
    """A new cluster. One of the same name whose head is gone is over: only its volume goes on."""
    client = open_api()
    kept = before.state.volume if before is not None else None
    volume = _volume(client, settings, kept.id if kept is not None else None)
    found = find_candidates(client, settings, volume)
    if not found.candidates:
        raise ClusterError("nothing that was asked for is free:\n  " + "\n  ".join(found.refused))
    if before is not None:
        print(f"cluster {folder.name!r} is over, its head is gone: a new one begins in its place")
    tell_price(settings, found.candidates, pods=settings.pods, seconds=settings.ttl)
    tell_volume(settings, volume)
    if dry_run:
        return 0
    if not yes and not agreed():
        print("nothing was made")
        return 1
    if before is not None:
        before.end_all()
        folder.archive(before.state)
    state = folder.begin(settings, ttl=settings.ttl, api_url=client.url)
    state.volume = kept  # where a creation's outcome was unknown, its name says that it is ours
    cluster = Cluster(folder, state, client)
    try:
        return _place(cluster, found.candidates, volume)
    except (ApiError, ClusterError) as problem:
        if any(record.step == "ready" for record in state.living):
            raise
        print(f"{problem}\nending what was begun", file=sys.stderr)
        cluster.end_all()
        stays = give_back_volume(cluster)
        folder.archive(state)
        raise ClusterError(f"no cluster was made; no pod is left{stays and '; ' + stays}") from problem


def _place(cluster: Cluster, candidates: Sequence[Candidate], volume: Volume | None) -> int:
    """In the first data centre that has room for all pods: the volume ties them to one."""
    settings = cluster.state.settings
    name = volume.id if volume is not None else settings.volume.name or f"rainbow-{settings.name}"
    places = list(dict.fromkeys(candidate.data_center for candidate in candidates))
    for place in places:
        find_or_make_volume(cluster, name, settings.volume.size, place)
        try:
            return _build(cluster, [candidate for candidate in candidates if candidate.data_center == place])
        except NoCapacityError as problem:
            if place == places[-1] or not cluster.made_volume:
                raise
            print(f"{problem}\ntrying another data centre", file=sys.stderr)
            cluster.end_all()
            stays = give_back_volume(cluster)
            if stays:
                raise ClusterError(stays) from problem
    raise AssertionError("there is no cluster without candidates")


def _go_on(cluster: Cluster, wish: Settings, wished: dict[str, Any], *, yes: bool, dry_run: bool) -> int:
    """An `up` that was cut off, or a cluster of which pods died."""
    state = cluster.state
    settings = state.settings
    parts = dict.fromkeys(key.partition(".")[0] for key in wished)
    other = [key for key in parts if getattr(settings, key) != getattr(wish, key)]
    if other:
        named = ", ".join(f"--{key.replace('_', '-')}" for key in other)
        raise InputError(f"cluster {state.name!r} exists and was made otherwise ({named}): `scale` changes how"
                         " many pods it has, `down` ends it")  # fmt: skip
    if cluster.clock() > state.deadline:
        raise InputError(f"cluster {state.name!r} is past its time to live; `down`, then `up`")
    missing = max(0, settings.pods - len(state.living))
    print(f"{len(state.living)} of {settings.pods} pods are there; `up` goes on with them")
    found = _offer(cluster, settings, missing)
    if dry_run:
        return 0
    if missing and not yes and not agreed():
        print("nothing was made")
        return 1
    return _build(cluster, found)


def _offer(cluster: Cluster, wish: Settings, missing: int) -> list[Candidate]:
    """Candidates for pods that are missing, and what those cost. Raises `ClusterError` where there are none."""
    found = find_candidates(cluster.client, wish, volume_of(cluster.state))
    if missing:
        if not found.candidates:
            raise ClusterError("nothing that was asked for is free:\n  " + "\n  ".join(found.refused))
        left = max(0.0, cluster.state.deadline - cluster.clock())
        tell_price(wish, found.candidates, pods=missing, seconds=left)
    return found.candidates


def _build(cluster: Cluster, candidates: list[Candidate]) -> int:
    state = cluster.state
    if state.volume is None or state.volume.id is None:  # a command before this one was killed on the way to it
        place = state.head.data_center if state.head is not None else None
        name = state.settings.volume.name or f"rainbow-{state.name}"
        find_or_make_volume(cluster, name, state.settings.volume.size, place or candidates[0].data_center)
    build(cluster, candidates)
    gpus = sum(record.gpus for record in state.living)
    pods, at = len(state.living), time.strftime("%H:%M", time.localtime(state.deadline))
    print(f"ready: {pods} pods, {gpus} GPUs, {state.usd_per_hour:.2f} USD an hour; they end themselves at {at}")
    return 0


def _volume(client: RunPod, settings: Settings, kept: str | None) -> Volume | None:
    """The one that was named, or that of the cluster before, or the one of this cluster's name."""
    listed = client.volumes()
    names = [settings.volume.name] if settings.volume.name else [kept, f"rainbow-{settings.name}"]
    found = (volume for name in names for volume in listed if name in (volume.id, volume.name))
    return next(found, None)
