"""Writing of demo files."""

from __future__ import annotations

from pathlib import Path

from rainbow_ray.utils.io import atomic_write


def write_file(path: Path, content: bytes) -> None:
    """Write a file atomically, unless it already has the content.

    Args:
        path: File to write; its folder is created.
        content: Content of the file.
    """
    if path.is_file() and path.read_bytes() == content:
        return
    atomic_write(path, lambda temporary: temporary.write_bytes(content), sync=False)
