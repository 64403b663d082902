"""Regression: a number, from one output on a transformed scale, or from two for zero-inflated targets."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import pyarrow as pa
from typing_extensions import override

from rainbow_ray.config.schema import Config, DataConfig, TrainingConfig
from rainbow_ray.config.unused_keys import ASYMMETRIC_KEYS, CLASS_KEYS, UnusedKeys, always, section_keys
from rainbow_ray.data.arrow_types import decode_storage, is_bytes_type, is_string_type
from rainbow_ray.data.raw_labels import LABEL_MISSING
from rainbow_ray.metrics.regression import (
    CORRELATIONS,
    IN_TARGET_UNITS,
    NEEDS_SPREAD,
    REGRESSION_METRICS,
    SMALLER_IS_BETTER,
    standard_deviation,
)
from rainbow_ray.tasks.base import NO_METRICS, ParsedLabels, TaskDefaults, nothing_left_out
from rainbow_ray.tasks.example_task import ExampleTask
from rainbow_ray.tasks.number_cells import narrowing_warnings, parse_numbers, rounding_warnings
from rainbow_ray.tasks.regression_losses import AUTO, LOSSES, choose_loss
from rainbow_ray.utils.errors import InputError, check_choice
from rainbow_ray.utils.number_format import rounded_alike

if TYPE_CHECKING:
    import torch

STRATA = 4  # quarters of the songs that are not at the most frequent value
MAX_TARGET = float(np.finfo(np.float32).max)


@dataclass(frozen=True)
class Regression(ExampleTask):
    """Regression. Targets and scores are numbers, float64, `(examples,)`.

    The model learns z = (t(y) - shift) / scale for a target y, with t(y) = log(1 + y) or y. Targets and scores are
    float64, because float32 cannot distinguish large numbers that are close together; only z is narrowed. With two
    outputs (`zero_inflated`), the first is the logit of "not zero" and the second is z given that it is not.

    Attributes:
        loss_name: Name of the loss, a key of `LOSSES`; before `fit`, that of `training.loss: auto`.
        transform: t, a `TargetTransform`.
        shift: Mean of the transformed training targets, from `fit` on.
        scale: Standard deviation of the transformed training targets, from `fit` on.
        low: Lower bound of scores, or None.
        high: Upper bound of scores, or None.
        delta: Error from which the Huber loss is linear, in units of `scale`.
    """

    loss_name: str = "huber"
    transform: str = "standardize"
    shift: float = 0.0
    scale: float = 1.0
    low: float | None = None
    high: float | None = None
    delta: float = 1.0

    name = "regression"
    target_type = "regression"
    has_classes = False
    supports_calibration = False
    unused_keys: ClassVar[tuple[UnusedKeys, ...]] = (
        UnusedKeys(
            (
                *ASYMMETRIC_KEYS,
                *section_keys("training", "pos_weight", "class_weights", "label_smoothing", "focal_gamma"),
                *section_keys("training", "class_balanced_beta", "logit_adjustment"),
                *CLASS_KEYS,
                *section_keys("data", "multi_label", "class_mapping", "unknown_classes"),
            ),
            always,
            "phase {config.phase} predicts a number",
        ),
    )
    prediction_type = pa.float64()
    score_dtype = np.float64
    defaults = TaskDefaults(AUTO, "mae", ("loss", "mae", "rmse", "r2", "spearman"))
    score_names = ("score",)
    threshold_metrics = NO_METRICS

    def __post_init__(self) -> None:
        """Read the former name of a transform, which earlier versions stored."""
        if self.transform == "standardise":
            object.__setattr__(self, "transform", "standardize")

    @property
    @override
    def outputs(self) -> int:
        return 2 if self.loss_name == "zero_inflated" else 1

    @property
    @override
    def metric_names(self) -> tuple[str, ...]:
        return tuple(REGRESSION_METRICS)

    @override
    def check(self, config: Config) -> list[str]:
        training = config.training
        problems = [
            *check_choice("training.loss", training.loss or self.defaults.loss, (AUTO, *LOSSES)),
            *check_choice("training.metric", training.metric or self.defaults.metric, REGRESSION_METRICS),
        ]
        low, high = config.data.target_bounds or (None, None)
        if low is not None and high is not None and low >= high:
            problems.append(f"data.target_bounds: [{low:g}, {high:g}] is an empty interval")
        if training.sampling != "none":
            problems.append(
                f"training.sampling: {training.sampling} balances classes, and phase {config.phase} has none"
            )
        return problems

    @override
    def parse(self, labels: pa.ChunkedArray, column: str, data: DataConfig) -> ParsedLabels:
        plain = decode_storage(labels.combine_chunks())
        if pa.types.is_boolean(plain.type) or pa.types.is_nested(plain.type):
            raise InputError(f"target {column!r} holds {plain.type}, not numbers; name another with data.target_column")
        left_out = nothing_left_out(len(plain))
        notes: tuple[str, ...] = ()
        if is_string_type(plain.type) or is_bytes_type(plain.type):
            targets, notes = parse_numbers(labels, column)
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
        notes = (*notes, *rounding_warnings(plain, targets, column))
        endless = int((~(np.abs(targets) <= MAX_TARGET)).sum())
        if endless:
            raise InputError(f"target {column!r} is infinite, or too large (above {MAX_TARGET:.1e}), in {endless} rows")
        low, high = data.target_bounds or (None, None)
        task = dataclasses.replace(self, low=low, high=high)
        return ParsedLabels(task, targets, left_out, notes)

    @override
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
        notes = narrowing_warnings(targets, column) if config.training.target_transform == "none" else ()
        task = self
        if (config.training.loss or self.defaults.loss) == AUTO:
            task = dataclasses.replace(
                self, loss_name=choose_loss(targets, config.training.metric or self.defaults.metric)
            )
            if task.loss_name == "zero_inflated":
                zeros = f"target {column!r} is 0 on {np.mean(targets == 0):.0%} of the songs"
                notes = (*notes, f"{zeros}: training.loss is zero_inflated, for the smallest absolute error")
        return ParsedLabels(task, targets, nothing_left_out(len(targets)), notes)

    @override
    def strata(self, targets: np.ndarray) -> np.ndarray:
        """Return a stratum for the most frequent value, if a tenth of the songs has it, and quarters of the others."""
        values, counts = np.unique(targets, return_counts=True)
        common = values[counts.argmax()] if counts.max() >= 0.1 * len(targets) and len(values) > STRATA else np.nan
        is_uncommon = targets != common
        if not is_uncommon.any():
            return np.zeros(len(targets), dtype=np.int64)
        cuts = np.unique(np.quantile(targets[is_uncommon], np.arange(1, STRATA) / STRATA))
        return np.where(is_uncommon, 1 + np.searchsorted(cuts, targets, side="right"), 0)

    @override
    def one_hot(self, targets: np.ndarray) -> np.ndarray:
        strata = self.strata(targets)
        return np.asarray(strata[:, None] == np.unique(strata))

    @override
    def fit(self, targets: np.ndarray, config: TrainingConfig) -> Regression:
        loss, transform = config.loss or self.defaults.loss, config.target_transform
        if loss == AUTO:
            loss = self.loss_name  # which all fits of a run share
        targets = targets.astype(np.float64)
        learned = targets[targets != 0] if loss == "zero_inflated" else targets
        if transform == "log1p":
            learned = np.log1p(learned)
        shift, scale = 0.0, 1.0
        if transform != "none" and len(learned):
            spread = standard_deviation(learned)
            shift, scale = float(learned.mean()), spread if spread > 0 else 1.0
        return dataclasses.replace(self, loss_name=loss, transform=transform, shift=shift, scale=scale,
                                   delta=config.huber_delta)  # fmt: skip

    @override
    def initial_bias(self, targets: np.ndarray) -> np.ndarray:
        if self.loss_name != "zero_inflated":
            learned = self._forward(targets.astype(np.float64))
            centre = np.mean(learned) if self.loss_name == "mse" else np.median(learned)
            return np.array([centre], dtype=np.float32)
        nonzero = targets[targets != 0].astype(np.float64)
        fraction = np.clip(len(nonzero) / max(1, len(targets)), 1e-3, 1 - 1e-3)
        value = float(np.median(self._forward(nonzero))) if len(nonzero) else 0.0
        return np.array([np.log(fraction / (1 - fraction)), value], dtype=np.float32)

    @override
    def loss(self, logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        # Apple's GPUs have no float64: their targets are float32
        exact = targets if targets.device.type == "mps" else targets.double()
        transformed = exact.log1p() if self.transform == "log1p" else exact
        standardized = ((transformed - self.shift) / self.scale).to(logits.dtype)
        return LOSSES[self.loss_name](self.delta, logits, standardized, targets)

    @override
    def score_location_and_scale(self) -> tuple[float, float]:
        return (0.0, 1.0) if self.transform == "log1p" else (self.shift, self.scale)

    @override
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

    @override
    def decode_predictions(self, scores: np.ndarray) -> list[Any]:
        return [float(score) for score in scores]

    @override
    def encode_predictions(self, predictions: Sequence[Any]) -> np.ndarray:
        return np.asarray(predictions, dtype=np.float64)

    @override
    def decode_targets(self, targets: np.ndarray) -> list[Any]:
        return [float(target) for target in targets]

    @override
    def encode_targets(self, labels: Sequence[Any]) -> np.ndarray:
        return np.asarray(labels, dtype=np.float64)

    @override
    def describe(self, targets: np.ndarray) -> dict[str, float]:
        cuts = {"least": 0.0, "quarter": 0.25, "median": 0.5, "three quarters": 0.75, "most": 1.0}
        values = [float(np.quantile(targets, fraction)) for fraction in cuts.values()]
        spread = dict(zip(cuts, rounded_alike(values), strict=True))
        return {**spread, "share of 0": round(float(np.mean(targets == 0)), 4)}

    @override
    def metrics(self, targets: np.ndarray, scores: np.ndarray) -> tuple[dict[str, float | None], dict[str, str]]:
        values = {name: self.metric(name, targets, scores) for name in REGRESSION_METRICS}
        return values, {name: "the numbers, or the predictions, do not vary" for name, v in values.items() if v is None}

    @override
    def metric(self, name: str, targets: np.ndarray, scores: np.ndarray) -> float | None:
        reference, estimated = targets.astype(np.float64), scores.astype(np.float64)
        if len(reference) == 0 or (name in NEEDS_SPREAD and (reference == reference[0]).all()):
            return None
        if name in CORRELATIONS and (estimated == estimated[0]).all():
            return None
        # in units of the largest target: squares of very small or large numbers leave the range of float64
        unit = float(np.abs(reference).max()) or 1.0
        value = float(REGRESSION_METRICS[name](reference / unit, estimated / unit))
        return value * unit if name in IN_TARGET_UNITS else value

    @override
    def details(self, targets: np.ndarray, scores: np.ndarray) -> dict[str, Any]:
        return {}

    @override
    def larger_is_better(self, metric: str) -> bool:
        return metric not in SMALLER_IS_BETTER

    @override
    def perfect_scores(self, targets: np.ndarray) -> np.ndarray:
        return targets

    @override
    def to_json(self) -> Mapping[str, Any]:
        return dataclasses.asdict(self)

    def _forward(self, targets: np.ndarray) -> np.ndarray:
        return ((np.log1p(targets) if self.transform == "log1p" else targets) - self.shift) / self.scale
