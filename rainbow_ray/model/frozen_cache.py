"""What frozen layers say of a text never changes: it is computed once, and kept in files that all processes map.

A file holds the states of all examples after `depth` layers, one after the other, without padding. The operating
system's page cache is the memory: one copy however many processes read it, given up when memory is short. Whoever
comes first computes; the others wait for it, or for its death.
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
ROOM_LEFT = 1.2  # times its size must be free on the disk before a file is written


@dataclass(frozen=True)
class CachedHiddenStates:
    """States of distinct texts, `(tokens of all texts, …, width)`.

    Example i has text `same_as[i]`, and those of text j begin at `starts[j]`.
    """

    values: torch.Tensor
    starts: np.ndarray
    same_as: np.ndarray

    def pad(self, indices: np.ndarray) -> torch.Tensor:
        """Those of some examples, padded with zeros to the longest: `(examples, length, …, width)`."""
        texts = self.same_as[indices]
        begins, ends = self.starts[texts], self.starts[texts + 1]
        longest = int((ends - begins).max(initial=1))
        out = self.values.new_zeros(len(indices), longest, *self.values.shape[1:])
        for row, (begin, end) in enumerate(zip(begins.tolist(), ends.tolist(), strict=True)):
            out[row, : end - begin] = self.values[begin:end]
        return out


@dataclass(frozen=True)
class FrozenFeatureCache:
    """States in files of one folder, which together take at most `limit` bytes: the longest unused go first."""

    folder: Path
    limit: int

    def find(self, key: str, shape: tuple[int, ...], dtype: torch.dtype) -> torch.Tensor | None:
        """The states under a key, mapped from their file, or None."""
        path = self._path(key)
        size = _bytes(shape, dtype)
        try:
            if path.stat().st_size != size:
                return None
            os.utime(path)
            return _map(path, shape, dtype, shared=False)
        except (OSError, RuntimeError):  # removed by another process at this moment
            return None

    def get(
        self, key: str, shape: tuple[int, ...], dtype: torch.dtype, compute: Callable[[torch.Tensor], object]
    ) -> torch.Tensor | None:
        """The states under a key; `compute` fills them where nobody has. None where the limit or the disk forbids."""
        found = self.find(key, shape, dtype)
        if found is not None or not self._has_room(_bytes(shape, dtype)):
            return found
        with FileLock(self.folder / f"{key}.lock"):  # the system takes it from whoever dies
            found = self.find(key, shape, dtype)
            if found is not None:
                return found
            path = self._path(key)
            temporary = path.with_name(f".{key}.tmp")  # the key is ours: what lies there is of one who died
            temporary.unlink(missing_ok=True)
            try:
                with FileLock(self.folder / "room.lock"):  # so that no two writers take the same room
                    self._make_room(_bytes(shape, dtype))
                    states = _map(temporary, shape, dtype, shared=True)
                compute(states)
                with temporary.open("rb") as file:
                    os.fsync(file.fileno())  # or a power cut leaves a file with holes
                temporary.replace(path)
            finally:
                temporary.unlink(missing_ok=True)
        return self.find(key, shape, dtype)

    def remove(self) -> None:
        """Forget everything, for those who map it still only when they end."""
        shutil.rmtree(self.folder, ignore_errors=True)

    def _path(self, key: str) -> Path:
        return self.folder / f"{key}.states"

    def _has_room(self, size: int) -> bool:
        self.folder.mkdir(parents=True, exist_ok=True)
        return 0 < size <= self.limit and shutil.disk_usage(self.folder).free > ROOM_LEFT * size

    def _make_room(self, size: int) -> None:
        files = [(path.stat(), path) for path in self.folder.glob("*.states")]
        used = sum(stat.st_size for stat, _ in files) + sum(map(_size_of, self.folder.glob(".*.tmp")))
        for stat, path in sorted(files, key=lambda file: file[0].st_mtime):
            if used + size <= self.limit:
                return
            path.unlink(missing_ok=True)  # a process that maps it keeps it
            used -= stat.st_size


def _bytes(shape: tuple[int, ...], dtype: torch.dtype) -> int:
    return int(np.prod(shape, dtype=np.int64)) * dtype.itemsize


def _size_of(path: Path) -> int:
    try:
        return path.stat().st_size
    except FileNotFoundError:  # its writer has just moved it into place
        return 0


def _map(path: Path, shape: tuple[int, ...], dtype: torch.dtype, *, shared: bool) -> torch.Tensor:
    """A file as a tensor: `shared` writes go to the file, others never."""
    size = int(np.prod(shape, dtype=np.int64))
    return torch.from_file(str(path), shared=shared, size=size, dtype=dtype).view(shape)
