"""Cache of arrays that are read from media files or computed from them, shared by runs, folds, trials and machines.

It is a folder of small files, which can be copied to another machine in place of the media:

looks/       index entries: the windows of a stem's files, or the reason why there are none
audio/ midi/ windows, named by a hash of their content
states/      frozen features of a window, named by a hash of the window and everything else that they depend on

Files are written atomically, so that any number of processes may share the folder.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np

from rainbow_ray.utils.hashing import hash_parts
from rainbow_ray.utils.io import atomic_write

MAX_MEMORY_BYTES = 512 * 2**20  # of arrays that one process keeps in memory
INDEX_FOLDER = "looks"  # the name that earlier versions gave it

_IN_MEMORY: dict[str, np.ndarray] = {}  # keys are hashes of content, so that entries are valid for every cache
_memory_bytes = 0


class ArrayCache:
    """Arrays and index entries by key.

    Args:
        folder: Folder of the cache; None keeps arrays in this object only, and no index.
    """

    def __init__(self, folder: Path | None) -> None:
        self.folder = folder
        self._arrays: dict[str, np.ndarray] = {}

    def has(self, kind: str, key: str) -> bool:
        """Return whether there is an array, damaged or not.

        Args:
            kind: Kind of array: the name of its subfolder.
            key: Key of the array.

        Returns:
            Whether it exists.
        """
        return self._path(kind, key).exists() if self.folder is not None else f"{kind}/{key}" in self._arrays

    def get(self, kind: str, key: str, *, hold: bool = True) -> np.ndarray | None:
        """Return an array.

        Args:
            kind: Kind of array.
            key: Key of the array.
            hold: Whether to keep it in memory for the next call, as long as there is room.

        Returns:
            The array, which must not be written to; None if it is missing or damaged.
        """
        name = f"{kind}/{key}"
        if self.folder is None:
            return self._arrays.get(name)
        array = _IN_MEMORY.get(name)
        if array is None:
            try:
                array = np.load(self._path(kind, key), allow_pickle=False)
            except (OSError, ValueError, EOFError):
                return None
            if hold:
                _keep_in_memory(name, array)
        return array

    def put(self, kind: str, key: str, array: np.ndarray) -> None:
        """Store an array.

        Args:
            kind: Kind of array.
            key: Key of the array.
            array: The array; it is not copied.
        """
        if self.folder is None:
            self._arrays[f"{kind}/{key}"] = array
            return

        def save(temporary: Path) -> None:
            with temporary.open("wb") as file:  # np.save would append .npy to a path
                np.save(file, array, allow_pickle=False)

        atomic_write(self._path(kind, key), save, sync=False)

    def hold(self, kind: str, key: str, array: np.ndarray) -> None:
        """Keep an array in the memory of this process, as long as there is room, without storing it.

        Args:
            kind: Kind of array.
            key: Key of the array.
            array: The array; it is not copied.
        """
        _keep_in_memory(f"{kind}/{key}", array)

    def put_content(self, kind: str, array: np.ndarray) -> str:
        """Store an array under a hash of its content.

        Args:
            kind: Kind of array.
            array: The array.

        Returns:
            Its key.
        """
        key = hash_parts(array.dtype.str, array.shape, np.ascontiguousarray(array).tobytes())
        if not self.has(kind, key):
            self.put(kind, key, array)
        return key

    def missing(self, kind: str, keys: Iterable[str]) -> list[str]:
        """Return the keys of arrays that do not exist.

        Args:
            kind: Kind of array.
            keys: Keys.

        Returns:
            Those without an array, each once.
        """
        return [key for key in dict.fromkeys(keys) if not self.has(kind, key)]

    def read_index(self, key: str) -> dict[str, Any] | None:
        """Return an index entry.

        Args:
            key: Key of the entry.

        Returns:
            The entry; None if it is missing or damaged.
        """
        if self.folder is None:
            return None
        try:
            entry = json.loads(self._path(INDEX_FOLDER, key, ".json").read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return None
        return entry if isinstance(entry, dict) else None

    def write_index(self, key: str, entry: dict[str, Any]) -> None:
        """Store an index entry; nothing without a folder.

        Args:
            key: Key of the entry.
            entry: A JSON object.
        """
        if self.folder is not None:
            path, text = self._path(INDEX_FOLDER, key, ".json"), json.dumps(entry)
            atomic_write(path, lambda temporary: temporary.write_text(text, encoding="utf-8"), sync=False)

    def _path(self, kind: str, key: str, suffix: str = ".npy") -> Path:
        assert self.folder is not None
        return self.folder / kind / key[:2] / f"{key}{suffix}"


def _keep_in_memory(name: str, array: np.ndarray) -> None:
    global _memory_bytes
    if _memory_bytes + array.nbytes <= MAX_MEMORY_BYTES:
        _IN_MEMORY[name] = array
        _memory_bytes += array.nbytes
