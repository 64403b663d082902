"""Clusters that this machine knows, and the way to the account and to their heads."""

from __future__ import annotations

import os

from cluster.lifecycle import Cluster
from cluster.remote import Remote, reach
from cluster.runpod_api import DEFAULT_URL, RunPod
from cluster.state import ClusterFolder, State
from rainbow_ray.utils.errors import InputError


def open_api(url: str | None = None) -> RunPod:
    """Return a client of RunPod's API with the key in `RUNPOD_API_KEY`. The key is never sent to a pod.

    Args:
        url: URL of the API; None for `RUNPOD_API_URL` or the default.

    Returns:
        The client.

    Raises:
        InputError: There is no key, or it has invalid characters.
    """
    key = os.environ.get("RUNPOD_API_KEY", "").strip()
    if not key:
        raise InputError(
            "RUNPOD_API_KEY is not set: make a key in RunPod's console under Settings, API Keys, and `export` it here"
            " (or make a pod by hand and `adopt` it: that needs none)"
        )
    if not key.isascii() or not key.isprintable():
        raise InputError("RUNPOD_API_KEY is no key: it has characters that none has; copy it from the console anew")
    return RunPod(key, url or os.environ.get("RUNPOD_API_URL", DEFAULT_URL))


def without_api(folder: ClusterFolder, state: State) -> Cluster:
    """Return an adopted cluster, for which RunPod's API is never used.

    Args:
        folder: Folder of the cluster.
        state: State of the cluster.

    Returns:
        The cluster.
    """
    return Cluster(folder, state, RunPod("", state.api_url))


def known_cluster(name: str) -> Cluster:
    """Return a cluster of this machine by name.

    Args:
        name: Name of the cluster.

    Returns:
        The cluster.

    Raises:
        InputError: There is no such cluster, or no API key.
    """
    folder = ClusterFolder(name)
    state = folder.need()
    return without_api(folder, state) if state.adopted else Cluster(folder, state, open_api(state.api_url))


def not_adopted(state: State, what: str) -> None:
    """Reject commands that create pods for an adopted cluster.

    Args:
        state: State of the cluster.
        what: Name of the command.

    Raises:
        InputError: The cluster was adopted.
    """
    if state.adopted:
        raise InputError(f"cluster {state.name!r} is a pod that was made by hand: `{what}` makes no others of it;"
                         " --cluster NAME names a new one")  # fmt: skip


def head_of(name: str) -> tuple[Remote, State]:
    """Return the connection to the head of a cluster.

    Args:
        name: Name of the cluster.

    Returns:
        The head as ssh reaches it, and the state.

    Raises:
        InputError: There is no such cluster, or it has no head.
    """
    folder = ClusterFolder(name)
    state = folder.need()
    if state.head is None:
        raise InputError(f"cluster {name!r} has no head; `up` makes one")
    return reach(folder, state.head), state
