"""Writing of demo files."""

from __future__ import annotations

import uuid
from pathlib import Path


def write_file(path: Path, content: bytes) -> None:
    """Write a file atomically, unless it already has the content.

    Args:
        path: File to write; its folder is created.
        content: Content of the file.
    """
    if path.is_file() and path.read_bytes() == content:
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    # a unique name: processes on several machines may write to a shared folder at the same time
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex}")
    try:
        temporary.write_bytes(content)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
