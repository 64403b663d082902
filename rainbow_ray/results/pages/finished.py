"""What a finished run left behind, read for its page."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from rainbow_ray.errors import InputError
from rainbow_ray.problems import Problem, make_problem
from rainbow_ray.training.reporters import read_lines

NEEDED = ("summary.json", "predictions.parquet", "metrics.jsonl", "data.json", "config.yaml")


@dataclass(frozen=True)
class Finished:
    """What a finished run left. `held` are its out-of-fold predictions, a row an example."""

    path: Path
    summary: dict[str, Any]
    profile: dict[str, Any]
    records: pd.DataFrame
    held: pd.DataFrame
    config: str

    @property
    def problem(self) -> Problem:
        """The problem as its predictions have it."""
        name = self.summary["problem"]
        classes = [column.removeprefix("score_") for column in self.held.columns if column.startswith("score_")]
        return make_problem(name, **({"classes": classes} if classes else {}))

    @property
    def scores(self) -> np.ndarray:
        """`(examples,)` or `(examples, classes)`."""
        columns = list(self.problem.score_names)
        values = self.held[columns].to_numpy(dtype=np.float32)
        return values[:, 0] if columns == ["score"] else values

    @property
    def targets(self) -> np.ndarray:
        """Targets as the problem has them: `(examples,)`, or `(examples, classes)` of several labels."""
        names = [column.removeprefix("score_") for column in self.held.columns if column.startswith("score_")]
        told = self.held["target"]
        if self.summary["problem"] == "multiclass":
            return np.asarray(told.map({name: i for i, name in enumerate(names)}).to_numpy(dtype=np.float32))
        if self.summary["problem"] == "multilabel":
            return np.array([[name in row for name in names] for row in told], dtype=np.float32)
        return np.asarray(told.to_numpy(dtype=np.float32))


def read_run(path: Path) -> Finished:
    """Raises `InputError` for a run that is not finished, or lacks files."""
    missing = [name for name in NEEDED if not (path / name).exists()]
    if "summary.json" in missing and (path / "config.yaml").exists():
        raise InputError(f"{path}: this run has not finished; go on with --resume")
    if missing:
        raise InputError(f"{path}: no run, or files of it are missing: {', '.join(missing)}")
    predictions = pd.read_parquet(path / "predictions.parquet")
    # the refit has no songs held out
    held = predictions[(predictions["split"] == "val") & predictions["fold"].notna()].reset_index(drop=True)
    return Finished(
        path,
        json.loads((path / "summary.json").read_text(encoding="utf-8")),
        json.loads((path / "data.json").read_text(encoding="utf-8")),
        pd.DataFrame(read_lines(path / "metrics.jsonl")),
        held,
        (path / "config.yaml").read_text(encoding="utf-8"),
    )
