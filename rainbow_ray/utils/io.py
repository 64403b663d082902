"""Files that are there whole or not at all."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path


def atomic_write(path: Path, write: Callable[[Path], object]) -> None:
    """Let `write` fill a temporary file beside `path`, then move it into place: never half a file under that name."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        write(temporary)
        with temporary.open("rb") as file:
            os.fsync(file.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


@contextmanager
def atomic_folder(path: Path) -> Iterator[Path]:
    """Write a folder that exists completely or not at all.

    Args:
        path: Folder to write; an existing one is replaced.

    Yields:
        A temporary folder next to it, which is moved to `path` at the end, or deleted after an exception.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir(parents=True)
    try:
        yield temporary
        if path.exists():
            shutil.rmtree(path)
        temporary.replace(path)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


HEAD_BYTES = 64  # of a file, that say what it is
LFS_POINTER = b"version https://git-lfs.github.com/spec/"


def describe_foreign_content(path: Path) -> str | None:
    """What lies under a file's name in place of weights, a vocabulary or a description; None where nothing shows it.

    Such files come from clones without Git LFS, from downloads that were refused, and from disks that were full.
    """
    try:
        with path.open("rb") as file:
            head = file.read(HEAD_BYTES).lstrip()
    except OSError:
        return None
    if head.startswith(LFS_POINTER):
        return f"{path.name} is a Git LFS pointer, not the file itself: run `git lfs pull` in the repository it is from"
    if not head:
        return f"{path.name} is empty: copy it again"
    if head[:9].lower().startswith((b"<!doctype", b"<html")):
        return f"{path.name} is a web page, not the file itself: download it again"
    return None
