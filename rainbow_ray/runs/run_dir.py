"""The folder of a run: its name, what stands in it from the start, and whether it may be gone on with."""

from __future__ import annotations

import contextlib
import datetime
import importlib.metadata
import json
import os
import platform
import shlex
import shutil
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from filelock import FileLock, Timeout

from rainbow_ray.config.load import dump, with_resolved_paths
from rainbow_ray.config.schema import HASH_EXCLUDED, Config
from rainbow_ray.data.splits import write_split_file
from rainbow_ray.setup.prepared import PreparedData
from rainbow_ray.training.checkpoint import write_json
from rainbow_ray.utils.errors import InputError
from rainbow_ray.utils.io import atomic_write
from rainbow_ray.utils.paths import resolve_path

PACKAGES = ("rainbow-ray", "ray", "torch", "transformers", "scikit-learn", "numpy", "pandas", "pyarrow")


RUN, SWEEP = "run", "sweep"
LOCK = ".lock"  # held by the command that is at work here
SPACE = "space.json"  # only sweeps have one
FIRST = (LOCK, SPACE, "config.yaml")  # what may stand in a folder that no run has begun in: env.json comes last
BEGUN = ("split.json", "checkpoints", "trials.jsonl", "trials")  # what stands in one that holds work


@dataclass(frozen=True)
class RunFolder:
    path: Path
    lock: FileLock | None = None  # the system takes it from whoever dies

    def file(self, name: str) -> Path:
        return self.path / name

    @property
    def finished(self) -> bool:
        return self.file("summary.json").exists()


def open_run(
    config: Config, name: str | None, *, resume: bool, kind: str = RUN, space: dict[str, Any] | None = None
) -> RunFolder:
    """A new run or sweep (of a `space`), or with `resume` the named one or the newest unfinished one of this config.

    Raises `InputError` for a name that exists, a run of another config, a folder that cannot be written, and one in
    which another command is at work.
    """
    output = resolve_path(config.logging.output_dir).resolve()  # workers have working folders of their own
    if resume and not (name is not None and _is_empty(output / name)):
        return _claim(_resumed(config, output, name, kind))
    if name is None:
        what = f"phase{config.phase}{'-sweep' if kind == SWEEP else ''}"
        name = f"{what}-{datetime.datetime.now():%Y%m%d-%H%M%S}-{config.hash()}"
    if name in ("", ".", "..") or Path(name).name != name:
        raise InputError(f"--name {name!r}: a run is one folder inside {output}; choose that with --output-dir")
    path = output / name
    if path.exists() and not _is_empty(path):
        raise InputError(f"--name {name}: {path} exists; go on with it by --resume, or choose another name")
    try:
        path.mkdir(parents=True, exist_ok=True)
        probe = path / ".writable"
        probe.touch()
        probe.unlink()
    except OSError as error:
        raise InputError(f"--output-dir {output}: cannot be written ({error.strerror}); choose another") from error
    run = _claim(RunFolder(path))
    if space is not None:
        write_json(run.file(SPACE), space)
    begin_run(config, path)
    return run


def begin_run(config: Config, path: Path) -> RunFolder:
    """The folder of a run with what stands in it from the start; one that has begun is left as it is."""
    run = RunFolder(path)
    if not run.file("env.json").exists():
        atomic_write(run.file("config.yaml"), lambda file: file.write_text(dump(config), encoding="utf-8"))
        write_json(run.file("env.json"), environment())
    return run


def keep_data(run: RunFolder, data: PreparedData) -> None:
    """Write `data.json` and `split.json`. Raises `InputError` when a run that is gone on with had other data."""
    split = run.file("split.json")
    if split.exists():
        before = json.loads(run.file("data.json").read_text(encoding="utf-8"))
        changed = [key for key in ("data_hash", "split_hash") if before.get(key) != data.profile[key]]
        if changed:
            what = " and ".join({"data_hash": "the songs", "split_hash": "their folds"}[key] for key in changed)
            raise InputError(f"--resume: {what} have changed since {run.path} began; start a new run")
        return
    write_json(run.file("data.json"), data.profile | {"warnings": data.warnings})
    atomic_write(split, lambda path: write_split_file(data.split, data.index, path))


def abandon(run: RunFolder) -> None:
    """Remove a run that never began: its data could not be trained on."""
    if not any(run.file(name).exists() for name in BEGUN):
        shutil.rmtree(run.path, ignore_errors=True)


def how_to_resume(run: RunFolder) -> str:
    """Return the advice for a run that was stopped before its end."""
    return f"go on with --resume --name {shlex.quote(run.path.name)}"


