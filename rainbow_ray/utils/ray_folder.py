"""The folder of a Ray session. Its sockets have long names, and the system limits the length of a socket's path."""

from __future__ import annotations

import contextlib
import os
import shutil
import sys
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path

from rainbow_ray.errors import InputError

SOCKET_BYTES = 103 if sys.platform == "darwin" else 107  # sockaddr_un.sun_path without its final null byte
# the longest name below the folder: session, date, process id, the socket of the dashboard's longest module
LONGEST_SOCKET = "/session_2026-01-01_00-00-00_000000_4194304/sockets/dash_TaskEventsHead"
MARGIN = 4
SHORT_PARENTS = ("/tmp", "/var/tmp", "/dev/shm")
PREFIX = "rainbow_ray-"


@contextlib.contextmanager
def session_folder(environment: Mapping[str, str] = os.environ, parents: tuple[str, ...] = SHORT_PARENTS) -> Iterator[
    str | None
]:  # fmt: skip
    """Yield the folder that Ray is given for its sessions.

    Where the paths of sockets below RAY_TMPDIR or TMPDIR would be too long, it is a new folder with a short name that
    only this user can read (mode 0700); it is removed afterwards.

    Args:
        environment: Environment variables.
        parents: Folders in which a short one may be made, the preferred one first.

    Yields:
        An absolute path, or None where Ray's own choice is good.

    Raises:
        InputError: The paths are too long, and no short folder can be made.
    """
    variable = next((name for name in ("RAY_TMPDIR", "TMPDIR") if name in environment), None)
    if variable is None or (variable == "TMPDIR" and not sys.platform.startswith("linux")):
        yield None
        return
    folder = os.path.join(environment[variable], "ray")  # noqa: PTH118 (Path would turn "" into ".")
    absolute = str(Path(folder).absolute())
    if is_usable(absolute):
        yield absolute if absolute != folder else None
        return
    short = _make_short_folder(parents)
    if short is None:
        raise InputError(
            f"{variable}: {environment[variable]!r} is too long for the sockets of Ray, whose paths may have"
            f" {SOCKET_BYTES} bytes, and no folder can be made in {', '.join(parents)}; set RAY_TMPDIR to a folder"
            f" that you can write, with a path of at most {most_bytes() - len('/ray')} bytes"
        )
    try:
        yield short
    finally:
        shutil.rmtree(short, ignore_errors=True)


def most_bytes() -> int:
    """Return how many bytes the path of Ray's folder may have."""
    return SOCKET_BYTES - len(LONGEST_SOCKET) - MARGIN


def is_usable(folder: str) -> bool:
    """Return whether the paths of Ray's sockets in a folder are short enough, and text that Ray can pass on."""
    try:
        return len(folder.encode()) <= most_bytes()
    except UnicodeEncodeError:  # bytes that are no UTF-8
        return False


def _make_short_folder(parents: tuple[str, ...]) -> str | None:
    for parent in parents:
        with contextlib.suppress(OSError):
            made = tempfile.mkdtemp(prefix=PREFIX, dir=parent)
            if is_usable(made):
                return made
            Path(made).rmdir()
    return None
