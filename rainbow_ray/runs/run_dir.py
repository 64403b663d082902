"""The folder of a run or a sweep: its name, its first files, and whether it can be resumed."""

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

from filelock import FileLock, Timeout

from rainbow_ray.config.load import dump
from rainbow_ray.config.schema import Config
from rainbow_ray.data.splits import write_split_file
from rainbow_ray.runs.saved_config import config_differences
from rainbow_ray.setup.prepared import PreparedData
from rainbow_ray.training.checkpoint import write_json
from rainbow_ray.utils.errors import InputError
from rainbow_ray.utils.io import atomic_write
from rainbow_ray.utils.paths import resolve_path

# Packages whose versions `env.json` records.
PACKAGES = ("rainbow-ray", "ray", "torch", "transformers", "scikit-learn", "numpy", "pandas", "pyarrow")
RUN, SWEEP = "run", "sweep"
LOCK = ".lock"  # held by the command that works in the folder
SPACE = "space.json"  # only sweeps have one
# Files of a folder in which no run has started: env.json is written last.
INITIAL_FILES = (LOCK, SPACE, "config.yaml")
TEMPORARY_SUFFIXES = (".tmp", ".writable")
# Files of a folder that contains work.
WORK_FILES = ("split.json", "checkpoints", "trials.jsonl", "trials")
# Former names of files and folders by present name, which a run or a sweep that an earlier version started may have.
FORMER_FILES = {"frozen_features": "prefix", "revalidation": "confirm"}


@dataclass(frozen=True)
class RunDir:
    """The folder of a run or a sweep.

    Attributes:
        path: Absolute path of the folder.
        lock: Lock that the command holds, or None. The operating system releases the lock of a process that dies.
    """

    path: Path
    lock: FileLock | None = None

    def file(self, name: str) -> Path:
        """Return the path of a file or folder of the run.

        Args:
            name: Its name.

        Returns:
            The path; a file or folder that an earlier version wrote under its former name keeps that name.
        """
        path = self.path / name
        former_path = self.path / FORMER_FILES.get(name, name)
        return former_path if former_path.exists() and not path.exists() else path

    @property
    def is_finished(self) -> bool:
        """Whether the summary, which is written last, exists."""
        return self.file("summary.json").exists()

    @property
    def kind(self) -> str:
        """`run` or `sweep`."""
        return SWEEP if self.file(SPACE).exists() else RUN


def open_run(
    config: Config, name: str | None, *, resume: bool, kind: str = RUN, space: dict[str, Any] | None = None
) -> RunDir:
    """Create the folder of a run or a sweep, or find the one to resume, and lock it.

    Args:
        config: The config.
        name: Name of the folder in `logging.output_dir`; None is a new name from the date, or, with `resume`, the
            newest unfinished run of this config.
        resume: Whether to continue an existing run.
        kind: `run` or `sweep`.
        space: Search space of a sweep, which is written to `space.json`.

    Returns:
        The folder.

    Raises:
        InputError: The name exists, the run has another config, the folder cannot be written, or another command works
            in it.
    """
    output = resolve_path(config.logging.output_dir).resolve()  # workers have working folders of their own
    if resume and not (name is not None and _is_unstarted(output / name)):
        return _claim(_find_resumable(config, output, name, kind))
    if name is None:
        prefix = f"phase{config.phase}{'-sweep' if kind == SWEEP else ''}"
        name = f"{prefix}-{datetime.datetime.now():%Y%m%d-%H%M%S}-{config.hash()}"
    if name in ("", ".", "..") or Path(name).name != name:
        raise InputError(f"--name {name!r}: a run is one folder inside {output}; choose that with --output-dir")
    path = output / name
    if path.exists() and not _is_unstarted(path):
        raise InputError(f"--name {name}: {path} exists; continue it with --resume, or choose another name")
    try:
        path.mkdir(parents=True, exist_ok=True)
        probe = path / ".writable"
        probe.touch()
        probe.unlink()
    except OSError as error:
        raise InputError(f"--output-dir {output}: cannot be written ({error.strerror}); choose another") from error
    run_dir = _claim(RunDir(path))
    if space is not None:
        write_json(run_dir.file(SPACE), space)
    init_run_dir(config, path)
    return run_dir


def init_run_dir(config: Config, path: Path) -> RunDir:
    """Write the config and the environment into the folder of a run, unless they exist.

    Args:
        config: The config.
        path: The folder.

    Returns:
        The folder, without a lock.
    """
    run_dir = RunDir(path)
    if not run_dir.file("env.json").exists():
        atomic_write(run_dir.file("config.yaml"), lambda file: file.write_text(dump(config), encoding="utf-8"))
        write_json(run_dir.file("env.json"), describe_environment())
    return run_dir


def save_data_profile(run_dir: RunDir, data: PreparedData) -> None:
    """Write `data.json` and `split.json`, or compare the data with those of the run that is resumed.

    Args:
        run_dir: The folder.
        data: Prepared data.

    Raises:
        InputError: The resumed run had other data or other folds.
    """
    split_file = run_dir.file("split.json")
    if split_file.exists():
        saved = json.loads(run_dir.file("data.json").read_text(encoding="utf-8"))
        descriptions = {"data_hash": "the songs", "split_hash": "their folds"}
        changed = [text for key, text in descriptions.items() if saved.get(key) != data.profile[key]]
        if changed:
            differences = " and ".join(changed)
            raise InputError(f"--resume: {differences} have changed since {run_dir.path} was started; start a new run")
        return
    write_json(run_dir.file("data.json"), data.profile | {"warnings": data.warnings})
    atomic_write(split_file, lambda path: write_split_file(data.split, data.index, path))


