"""Files of one fit: checkpoints, the best models, the final model, and the result.

Files are written atomically and read without unpickling code. The newest checkpoints are kept; one that is damaged or
foreign is skipped with a message, and the one before it is used.
"""

from __future__ import annotations

import json
import pickle
import re
import zipfile
from collections.abc import Callable
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
MAX_CHECKPOINTS = 2
# what torch, numpy and zipfile raise for damaged and foreign files
READ_ERRORS = (
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
MODEL = "model.pt"
CHECKPOINT_FILE = re.compile(r"step-(\d{10})\.pt")
BEST_FILE = re.compile(r"best-(\d{6})\.pt")
QUARANTINED = ".refused"  # suffix of a checkpoint that was not used


def write_json(path: Path, document: Any) -> None:
    """Write a JSON file atomically.

    Args:
        path: The file.
        document: Plain JSON.

    Raises:
        ValueError: A number is not finite.
    """
    text = json.dumps(document, indent=2, allow_nan=False) + "\n"
    atomic_write(path, lambda temporary: temporary.write_text(text, encoding="utf-8"))


@dataclass(frozen=True)
class CheckpointManager:
    """Reads and writes the files of one fit.

    The files are `step-<n>.pt` (checkpoints to resume from), `best-<epoch>.pt` (models of the best epochs on the inner
    split), `metrics.jsonl`, and, once the fit is finished, `model.pt` and `result.npz`.

    Attributes:
        folder: Folder of the fit.
    """

    folder: Path

    @property
    def metrics(self) -> Path:
        """The file of logged metrics."""
        return self.folder / METRICS

    def remove_temporary_files(self) -> None:
        """Remove temporary files that a killed process left."""
        for path in self.folder.glob(".*.tmp"):
            path.unlink(missing_ok=True)

    def save(self, step: int, state: dict[str, Any]) -> None:
        """Save a checkpoint, and remove all but the newest `MAX_CHECKPOINTS`.

        Args:
            step: Number of steps done.
            state: State to resume from, as `torch.save` takes it.
        """
        self._write(self._checkpoint(step).name, state)
        for old_step in self._numbers(CHECKPOINT_FILE)[MAX_CHECKPOINTS:]:
            self._checkpoint(old_step).unlink(missing_ok=True)

    def load_latest(
        self, reason_to_skip: Callable[[dict[str, Any]], str] | None = None
    ) -> tuple[dict[str, Any] | None, list[str]]:
        """Load the newest usable checkpoint.

        Args:
            reason_to_skip: Returns why a readable checkpoint cannot be used, or an empty text.

        Returns:
            The checkpoint (None without a usable one), and a message for each newer one that was skipped.

        Raises:
            InputError: A newer version of this package wrote a checkpoint.
        """
        messages: list[str] = []
        for step in self._numbers(CHECKPOINT_FILE):
            path = self._checkpoint(step)
            state, reason = _read(path)
            if state is not None and reason_to_skip is not None:
                reason = reason_to_skip(state)
            if state is not None and not reason:
                return state, messages
            messages.append(f"checkpoint {path} is skipped: {reason}")
        return None, messages

    def quarantine(self, after_step: int) -> None:
        """Rename checkpoints that were skipped, so that they do not count among those to come.

        Args:
            after_step: Step of the checkpoint in use; later ones are renamed.
        """
        for step in self._numbers(CHECKPOINT_FILE):
            if step > after_step:
                path = self._checkpoint(step)
                path.replace(path.with_suffix(QUARANTINED))

    def best_epochs(self) -> set[int]:
        """Return the epochs whose model was saved as the best.

        Returns:
            Numbers of epochs, from 1.
        """
        return set(self._numbers(BEST_FILE))

    def save_best(self, epoch: int, state: dict[str, Any], *, keep: set[int]) -> None:
        """Save the model of the best epoch so far, and remove earlier ones.

        Args:
            epoch: Number of the epoch.
            state: State of the model.
            keep: Further epochs whose models stay, because a checkpoint refers to them.
        """
        self._write(self._best(epoch).name, state)
        for old_epoch in self._numbers(BEST_FILE):
            if old_epoch != epoch and old_epoch not in keep:
                self._best(old_epoch).unlink(missing_ok=True)

    def load_best(self, epoch: int) -> dict[str, Any] | None:
        """Load the model of the best epoch.

        Args:
            epoch: Number of the epoch.

        Returns:
            State of the model, or None where the file is missing or damaged.
        """
        return _read(self._best(epoch))[0]

    def save_model(self, state: dict[str, Any]) -> None:
        """Save the final model.

        Args:
            state: State of the model and of the task.
        """
        self._write(MODEL, state)

    def load_model(self) -> dict[str, Any] | None:
        """Load the final model.

        Returns:
            State of the model and of the task, or None where the file is missing or damaged.
        """
        return _read(self.folder / MODEL)[0]

    def save_result(self, arrays: dict[str, np.ndarray], facts: dict[str, Any]) -> None:
        """Save the result, which marks the fit as finished.

        Args:
            arrays: Scores by name.
            facts: Facts for the summary, as plain JSON.
        """

        def write(path: Path) -> None:
            with path.open("wb") as file:
                np.savez(file, facts=np.array(json.dumps(facts)), **arrays)  # type: ignore[arg-type]

        atomic_write(self.folder / RESULT, write)

    def load_result(self) -> tuple[dict[str, np.ndarray], dict[str, Any]] | None:
        """Load the result.

        Returns:
            Scores and facts, or None where the fit is not finished or the file is damaged.
        """
        path = self.folder / RESULT
        if not path.exists():
            return None
        try:
            with np.load(path, allow_pickle=False) as file:
                arrays = {name: file[name] for name in file.files}
            facts = json.loads(str(arrays.pop("facts")))
        except READ_ERRORS:
            return None
        return arrays, facts

    def _checkpoint(self, step: int) -> Path:
        return self.folder / f"step-{step:010d}.pt"

    def _best(self, epoch: int) -> Path:
        return self.folder / f"best-{epoch:06d}.pt"

    def _write(self, name: str, state: dict[str, Any]) -> None:
        atomic_write(self.folder / name, lambda path: torch.save({"format": FORMAT, **state}, path))

    def _numbers(self, pattern: re.Pattern[str]) -> list[int]:
        """Return numbers in the names of the files that match, largest first."""
        matches = [pattern.fullmatch(path.name) for path in self.folder.glob("*.pt")]
        return sorted((int(match[1]) for match in matches if match is not None), reverse=True)


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
        raise TrainingError(f"{folder}: the fit left no readable model ({MODEL})")
    fitted_task = task.from_json(saved["problem"])
    model = build_model(config, input_spec, fitted_task)
    model.load_trained_state(saved["model"])
    return model, fitted_task


def _read(path: Path) -> tuple[dict[str, Any] | None, str]:
    """Return a checkpoint, or None and the reason. Verifies the checksums of the zip, unlike torch.load."""
    if not path.exists():
        return None, "it is missing"
    if path.stat().st_size == 0:
        return None, "it is empty"
    try:
        with zipfile.ZipFile(path) as archive:
            damaged = archive.testzip()
        if damaged is not None:
            return None, f"it is damaged ({damaged})"
        state = torch.load(path, map_location="cpu", weights_only=True)
    except READ_ERRORS as error:
        return None, f"it is incomplete, or not a checkpoint ({type(error).__name__})"
    if not isinstance(state, dict) or not isinstance(state.get("format"), int):
        return None, "it is not a checkpoint of rainbow_ray"
    if state["format"] > FORMAT:
        raise InputError(
            f"{path}: its format {state['format']} is newer than this version's {FORMAT}; update rainbow_ray, or"
            " start a new run with another --name"
        )
    if state["format"] < FORMAT:
        return None, f"its format {state['format']} belongs to an older version"
    return state, ""
