"""Interface of prediction tasks: parsing of labels, losses, decoding of scores, metrics."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from rainbow_ray.config.schema import Config, DataConfig, TrainingConfig
from rainbow_ray.config.unused_keys import UnusedKeys
from rainbow_ray.tasks.target_types import TargetType

if TYPE_CHECKING:
    import torch

Metrics = dict[str, "float | None"]
NO_METRICS: frozenset[str] = frozenset()


@dataclass(frozen=True)
class TaskDefaults:
    """Settings that a task uses where the config names none.

    Attributes:
        loss: Value of `training.loss`.
        metric: Value of `training.metric`.
        shown_metrics: Value of `logging.metrics`.
    """

    loss: str
    metric: str
    shown_metrics: tuple[str, ...]


@dataclass(frozen=True)
class ParsedLabels:
    """Labels as targets of a task.

    Attributes:
        task: The task with what it learned from the labels, such as its classes.
        targets: Targets, `(rows, …)`, in the task's dtype. Targets of unusable rows have no meaning.
        left_out: Reason why each row cannot be used, or None where it can, `(rows,)`, object.
        notes: Messages for the user about the labels.
    """

    task: Task
    targets: np.ndarray
    left_out: np.ndarray
    notes: tuple[str, ...] = ()

    @property
    def usable(self) -> np.ndarray:
        """Mask of the rows that can be used, `(rows,)`, bool."""
        return np.array([reason is None for reason in self.left_out], dtype=bool)


class Task(ABC):
    """A prediction task: what is predicted for an example, how it is learned and how it is measured.

    A task is immutable and picklable. `parse`, `finalize_labels` and `fit` return a task that holds what they learned.
    Targets are arrays of `(examples, …)`; scores are `(examples,)` or `(examples, classes)`, of `score_dtype`.

    A new task is a subclass of `ExampleTask` (or of `SegmentTask`) and one row in `tasks/registry.py`.

    Attributes:
        name: Key in the registry.
        is_sequence_task: Whether examples are segments, which the model reads in the sequence of their song.
        is_weakly_labeled: Whether only songs have labels, so that segments share in the song's score.
        has_exclusive_classes: Whether an example has exactly one of several classes, with scores that sum to 1.
        supports_calibration: Whether scores are probabilities that calibration can adjust.
        supports_thresholds: Whether a threshold on each score makes the prediction.
        supports_label_probe: Whether a song has one label, which the check for label leakage can predict.
        multi_label_task: Name of the task of the same labels where an example can have several of them
            (`data.multi_label`); None if there is none.
    """

    name: str
    is_sequence_task: bool = False
    is_weakly_labeled: bool = False
    has_exclusive_classes: bool = False
    supports_calibration: bool = True
    supports_thresholds: bool = False
    supports_label_probe: bool = True
    multi_label_task: str | None = None

    if TYPE_CHECKING:  # a field of dataclasses, which an inherited property would disturb

        @property
        def base_task(self) -> Task:
            """The task of a single example: the task itself, except for segments."""

    @property
    @abstractmethod
    def target_type(self) -> TargetType:
        """Kind of the label of one example, as `data.target_type` names it."""

    @property
    def has_classes(self) -> bool:
        """Whether the label is one class or several, not a number."""
        return True

    @property
    def has_boolean_labels(self) -> bool:
        """Whether the label is True or False."""
        return bool(pa.types.is_boolean(self.prediction_type))

    @property
    def accepts_null_class(self) -> bool:
        """Whether `data.null_class` can replace a missing label."""
        return False

    @property
    def unused_keys(self) -> tuple[UnusedKeys, ...]:
        """Rows about config keys that have no effect on this task, in addition to `config/unused_keys.py`."""
        return ()

    @property
    def imbalance_advice(self) -> str:
        """Config setting that helps against imbalanced labels, or ""."""
        return ""

    @property
    def score_dtype(self) -> type[np.floating[Any]]:
        """Dtype of scores."""
        return np.float32

    @property
    @abstractmethod
    def prediction_type(self) -> pa.DataType:
        """Arrow type of decoded predictions and targets."""

    @property
    @abstractmethod
    def defaults(self) -> TaskDefaults:
        """Loss and metrics that are used where the config names none."""

    @property
    @abstractmethod
    def threshold_metrics(self) -> frozenset[str]:
        """Names of the metrics that depend on decoded predictions, not on the scores themselves."""

    @property
    @abstractmethod
    def outputs(self) -> int:
        """Number of logits that the model's head gives for an example."""

    @property
    @abstractmethod
    def metric_names(self) -> tuple[str, ...]:
        """Names of all metrics."""

    @property
    @abstractmethod
    def score_names(self) -> tuple[str, ...]:
        """Names of the columns of scores: `score`, or `score_<class>` for each class."""

    def search_space(self, *, has_song_labels: bool = False) -> str:
        """Return the search space of a sweep that names none.

        Args:
            has_song_labels: Whether the target is the label of songs, although examples are segments.

        Returns:
            Name of a function in the module of the phase, `tune_spaces.phase<number>`.
        """
        return "space"

    @abstractmethod
    def check(self, config: Config) -> list[str]:
        """Return problems with the config keys that the task reads.

        Args:
            config: The resolved config.

        Returns:
            A message for each invalid value of a loss, metric or key of labels.
        """

    @abstractmethod
    def parse(self, labels: pa.ChunkedArray, column: str, data: DataConfig) -> ParsedLabels:
        """Convert raw labels of rows to targets.

        Args:
            labels: Labels as the table has them, `(rows,)`.
            column: Name of the target column, for messages.
            data: The config section that maps labels to classes.

        Returns:
            Targets of all rows, and the task with its classes.

        Raises:
            InputError: The labels cannot be read as this task's.
        """

    @abstractmethod
    def finalize_labels(self, targets: np.ndarray, column: str, config: Config) -> ParsedLabels:
        """Apply what depends on the number of songs, such as the policy for rare classes.

        Args:
            targets: Parsed targets of usable examples, one for each song (of segments: all of them), `(examples, …)`.
            column: Name of the target column, for messages.
            config: The resolved config.

        Returns:
            Targets of the same examples, and the task with its final classes.

        Raises:
            InputError: Nothing can be learned from the targets.
        """

    @abstractmethod
    def strata(self, targets: np.ndarray) -> np.ndarray:
        """Return the strata of a stratified split and of balanced sampling.

        Args:
            targets: Targets, `(examples, …)`.

        Returns:
            Integers, `(examples,)`.
        """

    @abstractmethod
    def one_hot(self, targets: np.ndarray) -> np.ndarray:
        """Return indicators of the classes (or strata) of each example.

        Args:
            targets: Targets, `(examples, …)`.

        Returns:
            Indicators, bool, `(examples, columns)`.
        """

    @abstractmethod
    def fit(self, targets: np.ndarray, config: TrainingConfig) -> Task:
        """Return the task with the statistics of the training set, such as class weights.

        Args:
            targets: Targets of the training set, `(examples, …)`.
            config: The training section of the config.

        Returns:
            The fitted task.
        """

    @abstractmethod
    def initial_bias(self, targets: np.ndarray) -> np.ndarray:
        """Return the bias of the head's last layer that minimizes the loss without any features.

        Args:
            targets: Targets of the training set, `(examples, …)`.

        Returns:
            The bias, float32, `(outputs,)`.
        """

    @abstractmethod
    def loss(self, logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        """Return the loss of each example.

        Args:
            logits: Logits, `(examples, outputs)`.
            targets: Targets, `(examples, …)`.

        Returns:
            Losses, `(examples,)`.
        """

    @abstractmethod
    def scores(self, logits: torch.Tensor) -> torch.Tensor:
        """Convert logits to scores.

        Args:
            logits: Logits, `(examples, outputs)`.

        Returns:
            Scores, `(examples,)` or `(examples, classes)`.
        """

    @abstractmethod
    def decode_predictions(self, scores: np.ndarray) -> list[Any]:
        """Convert scores to predictions.

        Args:
            scores: Scores, `(examples,)` or `(examples, classes)`.

        Returns:
            A label for each example.
        """

    @abstractmethod
    def encode_predictions(self, predictions: Sequence[Any]) -> np.ndarray:
        """Convert predictions to scores that `decode_predictions` converts to the same predictions.

        Args:
            predictions: A label for each example.

        Returns:
            Scores, `(examples,)` or `(examples, classes)`.
        """

    @abstractmethod
    def decode_targets(self, targets: np.ndarray) -> list[Any]:
        """Convert targets to labels of the kind that `decode_predictions` gives.

        Args:
            targets: Targets, `(examples, …)`.

        Returns:
            A label for each example; None where a segment has none.
        """

    @abstractmethod
    def encode_targets(self, labels: Sequence[Any]) -> np.ndarray:
        """Convert labels of single examples to targets: the inverse of `base_task.decode_targets`.

        Args:
            labels: A label for each example.

        Returns:
            Targets, `(examples,)` or `(examples, classes)`.
        """

    @abstractmethod
    def describe(self, targets: np.ndarray) -> dict[str, float]:
        """Return the distribution of the labels, for `data.json` and the console.

        Args:
            targets: Targets, `(examples, …)`.

        Returns:
            Counts by class, or quantiles of numbers.
        """

    @abstractmethod
    def metrics(self, targets: np.ndarray, scores: np.ndarray) -> tuple[Metrics, dict[str, str]]:
        """Return all metrics.

        Args:
            targets: Targets, `(examples, …)`.
            scores: Scores, `(examples,)` or `(examples, classes)`.

        Returns:
            Values by name, None where a metric is undefined; and the reason for each None.
        """

    @abstractmethod
    def metric(self, name: str, targets: np.ndarray, scores: np.ndarray) -> float | None:
        """Return one metric.

        Args:
            name: One of `metric_names`.
            targets: Targets, `(examples, …)`.
            scores: Scores, `(examples,)` or `(examples, classes)`.

        Returns:
            The value, or None where the metric is undefined.
        """

    def metric_values(self, names: Iterable[str], targets: np.ndarray, scores: np.ndarray) -> Metrics:
        """Return several metrics; a task whose metrics share a computation makes it once.

        Args:
            names: Some of `metric_names`.
            targets: Targets, `(examples, …)`.
            scores: Scores, `(examples,)` or `(examples, classes)`.

        Returns:
            The values of `metric` by name.
        """
        return {name: self.metric(name, targets, scores) for name in names}

    @abstractmethod
    def details(self, targets: np.ndarray, scores: np.ndarray) -> dict[str, Any]:
        """Return further results for `summary.json`: results by class, the confusion matrix.

        Args:
            targets: Targets, `(examples, …)`.
            scores: Scores, `(examples,)` or `(examples, classes)`.

        Returns:
            Entries of `summary.json`.
        """

    @abstractmethod
    def larger_is_better(self, metric: str) -> bool:
        """Return whether larger values of a metric are better.

        Args:
            metric: One of `metric_names`, or `loss`.

        Returns:
            False for errors and losses.
        """

    @abstractmethod
    def perfect_scores(self, targets: np.ndarray) -> np.ndarray:
        """Return the scores of a model that makes no error.

        Args:
            targets: Targets, `(examples, …)`.

        Returns:
            Scores, `(examples,)` or `(examples, classes)`.
        """

    @abstractmethod
    def to_json(self) -> Mapping[str, Any]:
        """Return the state of the task for a bundle or checkpoint.

        Returns:
            Keyword arguments of the task's factory in the registry, as JSON values.
        """

    def from_json(self, state: Mapping[str, Any]) -> Task:
        """Return a task of the same kind with a stored state.

        Workers restore tasks with this method and thus need no registry.

        Args:
            state: What `to_json` returned, in this version or an earlier one.

        Returns:
            The task.
        """
        return type(self)(**state)

    @abstractmethod
    def has_label(self, targets: np.ndarray) -> np.ndarray:
        """Return which examples have a label.

        Args:
            targets: Targets, `(examples, …)`.

        Returns:
            A mask, bool, `(examples,)`; all True except for segments.
        """

    @abstractmethod
    def example_weights(self, targets: np.ndarray) -> np.ndarray:
        """Return the weight of each example in the loss.

        Args:
            targets: Targets, `(examples, …)`.

        Returns:
            Weights, float32, `(examples,)`.
        """

    @abstractmethod
    def finalize_logits(self, logits: torch.Tensor, sequence: torch.Tensor | None) -> torch.Tensor:
        """Transform the head's output before `loss` and `scores`.

        Args:
            logits: Output of the head, `(examples, outputs)`.
            sequence: Number of each example's song within the batch, `(examples,)`, or None outside of sequences.

        Returns:
            The logits that `loss` and `scores` read; unchanged for most tasks.
        """

    @abstractmethod
    def fit_decoding(self, targets: np.ndarray) -> Task:
        """Return the task with what `decode_scores` learns from a training set.

        Args:
            targets: Targets of the training set, `(examples, …)`.

        Returns:
            The task; unchanged where decoding has nothing to learn.
        """

    @abstractmethod
    def decode_scores(self, targets: np.ndarray, scores: np.ndarray) -> np.ndarray:
        """Adjust the scores of whole songs by those of neighboring examples.

        Args:
            targets: Targets, `(examples, …)`, of which only times and positions are read.
            scores: Scores, `(examples,)` or `(examples, classes)`.

        Returns:
            Scores of the same shape; unchanged for tasks that are not sequence tasks.
        """

    def target_column(self, targets: np.ndarray) -> pa.Array:
        """Return targets as a column of `predictions.parquet`.

        Args:
            targets: Targets, `(examples, …)`.

        Returns:
            The column, `(examples,)`.
        """
        return pa.array(self.decode_targets(targets), self.prediction_type)

    @abstractmethod
    def score_location_and_scale(self) -> tuple[float, float]:
        """Return the location and the scale of scores, by which a tolerance on them is measured.

        Returns:
            (0, 1) for probabilities; of numbers, the location and the scale of the training set's targets.
        """

    @abstractmethod
    def summary_fields(self) -> dict[str, Any]:
        """Return the task's own entries of `summary.json`.

        Returns:
            Entries that identify the task beside its name.
        """


def nothing_left_out(rows: int) -> np.ndarray:
    """Return `ParsedLabels.left_out` of labels that can all be used.

    Args:
        rows: Number of rows.

    Returns:
        None for each row, `(rows,)`, object.
    """
    return np.full(rows, None, dtype=object)
