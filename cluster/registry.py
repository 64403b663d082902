"""Clusters of this machine, and the clients for their account and their heads."""

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
            "RUNPOD_API_KEY is not set: create a key in RunPod's console under Settings, API Keys, and `export` it"
            " (or create a pod in the console and run `adopt`, which needs no key)"
        )
    if not key.isascii() or not key.isprintable():
        raise InputError("RUNPOD_API_KEY is not a valid key: it has invalid characters; copy it from the console again")
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


def load_cluster(name: str) -> Cluster:
    """Return a cluster of this machine by name.

    Args:
        name: Name of the cluster.

    Returns:
        The cluster.

    Raises:
        InputError: There is no such cluster, or no API key.
    """
    folder = ClusterFolder(name)
    state = folder.read_existing()
    return without_api(folder, state) if state.adopted else Cluster(folder, state, open_api(state.api_url))


def check_not_adopted(state: State, command: str) -> None:
    """Reject commands that create pods for an adopted cluster.

    Args:
        state: State of the cluster.
        command: Name of the command.

    Raises:
        InputError: The cluster was adopted.
    """
    if state.adopted:
        raise InputError(f"cluster {state.name!r} is an adopted pod, which `{command}` does not support; choose another"
                         " cluster with --cluster NAME")  # fmt: skip


def head_of(name: str) -> tuple[Remote, State]:
    """Return the connection to the head of a cluster.

    Args:
        name: Name of the cluster.

    Returns:
        The ssh connection, and the state.

    Raises:
        InputError: There is no such cluster, or it has no head.
    """
    folder = ClusterFolder(name)
    state = folder.read_existing()
    if state.head is None:
        raise InputError(f"cluster {name!r} has no head node; run `up` to create one")
    return reach(folder, state.head), state
