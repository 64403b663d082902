"""Binary classification: a label that is true or false, from one logit."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import pyarrow as pa
from typing_extensions import override

from rainbow_ray.config.schema import Config, DataConfig, TrainingConfig
from rainbow_ray.config.unused_keys import CLASS_KEYS, NUMBER_KEYS, UnusedKeys, always
from rainbow_ray.data.arrow_types import is_string_type
from rainbow_ray.data.raw_labels import LABEL_MISSING
from rainbow_ray.data.text_cells import label_name, scalar_text
from rainbow_ray.metrics.classification import (
    BINARY_METRICS,
    NEEDS_BOTH_CLASSES,
    SMALLER_IS_BETTER,
    THRESHOLD,
    binary_confusion,
)
from rainbow_ray.tasks.base import ParsedLabels, TaskDefaults, nothing_left_out
from rainbow_ray.tasks.class_labels import MAPPED_AWAY, SHOWN, UNKNOWN
from rainbow_ray.tasks.example_task import ExampleTask
from rainbow_ray.tasks.label_cells import single_labels, without_missing_words
from rainbow_ray.utils.errors import InputError, check_choice

if TYPE_CHECKING:
    import torch

MIN_FRACTION = 1e-3
TRUE_WORDS = frozenset({"true", "t", "yes", "y", "1", "on", "positive", "pos"})
FALSE_WORDS = frozenset({"false", "f", "no", "n", "0", "off", "negative", "neg"})
EXPECTED = "true/false, yes/no, y/n, t/f, positive/negative, on/off or 1/0, in any case"
NEEDS_BOTH = "only one class among these songs"


@dataclass(frozen=True)
class Binary(ExampleTask):
    """Binary classification. Targets are 0 or 1, float32, `(examples,)`; scores are probabilities of True.

    Attributes:
        loss_name: Name of the loss, a key of `LOSSES`.
        pos_weight: Weight of positive examples in the loss.
        label_smoothing: Fraction of each target that is moved to one half.
        focal_gamma: Exponent of the focal loss.
        gamma_positive: Exponent of positive examples in the asymmetric loss.
        gamma_negative: Exponent of negative examples in the asymmetric loss.
        margin: Probability below which negative examples have no asymmetric loss.
        prior: Fraction of positive examples in the training set.
        tau: Strength of the logit adjustment.
    """

    loss_name: str = "bce"
    pos_weight: float = 1.0
    label_smoothing: float = 0.0
    focal_gamma: float = 2.0
    gamma_positive: float = 0.0
    gamma_negative: float = 4.0
    margin: float = 0.05
    prior: float = 0.5
    tau: float = 1.0

    name = "binary"
    target_type = "binary"
    supports_thresholds = True
    imbalance_advice = "training.pos_weight=auto"
    unused_keys: ClassVar[tuple[UnusedKeys, ...]] = (
        UnusedKeys(("training.class_weights",), always, "two classes have training.pos_weight"),
        UnusedKeys(("training.class_balanced_beta", *CLASS_KEYS), always, "only for several classes"),
        UnusedKeys(NUMBER_KEYS, always, "only for numeric targets"),
    )
    prediction_type = pa.bool_()
    outputs = 1
    score_names = ("score",)
    threshold_metrics = frozenset({"accuracy", "balanced_accuracy", "precision", "recall", "f1", "macro_f1", "mcc"})
    defaults = TaskDefaults("bce", "macro_f1", ("loss", "accuracy", "macro_f1", "average_precision_rarer", "mcc"))

    @property
    @override
    def metric_names(self) -> tuple[str, ...]:
        return tuple(BINARY_METRICS)

    @override
    def check(self, config: Config) -> list[str]:
        training = config.training
        return [
            *check_choice("training.loss", training.loss or self.defaults.loss, LOSSES),
            *check_choice("training.metric", training.metric or self.defaults.metric, BINARY_METRICS),
            *_check_mapping(config.data),
        ]

    @override
    def parse(self, labels: pa.ChunkedArray, column: str, data: DataConfig) -> ParsedLabels:
        if pa.types.is_nested(labels.type):
            raise InputError(f"target {column!r} holds {labels.type}, and a song has one label; name another with"
                             " data.target_column")  # fmt: skip
        mapping = {label_name(label): value for label, value in (data.class_mapping or {}).items()}
        cells = without_missing_words(single_labels(labels, column, mapping), column, mapping)
        targets, reasons, invalid = [], [], []
        for name in cells.names:
            mapped = mapping.get(name, name)
            target = as_bool(mapped)
            drops = data.class_mapping is not None and data.unknown_classes == "drop"
            reasons.append(MAPPED_AWAY if mapped is None else UNKNOWN if target is None and drops else None)
            invalid += [name] if target is None and reasons[-1] is None else []
            targets.append(float(target or False))
        if invalid:
            quote = repr if is_string_type(labels.type) else str
            listed = ", ".join(map(quote, sorted(invalid)[:SHOWN]))
            suffix = f" and {len(invalid) - SHOWN} more" if len(invalid) > SHOWN else ""
            raise InputError(f"target {column!r} is not boolean: {listed}{suffix} (expected {EXPECTED}); map its labels"
                             ' with data.class_mapping={label: "true", other: "false"}, or name another with'
                             " data.target_column")  # fmt: skip
        # the last entry is that of missing labels, whose code is -1
        left_out = np.array([*reasons, LABEL_MISSING], dtype=object)[cells.codes]
        return ParsedLabels(self, np.array([*targets, 0.0], dtype=np.float32)[cells.codes], left_out, cells.notes)

    @override
    def finalize_labels(self, targets: np.ndarray, column: str, config: Config) -> ParsedLabels:
        if len(np.unique(targets)) < 2:
            label_value = bool(targets[0])
            raise InputError(f"target {column!r} has one class only: each of {len(targets)} songs is {label_value}")
        return ParsedLabels(self, targets, nothing_left_out(len(targets)))

    @override
    def strata(self, targets: np.ndarray) -> np.ndarray:
        return targets.astype(np.int64)

    @override
    def one_hot(self, targets: np.ndarray) -> np.ndarray:
        return np.asarray(targets[:, None] > 0.5)

    @override
    def fit(self, targets: np.ndarray, config: TrainingConfig) -> Binary:
        weight = None if config.loss == "logit_adjusted" else config.pos_weight
        positives = float(targets.sum())
        if weight == "auto":
            # without one of the classes there is nothing to balance
            weight = (len(targets) - positives) / positives if 0 < positives < len(targets) else 1.0
        return dataclasses.replace(
            self,
            loss_name=config.loss or self.defaults.loss,
            pos_weight=1.0 if weight is None else float(weight),
            label_smoothing=config.label_smoothing,
            focal_gamma=config.focal_gamma,
            gamma_positive=config.asymmetric_gamma_positive,
            gamma_negative=config.asymmetric_gamma_negative,
            margin=config.asymmetric_margin,
            prior=float(np.clip(positives / max(1, len(targets)), MIN_FRACTION, 1 - MIN_FRACTION)),
            tau=config.logit_adjustment,
        )

    @override
    def initial_bias(self, targets: np.ndarray) -> np.ndarray:
        # the minimum of the weighted loss without features: logit(p) + log(pos_weight)
        fraction = np.clip(targets.mean(), MIN_FRACTION, 1 - MIN_FRACTION)
        adjusted = self.tau if self.loss_name == "logit_adjusted" else 0.0
        bias = (1 - adjusted) * np.log(fraction / (1 - fraction)) + np.log(self.pos_weight)
        return np.array([bias], dtype=np.float32)

    @override
    def loss(self, logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        return LOSSES[self.loss_name](self, logits.squeeze(-1), targets)

    @override
    def scores(self, logits: torch.Tensor) -> torch.Tensor:
        return logits.float().sigmoid().squeeze(-1)

    @override
    def decode_predictions(self, scores: np.ndarray) -> list[Any]:
        predictions: list[Any] = (scores > THRESHOLD).tolist()
        return predictions

    @override
    def encode_predictions(self, predictions: Sequence[Any]) -> np.ndarray:
        return np.asarray(predictions, dtype=np.float32)

    @override
    def decode_targets(self, targets: np.ndarray) -> list[Any]:
        return self.decode_predictions(targets)

    @override
    def encode_targets(self, labels: Sequence[Any]) -> np.ndarray:
        return np.asarray(labels, dtype=np.float32)

    @override
    def target_column(self, targets: np.ndarray) -> pa.Array:
        return pa.array(targets, pa.float32())  # as files of the first version have it

    @override
    def describe(self, targets: np.ndarray) -> dict[str, float]:
        values, counts = np.unique(targets, return_counts=True)
        return {str(label): int(n) for label, n in zip(self.decode_targets(values), counts, strict=True)}

    @override
    def metrics(self, targets: np.ndarray, scores: np.ndarray) -> tuple[dict[str, float | None], dict[str, str]]:
        values = {name: self.metric(name, targets, scores) for name in BINARY_METRICS}
        return values, {name: NEEDS_BOTH for name, value in values.items() if value is None}

    @override
    def metric(self, name: str, targets: np.ndarray, scores: np.ndarray) -> float | None:
        reference = targets > 0.5
        if len(reference) == 0 or (name in NEEDS_BOTH_CLASSES and reference.all() == reference.any()):
            return None
        return float(BINARY_METRICS[name](reference, scores.astype(np.float64)))

    @override
    def details(self, targets: np.ndarray, scores: np.ndarray) -> dict[str, Any]:
        if len(targets) == 0:
            return {}
        tp, fp, fn, tn = binary_confusion(targets > 0.5, scores.astype(np.float64))
        return {"confusion": [[tn, fp], [fn, tp]]}

    @override
    def larger_is_better(self, metric: str) -> bool:
        return metric not in SMALLER_IS_BETTER

    @override
    def perfect_scores(self, targets: np.ndarray) -> np.ndarray:
        return targets

    @override
    def to_json(self) -> dict[str, Any]:
        return dataclasses.asdict(self)


def _check_mapping(data: DataConfig) -> list[str]:
    """Return problems with a mapping of labels to true and false."""
    if data.class_mapping is None:
        return []
    problems = [f"data.class_mapping: {label!r} is mapped to {value!r}, and a binary target is true or false"
                 for label, value in data.class_mapping.items() if value is not None and as_bool(value) is None
                 ]  # fmt: skip
    if data.unknown_classes == "other":
        problems.append("data.unknown_classes: a binary target has no class for others; error or drop")
    return problems


def as_bool(label: str | int | None) -> bool | None:
    """Parse a Boolean.

    Args:
        label: A word or a number, such as `yes`, `F` or `1.0`, in any case.

    Returns:
        The value, or None for anything else.
    """
    word = (scalar_text(label) or "").strip().casefold()
    word = word.removesuffix(".0")
    return True if word in TRUE_WORDS else False if word in FALSE_WORDS else None


def binary_cross_entropy(task: Binary, logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """Return the binary cross-entropy with weighted positives and smoothed labels.

    L = -(w y' log p + (1 - y') log(1 - p)), with y' = (1 - ε) y + ε / 2.

    Args:
        task: The fitted task, with `pos_weight` w and `label_smoothing` ε.
        logits: Logits, `(examples,)`.
        targets: 0 or 1, `(examples,)`.

    Returns:
        Losses, `(examples,)`.
    """
    from torch.nn import functional

    weight = logits.new_tensor(task.pos_weight)
    smooth = _smoothed(task, targets)
    return functional.binary_cross_entropy_with_logits(logits, smooth, pos_weight=weight, reduction="none")


def focal_loss(task: Binary, logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """Return the focal loss: cross-entropy multiplied by (1 - p_t)^γ.

    Args:
        task: The fitted task, with `focal_gamma` γ.
        logits: Logits, `(examples,)`.
        targets: 0 or 1, `(examples,)`.

    Returns:
        Losses, `(examples,)`.

    Reference:
        Lin et al. 2017, "Focal loss for dense object detection", equation 4.
    """
    loss = binary_cross_entropy(task, logits, targets)
    p = logits.sigmoid()
    # clamped: the gradient of x^gamma at 0 is infinite for gamma below 1
    return loss * (targets * (1 - p) + (1 - targets) * p).clamp(min=1e-6) ** task.focal_gamma


def asymmetric_loss(task: Binary, logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """Return the asymmetric loss, with an exponent for each class and a margin for easy negatives.

    L = -(w y' (1 - p)^γ₊ log p + (1 - y') p_m^γ₋ log(1 - p_m)), with p_m = max(p - m, 0).

    Args:
        task: The fitted task, with `pos_weight` w, `gamma_positive` γ₊, `gamma_negative` γ₋ and `margin` m.
        logits: Logits, `(examples,)`.
        targets: 0 or 1, `(examples,)`.

    Returns:
        Losses, `(examples,)`.

    Reference:
        Ridnik et al. 2021, "Asymmetric loss for multi-label classification", equation 7.
    """
    smooth = _smoothed(task, targets)
    p = logits.sigmoid()
    shifted = (p - task.margin).clamp(min=0)
    positive = (1 - p) ** task.gamma_positive * _log(p)
    negative = shifted**task.gamma_negative * _log(1 - shifted)
    return -(smooth * task.pos_weight * positive + (1 - smooth) * negative)


def logit_adjusted_loss(task: Binary, logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """Return the cross-entropy of logits that are shifted by τ log(π / (1 - π)) during training only.

    Args:
        task: The fitted task, with `prior` π and `tau` τ.
        logits: Logits, `(examples,)`.
        targets: 0 or 1, `(examples,)`.

    Returns:
        Losses, `(examples,)`.

    Reference:
        Menon et al. 2021, "Long-tail learning via logit adjustment", equation 10, for two classes.
    """
    adjusted = logits + task.tau * float(np.log(task.prior / (1 - task.prior)))
    return binary_cross_entropy(task, adjusted, targets)


def _smoothed(task: Binary, targets: torch.Tensor) -> torch.Tensor:
    return targets * (1 - task.label_smoothing) + 0.5 * task.label_smoothing


def _log(p: torch.Tensor) -> torch.Tensor:
    return p.clamp(min=1e-8).log()


LOSSES: Mapping[str, Callable[[Binary, torch.Tensor, torch.Tensor], torch.Tensor]] = {
    "bce": binary_cross_entropy,
    "focal": focal_loss,
    "asymmetric": asymmetric_loss,
    "logit_adjusted": logit_adjusted_loss,
}
