"""File systems of tables: local folders and fsspec URLs."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from pyarrow.fs import FileSystem, FSSpecHandler, LocalFileSystem, PyFileSystem

from rainbow_ray.data.read_errors import explain_read_error
from rainbow_ray.utils.errors import InputError, printable
from rainbow_ray.utils.paths import is_url

SECRET_QUERY = re.compile(r"(^|&)[^=&]*(sig|token|key|secret|password|credential)[^=&]*=", re.IGNORECASE)
PATTERN = re.compile(r"[*?\[]")
CONNECT_SECONDS, ANSWER_SECONDS = 30, 120  # that an HTTP server may take


def open_filesystem(location: str, label: str) -> tuple[FileSystem, str]:
    """Return the file system of a location.

    Args:
        location: Local path or fsspec URL.
        label: Name of the table in messages.

    Returns:
        The file system and the path on it.

    Raises:
        InputError: The URL holds credentials, or cannot be opened.
    """
    if not is_url(location):
        return LocalFileSystem(), location
    import fsspec

    if holds_secret(location):
        # the address is written into the run's files
        raise InputError("--manifest: a URL must not contain a password or a signature; give the credentials to the"
                         " file system's own environment variables")  # fmt: skip
    try:
        filesystem, path = fsspec.core.url_to_fs(location, **storage_options(location))
    except Exception as error:
        raise InputError(f"{label}: cannot be opened: {explain_read_error(error, remote=True)}") from error
    return PyFileSystem(FSSpecHandler(filesystem)), path


def storage_options(location: str) -> dict[str, Any]:
    """Return options of fsspec's file system, with timeouts for HTTP servers that do not answer.

    Args:
        location: fsspec URL.

    Returns:
        Keyword arguments of `fsspec.core.url_to_fs`.
    """
    if not location.lower().startswith(("http://", "https://")):
        return {}
    try:
        import aiohttp
    except ImportError:  # fsspec reports it
        return {}
    timeout = aiohttp.ClientTimeout(total=None, sock_connect=CONNECT_SECONDS, sock_read=ANSWER_SECONDS)
    return {"client_kwargs": {"timeout": timeout}}


def holds_secret(location: str) -> bool:
    """Return whether any part of a (chained) URL holds a password or a signed query.

    Args:
        location: fsspec URL, with parts separated by `::`.

    Returns:
        True if the URL must not be written to the files of a run.
    """
    for part in location.split("::"):
        host, _, path = part.partition("://")[2].partition("/")
        if "@" in host or SECRET_QUERY.search(f"{host}/{path}".partition("?")[2].partition("#")[0]):
            return True
    return False


def describe_not_found(location: str, label: str, name: str) -> str:
    """Return the message about a location that does not exist.

    Args:
        location: Path or URL as the user gave it.
        label: Name of the table in messages.
        name: Name of the option that names the table.

    Returns:
        A message with advice.
    """
    if not is_url(location) and Path(location).is_symlink():
        return f"{label}: a link to a file that does not exist"
    if PATTERN.search(location) and not is_url(location):
        return f"{label}: no such file or folder, and patterns are not expanded; name a folder, all of which is read"
    return f"{label}: no such file or folder; name another with --{name}"


def display_path(path: str, location: str) -> str:
    """Return the name of a file of a table for messages.

    Args:
        path: Path on the file system.
        location: Path or URL of the table.

    Returns:
        The path relative to the folder; empty where the table is the file itself.
    """
    base = location.partition("://")[2] if is_url(location) else location
    if path in (base, location):
        return ""
    return printable(path.removeprefix(base).lstrip("/") if path.startswith(f"{base.rstrip('/')}/") else path)
