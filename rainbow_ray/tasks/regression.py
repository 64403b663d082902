"""Regression: a number, from one logit on a transformed scale, or from two where many songs have none of it."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from decimal import Context, Decimal
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from rainbow_ray.config.schema import Config, DataConfig, TrainingConfig
from rainbow_ray.data.normalize import decode_storage, id_column, is_bytes_type, is_string_type
from rainbow_ray.data.raw_labels import LABEL_MISSING
from rainbow_ray.tasks.base import NO_METRICS, ParsedLabels, TaskDefaults, nothing_left_out
from rainbow_ray.tasks.label_cells import single_labels, without_missing_words
from rainbow_ray.utils.errors import InputError, check_choice
from rainbow_ray.utils.number_format import rounded_alike

if TYPE_CHECKING:
    import torch

LOSSES = ("huber", "mse", "mae", "zero_inflated")
TRANSFORMS = ("none", "standardise", "log1p")
STRATA = 4  # quarters of the songs that are not at the most frequent value
FOREIGN = ("pos_weight", "class_weights", "label_smoothing", "focal_gamma", "class_balanced_beta", "logit_adjustment",
           "asymmetric_gamma_positive", "asymmetric_gamma_negative", "asymmetric_margin")  # fmt: skip
CLASS_KEYS = ("multi_label", "label_delimiter", "class_mapping", "unknown_classes", "null_class", "rare_classes",
              "min_songs_per_class")  # fmt: skip
SHOWN = 5
LARGEST = float(np.finfo(np.float32).max)
EXACT = 2.0**53  # from here on float64 has no more room for each whole number
MAX_DIGITS = 100


@dataclass(frozen=True)
class Regression:
    """`shift`, `scale`, `low` and `high` are known once `fit` has seen the training side.

    A target y is learned as `(t(y) - shift) / scale`, t being log(1 + y) or nothing. Targets and scores are float64,
    since float32 cannot tell large numbers apart that lie close together; only what is learned is narrowed. With two
    outputs (zero_inflated) the first is the logit of "not zero", the second what the number is then.
    """

    loss_name: str = "huber"
    transform: str = "standardise"
    shift: float = 0.0
    scale: float = 1.0
    low: float | None = None
    high: float | None = None
    delta: float = 1.0

    name = "regression"
    defaults = TaskDefaults("huber", "mae", ("loss", "mae", "rmse", "r2", "spearman"))
    score_names = ("score",)
    threshold_metrics = NO_METRICS

    @property
    def outputs(self) -> int:
        return 2 if self.loss_name == "zero_inflated" else 1

    @property
    def metric_names(self) -> tuple[str, ...]:
        return tuple(METRICS)

    def check(self, config: Config) -> list[str]:
        training = config.training
        problems = [
            *check_choice("training.loss", training.loss or self.defaults.loss, LOSSES),
            *check_choice("training.metric", training.metric or self.defaults.metric, METRICS),
            *check_choice("training.target_transform", training.target_transform, TRANSFORMS),
        ]
        low, high = config.data.target_bounds or (None, None)
        if low is not None and high is not None and low >= high:
            problems.append(f"data.target_bounds: [{low:g}, {high:g}] leaves no room")
        if training.sampling != "none":
            problems.append(
                f"training.sampling: {training.sampling} balances classes, and phase {config.phase} has none"
            )
        return problems

    def without_effect(self, config: Config) -> dict[str, str]:
        idle = {f"training.{key}": f"phase {config.phase} predicts a number" for key in FOREIGN}
        idle |= {f"data.{key}": f"phase {config.phase} predicts a number" for key in CLASS_KEYS}
        if config.training.loss not in ("huber", "zero_inflated"):
            idle["training.huber_delta"] = f"the loss is {config.training.loss}"
        return idle

    def parse(self, labels: pa.ChunkedArray, column: str, data: DataConfig) -> ParsedLabels:
        plain = decode_storage(labels.combine_chunks())
        if pa.types.is_boolean(plain.type) or pa.types.is_nested(plain.type):
            raise InputError(f"target {column!r} holds {plain.type}, not numbers; name another with data.target_column")
        left_out = nothing_left_out(len(plain))
        notes: tuple[str, ...] = ()
        if is_string_type(plain.type) or is_bytes_type(plain.type):
            targets, notes = _numbers_of_texts(labels, column)
            left_out[np.isnan(targets)] = LABEL_MISSING
            targets = np.nan_to_num(targets, nan=0.0, posinf=np.inf, neginf=-np.inf)
        elif pa.types.is_decimal(plain.type):
            targets = np.array([float(value) for value in plain.to_pylist()])  # pyarrow's cast rounds otherwise
        else:
            try:
                targets = plain.cast(pa.float64(), safe=False).to_numpy(zero_copy_only=False)
            except (pa.ArrowInvalid, pa.ArrowNotImplementedError) as error:
                raise InputError(f"target {column!r} holds {plain.type}, not numbers; name another with"
                                 " data.target_column") from error  # fmt: skip
        notes = (*notes, *_rounded(plain, targets, column))
        endless = int((~(np.abs(targets) <= LARGEST)).sum())
        if endless:
            raise InputError(f"target {column!r} is infinite, or too large (above {LARGEST:.1e}), in {endless} rows")
        low, high = data.target_bounds or (None, None)
        task = dataclasses.replace(self, low=low, high=high)
        return ParsedLabels(task, targets, left_out, notes)

    def finalize_labels(self, targets: np.ndarray, column: str, config: Config) -> ParsedLabels:
        problems = []
        low, high = self.low, self.high
        if len(np.unique(targets)) < 2:
            problems.append(
                f"target {column!r} is {float(targets[0])!r} on each of {len(targets)} songs: nothing to learn"
            )
        for bound, outside in ((low, low is not None and targets < low), (high, high is not None and targets > high)):
            if np.any(outside):
                problems.append(f"target {column!r} is outside data.target_bounds ({bound!r}) on {int(np.sum(outside))}"
                                f" songs, such as {float(targets[np.flatnonzero(outside)[0]])!r}")  # fmt: skip
        if config.training.target_transform == "log1p" and (targets < 0).any():
            problems.append(f"training.target_transform: log1p needs numbers from 0 on, and target {column!r} goes down"
                            f" to {float(targets.min())!r}")  # fmt: skip
        if problems:
            raise InputError(problems)
        notes = _narrowed(targets, column) if config.training.target_transform == "none" else ()
        return ParsedLabels(self, targets, nothing_left_out(len(targets)), notes)

    def strata(self, targets: np.ndarray) -> np.ndarray:
        """The most frequent value for itself where a tenth of the songs has it, the others in quarters."""
        values, counts = np.unique(targets, return_counts=True)
        common = values[counts.argmax()] if counts.max() >= 0.1 * len(targets) and len(values) > STRATA else np.nan
        rest = targets != common
        if not rest.any():
            return np.zeros(len(targets), dtype=np.int64)
        cuts = np.unique(np.quantile(targets[rest], np.arange(1, STRATA) / STRATA))
        return np.where(rest, 1 + np.searchsorted(cuts, targets, side="right"), 0)

    def one_hot(self, targets: np.ndarray) -> np.ndarray:
        strata = self.strata(targets)
        return np.asarray(strata[:, None] == np.unique(strata))

    def fit(self, targets: np.ndarray, config: TrainingConfig) -> Regression:
        loss, kind = config.loss or self.defaults.loss, config.target_transform
        targets = targets.astype(np.float64)
        learned = targets[targets != 0] if loss == "zero_inflated" else targets
        if kind == "log1p":
            learned = np.log1p(learned)
        shift, scale = 0.0, 1.0
        if kind != "none" and len(learned):
            spread = standard_deviation(learned)
            shift, scale = float(learned.mean()), spread if spread > 0 else 1.0
        return dataclasses.replace(self, loss_name=loss, transform=kind, shift=shift, scale=scale,
                                   delta=config.huber_delta)  # fmt: skip

    def initial_bias(self, targets: np.ndarray) -> np.ndarray:
        if self.loss_name != "zero_inflated":
            learned = self._forward(targets.astype(np.float64))
            centre = np.mean(learned) if self.loss_name == "mse" else np.median(learned)
            return np.array([centre], dtype=np.float32)
        there = targets[targets != 0].astype(np.float64)
        share = np.clip(len(there) / max(1, len(targets)), 1e-3, 1 - 1e-3)
        value = float(np.median(self._forward(there))) if len(there) else 0.0
        return np.array([np.log(share / (1 - share)), value], dtype=np.float32)

    def loss(self, logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        from torch.nn import functional

        # on Apple's GPUs there is no float64: targets come narrowed there
        exact = targets if targets.device.type == "mps" else targets.double()
        wanted = exact.log1p() if self.transform == "log1p" else exact
        wanted = ((wanted - self.shift) / self.scale).to(logits.dtype)
        if self.loss_name == "mse":
            return (logits[:, 0] - wanted) ** 2
        if self.loss_name == "mae":
            return (logits[:, 0] - wanted).abs()
        if self.loss_name == "huber":
            return functional.huber_loss(logits[:, 0], wanted, delta=self.delta, reduction="none")
        # a hurdle (Cragg 1971): whether there is anything, and how much where there is
        there = (targets != 0).to(logits.dtype)
        hurdle = functional.binary_cross_entropy_with_logits(logits[:, 0], there, reduction="none")
        amount = functional.huber_loss(logits[:, 1], wanted, delta=self.delta, reduction="none")
        return hurdle + there * amount

    def scores(self, logits: torch.Tensor) -> torch.Tensor:
        import torch

        logits = logits.float()
        logits = logits.cpu() if logits.device.type == "mps" else logits  # which has no float64
        # as tensors: exporters of graphs narrow plain numbers to float32
        exact = functools.partial(torch.tensor, dtype=torch.float64, device=logits.device)
        value = logits[:, -1].double() * exact(self.scale) + exact(self.shift)
        if self.transform == "log1p":
            # exp overflows at 88; a number that large was never learned
            value = value.clamp(max=80.0).expm1()
        if self.loss_name == "zero_inflated":
            # the median of the mixture, as the other losses aim at: nothing where nothing is the likelier
            value = torch.where(logits[:, 0] > 0, value, torch.zeros_like(value))
        value = torch.maximum(value, exact(self.low)) if self.low is not None else value
        return torch.minimum(value, exact(self.high)) if self.high is not None else value

    def decode_predictions(self, scores: np.ndarray) -> list[Any]:
        return [float(score) for score in scores]

    def decode_targets(self, targets: np.ndarray) -> list[Any]:
        return [float(target) for target in targets]

    def describe(self, targets: np.ndarray) -> dict[str, float]:
        cuts = {"least": 0.0, "quarter": 0.25, "median": 0.5, "three quarters": 0.75, "most": 1.0}
        values = [float(np.quantile(targets, at)) for at in cuts.values()]
        spread = dict(zip(cuts, rounded_alike(values), strict=True))
        return {**spread, "share of 0": round(float(np.mean(targets == 0)), 4)}

    def metrics(self, targets: np.ndarray, scores: np.ndarray) -> tuple[dict[str, float | None], dict[str, str]]:
        values = {name: self.metric(name, targets, scores) for name in METRICS}
        return values, {name: "the numbers, or the predictions, do not vary" for name, v in values.items() if v is None}

    def metric(self, name: str, targets: np.ndarray, scores: np.ndarray) -> float | None:
        truth, said = targets.astype(np.float64), scores.astype(np.float64)
        if len(truth) == 0 or (name in NEEDS_SPREAD and (truth == truth[0]).all()):
            return None
        if name in CORRELATIONS and (said == said[0]).all():
            return None
        # in units of the largest target: squares of very small or large numbers leave the range of float64
        unit = float(np.abs(truth).max()) or 1.0
        value = float(METRICS[name](truth / unit, said / unit))
        return value * unit if name in IN_UNITS else value

    def details(self, targets: np.ndarray, scores: np.ndarray) -> dict[str, Any]:
        return {}

    def larger_is_better(self, metric: str) -> bool:
        return metric not in SMALLER_IS_BETTER

    def perfect_scores(self, targets: np.ndarray) -> np.ndarray:
        return targets

    def to_json(self) -> Mapping[str, Any]:
        return dataclasses.asdict(self)

    def _forward(self, targets: np.ndarray) -> np.ndarray:
        return ((np.log1p(targets) if self.transform == "log1p" else targets) - self.shift) / self.scale


def standard_deviation(values: np.ndarray) -> float:
    """Return the standard deviation of numbers of any size, whose squares may leave the range of float64."""
    unit = float(np.abs(values).max()) or 1.0
    return float((values / unit).std()) * unit


def _numbers_of_texts(labels: pa.ChunkedArray, column: str) -> tuple[np.ndarray, tuple[str, ...]]:
    """Numbers that are written as text, `(rows,)`, float64, NaN where there is none; and what is to be said of it."""
    cells = without_missing_words(single_labels(labels, column), column)
    numbers = [_number(name) for name in cells.names]
    wrong = sorted(name for name, number in zip(cells.names, numbers, strict=True) if number is None)
    if wrong:
        more = f" and {len(wrong) - SHOWN} more" if len(wrong) > SHOWN else ""
        raise InputError(f"target {column!r} is not a number: {', '.join(map(repr, wrong[:SHOWN]))}{more}; name"
                         " another with data.target_column")  # fmt: skip
    return np.array([*numbers, np.nan], dtype=np.float64)[cells.codes], cells.notes  # -1 is a missing one


def _narrowed(targets: np.ndarray, column: str) -> tuple[str, ...]:
    """A warning where numbers that are learned as they are, in float32, are fewer there."""
    values, kept = len(np.unique(targets)), len(np.unique(targets.astype(np.float32)))
    if kept == values:
        return ()
    return (f"training.target_transform: none learns {column!r} in float32, in which {values} different values are"
            f" {kept}; standardise keeps them apart",)  # fmt: skip


def _rounded(labels: pa.Array, targets: np.ndarray, column: str) -> tuple[str, ...]:
    """A warning where numbers that differ are one in float64."""
    kind = labels.type
    if pa.types.is_floating(kind) or (np.abs(targets) < EXACT).all():
        return ()
    texts = set(id_column(labels).drop_null().to_pylist())
    if is_string_type(kind):
        texts = {str(_decimal(text)) for text in texts}
    kept = len(np.unique(targets))
    if len(texts) <= kept:
        return ()
    return (f"target {column!r} has {len(texts)} different values, of which {kept} are left in float64; subtract a"
            " constant from it",)  # fmt: skip


def _decimal(text: str) -> Decimal | str:
    try:
        return Decimal(text).normalize(Context(prec=MAX_DIGITS))
    except ArithmeticError:
        return text


def _number(text: str) -> float | None:
    try:
        return None if "_" in text else float(text)
    except ValueError:
        return None


def _r2(truth: np.ndarray, said: np.ndarray) -> float:
    return float(1 - np.sum((truth - said) ** 2) / np.sum((truth - truth.mean()) ** 2))


def _pearson(truth: np.ndarray, said: np.ndarray) -> float:
    return float(np.corrcoef(truth, said)[0, 1])


def _spearman(truth: np.ndarray, said: np.ndarray) -> float:
    from scipy.stats import rankdata

    return _pearson(rankdata(truth), rankdata(said))


METRICS: dict[str, Callable[[np.ndarray, np.ndarray], float]] = {
    "mae": lambda truth, said: float(np.mean(np.abs(truth - said))),
    "rmse": lambda truth, said: float(np.sqrt(np.mean((truth - said) ** 2))),
    "r2": _r2,
    "pearson": _pearson,
    "spearman": _spearman,
}
NEEDS_SPREAD = {"r2", "pearson", "spearman"}
CORRELATIONS = {"pearson", "spearman"}
SMALLER_IS_BETTER = {"loss", "mae", "rmse"}
IN_UNITS = {"mae", "rmse"}  # of the target
