"""Multi-label: any number of several classes, from a logit each that says yes or no."""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from rainbow_ray.config.schema import Config, DataConfig, TrainingConfig
from rainbow_ray.data.normalize import label_name
from rainbow_ray.data.raw_labels import LABEL_MISSING
from rainbow_ray.tasks import binary
from rainbow_ray.tasks.base import ParsedLabels, TaskDefaults, nothing_left_out
from rainbow_ray.tasks.class_labels import (
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
from rainbow_ray.tasks.label_cells import several_labels
from rainbow_ray.tasks.multiclass import FOREIGN, LEAST_SHARE, LOSS_KEYS, ratio
from rainbow_ray.utils.errors import InputError, check_choice

if TYPE_CHECKING:
    import torch

LOSSES = ("bce", "focal", "class_balanced", "logit_adjusted")
LEFT_OUT = "all its labels are left out"


@dataclass(frozen=True)
class Multilabel:
    """Targets are `(examples, classes)`, 0 or 1. `weights` (of yes) and `prior` are known after `fit`."""

    classes: tuple[str, ...] = ()
    loss_name: str = "bce"
    weights: tuple[float, ...] = ()
    prior: tuple[float, ...] = ()
    label_smoothing: float = 0.0
    focal_gamma: float = 2.0
    tau: float = 1.0
    tiny: tuple[str, ...] = ()  # classes of too few songs to be weighed up

    name = "multilabel"
    threshold_metrics = frozenset({"subset_accuracy", "hamming_loss", "macro_f1", "micro_f1", "weighted_f1"})
    defaults = TaskDefaults(
        "bce", "macro_f1", ("loss", "subset_accuracy", "macro_f1", "micro_f1", "macro_average_precision")
    )

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
        return {**idle, **idle_keys(config.data), "data.target_bounds": "classes have none"}

    def parse(self, labels: pa.ChunkedArray, column: str, data: DataConfig) -> ParsedLabels:
        lists = several_labels(labels, column, data.label_delimiter, mapped_names(data))
        if data.null_class is not None:
            lists = [[label_name(data.null_class)] if names is None else names for names in lists]
        told = rename(Counter(label for names in lists for label in names or ()), column, data)
        renamed, reasons = told.classes, told.reasons
        classes = in_order((name for name in renamed.values() if name is not None), data)
        number = {name: i for i, name in enumerate(classes)}
        targets = np.zeros((len(lists), len(classes)), dtype=np.float32)
        left_out = nothing_left_out(len(lists))
        for row, names in enumerate(lists):
            for label in names or ():
                name = renamed[label]
                if name is not None:
                    targets[row, number[name]] = 1.0
            if names and not targets[row].any():
                left_out[row] = reasons.get(names[0], LEFT_OUT)
            if names is None:
                left_out[row] = LABEL_MISSING
        return ParsedLabels(dataclasses.replace(self, classes=classes), targets, left_out, told.notes)

    def finalize_labels(self, targets: np.ndarray, column: str, config: Config) -> ParsedLabels:
        songs = {name: int(n) for name, n in zip(self.classes, targets.sum(0), strict=True) if n}
        becomes, notes = settle_rare(songs, column, config.data)
        classes = in_order((name for name in becomes.values() if name is not None), config.data)
        problems = check_weights(classes, config.training.class_weights)
        if not classes:
            problems.append(f"target {column!r} has no class of enough songs: {', '.join(notes) or 'no song has any'}")
        settled = np.zeros((len(targets), len(classes)), dtype=np.float32)
        for i, old in enumerate(self.classes):
            name = becomes.get(old)
            if name is not None:
                column_of = settled[:, classes.index(name)]
                np.maximum(column_of, targets[:, i], out=column_of)
        problems += [f"target {column!r}: every song has {name!r}, so there is nothing to tell"
                     for i, name in enumerate(classes) if settled[:, i].all()]  # fmt: skip
        if problems:
            raise InputError(problems)
        lost = (targets.sum(axis=1) > 0) & (settled.sum(axis=1) == 0)
        left_out = nothing_left_out(len(targets))
        left_out[lost] = RARE
        sizes = {name: int(n) for name, n in zip(classes, settled.sum(0), strict=True)}
        notes = (*notes, *say_tiny(sizes, config.training, "they weigh no more than others"))
        task = dataclasses.replace(self, classes=classes, tiny=find_tiny(sizes))
        return ParsedLabels(task, settled, left_out, notes)

    def strata(self, targets: np.ndarray) -> np.ndarray:
        """The rarest class that a song has (0: none), so that no fold is without it."""
        order = np.argsort(targets.sum(0), kind="stable")
        return np.where(targets.any(axis=1), 1 + order[targets[:, order].argmax(axis=1)], 0)

    def one_hot(self, targets: np.ndarray) -> np.ndarray:
        return np.asarray(targets > 0.5)

    def fit(self, targets: np.ndarray, config: TrainingConfig) -> Multilabel:
        counts = targets.sum(0)
        share = np.clip(counts / max(1, len(targets)), LEAST_SHARE, 1 - LEAST_SHARE)
        if config.loss == "class_balanced":
            weights = effective_weights(counts, config.class_balanced_beta)
        elif config.class_weights in ("auto", "balanced") and config.loss != "logit_adjusted":
            weighed = [config.class_weights == "balanced" or name not in self.tiny for name in self.classes]
            weights = np.where((counts > 0) & weighed, (1 - share) / share, 1.0)
        elif config.loss == "logit_adjusted":
            weights = np.ones(len(counts))
        else:
            weights = weights_of(self.classes, counts, config)
        return dataclasses.replace(
            self,
            loss_name=config.loss or self.defaults.loss,
            weights=tuple(np.asarray(weights, dtype=np.float32).tolist()),
            prior=tuple(share.astype(np.float32).tolist()),
            label_smoothing=config.label_smoothing,
            focal_gamma=config.focal_gamma,
            tau=config.logit_adjustment,
        )

    def initial_bias(self, targets: np.ndarray) -> np.ndarray:
        prior = np.array(self.prior)
        adjusted = self.tau if self.loss_name == "logit_adjusted" else 0.0
        bias = (1 - adjusted) * np.log(prior / (1 - prior)) + np.log(np.maximum(self.weights, LEAST_SHARE))
        return np.asarray(bias, dtype=np.float32)

    def loss(self, logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        """The mean over classes, so that a learning rate means the same for three of them and for thirty."""
        from torch.nn import functional

        if self.loss_name == "logit_adjusted":
            prior = logits.new_tensor(self.prior)
            logits = logits + self.tau * (prior / (1 - prior)).log()
        smooth = targets * (1 - self.label_smoothing) + 0.5 * self.label_smoothing
        weight = logits.new_tensor(self.weights)
        loss = functional.binary_cross_entropy_with_logits(logits, smooth, pos_weight=weight, reduction="none")
        if self.loss_name == "focal":
            p = logits.sigmoid()
            loss = loss * (targets * (1 - p) + (1 - targets) * p).clamp(min=1e-6) ** self.focal_gamma
        return loss.mean(-1)

    def scores(self, logits: torch.Tensor) -> torch.Tensor:
        return logits.float().sigmoid()

    def decode_predictions(self, scores: np.ndarray) -> list[Any]:
        return self.decode_targets(scores > binary.THRESHOLD)

    def decode_targets(self, targets: np.ndarray) -> list[Any]:
        return [tuple(self.classes[i] for i in np.flatnonzero(row > 0.5)) for row in np.asarray(targets)]

    def describe(self, targets: np.ndarray) -> dict[str, float]:
        counts = counted(name for names in self.decode_targets(targets) for name in names)
        none = int((~targets.any(axis=1)).sum())
        return {**counts, **({"none of them": none} if none else {})}

    def metrics(self, targets: np.ndarray, scores: np.ndarray) -> tuple[dict[str, float | None], dict[str, str]]:
        values = {name: self.metric(name, targets, scores) for name in METRICS}
        return values, {name: "no class has both songs with it and without it" for name, v in values.items()
                        if v is None}  # fmt: skip

    def metric(self, name: str, targets: np.ndarray, scores: np.ndarray) -> float | None:
        truth = targets > 0.5
        if len(truth) == 0:
            return None
        told = np.logical_and(truth.any(axis=0), ~truth.all(axis=0))
        if name.startswith("macro") and not told.any():
            return None
        return float(METRICS[name](truth, scores.astype(np.float64), scores > binary.THRESHOLD, told))

    def details(self, targets: np.ndarray, scores: np.ndarray) -> dict[str, Any]:
        truth, said = targets > 0.5, scores > binary.THRESHOLD
        hits, predicted, there = (truth & said).sum(0), said.sum(0), truth.sum(0)
        return {"classes": {
            name: {"precision": ratio(hits[i], predicted[i]), "recall": ratio(hits[i], there[i]),
                   "f1": ratio(2 * hits[i], predicted[i] + there[i]), "support": int(there[i])}
            for i, name in enumerate(self.classes)
        }}  # fmt: skip

    def larger_is_better(self, metric: str) -> bool:
        return metric not in SMALLER_IS_BETTER

    def perfect_scores(self, targets: np.ndarray) -> np.ndarray:
        return self.one_hot(targets).astype(np.float32)

    def to_json(self) -> Mapping[str, Any]:
        return dataclasses.asdict(self)


Truth = np.ndarray
Measure = Callable[[Truth, np.ndarray, np.ndarray, np.ndarray], float]  # truth, scores, said, classes that can be told


def _macro_f1(truth: Truth, scores: np.ndarray, said: np.ndarray, told: np.ndarray) -> float:
    hits, sizes = (truth & said).sum(0), truth.sum(0) + said.sum(0)
    return float(np.mean((2 * hits / np.maximum(sizes, 1))[told]))


def _micro_f1(truth: Truth, scores: np.ndarray, said: np.ndarray, told: np.ndarray) -> float:
    return ratio(2 * int((truth & said).sum()), int(truth.sum() + said.sum()))


def _weighted_f1(truth: Truth, scores: np.ndarray, said: np.ndarray, told: np.ndarray) -> float:
    hits, sizes, there = (truth & said).sum(0), truth.sum(0) + said.sum(0), truth.sum(0)
    return ratio(float((2 * hits / np.maximum(sizes, 1)) @ there), float(there.sum()))


def _macro_average_precision(truth: Truth, scores: np.ndarray, said: np.ndarray, told: np.ndarray) -> float:
    measure = binary.METRICS["average_precision"]
    return float(np.mean([measure(truth[:, i], scores[:, i]) for i in np.flatnonzero(told)]))


def _log_loss(truth: Truth, scores: np.ndarray, said: np.ndarray, told: np.ndarray) -> float:
    return binary.METRICS["log_loss"](truth.ravel(), scores.ravel())


METRICS: dict[str, Measure] = {
    "subset_accuracy": lambda truth, scores, said, told: float(np.mean((truth == said).all(axis=1))),
    "hamming_loss": lambda truth, scores, said, told: float(np.mean(truth != said)),
    "macro_f1": _macro_f1,
    "micro_f1": _micro_f1,
    "weighted_f1": _weighted_f1,
    "macro_average_precision": _macro_average_precision,
    "log_loss": _log_loss,
    "ece": lambda truth, scores, said, told: binary.METRICS["ece"](truth.ravel(), scores.ravel()),
}
SMALLER_IS_BETTER = {"loss", "hamming_loss", "log_loss", "ece"}