@contextlib.contextmanager
def closing(run: RunFolder | None) -> Iterator[None]:
    """Remove a run that has not begun when its input is wrong or a signal ends it; else tell how to continue it.

    Args:
        run: The run that the block works on, or None for a dry run.
    """
    try:
        yield
    except InputError:
        if run is not None:
            abandon(run)
        raise
    except KeyboardInterrupt as error:
        if run is not None:
            abandon(run)
            if run.path.exists() and not run.finished:
                error.add_note(how_to_resume(run))
        raise


def environment() -> dict[str, Any]:
    """What a result depends on beside config and data. No environment variables: they hold secrets."""
    versions: dict[str, str | None] = {}
    for package in PACKAGES:
        try:
            versions[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            versions[package] = None
    return {
        "python": platform.python_version(),
        "platform": platform.platform(),
        "cpus": os.cpu_count(),
        "packages": versions,
        "command": sys.argv,
        "started": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
    }


def _resumed(config: Config, output: Path, name: str | None, kind: str) -> RunFolder:
    if name is not None:
        run = RunFolder(output / name)
        if not run.path.exists():
            raise InputError(f"--resume --name {name}: there is no run at {run.path}")
        if _kind(run) != kind:
            raise InputError(f"--resume --name {name}: {run.path} is a {_kind(run)}, not a {kind}")
        if missing := _missing(run):
            gone = f"of {run.path}, these files are missing: {', '.join(missing)}"
            raise InputError(f"--resume --name {name}: {gone}; put them back, or start a new run with another --name")
        differs = _differences(run, config)
        if differs:
            raise InputError(f"--resume --name {name}: that run has another config: {'; '.join(differs)}")
        return run
    candidates = sorted(output.glob("*/config.yaml"), key=lambda file: file.stat().st_mtime, reverse=True)
    for file in candidates:
        run = RunFolder(file.parent)
        open_ = kind == SWEEP or not run.finished  # to a sweep trials can be added
        if _kind(run) == kind and open_ and not _missing(run) and not _differences(run, config):
            return run
    what = f"unfinished {kind}" if kind == RUN else kind
    raise InputError(f"--resume: no {what} of this config lies in {output}; name one with --name")


def _is_empty(path: Path) -> bool:
    """Whether no run has begun in this folder: there is nothing, or what a command left that was killed at once."""
    return path.is_dir() and all(
        file.name in FIRST or file.name.endswith((".tmp", ".writable")) for file in path.iterdir()
    )


def _claim(run: RunFolder) -> RunFolder:
    lock = FileLock(run.file(LOCK), timeout=0)
    try:
        lock.acquire()
    except Timeout as error:
        raise InputError(f"{run.path}: another command is at work in it") from error
    return RunFolder(run.path, lock)


def _kind(run: RunFolder) -> str:
    return SWEEP if run.file(SPACE).exists() else RUN


def _missing(run: RunFolder) -> list[str]:
    """Files that a run of this age must have, and has not."""
    expected = ["config.yaml", "env.json"]
    # data.json is written first: alone, it is of a run that was stopped between the two
    if run.finished or any(run.file(name).exists() for name in BEGUN):
        expected += ["data.json", "split.json"]
    if run.finished and _kind(run) == SWEEP:
        expected += ["trials.jsonl", "trials"]
    elif run.finished:
        expected += ["predictions.parquet", "metrics.jsonl", "model"]
    return [name for name in expected if not run.file(name).exists()]


def same_config(path: Path, config: Config) -> bool:
    """Whether the run in a folder is of this config."""
    return not _differences(RunFolder(path), config)


def _differences(run: RunFolder, config: Config) -> list[str]:
    try:
        theirs = Config.model_validate(yaml.safe_load(run.file("config.yaml").read_text(encoding="utf-8")))
    except (OSError, ValueError, yaml.YAMLError) as error:
        return [f"its config.yaml cannot be read ({' '.join(str(error).split())[:120]})"]
    theirs = with_resolved_paths(theirs)
    return _compare(theirs.model_dump(exclude=HASH_EXCLUDED), config.model_dump(exclude=HASH_EXCLUDED))


def _compare(theirs: dict[str, Any], ours: dict[str, Any], prefix: str = "") -> list[str]:
    found = []
    for key, value in ours.items():
        other = theirs.get(key)
        if isinstance(value, dict) and isinstance(other, dict):
            found += _compare(other, value, f"{prefix}{key}.")
        elif value != other:
            found.append(f"{prefix}{key} was {json.dumps(other)}, now {json.dumps(value)}")
    return found
