"""What was read of media files, kept so that nobody reads or encodes it twice: runs, folds, trials, machines.

A folder of small files that can be copied to another machine in place of the media:

looks/       what a stem's files hold: which windows, or why none
audio/ midi/ windows as they were read, named by a hash of their content
states/      what frozen layers say of a window, named by the window and everything else that it depends on

Each file is written to a temporary name and moved, so that any number of processes may share the folder.
"""

from __future__ import annotations

import hashlib
import json
import os
import uuid
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np

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
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex}")
        try:
            with temporary.open("wb") as file:
                np.save(file, array, allow_pickle=False)
            temporary.replace(path)
        finally:
            temporary.unlink(missing_ok=True)

    def put_content(self, kind: str, array: np.ndarray) -> str:
        """Keep an array under a hash of its content, which is returned."""
        key = hash_of(array.dtype.str, array.shape, np.ascontiguousarray(array).tobytes())
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
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex}")
        try:
            temporary.write_text(json.dumps(look), encoding="utf-8")
            temporary.replace(path)
        finally:
            temporary.unlink(missing_ok=True)

    def _path(self, kind: str, key: str, ending: str = ".npy") -> Path:
        assert self.folder is not None
        return self.folder / kind / key[:2] / f"{key}{ending}"


def hash_of(*parts: object) -> str:
    """A name for what depends on these parts."""
    digest = hashlib.sha256()
    for part in parts:
        digest.update(part if isinstance(part, bytes) else repr(part).encode())
        digest.update(b"\0")
    return digest.hexdigest()[:32]


def default_cache_dir() -> Path:
    """Where media are kept if nobody says otherwise."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "rainbow_ray" / "media"


def _hold(name: str, array: np.ndarray) -> None:
    global _held_bytes
    if _held_bytes + array.nbytes <= HELD_BYTES:
        _HELD[name] = array
        _held_bytes += array.nbytes
