"""Multilabel classification: any number of several classes, from a binary logit for each."""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
from typing_extensions import override

from rainbow_ray.config.schema import Config, DataConfig, TrainingConfig
from rainbow_ray.data.raw_labels import LABEL_MISSING
from rainbow_ray.data.text_cells import label_name
from rainbow_ray.metrics.classification import SMALLER_IS_BETTER, THRESHOLD
from rainbow_ray.metrics.multiclass import class_report
from rainbow_ray.metrics.multilabel import MULTILABEL_METRICS
from rainbow_ray.tasks.base import ParsedLabels, TaskDefaults, nothing_left_out
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
from rainbow_ray.tasks.label_cells import several_labels
from rainbow_ray.tasks.multiclass import MIN_FRACTION
from rainbow_ray.tasks.named_classes_task import NamedClassesTask
from rainbow_ray.utils.errors import InputError, check_choice

if TYPE_CHECKING:
    import torch

LEFT_OUT = "all its labels are left out"


@dataclass(frozen=True)
class Multilabel(NamedClassesTask):
    """Multilabel classification. Targets are 0 or 1, float32, `(examples, classes)`; scores are probabilities."""

    loss_name: str = "bce"

    name = "multilabel"
    target_type = "multilabel"
    supports_thresholds = True
    supports_label_probe = False
    prediction_type = pa.list_(pa.string())
    threshold_metrics = frozenset({"subset_accuracy", "hamming_loss", "macro_f1", "micro_f1", "weighted_f1"})
    defaults = TaskDefaults(
        "bce", "macro_f1", ("loss", "subset_accuracy", "macro_f1", "micro_f1", "macro_average_precision")
    )

    @property
    @override
    def metric_names(self) -> tuple[str, ...]:
        return tuple(MULTILABEL_METRICS)

    @override
    def search_space(self, *, has_song_labels: bool = False) -> str:
        return "multi_label"

    @override
    def check(self, config: Config) -> list[str]:
        training = config.training
        return [
            *check_choice("training.loss", training.loss or self.defaults.loss, LOSSES),
            *check_choice("training.metric", training.metric or self.defaults.metric, MULTILABEL_METRICS),
            *check_policies(config.data),
        ]

    @override
    def parse(self, labels: pa.ChunkedArray, column: str, data: DataConfig) -> ParsedLabels:
        lists = several_labels(labels, column, data.label_delimiter, mapped_names(data))
        if data.null_class is not None:
            lists = [[label_name(data.null_class)] if names is None else names for names in lists]
        mapped = map_labels(Counter(label for names in lists for label in names or ()), column, data)
        new_names, reasons = mapped.classes, mapped.reasons
        classes = order_classes((name for name in new_names.values() if name is not None), data)
        index = {name: i for i, name in enumerate(classes)}
        targets = np.zeros((len(lists), len(classes)), dtype=np.float32)
        left_out = nothing_left_out(len(lists))
        for row, names in enumerate(lists):
            for label in names or ():
                name = new_names[label]
                if name is not None:
                    targets[row, index[name]] = 1.0
            if names and not targets[row].any():
                left_out[row] = reasons.get(names[0], LEFT_OUT)
            if names is None:
                left_out[row] = LABEL_MISSING
        return ParsedLabels(dataclasses.replace(self, classes=classes), targets, left_out, mapped.notes)

    @override
    def finalize_labels(self, targets: np.ndarray, column: str, config: Config) -> ParsedLabels:
        songs = {name: int(n) for name, n in zip(self.classes, targets.sum(0), strict=True) if n}
        new_names, notes = apply_rare_policy(songs, column, config.data)
        classes = order_classes((name for name in new_names.values() if name is not None), config.data)
        problems = check_weights(classes, config.training.class_weights)
        if not classes:
            problems.append(f"target {column!r} has no class of enough songs: {', '.join(notes) or 'no song has any'}")
        final = np.zeros((len(targets), len(classes)), dtype=np.float32)
        for i, old in enumerate(self.classes):
            name = new_names.get(old)
            if name is not None:
                indicators = final[:, classes.index(name)]
                np.maximum(indicators, targets[:, i], out=indicators)
        problems += [f"target {column!r}: every song has {name!r}, so there is nothing to tell"
                     for i, name in enumerate(classes) if final[:, i].all()]  # fmt: skip
        if problems:
            raise InputError(problems)
        is_rare = (targets.sum(axis=1) > 0) & (final.sum(axis=1) == 0)
        left_out = nothing_left_out(len(targets))
        left_out[is_rare] = RARE
        sizes = {name: int(n) for name, n in zip(classes, final.sum(0), strict=True)}
        notes = (*notes, *small_class_warnings(sizes, config.training, "they weigh no more than others"))
        task = dataclasses.replace(self, classes=classes, tiny=find_small_classes(sizes))
        return ParsedLabels(task, final, left_out, notes)

    @override
    def strata(self, targets: np.ndarray) -> np.ndarray:
        """Return the rarest class that a song has (0: none), so that no fold is without it."""
        order = np.argsort(targets.sum(0), kind="stable")
        return np.where(targets.any(axis=1), 1 + order[targets[:, order].argmax(axis=1)], 0)

    @override
    def one_hot(self, targets: np.ndarray) -> np.ndarray:
        return np.asarray(targets > 0.5)

    @override
    def fit(self, targets: np.ndarray, config: TrainingConfig) -> Multilabel:
        counts = targets.sum(0)
        fractions = np.clip(counts / max(1, len(targets)), MIN_FRACTION, 1 - MIN_FRACTION)
        if config.loss == "class_balanced":
            weights = effective_weights(counts, config.class_balanced_beta)
        elif config.class_weights in ("auto", "balanced") and config.loss != "logit_adjusted":
            weighed = [config.class_weights == "balanced" or name not in self.tiny for name in self.classes]
            weights = np.where((counts > 0) & weighed, (1 - fractions) / fractions, 1.0)
        elif config.loss == "logit_adjusted":
            weights = np.ones(len(counts))
        else:
            weights = class_weights(self.classes, counts, config)
        return dataclasses.replace(
            self,
            loss_name=config.loss or self.defaults.loss,
            weights=tuple(np.asarray(weights, dtype=np.float32).tolist()),
            prior=tuple(fractions.astype(np.float32).tolist()),
            label_smoothing=config.label_smoothing,
            focal_gamma=config.focal_gamma,
            tau=config.logit_adjustment,
        )

    @override
    def initial_bias(self, targets: np.ndarray) -> np.ndarray:
        prior = np.array(self.prior)
        adjusted = self.tau if self.loss_name == "logit_adjusted" else 0.0
        bias = (1 - adjusted) * np.log(prior / (1 - prior)) + np.log(np.maximum(self.weights, MIN_FRACTION))
        return np.asarray(bias, dtype=np.float32)

    @override
    def loss(self, logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        # the mean over classes, so that a learning rate has the same effect for three classes and for thirty
        return LOSSES[self.loss_name](self, logits, targets).mean(-1)

    @override
    def scores(self, logits: torch.Tensor) -> torch.Tensor:
        return logits.float().sigmoid()

    @override
    def decode_predictions(self, scores: np.ndarray) -> list[Any]:
        return self.decode_targets(scores > THRESHOLD)

    @override
    def encode_predictions(self, predictions: Sequence[Any]) -> np.ndarray:
        return self.encode_targets(predictions)

    @override
    def decode_targets(self, targets: np.ndarray) -> list[Any]:
        return [tuple(self.classes[i] for i in np.flatnonzero(row > 0.5)) for row in np.asarray(targets)]

    @override
    def encode_targets(self, labels: Sequence[Any]) -> np.ndarray:
        return np.array([[name in names for name in self.classes] for names in labels], dtype=np.float32)

    @override
    def describe(self, targets: np.ndarray) -> dict[str, float]:
        counts = count_names(name for names in self.decode_targets(targets) for name in names)
        n_without_class = int((~targets.any(axis=1)).sum())
        return {**counts, **({"none of them": n_without_class} if n_without_class else {})}

    @override
    def metrics(self, targets: np.ndarray, scores: np.ndarray) -> tuple[dict[str, float | None], dict[str, str]]:
        values = {name: self.metric(name, targets, scores) for name in MULTILABEL_METRICS}
        return values, {name: "no class has both songs with it and without it" for name, v in values.items()
                        if v is None}  # fmt: skip

    @override
    def metric(self, name: str, targets: np.ndarray, scores: np.ndarray) -> float | None:
        reference = targets > 0.5
        if len(reference) == 0:
            return None
        defined = np.logical_and(reference.any(axis=0), ~reference.all(axis=0))
        if name.startswith("macro") and not defined.any():
            return None
        return float(MULTILABEL_METRICS[name](reference, scores.astype(np.float64), defined))

    @override
    def details(self, targets: np.ndarray, scores: np.ndarray) -> dict[str, Any]:
        reference, predicted = targets > 0.5, scores > THRESHOLD
        hits = (reference & predicted).sum(0)
        return {"classes": class_report(self.classes, hits, predicted.sum(0), reference.sum(0))}

    @override
    def larger_is_better(self, metric: str) -> bool:
        return metric not in SMALLER_IS_BETTER


def binary_cross_entropy(task: Multilabel, logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """Return the binary cross-entropy of each class with weighted positives and smoothed labels.

    L_k = -(w_k y'_k log p_k + (1 - y'_k) log(1 - p_k)), with y' = (1 - ε) y + ε / 2.

    Args:
        task: The fitted task, with `weights` w and `label_smoothing` ε.
        logits: Logits, `(examples, classes)`.
        targets: 0 or 1, `(examples, classes)`.

    Returns:
        Losses, `(examples, classes)`.
    """
    from torch.nn import functional

    smooth = targets * (1 - task.label_smoothing) + 0.5 * task.label_smoothing
    weight = logits.new_tensor(task.weights)
    return functional.binary_cross_entropy_with_logits(logits, smooth, pos_weight=weight, reduction="none")


def focal_loss(task: Multilabel, logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """Return the focal loss of each class: cross-entropy multiplied by (1 - p_t)^γ.

    Args:
        task: The fitted task, with `focal_gamma` γ.
        logits: Logits, `(examples, classes)`.
        targets: 0 or 1, `(examples, classes)`.

    Returns:
        Losses, `(examples, classes)`.

    Reference:
        Lin et al. 2017, "Focal loss for dense object detection", equation 4.
    """
    loss = binary_cross_entropy(task, logits, targets)
    p = logits.sigmoid()
    # clamped: the gradient of x^gamma at 0 is infinite for gamma below 1
    return loss * (targets * (1 - p) + (1 - targets) * p).clamp(min=1e-6) ** task.focal_gamma


def logit_adjusted_loss(task: Multilabel, logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """Return the cross-entropy of logits that are shifted by τ log(π / (1 - π)) during training only.

    Args:
        task: The fitted task, with `prior` π and `tau` τ.
        logits: Logits, `(examples, classes)`.
        targets: 0 or 1, `(examples, classes)`.

    Returns:
        Losses, `(examples, classes)`.

    Reference:
        Menon et al. 2021, "Long-tail learning via logit adjustment", equation 10, for two classes.
    """
    prior = logits.new_tensor(task.prior)
    return binary_cross_entropy(task, logits + task.tau * (prior / (1 - prior)).log(), targets)


LOSSES: Mapping[str, Callable[[Multilabel, torch.Tensor, torch.Tensor], torch.Tensor]] = {
    "bce": binary_cross_entropy,
    "focal": focal_loss,
    "class_balanced": binary_cross_entropy,  # with the class weights of Cui et al. 2019, see `effective_weights`
    "logit_adjusted": logit_adjusted_loss,
}
