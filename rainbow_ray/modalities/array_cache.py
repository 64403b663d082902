"""What was read of media files, kept so that nobody reads or encodes it twice: runs, folds, trials, machines.

A folder of small files that can be copied to another machine in place of the media:

looks/       what a stem's files hold: which windows, or why none
audio/ midi/ windows as they were read, named by a hash of their content
states/      what frozen layers say of a window, named by the window and everything else that it depends on

Each file is written to a temporary name and moved, so that any number of processes may share the folder.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np

from rainbow_ray.utils.hashing import hash_parts
from rainbow_ray.utils.io import atomic_write

HELD_BYTES = 512 * 2**20  # that one process keeps in memory of what it has read

_HELD: dict[str, np.ndarray] = {}  # by hash, so that what is kept is right for whoever asks
_held_bytes = 0


class ArrayCache:
    """Arrays and small documents by key. Without a folder they live only in this object."""

    def __init__(self, folder: Path | None) -> None:
        self.folder = folder
        self.own: dict[str, np.ndarray] = {}

    def has(self, kind: str, key: str) -> bool:
        return self._path(kind, key).exists() if self.folder is not None else f"{kind}/{key}" in self.own

    def get(self, kind: str, key: str, *, hold: bool = True) -> np.ndarray | None:
        """An array, not to be written to; None where it is missing or damaged. Small ones are held in memory."""
        name = f"{kind}/{key}"
        if self.folder is None:
            return self.own.get(name)
        found = _HELD.get(name)
        if found is None:
            try:
                found = np.load(self._path(kind, key), allow_pickle=False)
            except (OSError, ValueError, EOFError):
                return None
            if hold:
                _hold(name, found)
        return found

    def put(self, kind: str, key: str, array: np.ndarray) -> None:
        if self.folder is None:
            self.own[f"{kind}/{key}"] = array
            return
        path = self._path(kind, key)

        def save(temporary: Path) -> None:
            with temporary.open("wb") as file:  # np.save would append .npy to a path
                np.save(file, array, allow_pickle=False)

        atomic_write(path, save, sync=False)

    def put_content(self, kind: str, array: np.ndarray) -> str:
        """Keep an array under a hash of its content, which is returned."""
        key = hash_parts(array.dtype.str, array.shape, np.ascontiguousarray(array).tobytes())
        if not self.has(kind, key):
            self.put(kind, key, array)
        return key

    def missing(self, kind: str, keys: Iterable[str]) -> list[str]:
        """Those of some keys that are not there, each once."""
        return [key for key in dict.fromkeys(keys) if not self.has(kind, key)]

    def read_look(self, key: str) -> dict[str, Any] | None:
        if self.folder is None:
            return None
        try:
            found = json.loads(self._path("looks", key, ".json").read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return None
        return found if isinstance(found, dict) else None

    def write_look(self, key: str, look: dict[str, Any]) -> None:
        if self.folder is None:
            return
        path = self._path("looks", key, ".json")
        text = json.dumps(look)
        atomic_write(path, lambda temporary: temporary.write_text(text, encoding="utf-8"), sync=False)

    def _path(self, kind: str, key: str, ending: str = ".npy") -> Path:
        assert self.folder is not None
        return self.folder / kind / key[:2] / f"{key}{ending}"


def _hold(name: str, array: np.ndarray) -> None:
    global _held_bytes
    if _held_bytes + array.nbytes <= HELD_BYTES:
        _HELD[name] = array
        _held_bytes += array.nbytes
