"""Multiclass classification: one of several classes, from a logit for each."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import pyarrow as pa
from typing_extensions import override

from rainbow_ray.config.schema import Config, DataConfig, TrainingConfig
from rainbow_ray.config.unused_keys import UnusedKeys
from rainbow_ray.data.raw_labels import LABEL_MISSING
from rainbow_ray.data.text_cells import label_name
from rainbow_ray.metrics.classification import SMALLER_IS_BETTER
from rainbow_ray.metrics.multiclass import (
    MULTICLASS_METRICS,
    NEEDS_SEVERAL_CLASSES,
    class_report,
    confusion_matrix,
)
from rainbow_ray.tasks.base import NO_METRICS, ParsedLabels, TaskDefaults
from rainbow_ray.tasks.class_labels import (
    RARE,
    apply_rare_policy,
    check_policies,
    count_names,
    find_small_classes,
    map_labels,
    mapped_names,
    order_classes,
    small_class_warnings,
)
from rainbow_ray.tasks.class_weights import check_weights, class_weights, effective_weights
from rainbow_ray.tasks.label_cells import single_labels
from rainbow_ray.tasks.named_classes_task import NamedClassesTask
from rainbow_ray.utils.errors import InputError, check_choice

if TYPE_CHECKING:
    import torch

MIN_FRACTION = 1e-3


@dataclass(frozen=True)
class Multiclass(NamedClassesTask):
    """Multiclass classification. Targets are class indices, float32, `(examples,)`; scores are probabilities."""

    loss_name: str = "cross_entropy"

    name = "multiclass"
    target_type = "multiclass"
    has_exclusive_classes = True
    multi_label_task = "multilabel"
    unused_keys: ClassVar[tuple[UnusedKeys, ...]] = (
        *NamedClassesTask.unused_keys,
        UnusedKeys(
            ("training.class_weights",),
            lambda config, _: config.training.loss in ("class_balanced", "logit_adjusted"),
            "the loss {config.training.loss} has its own weights",
        ),
    )
    prediction_type = pa.string()
    threshold_metrics = NO_METRICS  # the most probable class is predicted, whatever its score
    defaults = TaskDefaults("cross_entropy", "macro_f1", ("loss", "accuracy", "macro_f1", "balanced_accuracy", "mcc"))

    @property
    @override
    def metric_names(self) -> tuple[str, ...]:
        return tuple(MULTICLASS_METRICS)

    @override
    def check(self, config: Config) -> list[str]:
        training = config.training
        return [
            *check_choice("training.loss", training.loss or self.defaults.loss, LOSSES),
            *check_choice("training.metric", training.metric or self.defaults.metric, MULTICLASS_METRICS),
            *check_policies(config.data),
        ]

    @override
    def parse(self, labels: pa.ChunkedArray, column: str, data: DataConfig) -> ParsedLabels:
        if pa.types.is_nested(labels.type):
            raise InputError(f"target {column!r} holds {labels.type}: for lists of classes, data.multi_label=true")
        cells = single_labels(labels, column, mapped_names(data))
        cells = cells.filled(label_name(data.null_class) if data.null_class is not None else None)
        mapped = map_labels(cells.counts, column, data)
        new_names, reasons = mapped.classes, mapped.reasons
        classes = order_classes((name for name in new_names.values() if name is not None), data)
        index = {name: i for i, name in enumerate(classes)}
        # the last entry is that of missing labels, whose code is -1
        code = np.array([*(index.get(str(new_names[name]), 0) for name in cells.names), 0], dtype=np.float32)
        left_out = np.array([*(reasons.get(name) for name in cells.names), LABEL_MISSING], dtype=object)
        task = dataclasses.replace(self, classes=classes)
        return ParsedLabels(task, code[cells.codes], left_out[cells.codes], (*cells.notes, *mapped.notes))

    @override
    def finalize_labels(self, targets: np.ndarray, column: str, config: Config) -> ParsedLabels:
        codes = targets.astype(np.int64)
        songs = {name: int(n) for name, n in zip(self.classes, np.bincount(codes, minlength=len(self.classes)),
                                                 strict=True) if n}  # fmt: skip
        try:
            new_names, notes = apply_rare_policy(songs, column, config.data)
        except InputError as error:  # all problems are raised together
            names = order_classes(songs, config.data)
            raise InputError([*error.problems, *check_weights(names, config.training.class_weights)]) from None
        classes = order_classes((name for name in new_names.values() if name is not None), config.data)
        if len(classes) < 2:
            reason = f"each of {sum(songs.values())} songs is {next(iter(songs))!r}" if len(songs) == 1 else notes[0]
            raise InputError(f"target {column!r} has {'one class' if classes else 'no class'} only: {reason}")
        problems = check_weights(classes, config.training.class_weights)
        if problems:
            raise InputError(problems)
        index = {name: i for i, name in enumerate(classes)}
        old = [new_names.get(name) for name in self.classes]
        code = np.array([0 if name is None else index[name] for name in old], dtype=np.float32)
        left_out = np.array([RARE if name is None else None for name in old], dtype=object)
        sizes = dict.fromkeys(classes, 0)
        for name, n in songs.items():
            if (new := new_names[name]) is not None:
                sizes[new] += n
        notes = (*notes, *small_class_warnings(sizes, config.training, "all classes count by their songs"))
        task = dataclasses.replace(self, classes=classes, tiny=find_small_classes(sizes))
        return ParsedLabels(task, code[codes], left_out[codes], notes)

    @override
    def strata(self, targets: np.ndarray) -> np.ndarray:
        return targets.astype(np.int64)

    @override
    def one_hot(self, targets: np.ndarray) -> np.ndarray:
        return np.asarray(targets.astype(np.int64)[:, None] == np.arange(len(self.classes)))

    @override
    def fit(self, targets: np.ndarray, config: TrainingConfig) -> Multiclass:
        counts = np.bincount(targets.astype(np.int64), minlength=len(self.classes))
        if config.loss == "class_balanced":
            weights = effective_weights(counts, config.class_balanced_beta)
        elif config.loss == "logit_adjusted":
            weights = np.ones(len(self.classes), dtype=np.float32)
        else:
            weights = class_weights(self.classes, counts, config, self.tiny)
        fractions = np.maximum(counts / max(1, counts.sum()), MIN_FRACTION)
        return dataclasses.replace(
            self,
            loss_name=config.loss or self.defaults.loss,
            weights=tuple(weights.tolist()),
            prior=tuple((fractions / fractions.sum()).tolist()),
            label_smoothing=config.label_smoothing,
            focal_gamma=config.focal_gamma,
            tau=config.logit_adjustment,
        )

    @override
    def initial_bias(self, targets: np.ndarray) -> np.ndarray:
        # the minimum of the loss without features: log(prior × weight), which the adjustment has already added
        prior, weights = np.array(self.prior), np.maximum(self.weights, MIN_FRACTION)
        adjusted = self.tau if self.loss_name == "logit_adjusted" else 0.0
        bias = (1 - adjusted) * np.log(prior) + np.log(weights)
        return np.asarray(bias - bias.mean(), dtype=np.float32)

    @override
    def loss(self, logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        return LOSSES[self.loss_name](self, logits, targets.long())

    @override
    def scores(self, logits: torch.Tensor) -> torch.Tensor:
        return logits.float().softmax(-1)

    @override
    def decode_predictions(self, scores: np.ndarray) -> list[Any]:
        return [self.classes[i] for i in scores.argmax(-1)]

    @override
    def encode_predictions(self, predictions: Sequence[Any]) -> np.ndarray:
        return np.array([[name == label for name in self.classes] for label in predictions], dtype=np.float32)

    @override
    def decode_targets(self, targets: np.ndarray) -> list[Any]:
        return [self.classes[i] for i in targets.astype(np.int64)]

    @override
    def encode_targets(self, labels: Sequence[Any]) -> np.ndarray:
        index = {name: i for i, name in enumerate(self.classes)}
        return np.array([index.get(label, np.nan) for label in labels], dtype=np.float32)

    @override
    def describe(self, targets: np.ndarray) -> dict[str, float]:
        return dict(count_names(self.decode_targets(targets)))

    @override
    def metrics(self, targets: np.ndarray, scores: np.ndarray) -> tuple[dict[str, float | None], dict[str, str]]:
        values = {name: self.metric(name, targets, scores) for name in MULTICLASS_METRICS}
        return values, {name: "no song, or one class only, among these" for name, v in values.items() if v is None}

    @override
    def metric(self, name: str, targets: np.ndarray, scores: np.ndarray) -> float | None:
        reference = targets.astype(np.int64)
        if len(reference) == 0 or (name in NEEDS_SEVERAL_CLASSES and (reference == reference[0]).all()):
            return None
        return float(MULTICLASS_METRICS[name](reference, scores.astype(np.float64)))

    @override
    def details(self, targets: np.ndarray, scores: np.ndarray) -> dict[str, Any]:
        table = confusion_matrix(targets.astype(np.int64), scores.argmax(-1), len(self.classes))
        by_class = class_report(self.classes, np.diag(table), table.sum(0), table.sum(1))
        return {"classes": by_class, "confusion": table.tolist()}

    @override
    def larger_is_better(self, metric: str) -> bool:
        return metric not in SMALLER_IS_BETTER


def cross_entropy(task: Multiclass, logits: torch.Tensor, codes: torch.Tensor) -> torch.Tensor:
    """Return the weighted cross-entropy with smoothed labels.

    L = -w_y Σ_k y'_k log p_k, with y'_k = (1 - ε) [k = y] + ε / K.

    Args:
        task: The fitted task, with `weights` w and `label_smoothing` ε.
        logits: Logits, `(examples, classes)`.
        codes: Class indices, int64, `(examples,)`.

    Returns:
        Losses, `(examples,)`.
    """
    from torch.nn import functional

    weight = logits.new_tensor(task.weights)[codes]
    return weight * functional.cross_entropy(logits, codes, label_smoothing=task.label_smoothing, reduction="none")


def focal_loss(task: Multiclass, logits: torch.Tensor, codes: torch.Tensor) -> torch.Tensor:
    """Return the focal loss: cross-entropy multiplied by (1 - p_y)^γ.

    Args:
        task: The fitted task, with `focal_gamma` γ.
        logits: Logits, `(examples, classes)`.
        codes: Class indices, int64, `(examples,)`.

    Returns:
        Losses, `(examples,)`.

    Reference:
        Lin et al. 2017, "Focal loss for dense object detection", equation 4.
    """
    loss = cross_entropy(task, logits, codes)
    p = logits.softmax(-1).gather(-1, codes[:, None]).squeeze(-1)
    # clamped: the gradient of x^gamma at 0 is infinite for gamma below 1
    return loss * (1 - p).clamp(min=1e-6) ** task.focal_gamma


def logit_adjusted_loss(task: Multiclass, logits: torch.Tensor, codes: torch.Tensor) -> torch.Tensor:
    """Return the cross-entropy of logits that are shifted by τ log π during training only.

    Args:
        task: The fitted task, with `prior` π and `tau` τ.
        logits: Logits, `(examples, classes)`.
        codes: Class indices, int64, `(examples,)`.

    Returns:
        Losses, `(examples,)`.

    Reference:
        Menon et al. 2021, "Long-tail learning via logit adjustment", equation 10.
    """
    return cross_entropy(task, logits + task.tau * logits.new_tensor(task.prior).log(), codes)


LOSSES: Mapping[str, Callable[[Multiclass, torch.Tensor, torch.Tensor], torch.Tensor]] = {
    "cross_entropy": cross_entropy,
    "focal": focal_loss,
    "class_balanced": cross_entropy,  # with the class weights of Cui et al. 2019, see `effective_weights`
    "logit_adjusted": logit_adjusted_loss,
}
