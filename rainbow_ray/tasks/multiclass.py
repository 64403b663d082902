"""Multi-class: one of several classes, from a logit each."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from rainbow_ray.config.schema import Config, DataConfig, TrainingConfig
from rainbow_ray.data.normalize import label_name
from rainbow_ray.data.raw_labels import LABEL_MISSING
from rainbow_ray.tasks.base import NO_METRICS, ParsedLabels, TaskDefaults
from rainbow_ray.tasks.class_labels import (
    OWN_WEIGHTS,
    RARE,
    check_policies,
    check_weights,
    counted,
    effective_weights,
    find_tiny,
    idle_keys,
    in_order,
    mapped_names,
    rename,
    say_tiny,
    settle_rare,
    weights_of,
)
from rainbow_ray.tasks.label_cells import single_labels
from rainbow_ray.utils.errors import InputError, check_choice

if TYPE_CHECKING:
    import torch

LOSSES = ("cross_entropy", "focal", "class_balanced", "logit_adjusted")
LOSS_KEYS = {"focal_gamma": "focal", "class_balanced_beta": "class_balanced", "logit_adjustment": "logit_adjusted"}
FOREIGN = ("pos_weight", "asymmetric_gamma_positive", "asymmetric_gamma_negative", "asymmetric_margin", "huber_delta",
           "target_transform")  # fmt: skip
TOP = 3
ECE_BINS = 10
LEAST_SHARE = 1e-3


@dataclass(frozen=True)
class Multiclass:
    """`classes` are known once labels were read; `weights` and `prior` once `fit` has seen the training side."""

    classes: tuple[str, ...] = ()
    loss_name: str = "cross_entropy"
    weights: tuple[float, ...] = ()
    prior: tuple[float, ...] = ()
    label_smoothing: float = 0.0
    focal_gamma: float = 2.0
    tau: float = 1.0
    tiny: tuple[str, ...] = ()  # classes of too few songs to be weighed up

    name = "multiclass"
    threshold_metrics = NO_METRICS  # the likeliest class is taken, whatever its score
    defaults = TaskDefaults("cross_entropy", "macro_f1", ("loss", "accuracy", "macro_f1", "balanced_accuracy", "mcc"))

    def __post_init__(self) -> None:
        for name in ("classes", "weights", "prior", "tiny"):  # lists, where they come from a file
            object.__setattr__(self, name, tuple(getattr(self, name)))

    @property
    def outputs(self) -> int:
        return len(self.classes)

    @property
    def metric_names(self) -> tuple[str, ...]:
        return tuple(METRICS)

    @property
    def score_names(self) -> tuple[str, ...]:
        return tuple(f"score_{name}" for name in self.classes)

    def check(self, config: Config) -> list[str]:
        training = config.training
        return [
            *check_choice("training.loss", training.loss or self.defaults.loss, LOSSES),
            *check_choice("training.metric", training.metric or self.defaults.metric, METRICS),
            *check_policies(config.data),
        ]

    def without_effect(self, config: Config) -> dict[str, str]:
        training = config.training
        idle = {f"training.{key}": f"phase {config.phase} has classes" for key in FOREIGN}
        idle |= {f"training.{k}": f"the loss is {training.loss}, not {loss}" for k, loss in LOSS_KEYS.items()
                 if training.loss != loss}  # fmt: skip
        if training.loss in OWN_WEIGHTS:
            idle["training.class_weights"] = f"the loss {training.loss} brings its own"
        return {**idle, **idle_keys(config.data), "data.target_bounds": "classes have none"}

    def parse(self, labels: pa.ChunkedArray, column: str, data: DataConfig) -> ParsedLabels:
        if pa.types.is_nested(labels.type):
            raise InputError(f"target {column!r} holds {labels.type}: for lists of classes, data.multi_label=true")
        cells = single_labels(labels, column, mapped_names(data))
        cells = cells.filled(label_name(data.null_class) if data.null_class is not None else None)
        told = rename(cells.counts, column, data)
        renamed, reasons = told.classes, told.reasons
        classes = in_order((name for name in renamed.values() if name is not None), data)
        number = {name: i for i, name in enumerate(classes)}
        # the last entry is that of missing labels, whose code is -1
        code = np.array([*(number.get(str(renamed[name]), 0) for name in cells.names), 0], dtype=np.float32)
        why = np.array([*(reasons.get(name) for name in cells.names), LABEL_MISSING], dtype=object)
        task = dataclasses.replace(self, classes=classes)
        return ParsedLabels(task, code[cells.codes], why[cells.codes], (*cells.notes, *told.notes))

    def finalize_labels(self, targets: np.ndarray, column: str, config: Config) -> ParsedLabels:
        codes = targets.astype(np.int64)
        songs = {name: int(n) for name, n in zip(self.classes, np.bincount(codes, minlength=len(self.classes)),
                                                 strict=True) if n}  # fmt: skip
        try:
            becomes, notes = settle_rare(songs, column, config.data)
        except InputError as error:  # what else is wrong is said with it
            known = in_order(songs, config.data)
            raise InputError([*error.problems, *check_weights(known, config.training.class_weights)]) from None
        classes = in_order((name for name in becomes.values() if name is not None), config.data)
        if len(classes) < 2:
            only = f"each of {sum(songs.values())} songs is {next(iter(songs))!r}" if len(songs) == 1 else notes[0]
            raise InputError(f"target {column!r} has {'one class' if classes else 'no class'} only: {only}")
        wrong = check_weights(classes, config.training.class_weights)
        if wrong:
            raise InputError(wrong)
        number = {name: i for i, name in enumerate(classes)}
        old = [becomes.get(name) for name in self.classes]
        code = np.array([0 if name is None else number[name] for name in old], dtype=np.float32)
        why = np.array([RARE if name is None else None for name in old], dtype=object)
        sizes = dict.fromkeys(classes, 0)
        for name, n in songs.items():
            if (new := becomes[name]) is not None:
                sizes[new] += n
        notes = (*notes, *say_tiny(sizes, config.training, "all classes count by their songs"))
        settled = dataclasses.replace(self, classes=classes, tiny=find_tiny(sizes))
        return ParsedLabels(settled, code[codes], why[codes], notes)

    def strata(self, targets: np.ndarray) -> np.ndarray:
        return targets.astype(np.int64)

    def one_hot(self, targets: np.ndarray) -> np.ndarray:
        return np.asarray(targets.astype(np.int64)[:, None] == np.arange(len(self.classes)))

    def fit(self, targets: np.ndarray, config: TrainingConfig) -> Multiclass:
        counts = np.bincount(targets.astype(np.int64), minlength=len(self.classes))
        if config.loss == "class_balanced":
            weights = effective_weights(counts, config.class_balanced_beta)
        elif config.loss == "logit_adjusted":
            weights = np.ones(len(self.classes), dtype=np.float32)
        else:
            weights = weights_of(self.classes, counts, config, self.tiny)
        share = np.maximum(counts / max(1, counts.sum()), LEAST_SHARE)
        return dataclasses.replace(
            self,
            loss_name=config.loss or self.defaults.loss,
            weights=tuple(weights.tolist()),
            prior=tuple((share / share.sum()).tolist()),
            label_smoothing=config.label_smoothing,
            focal_gamma=config.focal_gamma,
            tau=config.logit_adjustment,
        )

    def initial_bias(self, targets: np.ndarray) -> np.ndarray:
        # the minimum of the loss without features: log(prior × weight), which the adjustment has already added
        prior, weights = np.array(self.prior), np.maximum(self.weights, LEAST_SHARE)
        adjusted = self.tau if self.loss_name == "logit_adjusted" else 0.0
        bias = (1 - adjusted) * np.log(prior) + np.log(weights)
        return np.asarray(bias - bias.mean(), dtype=np.float32)

    def loss(self, logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        from torch.nn import functional

        codes = targets.long()
        if self.loss_name == "logit_adjusted":
            # Menon et al. 2021, eq. 10: logits grow by tau × log prior while training, and only then
            logits = logits + self.tau * logits.new_tensor(self.prior).log()
        weight = logits.new_tensor(self.weights)[codes]
        loss = weight * functional.cross_entropy(logits, codes, label_smoothing=self.label_smoothing, reduction="none")
        if self.loss_name == "focal":
            # Lin et al. 2017, eq. 4; clamped: the gradient of x^gamma at 0 is infinite for gamma below 1
            p = logits.softmax(-1).gather(-1, codes[:, None]).squeeze(-1)
            loss = loss * (1 - p).clamp(min=1e-6) ** self.focal_gamma
        return loss

    def scores(self, logits: torch.Tensor) -> torch.Tensor:
        return logits.float().softmax(-1)

    def decode_predictions(self, scores: np.ndarray) -> list[Any]:
        return [self.classes[i] for i in scores.argmax(-1)]

    def decode_targets(self, targets: np.ndarray) -> list[Any]:
        return [self.classes[i] for i in targets.astype(np.int64)]

    def describe(self, targets: np.ndarray) -> dict[str, float]:
        return dict(counted(self.decode_targets(targets)))

    def metrics(self, targets: np.ndarray, scores: np.ndarray) -> tuple[dict[str, float | None], dict[str, str]]:
        values = {name: self.metric(name, targets, scores) for name in METRICS}
        return values, {name: "no song, or one class only, among these" for name, v in values.items() if v is None}

    def metric(self, name: str, targets: np.ndarray, scores: np.ndarray) -> float | None:
        truth = targets.astype(np.int64)
        if len(truth) == 0 or (name in SEVERAL_CLASSES and (truth == truth[0]).all()):
            return None
        return float(METRICS[name](truth, scores.astype(np.float64)))

    def details(self, targets: np.ndarray, scores: np.ndarray) -> dict[str, Any]:
        truth = targets.astype(np.int64)
        table = confusion(truth, scores.argmax(-1), len(self.classes))
        hits, said, there = np.diag(table), table.sum(0), table.sum(1)
        by_class = {
            name: {"precision": ratio(hits[i], said[i]), "recall": ratio(hits[i], there[i]),
                   "f1": ratio(2 * hits[i], said[i] + there[i]), "support": int(there[i])}
            for i, name in enumerate(self.classes)
        }  # fmt: skip
        return {"classes": by_class, "confusion": table.tolist()}

    def larger_is_better(self, metric: str) -> bool:
        return metric not in SMALLER_IS_BETTER

    def perfect_scores(self, targets: np.ndarray) -> np.ndarray:
        return self.one_hot(targets).astype(np.float32)

    def to_json(self) -> Mapping[str, Any]:
        return dataclasses.asdict(self)


def confusion(truth: np.ndarray, said: np.ndarray, classes: int) -> np.ndarray:
    """How many examples of class i (row) were said to be of class j (column)."""
    return np.bincount(truth * classes + said, minlength=classes * classes).reshape(classes, classes)


def ratio(part: float, whole: float) -> float:
    return float(part / whole) if whole else 0.0


def _table(truth: np.ndarray, scores: np.ndarray) -> np.ndarray:
    return confusion(truth, scores.argmax(-1), scores.shape[1])


def _f1s(table: np.ndarray) -> np.ndarray:
    """F1 of each class that occurs: of one that does not, it cannot be defined."""
    sizes = table.sum(0) + table.sum(1)
    return np.asarray((2 * np.diag(table) / np.maximum(sizes, 1))[table.sum(1) > 0])


def _accuracy(truth: np.ndarray, scores: np.ndarray) -> float:
    return float(np.mean(scores.argmax(-1) == truth))


def _macro_f1(truth: np.ndarray, scores: np.ndarray) -> float:
    return float(np.mean(_f1s(_table(truth, scores))))


def _weighted_f1(truth: np.ndarray, scores: np.ndarray) -> float:
    table = _table(truth, scores)
    there = table.sum(1)
    return float(_f1s(table) @ there[there > 0] / there.sum())


def _balanced_accuracy(truth: np.ndarray, scores: np.ndarray) -> float:
    table = _table(truth, scores)
    there = table.sum(1)
    return float(np.mean(np.diag(table)[there > 0] / there[there > 0]))


def _mcc(truth: np.ndarray, scores: np.ndarray) -> float:
    """Gorodkin 2004: the correlation of two partitions."""
    table = _table(truth, scores).astype(np.float64)
    n, hits, there, said = table.sum(), np.trace(table), table.sum(1), table.sum(0)
    spread = (n**2 - said @ said) * (n**2 - there @ there)
    return ratio(hits * n - there @ said, float(spread) ** 0.5)


def _top(truth: np.ndarray, scores: np.ndarray) -> float:
    """Share whose class is among the three most likely (of ties, the classes that come first)."""
    best = np.argsort(-scores, axis=1, kind="stable")[:, :TOP]
    return float(np.mean((best == truth[:, None]).any(1)))


def _log_loss(truth: np.ndarray, scores: np.ndarray) -> float:
    p = scores[np.arange(len(truth)), truth] / scores.sum(1)
    return float(-np.mean(np.log(np.clip(p, 1e-7, 1.0))))


def _ece(truth: np.ndarray, scores: np.ndarray) -> float:
    """Expected calibration error of the class that is predicted, in ten equal bins (Guo et al. 2017, eq. 3)."""
    said, sure = scores.argmax(-1), scores.max(-1)
    bins = np.minimum((sure * ECE_BINS).astype(int), ECE_BINS - 1)
    gaps = np.bincount(bins, weights=(said == truth) - sure, minlength=ECE_BINS)
    return float(np.abs(gaps).sum() / len(truth))


METRICS: dict[str, Callable[[np.ndarray, np.ndarray], float]] = {
    "accuracy": _accuracy,
    "balanced_accuracy": _balanced_accuracy,
    "macro_f1": _macro_f1,
    "micro_f1": _accuracy,  # where each song has one class and gets one
    "weighted_f1": _weighted_f1,
    "mcc": _mcc,
    "top_3": _top,
    "log_loss": _log_loss,
    "ece": _ece,
}
SEVERAL_CLASSES = {"balanced_accuracy", "macro_f1", "weighted_f1", "mcc"}
SMALLER_IS_BETTER = {"loss", "log_loss", "ece"}
