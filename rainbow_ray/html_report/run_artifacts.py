"""What a finished run left behind, read for its page."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import pandas as pd

from rainbow_ray.evaluation.summary_format import read_summary
from rainbow_ray.tasks.base import Task
from rainbow_ray.tasks.registry import make_task
from rainbow_ray.tasks.segment_targets import SegmentTargets
from rainbow_ray.training.loggers import read_records
from rainbow_ray.utils.errors import InputError, first_line

T = TypeVar("T")


@dataclass(frozen=True)
class RunArtifacts:
    """What a finished run left. `held` are its out-of-fold predictions, a row an example."""

    path: Path
    summary: dict[str, Any]
    profile: dict[str, Any]
    records: pd.DataFrame
    held: pd.DataFrame
    config: str
    is_example_view: bool = False

    @property
    def task(self) -> Task:
        """Task of the run, unfitted, with the classes of its predictions."""
        classes = [column.removeprefix("score_") for column in self.held.columns if column.startswith("score_")]
        task = task_of_summary(self.summary, **({"classes": classes} if classes else {}))
        return task.base_task if self.is_example_view else task

    @property
    def alone(self) -> RunArtifacts:
        """The inner problem's run: labelled segments, each for itself; where only songs have labels, the songs."""
        if not self.task.is_sequence_task:
            return self
        held = self.held[self.held["target"].notna()]
        if self.summary.get("weak"):
            names = list(self.task.score_names)
            sums = self.held.groupby("song", sort=False)[names].sum().to_numpy(dtype=np.float32)
            held = self.held.groupby("song", sort=False).first().reset_index()
            held[names] = sums
            inner = self.task.base_task
            held["prediction"] = inner.decode_predictions(sums[:, 0] if names == ["score"] else sums)
        return dataclasses.replace(self, is_example_view=True, held=held.reset_index(drop=True))

    @property
    def scores(self) -> np.ndarray:
        """`(examples,)` or `(examples, classes)`."""
        columns = list(self.task.score_names)
        values = self.held[columns].to_numpy(dtype=self.task.score_dtype)
        return values[:, 0] if columns == ["score"] else values

    @property
    def thresholded(self) -> np.ndarray:
        """Scores that say yes where the run said yes, whatever threshold it had."""
        task = self.task
        if not (task.supports_thresholds or task.is_sequence_task):
            return self.scores
        return task.encode_predictions(self.held["prediction"].tolist())

    @property
    def targets(self) -> np.ndarray:
        """Targets as the problem has them: `(examples,)`, or `(examples, classes)` of several labels."""
        task, labels = self.task, self.held["target"]
        if not task.is_sequence_task:
            return task.encode_targets(labels.tolist())
        has_label = labels.notna().to_numpy()
        values = np.full(len(labels), np.nan, dtype=task.score_dtype)
        values[has_label] = task.encode_targets(labels[has_label].tolist())
        position = self.held.groupby("song", sort=False).cumcount().to_numpy()
        start, end = self.held["start"].to_numpy(), self.held["end"].to_numpy()
        return SegmentTargets(values, start, end, position, pd.factorize(self.held["song"])[0]).to_array()

    @property
    def right(self) -> np.ndarray:
        """Whether each example is called what its label says, `(examples,)`, bool."""
        told, said = _plain(self.held["target"]), _plain(self.held["prediction"])
        return np.array([a == b for a, b in zip(told, said, strict=True)], dtype=bool)


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
    """Raises `InputError` for a run that is not finished, or lacks files."""
    missing = [name for name in FILES if not (path / name).exists()]
    if "summary.json" in missing and (path / "config.yaml").exists():
        raise InputError(f"{path}: this run has not finished; go on with --resume")
    if missing:
        raise InputError(f"{path}: no run, or files of it are missing: {', '.join(missing)}")
    found: dict[str, Any] = {}
    problems: list[str] = []
    for name, read in FILES.items():
        try:
            found[name] = read_file(path / name, read)
        except InputError as error:
            problems += error.problems
    problems += [
        f"{path / name}: {', '.join(missing)} missing; it is damaged, or of another version"
        for name, needed in NEEDED.items()
        if name in found and (missing := lacking(found[name], needed))
    ]
    if problems:
        raise InputError(problems)
    predictions = found["predictions.parquet"]
    # the refit has no songs held out
    held = predictions[(predictions["split"] == "val") & predictions["fold"].notna()].reset_index(drop=True)
    summary, records = found["summary.json"], found["metrics.jsonl"]
    run = RunArtifacts(path, summary, found["data.json"], records, held, found["config.yaml"])
    return dataclasses.replace(run, held=_by_song(run)) if held["song"].duplicated().any() else run


def _by_song(run: RunArtifacts) -> pd.DataFrame:
    """One row a song, where scores of its stems are averaged before anything is measured."""
    if run.summary.get("unit") != "stem":
        return run.held
    from rainbow_ray.calibration.apply import Calibration

    names = list(run.task.score_names)
    first = run.held.groupby("song", sort=False).first().reset_index()
    means = run.held.groupby("song", sort=False)[names].mean().to_numpy(dtype=run.task.score_dtype)
    first[names] = means
    scores = means[:, 0] if names == ["score"] else means
    decided = Calibration.from_json(run.summary.get("calibration", {})).thresholded(scores)
    first["prediction"] = pd.Series(run.task.decode_predictions(decided), dtype=run.held["prediction"].dtype)
    return first


def read_file(path: Path, read: Callable[[Path], T]) -> T:
    """What `read` makes of a file. Raises `InputError` for one that is damaged."""
    try:
        return read(path)
    except (OSError, ValueError, KeyError) as error:
        raise InputError(f"{path}: the file is damaged ({first_line(error)})") from error


def read_json(path: Path) -> Any:
    return json.loads(path.read_text(encoding="utf-8"))


def read_text(path: Path) -> str:
    return path.read_text(encoding="utf-8")


FILES: dict[str, Callable[[Path], Any]] = {
    "summary.json": read_summary,
    "predictions.parquet": pd.read_parquet,
    "metrics.jsonl": lambda path: pd.DataFrame(read_records(path)),
    "data.json": read_json,
    "config.yaml": read_text,
}

# what a page needs of each file
NEEDED: dict[str, tuple[str, ...]] = {
    "summary.json": (
        "phase", "task", "target", "metric", "metrics", "ci95", "baselines", "verdict", "training_warnings", "notes",
        "counts", "seconds", "device", "precision", "peak_memory_mb", "cost_usd", "config_hash", "data_hash",
        "manifest", "demo",
    ),
    "predictions.parquet": ("example_id", "song", "fold", "split", "target", "prediction"),
    "metrics.jsonl": ("fold", "epoch", "split"),
    "data.json": ("rows", "songs", "dropped", "labels"),
}  # fmt: skip


def lacking(found: Any, needed: tuple[str, ...]) -> list[str]:
    """Keys, or columns, that are not there; all of them, where something else is."""
    return [name for name in needed if not isinstance(found, dict | pd.DataFrame) or name not in found]


def _plain(values: pd.Series) -> list[Any]:
    """Targets and predictions in one form: a yes is 1, a list of classes a sorted tuple."""
    return [tuple(sorted(v)) if isinstance(v, list | np.ndarray) else float(v) if isinstance(v, bool) else v
            for v in values]  # fmt: skip
