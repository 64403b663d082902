"""Files of a finished run, read for its page."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import pandas as pd

from rainbow_ray.calibration.apply import Calibration
from rainbow_ray.evaluation.summary_format import PREDICTION, read_summary, song_column
from rainbow_ray.tasks.base import Task
from rainbow_ray.tasks.registry import make_task
from rainbow_ray.tasks.segment_targets import SegmentTargets
from rainbow_ray.training.loggers import read_records
from rainbow_ray.utils.errors import InputError, first_line

T = TypeVar("T")


@dataclass(frozen=True)
class RunArtifacts:
    """What a finished run wrote.

    Attributes:
        path: Folder of the run.
        summary: Content of `summary.json`, in the present format.
        profile: Content of `data.json`.
        records: Records of `metrics.jsonl`.
        predictions: Out-of-fold predictions, a row for each example; scores of a song's stems are averaged.
        config: Text of `config.yaml`.
        is_example_view: Whether examples are those of the base task, see `example_view`.
    """

    path: Path
    summary: dict[str, Any]
    profile: dict[str, Any]
    records: pd.DataFrame
    predictions: pd.DataFrame
    config: str
    is_example_view: bool = False

    @property
    def task(self) -> Task:
        """Task of the run, unfitted, with the classes of its predictions."""
        columns = [column for column in self.predictions.columns if column.startswith("score_")]
        classes = [column.removeprefix("score_") for column in columns]
        task = task_of_summary(self.summary, **({"classes": classes} if classes else {}))
        return task.base_task if self.is_example_view else task

    @property
    def example_view(self) -> RunArtifacts:
        """The run as one of its base task: labeled segments on their own, or songs where only songs have labels."""
        if not self.task.is_sequence_task:
            return self
        predictions = self.predictions[self.predictions["target"].notna()]
        if self.task.is_weakly_labeled:
            names = list(self.task.score_names)
            by_song = self.predictions.groupby("song", sort=False)
            sums = by_song[names].sum().to_numpy(dtype=np.float32)
            predictions = by_song.first().reset_index()
            predictions[names] = sums
            scores = sums[:, 0] if names == ["score"] else sums
            predictions["prediction"] = self.task.base_task.decode_predictions(scores)
        return dataclasses.replace(self, is_example_view=True, predictions=predictions.reset_index(drop=True))

    @property
    def scores(self) -> np.ndarray:
        """Scores, `(examples,)` or `(examples, classes)`."""
        columns = list(self.task.score_names)
        values = self.predictions[columns].to_numpy(dtype=self.task.score_dtype)
        return values[:, 0] if columns == ["score"] else values

    @property
    def thresholded(self) -> np.ndarray:
        """Scores that the task decodes to the run's predictions, whatever threshold it used."""
        task = self.task
        if not (task.supports_thresholds or task.is_sequence_task):
            return self.scores
        return task.encode_predictions(self.predictions["prediction"].tolist())

    @property
    def targets(self) -> np.ndarray:
        """Targets of the task, `(examples, …)`."""
        task, labels = self.task, self.predictions["target"]
        if not task.is_sequence_task:
            return task.encode_targets(labels.tolist())
        has_label = labels.notna().to_numpy()
        values = np.full(len(labels), np.nan, dtype=task.score_dtype)
        values[has_label] = task.encode_targets(labels[has_label].tolist())
        position = self.predictions.groupby("song", sort=False).cumcount().to_numpy()
        start, end = self.predictions["start"].to_numpy(), self.predictions["end"].to_numpy()
        return SegmentTargets(values, start, end, position, pd.factorize(self.predictions["song"])[0]).to_array()

    @property
    def is_correct(self) -> np.ndarray:
        """Whether the prediction of each example equals its label, bool, `(examples,)`."""
        labels, predictions = _comparable(self.predictions["target"]), _comparable(self.predictions["prediction"])
        return np.array(
            [label == prediction for label, prediction in zip(labels, predictions, strict=True)], dtype=bool
        )


def task_of_summary(summary: Mapping[str, Any], **state: Any) -> Task:
    """Return the unfitted task of a run or sweep.

    Args:
        summary: Entries of `summary.json`.
        **state: State of the task of one example, such as its classes.

    Returns:
        The task.
    """
    base_name = summary.get("base_task")
    if base_name is None:
        return make_task(summary["task"], **state)
    return make_task(summary["task"], base_task=make_task(base_name, **state), weak=summary.get("weak"))


