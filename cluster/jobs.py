"""Commands that upload code and data, run jobs on a cluster and download runs."""

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

MANIFEST = "base_manifest_db.parquet"  # file name in RAINBOW_MANIFEST on pods
ORIGIN = ".pulled-from"  # file in a downloaded run that names the volume it came from


def push(name: str, manifest: Path | None, other_paths: Sequence[Path], *, features: Path | None, dry_run: bool) -> int:
    """Upload code, and optionally a manifest, other files, or a media cache in place of audio and MIDI.

    Args:
        name: Name of the cluster.
        manifest: Manifest file, or None.
        other_paths: Further files and folders.
        features: Folder of a media cache, or None.
        dry_run: Whether to print only.

    Returns:
        The exit code.

    Raises:
        InputError: A file does not exist.
    """
    missing = [path for path in [*other_paths, *([manifest] if manifest else []), *([features] if features else [])]
               if not path.exists()]  # fmt: skip
    if missing:
        raise InputError(f"{path}: no such file or folder" for path in missing)
    remote, state = head_of(name)
    workspace = state.settings.workspace
    uploads = [f"code to {code_folder(state)}"]
    uploads += [f"{manifest} to {workspace}/data/{MANIFEST}"] if manifest else []
    uploads += [f"{path} to {workspace}/data/" for path in other_paths]
    uploads += [f"{features} to {workspace}/cache/"] if features else []
    for upload in uploads:
        print(upload)
    if dry_run:
        return 0
    push_code(remote, state)
    if manifest is not None:
        remote.put([manifest], f"{workspace}/data/.new")
        data = shlex.quote(f"{workspace}/data")
        remote.run(
            f"mv {data}/.new/{shlex.quote(manifest.name)} {data}/{MANIFEST}", step="moving the manifest into place"
        )
    if other_paths:
        remote.put(list(other_paths), f"{workspace}/data")
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
    remote_folder = f"{state.settings.workspace}/runs"
    output = remote.run(f"cd {shlex.quote(remote_folder)} 2>/dev/null && ls -1 || true")
    available = list(filter(None, output.split("\n")))
    selected = [run for run in available if not runs or run in runs]
    missing = [run for run in runs if run not in selected]
    if missing:
        raise InputError(f"no run {run!r} on the cluster (available: {', '.join(available) or 'none'})"
                         for run in missing)  # fmt: skip
    skipped = []
    for run in selected:
        local_run = folder / run
        if local_run.exists() and _read_origin(local_run) != _origin_of(state):
            skipped.append(run)
            continue
        print(f"{run} to {local_run}")
        if not dry_run:
            local_run.mkdir(parents=True, exist_ok=True)
            (local_run / ORIGIN).write_text(_origin_of(state))
            # no --delete: files of earlier downloads are kept
            remote.get(f"{remote_folder}/{run}/", local_run)
    for run in skipped:
        print(f"skipped {run}: {folder / run} exists and is from another source; choose another folder with --into")
    return 1 if skipped else 0


def start(
    name: str,
    entry_point: str,
    arguments: Sequence[str],
    *,
    demo: bool,
    down_when_done: bool,
    follow: bool,
    dry_run: bool,
) -> int:
    """Run `train` or `tune` on the cluster, as a Ray job that does not depend on this machine.

    Args:
        name: Name of the cluster.
        entry_point: `train` or `tune`.
        arguments: Arguments of the command.
        demo: Whether the demo songs are used.
        down_when_done: Whether the cluster stops when the job has ended.
        follow: Whether to print the log until the job has ended.
        dry_run: Whether to print only.

    Returns:
        The exit code.
    """
    remote, state = head_of(name)
    command = ["python", "-m", f"rainbow_ray.{entry_point}", *arguments]
    _check_data(remote, state, arguments, demo=demo)
    if demo and not _has_flag(arguments, "--manifest"):
        command += ["--manifest", "demo"]
    if not _has_flag(arguments, "--usd-per-hour") and state.usd_per_hour:
        command += ["--usd-per-hour", f"{state.usd_per_hour:g}"]
    job = f"{entry_point}-{time.strftime('%Y%m%d-%H%M%S')}"
    print(f"{job}: {shlex.join(command)}")
    if dry_run:
        return 0
    submit = [
        "python",
        "-m",
        "cluster.pod.job",
        "submit",
        job,
        *(["--finish"] if down_when_done else []),
        "--",
        *command,
    ]
    remote.run(on_pod(state, shlex.join(submit)), timeout=120, step=f"submitting {job}")
    if not follow:
        print(f"submitted; run `python -m cluster logs {job}` to follow it")
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
    manifest = ["--manifest", "demo"] if demo and not _has_flag(arguments, "--manifest") else []
    return remote.follow(on_pod(state, shlex.join(["python", "-m", "rainbow_ray.check", *arguments, *manifest])))


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
        output = remote.run(on_pod(state, "python -m cluster.pod.job list"), timeout=60)
        jobs = sorted(json.loads(output.splitlines()[-1]), key=lambda record: record["started"])
        if not jobs:
            raise InputError("no jobs on this cluster yet; start one with `python -m cluster train -- --phase 1`")
        job = jobs[-1]["id"]
    return remote.follow(on_pod(state, f"python -m cluster.pod.job follow {shlex.quote(str(job))}"))


def _check_data(remote: Remote, state: State, arguments: Sequence[str], *, demo: bool) -> None:
    """Check that a manifest exists, so that GPUs do not train on the demo songs by mistake. Raises `InputError`."""
    if (
        demo
        or _has_flag(arguments, "--manifest")
        or any(argument.startswith("data.manifest_path=") for argument in arguments)
    ):
        return
    manifest = f"{state.settings.workspace}/data/{MANIFEST}"
    answer = remote.run(f"test -e {shlex.quote(manifest)} && echo yes || echo no").strip()
    if answer != "yes":
        raise InputError(
            f"no manifest at {manifest} on the cluster; run `push --manifest songs.parquet`, or use the demo songs with"
            " --demo"
        )


def _has_flag(arguments: Sequence[str], flag: str) -> bool:
    return any(argument == flag or argument.startswith(f"{flag}=") for argument in arguments)


def _read_origin(run: Path) -> str | None:
    try:
        return (run / ORIGIN).read_text()
    except OSError:
        return None


def _origin_of(state: State) -> str:
    """Return the id of the volume, which outlives clusters, or the name of a cluster without a volume."""
    return state.volume.id if state.volume is not None and state.volume.id else ClusterFolder(state.name).name
