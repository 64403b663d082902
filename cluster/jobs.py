"""Work on a cluster: data and code go there, jobs run there, results come back."""

from __future__ import annotations

import json
import shlex
import time
from collections.abc import Sequence
from pathlib import Path

from cluster.provision import code_folder, on_pod, push_code
from cluster.registry import head_of
from cluster.remote import Remote
from cluster.state import ClusterFolder, State
from rainbow_ray.utils.errors import InputError

MANIFEST = "base_manifest_db.parquet"  # what RAINBOW_MANIFEST names on pods
ORIGIN = ".pulled-from"  # in a run that came from a cluster: which


def push(name: str, manifest: Path | None, others: Sequence[Path], *, features: Path | None, dry_run: bool) -> int:
    """Upload code, and optionally a manifest, other files, or a media cache in place of audio and MIDI.

    Args:
        name: Name of the cluster.
        manifest: Manifest file, or None.
        others: Further files and folders.
        features: Folder of a media cache, or None.
        dry_run: Whether to print only.

    Returns:
        The exit code.

    Raises:
        InputError: A file does not exist.
    """
    missing = [path for path in [*others, *([manifest] if manifest else []), *([features] if features else [])]
               if not path.exists()]  # fmt: skip
    if missing:
        raise InputError(f"{path}: no such file or folder" for path in missing)
    remote, state = head_of(name)
    workspace = state.settings.workspace
    plan = [f"code to {code_folder(state)}"]
    plan += [f"{manifest} to {workspace}/data/{MANIFEST}"] if manifest else []
    plan += [f"{path} to {workspace}/data/" for path in others]
    plan += [f"{features} to {workspace}/cache/"] if features else []
    for line in plan:
        print(line)
    if dry_run:
        return 0
    push_code(remote, state)
    if manifest is not None:
        remote.put([manifest], f"{workspace}/data/.new")
        data = shlex.quote(f"{workspace}/data")
        remote.run(
            f"mv {data}/.new/{shlex.quote(manifest.name)} {data}/{MANIFEST}", what="putting the manifest in place"
        )
    if others:
        remote.put(list(others), f"{workspace}/data")
    if features is not None:
        remote.put([f"{features}/"], f"{workspace}/cache")
    return 0


def pull(name: str, folder: Path, runs: Sequence[str], *, dry_run: bool) -> int:
    """Download runs. A local run that does not come from this cluster's volume is not changed.

    Args:
        name: Name of the cluster.
        folder: Local folder of runs.
        runs: Names of runs; empty for all.
        dry_run: Whether to print only.

    Returns:
        The exit code: 1 if a run was skipped.

    Raises:
        InputError: A named run does not exist.
    """
    remote, state = head_of(name)
    there = f"{state.settings.workspace}/runs"
    listed = remote.run(f"cd {shlex.quote(there)} 2>/dev/null && ls -1 || true").split("\n")
    found = [run for run in listed if run and (not runs or run in runs)]
    missing = [run for run in runs if run not in found]
    if missing:
        raise InputError(f"{run}: no such run on the cluster (there are: {', '.join(filter(None, listed)) or 'none'})"
                         for run in missing)  # fmt: skip
    foreign = []
    for run in found:
        mine = folder / run
        if mine.exists() and _origin(mine) != _name_of_origin(state):
            foreign.append(run)
            continue
        print(f"{run} to {mine}")
        if not dry_run:
            mine.mkdir(parents=True, exist_ok=True)
            (mine / ORIGIN).write_text(_name_of_origin(state))
            # no --delete: what was pulled once stays
            remote.get(f"{there}/{run}/", mine)
    for run in foreign:
        print(f"left as it is: {folder / run} lies here already and came from elsewhere; --into another folder")
    return 1 if foreign else 0


def start(
    name: str, door: str, arguments: Sequence[str], *, demo: bool, finish: bool, follow: bool, dry_run: bool
) -> int:
    """Run `train` or `tune` on the cluster, as a Ray job that does not depend on this machine.

    Args:
        name: Name of the cluster.
        door: `train` or `tune`.
        arguments: Arguments of the command.
        demo: Whether the demo songs are used.
        finish: Whether the cluster stops when the job has ended.
        follow: Whether to print the log until the job has ended.
        dry_run: Whether to print only.

    Returns:
        The exit code.
    """
    remote, state = head_of(name)
    command = ["python", "-m", f"rainbow_ray.{door}", *arguments]
    _check_data(remote, state, arguments, demo=demo)
    if demo and not _names(arguments, "--manifest"):
        command += ["--manifest", "demo"]
    if not _names(arguments, "--usd-per-hour") and state.usd_per_hour:
        command += ["--usd-per-hour", f"{state.usd_per_hour:g}"]
    job = f"{door}-{time.strftime('%Y%m%d-%H%M%S')}"
    print(f"{job}: {shlex.join(command)}")
    if dry_run:
        return 0
    own = ["python", "-m", "cluster.pod.job", "submit", job, *(["--finish"] if finish else []), "--", *command]
    remote.run(on_pod(state, shlex.join(own)), timeout=120, what=f"submitting {job}")
    if not follow:
        print(f"it runs; `python -m cluster logs {job}` shows it")
        return 0
    return logs(name, job)


def check(name: str, arguments: Sequence[str], *, demo: bool) -> int:
    """Run `rainbow_ray.check` on the head.

    Args:
        name: Name of the cluster.
        arguments: Arguments of the command.
        demo: Whether the demo songs are used.

    Returns:
        The exit code of the command.
    """
    remote, state = head_of(name)
    _check_data(remote, state, arguments, demo=demo)
    named = ["--manifest", "demo"] if demo and not _names(arguments, "--manifest") else []
    return remote.follow(on_pod(state, shlex.join(["python", "-m", "rainbow_ray.check", *arguments, *named])))


def logs(name: str, job: str | None) -> int:
    """Print the log of a job until it ends.

    Args:
        name: Name of the cluster.
        job: Id of the job; None for the latest.

    Returns:
        The exit code of the job.

    Raises:
        InputError: No job ran on this cluster.
    """
    remote, state = head_of(name)
    if job is None:
        told = remote.run(on_pod(state, "python -m cluster.pod.job list"), timeout=60)
        known = sorted(json.loads(told.splitlines()[-1]), key=lambda found: found["started"])
        if not known:
            raise InputError("no job ran on this cluster yet: `python -m cluster train -- --phase 1`")
        job = known[-1]["id"]
    return remote.follow(on_pod(state, f"python -m cluster.pod.job follow {shlex.quote(str(job))}"))


def _check_data(remote: Remote, state: State, arguments: Sequence[str], *, demo: bool) -> None:
    """GPUs are not rented for demo songs by mistake. Raises `InputError`."""
    if demo or _names(arguments, "--manifest") or any(part.startswith("data.manifest_path=") for part in arguments):
        return
    place = f"{state.settings.workspace}/data/{MANIFEST}"
    there = remote.run(f"test -e {shlex.quote(place)} && echo yes || echo no").strip()
    if there != "yes":
        raise InputError(
            f"{place} is not on the cluster: `push --manifest songs.parquet` brings it; --demo trains on the demo songs"
        )


def _names(arguments: Sequence[str], flag: str) -> bool:
    return any(part == flag or part.startswith(f"{flag}=") for part in arguments)


def _origin(run: Path) -> str | None:
    try:
        return (run / ORIGIN).read_text()
    except OSError:
        return None


def _name_of_origin(state: State) -> str:
    """The volume, which outlives clusters; of one made by hand its name."""
    return state.volume.id if state.volume is not None and state.volume.id else ClusterFolder(state.name).name