def remove_unstarted(run_dir: RunDir) -> None:
    """Remove the folder of a run that contains no work, because its data could not be used.

    Args:
        run_dir: The folder.
    """
    if not any(run_dir.file(name).exists() for name in WORK_FILES):
        shutil.rmtree(run_dir.path, ignore_errors=True)


def resume_advice(run_dir: RunDir) -> str:
    """Return how a run that was interrupted can be continued.

    Args:
        run_dir: The folder.

    Returns:
        The advice, for an error message.
    """
    return f"continue with --resume --name {shlex.quote(run_dir.path.name)}"


@contextlib.contextmanager
def closing(run_dir: RunDir | None) -> Iterator[None]:
    """Remove a run without work when its input is wrong or a signal ends it; otherwise add how to continue it.

    Args:
        run_dir: The folder that the block works on, or None for a dry run.

    Yields:
        None.
    """
    try:
        yield
    except InputError:
        if run_dir is not None:
            remove_unstarted(run_dir)
        raise
    except KeyboardInterrupt as error:
        if run_dir is not None:
            remove_unstarted(run_dir)
            if run_dir.path.exists() and not run_dir.is_finished:
                error.add_note(resume_advice(run_dir))
        raise


def describe_environment() -> dict[str, Any]:
    """Return what a result depends on besides config and data.

    Environment variables are left out, since they may contain secrets.

    Returns:
        Versions of Python and packages, the platform, the number of CPUs, the command and the time.
    """
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


def has_same_config(path: Path, config: Config) -> bool:
    """Return whether the run in a folder has a config with the same results.

    Args:
        path: The folder.
        config: The config.

    Returns:
        Whether no key differs, apart from those that do not change results.
    """
    return not config_differences(path, config)


def _find_resumable(config: Config, output: Path, name: str | None, kind: str) -> RunDir:
    """Return the named run, or the newest one of the config. Raises `InputError` where it cannot be resumed."""
    if name is not None:
        run_dir = RunDir(output / name)
        _check_resumable(run_dir, config, name, kind)
        return run_dir
    configs = sorted(output.glob("*/config.yaml"), key=lambda file: file.stat().st_mtime, reverse=True)
    for file in configs:
        run_dir = RunDir(file.parent)
        is_open = kind == SWEEP or not run_dir.is_finished  # trials can be added to a finished sweep
        is_match = run_dir.kind == kind and is_open
        if is_match and not _missing_files(run_dir) and not config_differences(run_dir.path, config):
            return run_dir
    description = f"unfinished {kind}" if kind == RUN else kind
    raise InputError(f"--resume: no {description} of this config in {output}; name one with --name")


def _check_resumable(run_dir: RunDir, config: Config, name: str, kind: str) -> None:
    """Raise `InputError` where the named run cannot be resumed with this config."""
    option, path = f"--resume --name {name}", run_dir.path
    if not path.exists():
        raise InputError(f"{option}: there is no run at {path}")
    if run_dir.kind != kind:
        raise InputError(f"{option}: {path} is a {run_dir.kind}, not a {kind}")
    missing = _missing_files(run_dir)
    if missing:
        problem = f"of {path}, these files are missing: {', '.join(missing)}"
        raise InputError(f"{option}: {problem}; put them back, or start a new run with another --name")
    differences = config_differences(run_dir.path, config)
    if differences:
        raise InputError(f"{option}: that run has another config: {'; '.join(differences)}")


def _is_unstarted(path: Path) -> bool:
    """Return whether a folder is empty, or contains only files of a command that was killed as it started."""
    return path.is_dir() and all(
        file.name in INITIAL_FILES or file.name.endswith(TEMPORARY_SUFFIXES) for file in path.iterdir()
    )


def _claim(run_dir: RunDir) -> RunDir:
    """Lock a run. Raises `InputError` where another command works in it."""
    lock = FileLock(run_dir.file(LOCK), timeout=0)
    try:
        lock.acquire()
    except Timeout as error:
        advice = "try again when it has finished, or choose another --name"
        raise InputError(f"{run_dir.path} is locked by another command; {advice}") from error
    return RunDir(run_dir.path, lock)


def _missing_files(run_dir: RunDir) -> list[str]:
    """Return the files that a run in this state must have, but lacks."""
    expected = ["config.yaml", "env.json"]
    # data.json is written before split.json: alone, it belongs to a run that was interrupted between the two.
    if run_dir.is_finished or any(run_dir.file(name).exists() for name in WORK_FILES):
        expected += ["data.json", "split.json"]
    if run_dir.is_finished and run_dir.kind == SWEEP:
        expected += ["trials.jsonl", "trials"]
    elif run_dir.is_finished:
        expected += ["predictions.parquet", "metrics.jsonl", "model"]
    return [name for name in expected if not run_dir.file(name).exists()]
