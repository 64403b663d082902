"""The user's cache folder.

Reference:
    XDG Base Directory Specification, `XDG_CACHE_HOME`.
"""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

TEMPORARY_PREFIX = "rainbow_ray-"


def cache_dir(name: str = "") -> Path:
    """Return a folder in the user's cache. It is not created.

    Args:
        name: Name of a subfolder, or nothing.

    Returns:
        `$XDG_CACHE_HOME/rainbow_ray/NAME`, by default `~/.cache/rainbow_ray/NAME`.
    """
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "rainbow_ray" / name


def make_cache_dir(name: str) -> Path:
    """Create a folder in the user's cache, or a temporary one where the cache cannot be written.

    Args:
        name: Name of the subfolder.

    Returns:
        A folder that can be written.
    """
    folder = cache_dir(name)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError:
        return make_temporary_dir()
    return folder if os.access(folder, os.W_OK) else make_temporary_dir()


def make_temporary_dir() -> Path:
    """Create a temporary folder, for a machine whose cache cannot be written.

    Returns:
        The folder, which is not removed.
    """
    return Path(tempfile.mkdtemp(prefix=TEMPORARY_PREFIX))
