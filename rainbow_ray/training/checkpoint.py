"""Checkpoints of one fit: written to a temporary name and moved into place, read without unpickling code."""

from __future__ import annotations

import json
import os
import pickle
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

FORMAT = 1
# what torch and numpy raise for torn and foreign files
UNREADABLE = (
    RuntimeError,
    OSError,
    EOFError,
    ValueError,
    KeyError,
    ImportError,
    pickle.UnpicklingError,
    zipfile.BadZipFile,
)
METRICS = "metrics.jsonl"


def write_safely(path: Path, write: Callable[[Path], object]) -> None:
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


def write_json(path: Path, document: Any) -> None:
    text = json.dumps(document, indent=2, allow_nan=False) + "\n"
    write_safely(path, lambda temporary: temporary.write_text(text, encoding="utf-8"))


@dataclass(frozen=True)
class Checkpoints:
    """The files of one fit: `last.pt`, `best.pt`, `metrics.jsonl`, and `result.npz` once it is finished."""

    folder: Path

    def clear_debris(self) -> None:
        """Remove temporary files that a killed process left."""
        for left in self.folder.glob(".*.tmp"):
            left.unlink(missing_ok=True)

    @property
    def metrics(self) -> Path:
        return self.folder / METRICS

    def save(self, name: str, state: dict[str, Any]) -> None:
        write_safely(self.folder / f"{name}.pt", lambda path: torch.save({"format": FORMAT, **state}, path))

    def load(self, name: str) -> dict[str, Any] | None:
        """The checkpoint of that name, or None where there is none that can be read."""
        path = self.folder / f"{name}.pt"
        if not path.exists():
            return None
        try:
            state = torch.load(path, map_location="cpu", weights_only=True)
        except UNREADABLE:
            return None
        return state if isinstance(state, dict) and state.get("format") == FORMAT else None

    def save_result(self, arrays: dict[str, np.ndarray], facts: dict[str, Any]) -> None:
        """Mark the fit as finished, with what came out of it."""

        def write(path: Path) -> None:
            with path.open("wb") as file:
                np.savez(file, facts=np.array(json.dumps(facts)), **arrays)  # type: ignore[arg-type]

        write_safely(self.folder / "result.npz", write)

    def load_result(self) -> tuple[dict[str, np.ndarray], dict[str, Any]] | None:
        path = self.folder / "result.npz"
        if not path.exists():
            return None
        try:
            with np.load(path, allow_pickle=False) as file:
                arrays = {name: file[name] for name in file.files}
            facts = json.loads(str(arrays.pop("facts")))
        except UNREADABLE:
            return None
        return arrays, facts
