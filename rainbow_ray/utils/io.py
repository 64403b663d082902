"""Files and folders that exist completely or not at all, and a diagnosis of files with foreign content."""

from __future__ import annotations

import os
import shutil
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path


def atomic_write(path: Path, write: Callable[[Path], object], *, sync: bool = True) -> None:
    """Write a file that exists completely or not at all, also if several processes write it.

    Args:
        path: File to write; an existing one is replaced. Missing folders are created.
        write: Writes the content to the path that it is given, of a temporary file in the same folder.
        sync: Whether to wait until the content is on the disk, so that it survives a power failure. Caches, whose
            readers detect damaged files, need not wait.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = _temporary_path(path)
    try:
        write(temporary)
        if sync:
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
    temporary, replaced = _temporary_path(path), _temporary_path(path)
    temporary.mkdir(parents=True)
    try:
        yield temporary
        if path.exists():
            path.replace(replaced)
        temporary.replace(path)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
        shutil.rmtree(replaced, ignore_errors=True)


def _temporary_path(path: Path) -> Path:
    """Return a hidden name for one writer: processes on several machines may share a folder."""
    return path.with_name(f".{path.name}.{uuid.uuid4().hex[:12]}.tmp")


# first bytes: `torch.save` writes a zip archive, and wrote a plain pickle before torch 1.6
ZIP_MAGIC, PICKLE_MAGIC = b"PK", b"\x80"
PICKLE_HEADERS = (PICKLE_MAGIC + b"\x02", PICKLE_MAGIC + b"\x04", ZIP_MAGIC)  # with the protocol of the pickle
HEAD_BYTES = 64  # of a file, which identify its format
LFS_POINTER = b"version https://git-lfs.github.com/spec/"


def describe_foreign_content(path: Path) -> str | None:
    """Return what a file contains in place of weights, a vocabulary or a description.

    Such files come from clones without Git LFS, from downloads that failed, and from disks that were full.

    Args:
        path: The file.

    Returns:
        The problem and what to do, or None where nothing shows one.
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