def read_run(path: Path) -> RunArtifacts:
    """Read the files of a finished run.

    Args:
        path: Folder of the run.

    Returns:
        What the run wrote.

    Raises:
        InputError: The run has not finished, or files are missing or damaged.
    """
    missing = [name for name in READERS if not (path / name).exists()]
    if "summary.json" in missing and (path / "config.yaml").exists():
        raise InputError(f"{path}: this run has not finished; continue it with --resume")
    if missing:
        raise InputError(f"{path}: this is not a run, or some of its files are missing: {', '.join(missing)}")
    contents: dict[str, Any] = {}
    messages: list[str] = []
    for name, read in READERS.items():
        try:
            contents[name] = read_file(path / name, read)
        except InputError as error:
            messages += error.problems
    messages += [
        f"{path / name}: {', '.join(missing)} missing; the file is damaged, or of another version"
        for name, required in REQUIRED.items()
        if name in contents and (missing := missing_keys(contents[name], required))
    ]
    if messages:
        raise InputError(messages)
    predictions = contents["predictions.parquet"]
    # the fold of the refit is null: it has no validation set
    is_out_of_fold = (predictions["split"] == "val") & predictions["fold"].notna()
    predictions = predictions[is_out_of_fold].reset_index(drop=True)
    summary, records = contents["summary.json"], contents["metrics.jsonl"]
    run = RunArtifacts(path, summary, contents["data.json"], records, predictions, contents["config.yaml"])
    if predictions["song"].duplicated().any():
        return dataclasses.replace(run, predictions=_songs_of_stems(run))
    return run


def _songs_of_stems(run: RunArtifacts) -> pd.DataFrame:
    """Return a row for each song, if examples are stems, with the scores and the prediction of the song."""
    if run.summary.get("unit") != "stem":
        return run.predictions
    task, by_song = run.task, run.predictions.groupby("song", sort=False)
    names = list(task.score_names)
    first = by_song.first().reset_index()
    if song_column(PREDICTION) in first:
        for name in (*names, PREDICTION):
            first[name] = first.pop(song_column(name))
        return first
    # runs of earlier versions have the scores of stems alone
    means = by_song[names].mean().to_numpy(dtype=task.score_dtype)
    first[names] = means
    scores = means[:, 0] if names == ["score"] else means
    thresholded = Calibration.from_json(run.summary.get("calibration", {})).thresholded(scores)
    first[PREDICTION] = pd.Series(task.decode_predictions(thresholded), dtype=run.predictions[PREDICTION].dtype)
    return first


def read_file(path: Path, read: Callable[[Path], T]) -> T:
    """Read a file.

    Args:
        path: Path of the file.
        read: Reads and parses it.

    Returns:
        What `read` returned.

    Raises:
        InputError: The file is damaged.
    """
    try:
        return read(path)
    except (OSError, ValueError, KeyError) as error:
        raise InputError(f"{path}: the file is damaged ({first_line(error)})") from error


def missing_keys(content: Any, required: tuple[str, ...]) -> list[str]:
    """Return the required keys, or columns, that a file lacks.

    Args:
        content: A dict or a data frame; anything else lacks all keys.
        required: The keys.

    Returns:
        Missing keys in their order.
    """
    return [name for name in required if not isinstance(content, dict | pd.DataFrame) or name not in content]


def _read_json(path: Path) -> Any:
    return json.loads(path.read_text(encoding="utf-8"))


def _read_text(path: Path) -> str:
    return path.read_text(encoding="utf-8")


def _comparable(values: pd.Series) -> list[Any]:
    """Return labels or predictions in one form: booleans as numbers, lists of classes as sorted tuples."""
    return [tuple(sorted(v)) if isinstance(v, list | np.ndarray) else float(v) if isinstance(v, bool) else v
            for v in values]  # fmt: skip


READERS: dict[str, Callable[[Path], Any]] = {
    "summary.json": read_summary,
    "predictions.parquet": pd.read_parquet,
    "metrics.jsonl": lambda path: pd.DataFrame(read_records(path)),
    "data.json": _read_json,
    "config.yaml": _read_text,
}

# keys and columns that a page needs of each file
REQUIRED: dict[str, tuple[str, ...]] = {
    "summary.json": (
        "phase", "task", "target", "metric", "metrics", "ci95", "baselines", "verdict", "training_warnings", "notes",
        "counts", "seconds", "device", "precision", "peak_memory_mb", "cost_usd", "config_hash", "data_hash",
        "manifest", "demo",
    ),
    "predictions.parquet": ("example_id", "song", "fold", "split", "target", "prediction"),
    "metrics.jsonl": ("fold", "epoch", "split"),
    "data.json": ("rows", "songs", "dropped", "labels"),
}  # fmt: skip
