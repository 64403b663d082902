"""Checkpoints of one fit: written to a temporary name and moved into place, read without unpickling code.

The two newest ones are kept. One that is torn, or not ours, is passed over with a word, and the one before is taken.
"""

from __future__ import annotations

import json
import pickle
import re
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from rainbow_ray.config.schema import Config
from rainbow_ray.modalities.spec import InputSpec
from rainbow_ray.model.build import build_model
from rainbow_ray.model.model import RainbowModel
from rainbow_ray.tasks.base import Task
from rainbow_ray.training.loggers import RESULT
from rainbow_ray.utils.errors import InputError, TrainingError
from rainbow_ray.utils.io import atomic_write

FORMAT = 2
KEPT = 2
# what torch, numpy and zipfile raise for torn and foreign files
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
STEP_FILE = re.compile(r"step-(\d{10})\.pt")
BEST_FILE = re.compile(r"best-(\d{6})\.pt")


def write_json(path: Path, document: Any) -> None:
    text = json.dumps(document, indent=2, allow_nan=False) + "\n"
    atomic_write(path, lambda temporary: temporary.write_text(text, encoding="utf-8"))


@dataclass(frozen=True)
class CheckpointManager:
    """The files of one fit.

    `step-<n>.pt` to go on from; `best-<epoch>.pt` where an inner split says which; `model.pt` and `result.npz` once it
    is finished; `metrics.jsonl`.
    """

    folder: Path

    def clear_debris(self) -> None:
        """Remove temporary files that a killed process left."""
        for left in self.folder.glob(".*.tmp"):
            left.unlink(missing_ok=True)

    @property
    def metrics(self) -> Path:
        return self.folder / METRICS

    def save(self, step: int, state: dict[str, Any]) -> None:
        """Keep `state`, from which step `step + 1` follows, and forget all but the newest ones."""
        self._write(f"step-{step:010d}.pt", state)
        found = self._numbered(STEP_FILE)
        for number in found[KEPT:]:
            (self.folder / f"step-{number:010d}.pt").unlink(missing_ok=True)

    def load_latest(
        self, objection: Callable[[dict[str, Any]], str] | None = None
    ) -> tuple[dict[str, Any] | None, list[str]]:
        """The newest checkpoint that can be read (None without one), and a word on each that was passed over.

        `objection` says what else speaks against one, or nothing. Raises `InputError` for one of a newer version.
        """
        words: list[str] = []
        for step in self._numbered(STEP_FILE):
            path = self.folder / f"step-{step:010d}.pt"
            state, why = _read(path)
            why = why if state is None or objection is None else objection(state)
            if state is not None and not why:
                return state, words
            words.append(f"{path} is passed over: {why}")
        return None, words

    def quarantine(self, after: int) -> None:
        """Move checkpoints of later steps than `after` out of the way of those to come."""
        for step in self._numbered(STEP_FILE):
            if step > after:
                path = self.folder / f"step-{step:010d}.pt"
                path.replace(path.with_suffix(".refused"))

    def best_epochs(self) -> set[int]:
        """Epochs whose model was kept as the best."""
        return set(self._numbered(BEST_FILE))

    def save_best(self, epoch: int, state: dict[str, Any], *, keep: set[int]) -> None:
        """Keep the model of the best epoch so far; `keep` names further epochs that a checkpoint still speaks of."""
        self._write(f"best-{epoch:06d}.pt", state)
        for number in self._numbered(BEST_FILE):
            if number != epoch and number not in keep:
                (self.folder / f"best-{number:06d}.pt").unlink(missing_ok=True)

    def load_best(self, epoch: int) -> dict[str, Any] | None:
        return _read(self.folder / f"best-{epoch:06d}.pt")[0]

    def save_model(self, state: dict[str, Any]) -> None:
        self._write("model.pt", state)

    def load_model(self) -> dict[str, Any] | None:
        return _read(self.folder / "model.pt")[0]

    def save_result(self, arrays: dict[str, np.ndarray], facts: dict[str, Any]) -> None:
        """Mark the fit as finished, with what came out of it."""

        def write(path: Path) -> None:
            with path.open("wb") as file:
                np.savez(file, facts=np.array(json.dumps(facts)), **arrays)  # type: ignore[arg-type]

        atomic_write(self.folder / RESULT, write)

    def load_result(self) -> tuple[dict[str, np.ndarray], dict[str, Any]] | None:
        path = self.folder / RESULT
        if not path.exists():
            return None
        try:
            with np.load(path, allow_pickle=False) as file:
                arrays = {name: file[name] for name in file.files}
            facts = json.loads(str(arrays.pop("facts")))
        except UNREADABLE:
            return None
        return arrays, facts

    def _write(self, name: str, state: dict[str, Any]) -> None:
        atomic_write(self.folder / name, lambda path: torch.save({"format": FORMAT, **state}, path))

    def _numbered(self, pattern: re.Pattern[str]) -> list[int]:
        """Numbers of the files of that pattern, largest first."""

        def numbers() -> Iterator[int]:
            for path in self.folder.glob("*.pt"):
                if match := pattern.fullmatch(path.name):
                    yield int(match[1])

        return sorted(numbers(), reverse=True)


def _read(path: Path) -> tuple[dict[str, Any] | None, str]:
    """A checkpoint, or None and why there is none. torch.load itself would not see a flipped bit: the zip's sums do."""
    if not path.exists():
        return None, "it is not there"
    if path.stat().st_size == 0:
        return None, "it is empty"
    try:
        with zipfile.ZipFile(path) as archive:
            broken = archive.testzip()
        if broken is not None:
            return None, f"it is damaged ({broken})"
        state = torch.load(path, map_location="cpu", weights_only=True)
    except UNREADABLE as error:
        return None, f"it is torn, or not a checkpoint ({type(error).__name__})"
    if not isinstance(state, dict) or not isinstance(state.get("format"), int):
        return None, "it is not a checkpoint of rainbow_ray"
    if state["format"] > FORMAT:
        raise InputError(f"{path}: its format {state['format']} is newer than this version's {FORMAT}; update"
                         " rainbow_ray, or start a new run with another --name")  # fmt: skip
    if state["format"] < FORMAT:
        return None, f"its format {state['format']} is of an older version"
    return state, ""


def load_fitted_model(config: Config, input_spec: InputSpec, task: Task, folder: Path) -> tuple[RainbowModel, Task]:
    """Load the model of a finished fit.

    Args:
        config: Config of the fit.
        input_spec: Modalities and encoders; a checkpoint holds only what differs from the pretrained encoders.
        task: The task before it was fitted.
        folder: Folder of the fit.

    Returns:
        The model, and the task as fitted to the training targets.

    Raises:
        TrainingError: The folder has no readable model.
    """
    saved = CheckpointManager(folder).load_model()
    if saved is None:
        raise TrainingError(f"{folder}: the fit left no model that can be read")
    fitted_task = task.from_json(saved["problem"])
    model = build_model(config, input_spec, fitted_task)
    model.load_trained_state(saved["model"])
    return model, fitted_task
