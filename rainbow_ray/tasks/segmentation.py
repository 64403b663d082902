"""Segmentation: a base task for each segment of a song, with losses, decoding and metrics over time."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
from typing_extensions import override

from rainbow_ray.config.schema import Config, TrainingConfig
from rainbow_ray.metrics.segments import TIME_METRICS, SongScores, contiguous_pieces, score_song, time_metric
from rainbow_ray.tasks.base import Metrics, ParsedLabels, Task, TaskDefaults
from rainbow_ray.tasks.registry import make_task
from rainbow_ray.tasks.segment_targets import SegmentTargets
from rainbow_ray.tasks.segment_task import SegmentTask, restore_base_task
from rainbow_ray.tasks.weak_segmentation import LABEL_METRICS, WEAK_SPACE, WeakSegmentation, spread_labels
from rainbow_ray.utils.errors import InputError, check_choice

if TYPE_CHECKING:
    import torch

TIME_ERROR = "time_mae"
MIN_PROBABILITY = 1e-7
MIN_MULTIPLE_FRACTION = 0.5  # of songs with several labeled segments, for labels to count as those of songs
FORMER_KEYS = {"inner": "base_task", "smoothing": "tmse_weight", "smoothing_limit": "tmse_clip",
               "boundary": "boundary_loss_weight"}  # fmt: skip


@dataclass(frozen=True)
class Segmentation(SegmentTask):
    """A base task for each segment of a song.

    Attributes:
        base_task: Task of a single segment: multiclass, binary or regression.
        decoding: `argmax`, `median` or `viterbi`, see `tasks/decoding.py`.
        filter_width: Odd number of segments of the median filter.
        tmse_weight: Weight of the truncated mean squared error loss.
        tmse_clip: Difference of log-probabilities at which that loss is truncated.
        boundary_loss_weight: Weight of the boundary loss.
        transitions: log P(next label | label), `(classes, classes)`, from `fit` on.
    """

    base_task: Task = field()
    decoding: str = "argmax"
    filter_width: int = 3
    tmse_weight: float = 0.15
    tmse_clip: float = 4.0
    boundary_loss_weight: float = 0.1
    transitions: tuple[tuple[float, ...], ...] = ()

    name = "segmentation"

    def __post_init__(self) -> None:
        """Convert transitions that were read from JSON."""
        object.__setattr__(self, "transitions", tuple(tuple(row) for row in self.transitions))

    @property
    @override
    def metric_names(self) -> tuple[str, ...]:
        return (*self.base_task.metric_names, *(TIME_METRICS if self.has_classes else (TIME_ERROR,)))

    @property
    @override
    def threshold_metrics(self) -> frozenset[str]:
        if not self.has_classes:
            return frozenset(self.metric_names)
        decoded = self.base_task.threshold_metrics | LABEL_METRICS | set(TIME_METRICS)
        return frozenset(decoded & set(self.metric_names))

    @property
    @override
    def defaults(self) -> TaskDefaults:
        base = self.base_task.defaults
        if not self.has_classes:
            return base
        shown = ("loss", "macro_f1", "accuracy", "time_accuracy", "edit", "f1_at_50", "boundary_3s")
        return TaskDefaults(base.loss, base.metric, shown)

    @override
    def search_space(self, *, has_song_labels: bool = False) -> str:
        return WEAK_SPACE if has_song_labels else super().search_space()

    @override
    def check(self, config: Config) -> list[str]:
        training, segments = config.training, config.segments
        without_metric = config.model_copy(update={"training": training.model_copy(update={"metric": None})})
        problems = [
            *self.base_task.check(without_metric),
            *check_choice("training.metric", training.metric or self.defaults.metric, self.metric_names),
        ]
        if segments.decoding == "viterbi" and not self.has_classes:
            problems.append("segments.decoding: viterbi needs classes, and the target is a number; median smooths it")
        if segments.filter_width % 2 == 0:
            problems.append(f"segments.filter_width: {segments.filter_width} has no middle; an odd number of segments")
        if training.sampling != "none":
            problems.append(f"training.sampling: {training.sampling} would tear songs apart; see class_weights")
        if config.data.split_by == "row":
            problems.append("--split-by row: segments of one song would be on both sides of a fold")
        return problems

    @override
    def finalize_labels(self, targets: np.ndarray, column: str, config: Config) -> ParsedLabels:
        segments = SegmentTargets.from_array(targets)
        final, n_pairs = self.finalize_base_labels(segments, column, config)
        task: SegmentTask = self.with_base_task(final.task)
        labeled = targets.copy()
        SegmentTargets.from_array(labeled).labels[:] = final.targets
        n_labeled = np.unique(segments.song[segments.has_label], return_counts=True)[1]
        # where few songs have several segments, one label a song may be a coincidence
        if n_pairs != len(n_labeled) or (n_labeled > 1).mean() <= MIN_MULTIPLE_FRACTION:
            return ParsedLabels(task, labeled, final.left_out, final.notes)
        if not self.has_classes:
            raise InputError(f"target {column!r} is one number a song, and segments cannot be learned from it: name"
                             " a column of segments with data.target_column, or use --phase 4")  # fmt: skip
        task = WeakSegmentation(final.task, config.segments.mil_pooling)
        _check_weak_metric(task, column, config.training.metric)
        note = (
            f"WEAK: {column} is the same on all segments of each song. The songs' labels are learned from"
            f" ({config.segments.mil_pooling}); predictions of single segments were never compared with labels"
        )
        return ParsedLabels(task, spread_labels(labeled), final.left_out, (*final.notes, note))

    @override
    def fit(self, targets: np.ndarray, config: TrainingConfig) -> Segmentation:
        segments = SegmentTargets.from_array(targets)
        return dataclasses.replace(
            self,
            base_task=self.base_task.fit(segments.labels[segments.has_label], config),
            tmse_weight=config.tmse_weight,
            tmse_clip=config.tmse_clip,
            boundary_loss_weight=config.boundary_loss_weight,
            transitions=self._transitions(segments),
        )

    @override
    def example_weights(self, targets: np.ndarray) -> np.ndarray:
        # a segment counts by its duration, 1 on average
        segments = SegmentTargets.from_array(targets)
        has_label = segments.has_label
        seconds = np.where(has_label, segments.end - segments.start, 0.0)
        return np.asarray(seconds / seconds[has_label].mean(), dtype=np.float32)

    @override
    def loss(self, logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        """Return the base task's loss of each segment, plus losses of each segment and the one before it.

        Segments of a song follow each other. A segment without a label has no loss.

        Args:
            logits: Logits, `(segments, outputs)`.
            targets: Packed targets, `(segments, 5)`.

        Returns:
            Losses, `(segments,)`.
        """
        import torch

        segments = SegmentTargets.from_array(targets)
        has_label = ~segments.labels.isnan()
        labels = segments.labels.nan_to_num()
        total = torch.where(has_label, self.base_task.loss(logits, labels), 0.0)
        if len(logits) < 2 or not (self.tmse_weight or self.boundary_loss_weight):
            return total
        follows = (segments.song[1:] == segments.song[:-1]) & (segments.position[1:] == segments.position[:-1] + 1)
        pair_loss = torch.zeros_like(total[1:])
        log_probs = self._log_probs(logits)
        if self.tmse_weight:
            pair_loss = pair_loss + self.tmse_weight * truncated_mse(log_probs, self.tmse_clip)
        if self.boundary_loss_weight and self.has_classes:
            cost = boundary_loss(log_probs, labels)
            pair_loss = pair_loss + self.boundary_loss_weight * torch.where(has_label[1:] & has_label[:-1], cost, 0.0)
        pair_loss = torch.where(follows & has_label[1:], pair_loss, 0.0)
        return total + torch.cat([pair_loss.new_zeros(1), pair_loss])

    @override
    def fit_decoding(self, targets: np.ndarray) -> Segmentation:
        return dataclasses.replace(self, transitions=self._transitions(SegmentTargets.from_array(targets)))

    @override
    def decode_scores(self, targets: np.ndarray, scores: np.ndarray) -> np.ndarray:
        if self.decoding == "argmax":
            return scores
        from rainbow_ray.tasks.decoding import median, viterbi

        decoded = scores.copy()
        for rows in SegmentTargets.from_array(targets).song_slices():
            if self.decoding == "median":
                decoded[rows] = median(scores[rows], self.filter_width)
            else:
                decoded[rows] = viterbi(scores[rows], np.array(self.transitions))
        return decoded

    @override
    def metric(self, name: str, targets: np.ndarray, scores: np.ndarray) -> float | None:
        return self.metric_values([name], targets, scores)[name]

    @override
    def metric_values(self, names: Iterable[str], targets: np.ndarray, scores: np.ndarray) -> Metrics:
        segments, song_scores = SegmentTargets.from_array(targets), None
        has_label = segments.has_label
        values: Metrics = {}
        for name in names:
            if not has_label.any():
                values[name] = None
            elif name in self.base_task.metric_names:
                values[name] = self.base_task.metric(name, segments.labels[has_label], scores[has_label])
            elif name == TIME_ERROR:
                values[name] = _time_error(segments, scores)
            else:
                song_scores = self._song_scores(segments, scores) if song_scores is None else song_scores
                values[name] = time_metric(name, song_scores)
        return values

    @override
    def details(self, targets: np.ndarray, scores: np.ndarray) -> dict[str, Any]:
        segments = SegmentTargets.from_array(targets)
        return self.base_task.details(segments.labels[segments.has_label], scores[segments.has_label])

    @override
    def larger_is_better(self, metric: str) -> bool:
        return metric != TIME_ERROR and super().larger_is_better(metric)

    @override
    def from_json(self, state: Mapping[str, Any]) -> Task:
        fields = {FORMER_KEYS.get(key, key): value for key, value in state.items() if key != "weak"}
        fields["base_task"] = restore_base_task(self.base_task, fields["base_task"])
        return Segmentation(**fields)

    def _song_scores(self, segments: SegmentTargets[np.ndarray], scores: np.ndarray) -> list[SongScores]:
        results = []
        estimated = _codes(scores)
        for rows in segments.song_slices():
            song = segments[rows]
            has_label = song.has_label
            if has_label.any():
                pieces = contiguous_pieces(song.start, song.end)[has_label]
                results.append(
                    score_song(song.labels[has_label], estimated[rows][has_label], song.durations()[has_label], pieces)
                )
        return results

    def _log_probs(self, logits: torch.Tensor) -> torch.Tensor:
        """Log-probabilities of the classes `(segments, classes)`; of numbers, the outputs themselves."""
        from rainbow_ray.tasks.multiple_instance import class_log_probs

        return class_log_probs(self.base_task, logits) if self.has_classes else logits

    def _transitions(self, segments: SegmentTargets[np.ndarray]) -> tuple[tuple[float, ...], ...]:
        """Return log P(next | label), with add-one (Laplace) smoothing."""
        if not self.has_classes:
            return ()
        n = len(self.score_names) if len(self.score_names) > 1 else 2
        counts = np.ones((n, n))
        for rows in segments.song_slices():
            labels = segments.labels[rows]
            is_pair = ~np.isnan(labels[1:]) & ~np.isnan(labels[:-1])
            np.add.at(counts, (labels[:-1][is_pair].astype(int), labels[1:][is_pair].astype(int)), 1)
        return tuple(map(tuple, np.log(counts / counts.sum(axis=1, keepdims=True)).tolist()))


def segmentation_from_state(base_task: Any = None, *, weak: str | None = None, **state: Any) -> Task:
    """Return a segmentation task with a stored state.

    Args:
        base_task: The base task, or its name and state.
        weak: Pooling of a weak segmentation, which earlier versions stored under this name; otherwise None.
        **state: Fields of `Segmentation`, also under their former names.

    Returns:
        The task: `WeakSegmentation` where `weak` is given.
    """
    fields = {FORMER_KEYS.get(key, key): value for key, value in {"base_task": base_task, **state}.items()}
    base_task = fields.pop("base_task")
    if isinstance(base_task, Mapping):
        base_task = make_task(**base_task)
    return WeakSegmentation(base_task, weak) if weak is not None else Segmentation(base_task, **fields)


def truncated_mse(log_probs: torch.Tensor, clip: float) -> torch.Tensor:
    """Return the truncated mean squared error of log-probabilities of neighboring segments.

    L_t = mean_c min(|log p_t(c) - log p_{t-1}(c)|, τ)², with a gradient through p_t alone.

    Args:
        log_probs: Log-probabilities, `(segments, classes)`.
        clip: τ, the difference at which the loss is truncated.

    Returns:
        Losses of all segments but the first, `(segments - 1,)`.

    Reference:
        Farha & Gall 2019, "MS-TCN: Multi-stage temporal convolutional network for action segmentation", equations 8
        to 10.
    """
    steps = (log_probs[1:] - log_probs[:-1].detach()).abs().clamp(max=clip)
    return (steps**2).mean(dim=1)


def boundary_loss(log_probs: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """Return the cross-entropy of whether neighboring segments have different labels.

    The probability of a boundary is 1 - Σ_c p_t(c) p_{t-1}(c), so that boundaries need no output of their own.

    Args:
        log_probs: Log-probabilities, `(segments, classes)`.
        labels: Class indices, `(segments,)`.

    Returns:
        Losses of all segments but the first, `(segments - 1,)`.
    """
    same_class = (log_probs[1:].exp() * log_probs[:-1].exp()).sum(dim=1).clamp(MIN_PROBABILITY, 1 - MIN_PROBABILITY)
    is_boundary = (labels[1:] != labels[:-1]).float()
    return -(is_boundary * (1 - same_class).log() + (1 - is_boundary) * same_class.log())


def _time_error(segments: SegmentTargets[np.ndarray], scores: np.ndarray) -> float | None:
    """Mean absolute error, weighted by duration."""
    has_label = segments.has_label
    seconds = np.concatenate([segments[rows].durations() for rows in segments.song_slices()])[has_label]
    errors = np.abs(segments.labels[has_label] - scores[has_label])
    return float(errors @ seconds / seconds.sum()) if seconds.sum() else None


def _codes(scores: np.ndarray) -> np.ndarray:
    """Return class indices of the predictions."""
    return (scores > 0.5).astype(np.int32) if scores.ndim == 1 else scores.argmax(axis=1).astype(np.int32)


def _check_weak_metric(task: WeakSegmentation, column: str, metric: str | None) -> None:
    """Raise `InputError` for a metric that needs labels of segments."""
    if metric is not None and metric not in task.metric_names:
        raise InputError(f"training.metric: {metric} looks at the time of labelled segments, and {column} is the same"
                         " on all segments of each song, so that only songs can be scored: use one of"
                         f" {', '.join(task.metric_names)}, or name a column of segments with data.target_column"
                         )  # fmt: skip
