"""Segmentation: another problem, for each segment of a song, with its neighbours and its place in time.

An example is a segment; a song's segments follow each other. A target is five numbers: the inner problem's label (NaN
where it has none), start, end (seconds), its place in the song, and the song's number. So whatever looks at targets
knows which segments are neighbours, and nothing about the inner problem is written anew.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from rainbow_ray.config.schema import Config, DataConfig, TrainingConfig
from rainbow_ray.metrics.segments import ABOUT_TIME, Fit, about_time, contiguous_pieces, durations, fit_of
from rainbow_ray.tasks.base import Metrics, ParsedLabels, Task, TaskDefaults, is_scored, make_task
from rainbow_ray.tasks.segment_targets import END, LABEL, PLACE, SONG, START, song_slices
from rainbow_ray.utils.errors import InputError, check_choice

if TYPE_CHECKING:
    import torch

INNER = ("multiclass", "binary", "regression")
DECODINGS = ("argmax", "median", "viterbi")
BAGS = ("attention", "noisy_or")
TIME_ERROR = "time_mae"
TINY = 1e-7
MOST = 0.5
WEAK = "weak"


@dataclass(frozen=True)
class Segmentation:
    """`transitions` are known once `fit` has seen the training side: log P(next label | label), `(classes, classes)`.

    `weak` names how a song's label is made of its segments', where segments have none of their own.
    """

    inner: Task
    decoding: str = "argmax"
    filter_width: int = 3
    smoothing: float = 0.15
    smoothing_limit: float = 4.0
    boundary: float = 0.1
    weak: str | None = None
    transitions: tuple[tuple[float, ...], ...] = ()

    name = "segmentation"

    def __post_init__(self) -> None:
        if isinstance(self.inner, Mapping):  # from a file
            state = dict(self.inner)
            object.__setattr__(self, "inner", make_task(state.pop("name"), **state))
        object.__setattr__(self, "transitions", tuple(tuple(row) for row in self.transitions))

    @property
    def has_classes(self) -> bool:
        return self.inner.name != "regression"

    @property
    def outputs(self) -> int:
        """With attention over a song's segments one more: how much of a say a segment has."""
        return self.inner.outputs + (self.weak == "attention")

    @property
    def score_names(self) -> tuple[str, ...]:
        return self.inner.score_names

    @property
    def metric_names(self) -> tuple[str, ...]:
        about_time = () if self.weak else ABOUT_TIME if self.has_classes else (TIME_ERROR,)
        return (*self.inner.metric_names, *about_time)

    @property
    def threshold_metrics(self) -> frozenset[str]:
        if not self.has_classes:
            return frozenset(self.metric_names)
        decided = {"accuracy", "balanced_accuracy", "macro_f1", "micro_f1", "weighted_f1", "mcc", *ABOUT_TIME}
        return frozenset((self.inner.threshold_metrics | decided) & set(self.metric_names))

    @property
    def defaults(self) -> TaskDefaults:
        inner = self.inner.defaults
        if self.weak or not self.has_classes:
            return inner
        return TaskDefaults(inner.loss, inner.metric, (
            "loss", "macro_f1", "accuracy", "time_accuracy", "edit", "f1_at_50",
                                                   "boundary_3s"))  # fmt: skip

    def check(self, config: Config) -> list[str]:
        training, segments = config.training, config.segments
        metrics = (*self.inner.metric_names, *(ABOUT_TIME if self.has_classes else (TIME_ERROR,)))
        base_task_of = config.model_copy(update={"training": training.model_copy(update={"metric": None})})
        problems = [
            *self.inner.check(base_task_of),
            *check_choice("training.metric", training.metric or self.defaults.metric, metrics),
            *check_choice("segments.decoding", segments.decoding, DECODINGS),
            *check_choice("segments.mil_pooling", segments.mil_pooling, BAGS),
        ]
        if segments.decoding == "viterbi" and not self.has_classes:
            problems.append("segments.decoding: viterbi needs classes, and the target is a number; median smooths it")
        if segments.filter_width % 2 == 0:
            problems.append(f"segments.filter_width: {segments.filter_width} has no middle; an odd number of segments")
        if training.sampling != "none":
            problems.append(f"training.sampling: {training.sampling} would tear songs apart; see class_weights")
        if config.data.split_by == "row":
            problems.append("--split-by row: segments of one song would stand on both sides")
        return problems

    def without_effect(self, config: Config) -> Mapping[str, str]:
        idle = dict(self.inner.without_effect(config))
        if config.segments.decoding != "median":
            idle["segments.filter_width"] = f"segments.decoding is {config.segments.decoding}"
        if not self.has_classes:
            idle["training.boundary_loss_weight"] = "a number has no boundaries"
            idle["segments.mil_pooling"] = "a number is learned from segments only"
        return idle

    def parse(self, labels: pa.ChunkedArray, column: str, data: DataConfig) -> ParsedLabels:
        """Labels of segments that have one, as the inner problem's targets, `(segments,)`."""
        return self.inner.parse(labels, column, data)

    def finalize_labels(self, targets: np.ndarray, column: str, config: Config) -> ParsedLabels:
        """The same of segments: a class counts by the songs that have it."""
        known = ~np.isnan(targets[:, LABEL])
        if not known.any():
            raise InputError(f"target {column!r}: no segment has a label that can be used; name another column with"
                             " data.target_column")  # fmt: skip
        pairs, of = np.unique(targets[known][:, [SONG, LABEL]], axis=0, return_inverse=True)
        settled = self.inner.finalize_labels(pairs[:, 1], column, config)
        label = np.full(len(targets), np.nan, dtype=targets.dtype)
        label[known] = np.where(settled.usable, settled.targets, np.nan)[of.ravel()]
        left_out = np.full(len(targets), None, dtype=object)
        left_out[known] = settled.left_out[of.ravel()]
        task, notes = dataclasses.replace(self, inner=settled.task), settled.notes
        each = np.unique(targets[known, SONG], return_counts=True)[1]
        # that few songs have several segments and each of them one label happens of itself
        if len(pairs) == len(each) and (each > 1).mean() > MOST:
            if not self.has_classes:
                raise InputError(f"target {column!r} is one number a song, and segments cannot be learned from it: name"
                                 " a column of segments with data.target_column, or use --phase 4")  # fmt: skip
            task = dataclasses.replace(task, weak=config.segments.mil_pooling)
            _check_weak_metric(task, column, config.training.metric)
            of_song = np.full(int(targets[:, SONG].max()) + 1, np.nan, dtype=targets.dtype)
            of_song[targets[known, SONG].astype(int)] = label[known]
            label = of_song[targets[:, SONG].astype(int)]  # a song's label holds for what is masked in it
            said = (
                f"WEAK: {column} is the same on all segments of each song. The songs' labels are learned from"
                f" ({config.segments.mil_pooling}); what is said of single segments was never compared with a truth"
            )
            notes = (*notes, said)
        made = targets.copy()
        made[:, LABEL] = label
        return ParsedLabels(task, made, left_out, notes)

    def labels(self, targets: np.ndarray) -> np.ndarray:
        """The inner problem's targets, `(segments,)`, NaN where there is none."""
        return np.asarray(targets[..., LABEL])

    def known(self, targets: np.ndarray) -> np.ndarray:
        """Which segments have a label, `(segments,)`, bool."""
        return np.asarray(~np.isnan(targets[..., LABEL]))

    def strata(self, targets: np.ndarray) -> np.ndarray:
        known = self.known(targets)
        strata = np.zeros(len(targets), dtype=np.int64)
        if known.any():
            strata[known] = self.inner.strata(self.labels(targets[known]))
            strata[~known] = strata[known].max() + 1
        return strata

    def one_hot(self, targets: np.ndarray) -> np.ndarray:
        known = self.known(targets)
        inner = self.inner.one_hot(np.where(known, self.labels(targets), 0.0))
        return np.asarray(inner & known[:, None])

    def fit(self, targets: np.ndarray, config: TrainingConfig) -> Segmentation:
        known = self.known(targets)
        label = self.labels(targets)[known]
        if self.weak:
            label = label[np.unique(targets[known, SONG], return_index=True)[1]]  # one a song
        return dataclasses.replace(
            self,
            inner=self.inner.fit(label, config),
            smoothing=config.tmse_weight,
            smoothing_limit=config.tmse_clip,
            boundary=config.boundary_loss_weight,
            transitions=self._transitions(targets),
        )

    def with_transitions(self, targets: np.ndarray) -> Segmentation:
        """The same problem, decoding by what follows what on a training side."""
        return dataclasses.replace(self, transitions=self._transitions(targets))

    def initial_bias(self, targets: np.ndarray) -> np.ndarray:
        bias = self.inner.initial_bias(self.labels(targets[self.known(targets)]))
        return np.append(bias, np.float32(0.0)) if self.weak == "attention" else bias

    def loss(self, logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        """Of each segment `(segments,)`: the inner loss, and what jumps from its neighbour cost.

        A song's segments must follow each other. A segment without a label costs nothing.
        """
        import torch

        if self.weak:
            from rainbow_ray.tasks.multiple_instance import multiple_instance_loss

            return multiple_instance_loss(self.inner, logits, targets)
        label = targets[:, LABEL]
        known = ~label.isnan()
        label = label.nan_to_num()
        total = torch.where(known, self.inner.loss(logits, label), 0.0)
        if len(logits) < 2 or not (self.smoothing or self.boundary):
            return total
        follows = (targets[1:, SONG] == targets[:-1, SONG]) & (targets[1:, PLACE] == targets[:-1, PLACE] + 1)
        jump = torch.zeros_like(total[1:])
        said = self._log_shares(logits)
        if self.smoothing:
            # T-MSE of MS-TCN (Farha & Gall 2019, eq. 8 to 10): the neighbour before is held fast, jumps are truncated
            steps = (said[1:] - said[:-1].detach()).abs().clamp(max=self.smoothing_limit)
            jump = jump + self.smoothing * (steps**2).mean(dim=1)
        if self.boundary and self.has_classes:
            # the probability that two neighbours differ is told by their own: boundaries need no head
            same = (said[1:].exp() * said[:-1].exp()).sum(dim=1).clamp(TINY, 1 - TINY)
            differ = (label[1:] != label[:-1]).float()
            cost = -(differ * (1 - same).log() + (1 - differ) * same.log())
            jump = jump + self.boundary * torch.where(known[1:] & known[:-1], cost, 0.0)
        jump = torch.where(follows & known[1:], jump, 0.0)
        return total + torch.cat([jump.new_zeros(1), jump])

    def scores(self, logits: torch.Tensor) -> torch.Tensor:
        if self.weak:
            from rainbow_ray.tasks.multiple_instance import instance_scores

            return instance_scores(self.inner, logits)
        return self.inner.scores(logits)

    def decode_predictions(self, scores: np.ndarray) -> list[Any]:
        return self.inner.decode_predictions(scores)

    def decode(self, targets: np.ndarray, scores: np.ndarray) -> np.ndarray:
        """Scores as the decoding leaves them, of whole songs: by each segment's neighbours as well."""
        if self.weak and self.inner.name == "binary":
            from rainbow_ray.tasks.decoding import relative

            return relative(scores, song_slices(targets))
        if self.decoding == "argmax" or self.weak:
            return scores
        from rainbow_ray.tasks.decoding import median, viterbi

        decoded = scores.copy()
        for rows in song_slices(targets):
            if self.decoding == "median":
                decoded[rows] = median(scores[rows], self.filter_width)
            else:
                decoded[rows] = viterbi(scores[rows], np.array(self.transitions))
        return decoded

    def decode_targets(self, targets: np.ndarray) -> list[Any]:
        known = self.known(targets)
        told = self.inner.decode_targets(np.where(known, self.labels(targets), 0.0))
        return [one if there else None for one, there in zip(told, known, strict=True)]

    def describe(self, targets: np.ndarray) -> dict[str, float]:
        return self.inner.describe(self.labels(targets[self.known(targets)]))

    def metrics(self, targets: np.ndarray, scores: np.ndarray) -> tuple[Metrics, dict[str, str]]:
        values = {name: self.metric(name, targets, scores) for name in self.metric_names}
        return values, {name: "no song, or one label only, among these" for name, v in values.items() if v is None}

    def metric(self, name: str, targets: np.ndarray, scores: np.ndarray) -> float | None:
        """One metric; segments without a label do not count, and weak segments as songs."""
        if self.weak:
            return self.inner.metric(name, *self.by_song(targets, scores))
        known = self.known(targets)
        if not known.any():
            return None
        if name in self.inner.metric_names:
            return self.inner.metric(name, self.labels(targets[known]), scores[known])
        if name == TIME_ERROR:
            seconds = np.concatenate([_seconds(targets[rows]) for rows in song_slices(targets)])[known]
            missed = np.abs(self.labels(targets[known]) - scores[known])
            return float(missed @ seconds / seconds.sum()) if seconds.sum() else None
        return about_time(name, self._fits(targets, scores))

    def details(self, targets: np.ndarray, scores: np.ndarray) -> dict[str, Any]:
        if self.weak:
            return self.inner.details(*self.by_song(targets, scores))
        known = self.known(targets)
        return self.inner.details(self.labels(targets[known]), scores[known])

    def larger_is_better(self, metric: str) -> bool:
        return metric != TIME_ERROR and self.inner.larger_is_better(metric)

    def perfect_scores(self, targets: np.ndarray) -> np.ndarray:
        return self.inner.perfect_scores(np.where(self.known(targets), self.labels(targets), 0.0))

    def to_json(self) -> Mapping[str, Any]:
        state = {field.name: getattr(self, field.name) for field in dataclasses.fields(self) if field.name != "inner"}
        return {**state, "inner": {"name": self.inner.name, **self.inner.to_json()}}

    def by_song(self, targets: np.ndarray, scores: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Of weak segments: the songs' labels, and their scores, which segments share among them."""
        songs = song_slices(targets)
        label = np.array([np.nanmax(self.labels(targets[rows])) for rows in songs], dtype=np.float32)
        sums = np.array([scores[rows].sum(axis=0) for rows in songs], dtype=np.float32)
        return label, np.minimum(sums, 1.0)  # decoded ones are no shares: of a song that is yes, any segment may be

    def _fits(self, targets: np.ndarray, scores: np.ndarray) -> list[Fit]:
        fits = []
        said = self._codes(scores)
        for rows in song_slices(targets):
            known = self.known(targets[rows])
            if known.any():
                label = self.labels(targets[rows])[known]
                pieces = contiguous_pieces(targets[rows, START], targets[rows, END])[known]
                fits.append(fit_of(label, said[rows][known], _seconds(targets[rows])[known], pieces))
        return fits

    def _codes(self, scores: np.ndarray) -> np.ndarray:
        """The label that is said, as a number."""
        return (scores > 0.5).astype(np.int32) if scores.ndim == 1 else scores.argmax(axis=1).astype(np.int32)

    def _log_shares(self, logits: torch.Tensor) -> torch.Tensor:
        """Log-probabilities of the classes `(segments, classes)`; of numbers, what is learned of them."""
        import torch
        from torch.nn import functional

        if self.inner.name == "binary":
            return torch.cat([functional.logsigmoid(-logits), functional.logsigmoid(logits)], dim=1)
        return functional.log_softmax(logits, dim=1) if self.has_classes else logits

    def _transitions(self, targets: np.ndarray) -> tuple[tuple[float, ...], ...]:
        """log P(next | label), as if each pair had been seen once more (Laplace)."""
        if not self.has_classes or self.weak:
            return ()
        n = len(self.score_names) if len(self.score_names) > 1 else 2
        counts = np.ones((n, n))
        for rows in song_slices(targets):
            label = self.labels(targets[rows])
            both = ~np.isnan(label[1:]) & ~np.isnan(label[:-1])
            np.add.at(counts, (label[:-1][both].astype(int), label[1:][both].astype(int)), 1)
        return tuple(map(tuple, np.log(counts / counts.sum(axis=1, keepdims=True)).tolist()))


def _check_weak_metric(task: Segmentation, column: str, metric: str | None) -> None:
    """Raises `InputError` for a metric that needs segments' own labels."""
    if metric is not None and metric not in task.metric_names:
        raise InputError(f"training.metric: {metric} looks at the time of labelled segments, and {column} is the same"
                         " on all segments of each song, so that only songs can be scored: use one of"
                         f" {', '.join(task.metric_names)}, or name a column of segments with data.target_column"
                         )  # fmt: skip


def _seconds(targets: np.ndarray) -> np.ndarray:
    return durations(targets[:, START], targets[:, END])


def base_task_of(task: Task) -> Task:
    """What is said of one example: the inner problem of a segmentation, any other as it is."""
    return task.inner if isinstance(task, Segmentation) else task


def decode_sides(
    task: Task, targets: np.ndarray, sides: Iterable[tuple[np.ndarray, np.ndarray]], scores: np.ndarray
) -> np.ndarray:
    """Scores as the decoding leaves them, each side's by what its training side teaches; those of songs as they are.

    A side that has not been scored yet stays so.
    """
    if not isinstance(task, Segmentation):
        return scores
    decoded = scores.copy()
    for train, val in sides:
        if len(val) and is_scored(scores[val], task).all():
            decoded[val] = task.with_transitions(targets[train]).decode(targets[val], scores[val])
    return decoded


def measure_decoded(task: Task, targets: np.ndarray, scores: np.ndarray) -> tuple[Metrics, dict[str, str]]:
    """All metrics of a fitted problem, of those that look at what is decided as the decoding leaves it."""
    metrics, undefined = task.metrics(targets, scores)
    if isinstance(task, Segmentation) and len(targets):
        decoded = task.decode(targets, scores)
        metrics |= {name: task.metric(name, targets, decoded) for name in task.threshold_metrics}
    return metrics, undefined
