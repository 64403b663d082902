"""What is predicted: parsing labels, the head's size, losses, metrics. One file a problem, imported when asked for."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import pyarrow as pa

from rainbow_ray.config.schema import Config, DataConfig, TrainingConfig
from rainbow_ray.utils.errors import InputError

if TYPE_CHECKING:
    import torch

TASKS = {
    "binary": "rainbow_ray.tasks.binary:Binary",
    "multiclass": "rainbow_ray.tasks.multiclass:Multiclass",
    "multilabel": "rainbow_ray.tasks.multilabel:Multilabel",
    "regression": "rainbow_ray.tasks.regression:Regression",
    "segmentation": "rainbow_ray.tasks.segmentation:Segmentation",
}

Metrics = dict[str, "float | None"]
NO_METRICS: frozenset[str] = frozenset()


@dataclass(frozen=True)
class TaskDefaults:
    """What a problem takes where the config says nothing."""

    loss: str
    metric: str
    shown_metrics: tuple[str, ...]


@dataclass(frozen=True)
class ParsedLabels:
    """Labels as targets: float32, float64 of numbers, `(rows, …)`.

    `task` knows what it read from them (its classes).

    `left_out[i]` is why row i cannot be used, None where it can; the targets of such a row mean nothing. `notes` are
    sentences for the person whose labels they are.
    """

    task: Task
    targets: np.ndarray
    left_out: np.ndarray
    notes: tuple[str, ...] = ()

    @property
    def usable(self) -> np.ndarray:
        """Which rows nothing speaks against, `(rows,)`, bool."""
        return np.array([reason is None for reason in self.left_out], dtype=bool)


class Task(Protocol):
    """What training and results ask of a problem.

    Targets and scores are `(examples, …)`, float32, float64 of numbers.
    """

    name: str

    @property
    def defaults(self) -> TaskDefaults: ...

    @property
    def threshold_metrics(self) -> frozenset[str]:
        """Those that look at what is decided, not at how surely."""

    @property
    def outputs(self) -> int:
        """Numbers that the head gives for an example."""

    @property
    def metric_names(self) -> tuple[str, ...]: ...

    @property
    def score_names(self) -> tuple[str, ...]:
        """Columns that hold an example's scores: `score`, or `score_<class>` of each class."""

    def check(self, config: Config) -> list[str]:
        """What is wrong with the keys that this problem reads: loss, metric, classes."""

    def without_effect(self, config: Config) -> Mapping[str, str]:
        """Dotted keys that this problem does not read as it is configured, and why."""

    def parse(self, labels: pa.ChunkedArray, column: str, data: DataConfig) -> ParsedLabels:
        """Raw labels of rows to targets. Raises `InputError` when they cannot be this problem's."""

    def finalize_labels(self, targets: np.ndarray, column: str, config: Config) -> ParsedLabels:
        """The same of examples, one a song: what is too rare goes. Raises `InputError` where nothing can be learned."""

    def strata(self, targets: np.ndarray) -> np.ndarray:
        """Integers that a split keeps in proportion and a sampler balances, `(examples,)`."""

    def one_hot(self, targets: np.ndarray) -> np.ndarray:
        """What words may speak for, `(examples, columns)`, bool."""

    def fit(self, targets: np.ndarray, config: TrainingConfig) -> Task:
        """The same problem with what it learns from the training side's targets."""

    def initial_bias(self, targets: np.ndarray) -> np.ndarray:
        """The head's first bias, `(outputs,)`: predictions start at what is known without any text."""

    def loss(self, logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        """The loss of each example, `(examples,)`."""

    def scores(self, logits: torch.Tensor) -> torch.Tensor:
        """Logits to what `predictions.parquet` holds: `(examples,)`, or `(examples, classes)`."""

    def decode_predictions(self, scores: np.ndarray) -> list[Any]:
        """Scores to predictions as a person reads them."""

    def decode_targets(self, targets: np.ndarray) -> list[Any]:
        """Targets as a person reads them, of the kind that `decode_predictions` gives."""

    def describe(self, targets: np.ndarray) -> dict[str, float]:
        """How the labels are spread, for `data.json` and the first lines of a run."""

    def metrics(self, targets: np.ndarray, scores: np.ndarray) -> tuple[Metrics, dict[str, str]]:
        """All metrics, null where undefined, and why each null is."""

    def metric(self, name: str, targets: np.ndarray, scores: np.ndarray) -> float | None:
        """One metric alone."""

    def details(self, targets: np.ndarray, scores: np.ndarray) -> dict[str, Any]:
        """What else `summary.json` says of these predictions: results by class, the confusion matrix."""

    def larger_is_better(self, metric: str) -> bool: ...

    def perfect_scores(self, targets: np.ndarray) -> np.ndarray:
        """Return the scores of a model that makes no error."""

    def to_json(self) -> Mapping[str, Any]:
        """What a bundle keeps, to be given back to the constructor."""


def nothing_left_out(rows: int) -> np.ndarray:
    """`Labels.left_out` of labels that can all be used."""
    return np.full(rows, None, dtype=object)


def empty_scores(task: Task, *shape: int) -> np.ndarray:
    """NaN for each score of `shape` examples, `(…,)` or `(…, classes)`: what no fold has scored yet."""
    columns = () if task.score_names == ("score",) else (len(task.score_names),)
    return np.full((*shape, *columns), np.nan, dtype=score_dtype(task))


def score_dtype(task: Task) -> type[np.floating[Any]]:
    """float64 of scores that are numbers of a target's scale, float32 of all others."""
    return np.float64 if getattr(task, "inner", task).name == "regression" else np.float32


def is_scored(scores: np.ndarray, like: Task) -> np.ndarray:
    """Which examples were scored, `(…,)`, of scores `(…,)` or `(…, classes)`."""
    missing = np.isnan(scores)
    return np.asarray(~(missing if like.score_names == ("score",) else missing.any(axis=-1)))


def make_task(name: str, **state: Any) -> Task:
    """A problem by its name. Raises `InputError` for one that is not there."""
    if name not in TASKS:
        raise InputError(f"problem {name!r} is unknown; one of: {', '.join(TASKS)}")
    module, _, attribute = TASKS[name].partition(":")
    made: Task = getattr(importlib.import_module(module), attribute)(**state)
    return made
