"""Resolution of paths that a user writes: one absolute spelling for this process and for every worker.

Workers of a cluster have working folders of their own, where a relative path means something else: what they are given
has gone through `resolve_path` or `resolve_location`. In a config, `~` and `file://` are expanded when it is read
(`expand`), while relative paths stay relative, so that a config file can be used elsewhere. Imports nothing heavy:
`predict --text` needs this module too.
"""

from __future__ import annotations

import argparse
import os
import re
from pathlib import Path
from urllib.parse import unquote

from rainbow_ray.utils.errors import InputError

URL = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*(::|://)")
LOCAL_SCHEMES = ("file", "local")
EMBEDDED = "embedded"  # the encoder that needs no files


def is_url(location: str) -> bool:
    """Return whether a location names a file system other than the local one, in the notation of fsspec.

    Args:
        location: A path or URL.

    Returns:
        True for locations such as `s3://…` and `a::b://…`.
    """
    match = URL.match(location)
    return match is not None and not (match[1] == "::" and "://" not in location)


def resolve_path(path: str | Path) -> Path:
    """Return a local path as an absolute one.

    `~` and `~user` are expanded, `file://` URLs are decoded. Symbolic links and `..` are kept.

    Args:
        path: A path, relative to the working folder or absolute, or a `file://` URL.

    Returns:
        The absolute path.

    Raises:
        InputError: The path is empty or has null characters, or it is relative and the working folder no longer exists.
    """
    text = _from_local_url(os.fspath(path))
    if not text:
        raise InputError("an empty path names nothing; write a file or a folder")
    if "\0" in text:
        raise InputError(f"{text}: a path has no null characters")
    try:
        return _expanded(text).absolute()
    except FileNotFoundError as error:
        raise InputError(f"{text}: the working folder is gone; write an absolute path") from error


def resolve_location(location: str) -> str:
    """Return the location of a table: a URL unchanged, anything else as an absolute local path.

    Args:
        location: A path or URL.

    Returns:
        The location.

    Raises:
        InputError: As `resolve_path`.
    """
    return location if is_url(location) and _scheme(location) not in LOCAL_SCHEMES else str(resolve_path(location))


def expand(location: str) -> str:
    """Expand `~` in a path, and turn a `file://` URL into a path.

    Args:
        location: A path or URL.

    Returns:
        The location; relative paths and other URLs are unchanged.
    """
    if is_url(location):
        return str(resolve_path(location)) if _scheme(location) in LOCAL_SCHEMES else location
    return str(_expanded(location)) if location.startswith("~") else location


def resolve_encoder(name: str) -> str:
    """Return the name of an encoder for workers with other working folders.

    Args:
        name: A hub name, a folder, or `embedded`.

    Returns:
        An absolute path where it is a folder, otherwise the name.
    """
    if name in ("", EMBEDDED):
        return name
    is_local = name.startswith((".", "~", os.sep)) or is_url(name) or _expanded(name).is_dir()
    return str(resolve_path(name)) if is_local else name


def expand_space(name: str) -> str:
    """Expand `~` in the name of a search space.

    Args:
        name: `FILE:FUNCTION` or `module:function`.

    Returns:
        The name.
    """
    module, colon, function = name.rpartition(":")
    return f"{expand(module)}:{function}" if colon else name


def path_option(text: str) -> Path:
    """Convert a command-line option that names a local file or folder (`type=` of argparse).

    `~` and `file://` are expanded. Relative paths are kept, for messages; `resolve_path` makes them absolute.

    Args:
        text: Value of the option.

    Returns:
        The path.

    Raises:
        argparse.ArgumentTypeError: The value is empty or has null characters.
    """
    if not text or "\0" in text:
        raise argparse.ArgumentTypeError(f"{text!r} names neither a file nor a folder")
    return Path(expand(text))


def location_option(text: str) -> str:
    """Convert a command-line option that names a table (`type=` of argparse).

    Args:
        text: A path or URL.

    Returns:
        The location, expanded as by `path_option`.
    """
    return expand(text) if is_url(text) else str(path_option(text))


def folder_of(location: str) -> Path | None:
    """Return the folder that relative media paths of a table start from.

    Args:
        location: Path or URL of a parquet file or of a folder of them.

    Returns:
        The folder of the file, or the folder itself; None for a table that is not local.
    """
    if is_url(location):
        location = resolve_location(location)
        if is_url(location):
            return None
    path = resolve_path(location)
    return path if path.is_dir() else path.parent


def _scheme(url: str) -> str:
    return url.partition("://")[0].lower()


def _from_local_url(text: str) -> str:
    """Return the path of a `file://` URL; of percent signs that could be meant either way, the one that is there."""
    if not is_url(text) or _scheme(text) not in LOCAL_SCHEMES:
        return text
    host_and_path = text.split("://", 1)[1]
    host, slash, path = host_and_path.partition("/")
    plain = slash + path if host.lower() in ("", "localhost") else host_and_path
    try:
        return plain if _expanded(plain).exists() else unquote(plain)
    except OSError:  # a name that is too long for any file
        return plain


def _expanded(text: str) -> Path:
    """Return a path with the home folder in place of `~`; `~name` stays where there is no such user."""
    try:
        return Path(text).expanduser()
    except RuntimeError:
        return Path(text)
