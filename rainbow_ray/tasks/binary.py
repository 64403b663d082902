"""Binary: yes or no, from one logit."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from rainbow_ray.config.schema import Config, DataConfig, TrainingConfig
from rainbow_ray.data.normalize import is_string_type, label_name, scalar_text
from rainbow_ray.data.raw_labels import LABEL_MISSING
from rainbow_ray.tasks.base import ParsedLabels, TaskDefaults, nothing_left_out
from rainbow_ray.tasks.class_labels import MAPPED_AWAY, POLICIES, SHOWN, UNKNOWN
from rainbow_ray.tasks.label_cells import single_labels, without_missing_words
from rainbow_ray.utils.errors import InputError, check_choice

if TYPE_CHECKING:
    import torch

THRESHOLD = 0.5
LEAST_SHARE = 1e-3
TRUE_WORDS = frozenset({"true", "t", "yes", "y", "1", "on", "positive", "pos"})
FALSE_WORDS = frozenset({"false", "f", "no", "n", "0", "off", "negative", "neg"})
EXPECTED = "true/false, yes/no, y/n, t/f, positive/negative, on/off or 1/0, in any case"
LOSSES = ("bce", "focal", "asymmetric", "logit_adjusted")
LOSS_KEYS = {
    "focal_gamma": "focal",
    "asymmetric_gamma_positive": "asymmetric",
    "asymmetric_gamma_negative": "asymmetric",
    "asymmetric_margin": "asymmetric",
    "logit_adjustment": "logit_adjusted",
}
FOREIGN = {
    "training.class_weights": "two classes have training.pos_weight",
    "training.class_balanced_beta": "only for several classes",
    "training.target_transform": "only for numbers",
    "training.huber_delta": "only for numbers",
    "data.target_bounds": "only for numbers",
    **{
        f"data.{key}": "only for several classes"
        for key in (
            "label_delimiter",
            "null_class",
            "rare_classes",
            "min_songs_per_class",
        )
    },
}
ECE_BINS = 10
NEEDS_BOTH = "only one class among these songs"


@dataclass(frozen=True)
class Binary:
    """`pos_weight` is known once `fit` has seen the training side."""

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
    outputs = 1
    score_names = ("score",)
    threshold_metrics = frozenset({"accuracy", "balanced_accuracy", "precision", "recall", "f1", "macro_f1", "mcc"})
    defaults = TaskDefaults("bce", "macro_f1", ("loss", "accuracy", "macro_f1", "average_precision_rarer", "mcc"))

    @property
    def metric_names(self) -> tuple[str, ...]:
        return tuple(METRICS)

    def check(self, config: Config) -> list[str]:
        training = config.training
        return [
            *check_choice("training.loss", training.loss or self.defaults.loss, LOSSES),
            *check_choice("training.metric", training.metric or self.defaults.metric, METRICS),
            *_check_mapping(config.data),
        ]

    def without_effect(self, config: Config) -> dict[str, str]:
        loss = config.training.loss
        idle = {f"training.{k}": f"the loss is {loss}, not {own}" for k, own in LOSS_KEYS.items() if loss != own}
        if loss == "logit_adjusted":
            idle["training.pos_weight"] = "the loss logit_adjusted brings its own"
        if config.data.class_mapping is None:
            idle["data.unknown_classes"] = "there is no data.class_mapping"
        return {**idle, **FOREIGN}

    def parse(self, labels: pa.ChunkedArray, column: str, data: DataConfig) -> ParsedLabels:
        if pa.types.is_nested(labels.type):
            raise InputError(f"target {column!r} holds {labels.type}, and a song has one label; name another with"
                             " data.target_column")  # fmt: skip
        mapping = {label_name(label): value for label, value in (data.class_mapping or {}).items()}
        cells = without_missing_words(single_labels(labels, column, mapping), column, mapping)
        targets, reasons, wrong = [], [], []
        for name in cells.names:
            mapped = mapping.get(name, name)
            target = as_bool(mapped)
            drops = data.class_mapping is not None and data.unknown_classes == "drop"
            reasons.append(MAPPED_AWAY if mapped is None else UNKNOWN if target is None and drops else None)
            wrong += [name] if target is None and reasons[-1] is None else []
            targets.append(float(target or False))
        if wrong:
            quote = repr if is_string_type(labels.type) else str
            listed = ", ".join(map(quote, sorted(wrong)[:SHOWN]))
            more = f" and {len(wrong) - SHOWN} more" if len(wrong) > SHOWN else ""
            raise InputError(f"target {column!r} is not boolean: {listed}{more} (expected {EXPECTED}); map its labels"
                             ' with data.class_mapping={label: "true", other: "false"}, or name another with'
                             " data.target_column")  # fmt: skip
        # the last entry is that of missing labels, whose code is -1
        why = np.array([*reasons, LABEL_MISSING], dtype=object)[cells.codes]
        return ParsedLabels(self, np.array([*targets, 0.0], dtype=np.float32)[cells.codes], why, cells.notes)

    def finalize_labels(self, targets: np.ndarray, column: str, config: Config) -> ParsedLabels:
        if len(np.unique(targets)) < 2:
            only = bool(targets[0])
            raise InputError(f"target {column!r} has one class only: each of {len(targets)} songs is {only}")
        return ParsedLabels(self, targets, nothing_left_out(len(targets)))

    def strata(self, targets: np.ndarray) -> np.ndarray:
        return targets.astype(np.int64)

    def one_hot(self, targets: np.ndarray) -> np.ndarray:
        return np.asarray(targets[:, None] > 0.5)

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
            prior=float(np.clip(positives / max(1, len(targets)), LEAST_SHARE, 1 - LEAST_SHARE)),
            tau=config.logit_adjustment,
        )

    def initial_bias(self, targets: np.ndarray) -> np.ndarray:
        # the minimum of the weighted loss without features: logit(p) + log(pos_weight)
        share = np.clip(targets.mean(), LEAST_SHARE, 1 - LEAST_SHARE)
        adjusted = self.tau if self.loss_name == "logit_adjusted" else 0.0
        bias = (1 - adjusted) * np.log(share / (1 - share)) + np.log(self.pos_weight)
        return np.array([bias], dtype=np.float32)

    def loss(self, logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        from torch.nn import functional

        logit = logits.squeeze(-1)
        if self.loss_name == "logit_adjusted":
            # Menon et al. 2021, eq. 10, of two classes: the logit grows while training, and only then
            logit = logit + self.tau * float(np.log(self.prior / (1 - self.prior)))
        smooth = targets * (1 - self.label_smoothing) + 0.5 * self.label_smoothing
        if self.loss_name == "asymmetric":
            return self._asymmetric(logit, smooth)
        weight = logit.new_tensor(self.pos_weight)
        loss = functional.binary_cross_entropy_with_logits(logit, smooth, pos_weight=weight, reduction="none")
        if self.loss_name == "focal":
            # Lin et al. 2017, eq. 4: what is right already weighs (1 - p_t)^gamma
            p = logit.sigmoid()
            # clamped: the gradient of x^gamma at 0 is infinite for gamma below 1
            loss = loss * (targets * (1 - p) + (1 - targets) * p).clamp(min=1e-6) ** self.focal_gamma
        return loss

    def _asymmetric(self, logit: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        """Ridnik et al. 2021, eq. 7: own exponents for the two classes, easy negatives shifted to nothing."""
        p = logit.sigmoid()
        shifted = (p - self.margin).clamp(min=0)
        positive = (1 - p) ** self.gamma_positive * _log(p)
        negative = shifted**self.gamma_negative * _log(1 - shifted)
        return -(targets * self.pos_weight * positive + (1 - targets) * negative)

    def scores(self, logits: torch.Tensor) -> torch.Tensor:
        return logits.float().sigmoid().squeeze(-1)

    def decode_predictions(self, scores: np.ndarray) -> list[Any]:
        decided: list[Any] = (scores > THRESHOLD).tolist()
        return decided

    def decode_targets(self, targets: np.ndarray) -> list[Any]:
        return self.decode_predictions(targets)

    def describe(self, targets: np.ndarray) -> dict[str, float]:
        values, counts = np.unique(targets, return_counts=True)
        return {str(told): int(n) for told, n in zip(self.decode_targets(values), counts, strict=True)}

    def metrics(self, targets: np.ndarray, scores: np.ndarray) -> tuple[dict[str, float | None], dict[str, str]]:
        values = {name: self.metric(name, targets, scores) for name in METRICS}
        return values, {name: NEEDS_BOTH for name, value in values.items() if value is None}

    def metric(self, name: str, targets: np.ndarray, scores: np.ndarray) -> float | None:
        truth = targets > 0.5
        if len(truth) == 0 or (name in BOTH_CLASSES and truth.all() == truth.any()):
            return None
        return float(METRICS[name](truth, scores.astype(np.float64)))

    def details(self, targets: np.ndarray, scores: np.ndarray) -> dict[str, Any]:
        if len(targets) == 0:
            return {}
        tp, fp, fn, tn = _counts(targets > 0.5, scores.astype(np.float64))
        return {"confusion": [[tn, fp], [fn, tp]]}

    def larger_is_better(self, metric: str) -> bool:
        return metric not in SMALLER_IS_BETTER

    def perfect_scores(self, targets: np.ndarray) -> np.ndarray:
        return targets

    def to_json(self) -> dict[str, Any]:
        return dataclasses.asdict(self)


def _check_mapping(data: DataConfig) -> list[str]:
    """What is wrong with a mapping of labels to true and false, and with what becomes of other labels."""
    problems = [*check_choice("data.unknown_classes", data.unknown_classes, POLICIES)]
    if data.class_mapping is None:
        return problems
    problems += [f"data.class_mapping: {label!r} is mapped to {value!r}, and a binary target is true or false"
                 for label, value in data.class_mapping.items() if value is not None and as_bool(value) is None
                 ]  # fmt: skip
    if data.unknown_classes == "other":
        problems.append("data.unknown_classes: a binary target has no class for others; error or drop")
    return problems


def as_bool(label: str | int | None) -> bool | None:
    """Return the truth that a word or a number (`yes`, `F`, `1.0`) stands for, None where it is neither."""
    word = (scalar_text(label) or "").strip().casefold()
    word = word.removesuffix(".0")
    return True if word in TRUE_WORDS else False if word in FALSE_WORDS else None


def _log(p: torch.Tensor) -> torch.Tensor:
    return p.clamp(min=1e-8).log()


# Definitions as in scikit-learn, against which the tests hold them. Its own functions spend milliseconds on checking
# their input, and an interval over songs calls each metric a thousand times.


def _counts(truth: np.ndarray, scores: np.ndarray) -> tuple[int, int, int, int]:
    """True positives, false positives, false negatives, true negatives."""
    said = scores > THRESHOLD
    hits = int(np.count_nonzero(said & truth))
    positives, predicted = int(np.count_nonzero(truth)), int(np.count_nonzero(said))
    return hits, predicted - hits, positives - hits, len(truth) - predicted - positives + hits


def _ratio(part: float, whole: float) -> float:
    return part / whole if whole else 0.0


def _accuracy(truth: np.ndarray, scores: np.ndarray) -> float:
    return float(np.mean((scores > THRESHOLD) == truth))


def _balanced_accuracy(truth: np.ndarray, scores: np.ndarray) -> float:
    tp, fp, fn, tn = _counts(truth, scores)
    return (tp / (tp + fn) + tn / (tn + fp)) / 2


def _precision(truth: np.ndarray, scores: np.ndarray) -> float:
    tp, fp, _, _ = _counts(truth, scores)
    return _ratio(tp, tp + fp)


def _recall(truth: np.ndarray, scores: np.ndarray) -> float:
    tp, _, fn, _ = _counts(truth, scores)
    return _ratio(tp, tp + fn)


def _f1(truth: np.ndarray, scores: np.ndarray) -> float:
    tp, fp, fn, _ = _counts(truth, scores)
    return _ratio(2 * tp, 2 * tp + fp + fn)


def _macro_f1(truth: np.ndarray, scores: np.ndarray) -> float:
    tp, fp, fn, tn = _counts(truth, scores)
    return (_ratio(2 * tp, 2 * tp + fp + fn) + _ratio(2 * tn, 2 * tn + fp + fn)) / 2


def _mcc(truth: np.ndarray, scores: np.ndarray) -> float:
    tp, fp, fn, tn = _counts(truth, scores)
    return _ratio(tp * tn - fp * fn, float((tp + fp) * (tp + fn) * (tn + fp) * (tn + fn)) ** 0.5)


def _roc_auc(truth: np.ndarray, scores: np.ndarray) -> float:
    """The Mann-Whitney U of the two classes, over its largest value; ties count a half."""
    from scipy.stats import rankdata

    positives = int(np.count_nonzero(truth))
    rank_sum = float(rankdata(scores)[truth].sum())
    return (rank_sum - positives * (positives + 1) / 2) / (positives * (len(truth) - positives))


def _average_precision(truth: np.ndarray, scores: np.ndarray) -> float:
    """Σ (recall gained at a threshold) × precision there, over distinct scores from the highest on."""
    order = np.argsort(-scores, kind="stable")
    hits = np.cumsum(truth[order])
    last_of_tie = np.append(np.flatnonzero(np.diff(scores[order])), len(scores) - 1)
    precision = hits[last_of_tie] / (last_of_tie + 1)
    return float(np.sum(np.diff(hits[last_of_tie], prepend=0) * precision) / hits[-1])


def _average_precision_rarer(truth: np.ndarray, scores: np.ndarray) -> float:
    return _average_precision(truth, scores) if truth.mean() <= 0.5 else _average_precision(~truth, -scores)


def _brier(truth: np.ndarray, scores: np.ndarray) -> float:
    return float(np.mean((scores - truth) ** 2))


def _log_loss(truth: np.ndarray, scores: np.ndarray) -> float:
    p = np.clip(scores, 1e-7, 1 - 1e-7)
    return float(-np.mean(np.where(truth, np.log(p), np.log(1 - p))))


def _ece(truth: np.ndarray, scores: np.ndarray) -> float:
    """Expected calibration error of P(True), in ten equal bins (Naeini et al. 2015)."""
    bins = np.minimum((scores * ECE_BINS).astype(int), ECE_BINS - 1)
    gaps = np.bincount(bins, weights=truth - scores, minlength=ECE_BINS)
    return float(np.abs(gaps).sum() / len(truth))


METRICS: dict[str, Callable[[np.ndarray, np.ndarray], float]] = {
    "accuracy": _accuracy,
    "balanced_accuracy": _balanced_accuracy,
    "precision": _precision,
    "recall": _recall,
    "f1": _f1,
    "macro_f1": _macro_f1,
    "mcc": _mcc,
    "roc_auc": _roc_auc,
    "average_precision": _average_precision,
    "average_precision_rarer": _average_precision_rarer,
    "brier": _brier,
    "log_loss": _log_loss,
    "ece": _ece,
}
BOTH_CLASSES = {"balanced_accuracy", "recall", "f1", "macro_f1", "mcc", "roc_auc", "average_precision",
                "average_precision_rarer"}  # fmt: skip
SMALLER_IS_BETTER = {"loss", "brier", "log_loss", "ece"}
