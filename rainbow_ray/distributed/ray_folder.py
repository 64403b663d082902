"""Folder of a Ray session with short paths, since the system limits the length of a socket's path.

Two folders contain sockets: that of Ray's sessions (RAY_TMPDIR, else TMPDIR), and TMPDIR itself, where Python's
`multiprocessing`, which runs the dashboard, creates its own.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import sys
import tempfile
from collections.abc import Iterator, MutableMapping
from pathlib import Path

from rainbow_ray.utils.errors import InputError

SOCKET_BYTES = 103 if sys.platform == "darwin" else 107  # sockaddr_un.sun_path without its final null byte
# the longest name below the folder: session, date, process id, the socket of the dashboard's longest module
LONGEST_SOCKET = "/session_2026-01-01_00-00-00_000000_4194304/sockets/dash_TaskEventsHead"
LONGEST_LISTENER = "/pymp-xxxxxxxx/listener-xxxxxxxx"  # of multiprocessing, below TMPDIR
MARGIN = 4
SHORT_PARENTS = ("/tmp", "/var/tmp", "/dev/shm")
PREFIX = "rainbow_ray-"


@contextlib.contextmanager
def session_folder(
    environment: MutableMapping[str, str] = os.environ, parents: tuple[str, ...] = SHORT_PARENTS
) -> Iterator[str | None]:
    """Yield the folder that Ray is given for its sessions.

    Where the paths of sockets below RAY_TMPDIR or TMPDIR would be too long, it is a new folder with a short name that
    only this user can read (mode 0700). It is removed afterwards; a TMPDIR that is too long leads there meanwhile.

    Args:
        environment: Environment variables, which Ray's processes inherit.
        parents: Folders in which a short one may be made, the preferred one first.

    Yields:
        An absolute path, or None where Ray's own choice is good.

    Raises:
        InputError: The paths are too long, and no short folder can be made.
    """
    chosen = environment.get("RAY_TMPDIR") or (environment.get("TMPDIR") if sys.platform.startswith("linux") else None)
    folder = str(Path(chosen, "ray").absolute()) if chosen else None
    temporary = environment.get("TMPDIR")
    if is_usable(folder, LONGEST_SOCKET) and is_usable(temporary, LONGEST_LISTENER):
        yield folder
        return
    short = _make_short_folder(parents)
    if short is None:
        variable = "RAY_TMPDIR" if environment.get("RAY_TMPDIR") and not is_usable(folder, LONGEST_SOCKET) else "TMPDIR"
        raise InputError(
            f"{variable}: {environment[variable]!r} is too long for the sockets of Ray, whose paths may have"
            f" {SOCKET_BYTES} bytes, and no folder can be made in {', '.join(parents)}; set it to a folder that you can"
            f" write, with a path of at most {SOCKET_BYTES - MARGIN - len('/ray' + LONGEST_SOCKET)} bytes"
        )
    try:
        if not is_usable(temporary, LONGEST_LISTENER):
            environment["TMPDIR"] = short
        yield folder if is_usable(folder, LONGEST_SOCKET) else short
    finally:
        if temporary is not None:
            environment["TMPDIR"] = temporary
        shutil.rmtree(short, ignore_errors=True)


def is_usable(folder: str | None, longest: str) -> bool:
    """Return whether the longest path of a socket below a folder is short enough, and valid text for Ray.

    Args:
        folder: Path of the folder; None is the system's own choice, which is short.
        longest: The longest path of a socket below it, with a leading slash.

    Returns:
        Whether Ray can use the folder.
    """
    try:
        return folder is None or len((folder + longest).encode()) + MARGIN <= SOCKET_BYTES
    except UnicodeEncodeError:  # bytes that are no UTF-8
        return False


def _make_short_folder(parents: tuple[str, ...]) -> str | None:
    for parent in parents:
        with contextlib.suppress(OSError):
            folder = tempfile.mkdtemp(prefix=PREFIX, dir=parent)
            if is_usable(folder, LONGEST_SOCKET):
                return folder
            Path(folder).rmdir()
    return None
