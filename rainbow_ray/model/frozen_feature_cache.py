"""Disk cache for hidden states of frozen encoder layers.

Frozen layers always give the same output for the same text, so it is computed once and memory-mapped by every process.
A file lock elects one writer; the others wait. If the writer dies, the operating system releases the lock.

A file holds the hidden states of all examples after some number of layers, concatenated without padding. Its pages are
in the page cache of the operating system: once for all processes, and released when memory is short.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from filelock import FileLock

MB = 2**20
FREE_SPACE_FACTOR = 1.2  # a file is written where this multiple of its size is free on the disk


@dataclass(frozen=True)
class FrozenFeatureCache:
    """Cache of tensors in the files of a folder, from which the least recently used ones are removed.

    Attributes:
        folder: The folder, which several processes may use.
        max_bytes: Size limit of all files together.
    """

    folder: Path
    max_bytes: int

    def find(self, key: str, shape: tuple[int, ...], dtype: torch.dtype) -> torch.Tensor | None:
        """Return the tensor under a key if it is cached.

        Args:
            key: Identifies everything that the tensor depends on.
            shape: Shape of the tensor.
            dtype: Type of the tensor.

        Returns:
            The tensor, memory-mapped copy-on-write, or None.
        """
        path = self._path(key)
        try:
            if path.stat().st_size != _n_bytes(shape, dtype):
                return None
            os.utime(path)
            return _map(path, shape, dtype, shared=False)
        except (OSError, RuntimeError):  # another process has removed the file at this moment
            return None

    def get(
        self, key: str, shape: tuple[int, ...], dtype: torch.dtype, compute: Callable[[torch.Tensor], object]
    ) -> torch.Tensor | None:
        """Return the tensor under a key, computed if it is not cached. Of several processes, one computes.

        Args:
            key: Identifies everything that the tensor depends on.
            shape: Shape of the tensor.
            dtype: Type of the tensor.
            compute: Fills the tensor that it is called with.

        Returns:
            The tensor, memory-mapped copy-on-write; None where it exceeds the limit or the free disk space.
        """
        values = self.find(key, shape, dtype)
        if values is not None or not self._has_room(_n_bytes(shape, dtype)):
            return values
        with FileLock(self.folder / f"{key}.lock"):  # the operating system releases the lock of a process that dies
            values = self.find(key, shape, dtype)
            if values is not None:
                return values
            path = self._path(key)
            temporary = path.with_name(f".{key}.tmp")  # under this lock, such a file was left by a process that died
            temporary.unlink(missing_ok=True)
            try:
                with FileLock(self.folder / "room.lock"):  # two writers must not rely on the same free space
                    self._make_room(_n_bytes(shape, dtype))
                    writable = _map(temporary, shape, dtype, shared=True)
                compute(writable)
                with temporary.open("rb") as file:
                    os.fsync(file.fileno())  # otherwise a power cut could leave a file with holes
                temporary.replace(path)
            finally:
                temporary.unlink(missing_ok=True)
        return self.find(key, shape, dtype)

    def remove(self) -> None:
        """Remove all files; processes that have mapped one keep its content until they end."""
        shutil.rmtree(self.folder, ignore_errors=True)

    def _path(self, key: str) -> Path:
        return self.folder / f"{key}.states"

    def _has_room(self, size: int) -> bool:
        self.folder.mkdir(parents=True, exist_ok=True)
        return 0 < size <= self.max_bytes and shutil.disk_usage(self.folder).free > FREE_SPACE_FACTOR * size

    def _make_room(self, size: int) -> None:
        """Remove the least recently used files until `size` more bytes are within the limit."""
        files = [(path.stat(), path) for path in self.folder.glob("*.states")]
        used = sum(stat.st_size for stat, _ in files) + sum(map(_file_size, self.folder.glob(".*.tmp")))
        for stat, path in sorted(files, key=lambda file: file[0].st_mtime):
            if used + size <= self.max_bytes:
                return
            path.unlink(missing_ok=True)  # a process that has mapped the file keeps its content
            used -= stat.st_size


def _n_bytes(shape: tuple[int, ...], dtype: torch.dtype) -> int:
    return int(np.prod(shape, dtype=np.int64)) * dtype.itemsize


def _file_size(path: Path) -> int:
    try:
        return path.stat().st_size
    except FileNotFoundError:  # its writer has just renamed it
        return 0


def _map(path: Path, shape: tuple[int, ...], dtype: torch.dtype, *, shared: bool) -> torch.Tensor:
    """Map a file as a tensor; writes go to the file if `shared`, otherwise to a private copy."""
    size = int(np.prod(shape, dtype=np.int64))
    return torch.from_file(str(path), shared=shared, size=size, dtype=dtype).view(shape)
