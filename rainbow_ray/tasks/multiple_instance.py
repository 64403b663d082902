"""Multiple-instance learning: only songs have labels, and each segment has a part in its song's score.

The model gives the logarithm of each segment's part; the parts of a song's segments sum to the song's score.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

import torch
from torch.nn import functional

from rainbow_ray.tasks.segment_targets import SegmentTargets

if TYPE_CHECKING:
    from rainbow_ray.tasks.base import Task

MIN_PROBABILITY = 1e-7


def class_log_probs(base_task: Task, logits: torch.Tensor) -> torch.Tensor:
    """Return log-probabilities of the classes of each example.

    Args:
        base_task: Binary or multiclass task.
        logits: Logits, `(examples, outputs)`.

    Returns:
        Log-probabilities, `(examples, classes)`; of a binary task, of False and True.
    """
    if base_task.target_type == "binary":
        return torch.cat([functional.logsigmoid(-logits), functional.logsigmoid(logits)], dim=1)
    return functional.log_softmax(logits, dim=1)


def attention_pooling(base_task: Task, logits: torch.Tensor, song: torch.Tensor) -> torch.Tensor:
    """Return log parts whose weights are a softmax over the song's segments: log a_i + log p_i.

    Args:
        base_task: Binary or multiclass task.
        logits: Logits, the last of which weighs the segment, `(segments, outputs + 1)`.
        song: Number of each segment's song, from 0, int64, `(segments,)`.

    Returns:
        Log parts, `(segments, classes)`.

    Reference:
        Ilse et al. 2018, "Attention-based deep multiple instance learning", equation 7, applied to scores.
    """
    log_probs = class_log_probs(base_task, logits[:, :-1])
    return log_probs + _log_softmax_by_song(logits[:, -1], song, _count_songs(song))[:, None]


def noisy_or_pooling(base_task: Task, logits: torch.Tensor, song: torch.Tensor) -> torch.Tensor:
    """Return log parts in P(song has class) = 1 - Π_i (1 - p_i).

    A segment's part is the song's score times log(1 - p_i) / Σ_j log(1 - p_j). Scores of several classes are
    normalized to sum to 1.

    Args:
        base_task: Binary or multiclass task.
        logits: Logits, `(segments, outputs)`.
        song: Number of each segment's song, from 0, int64, `(segments,)`.

    Returns:
        Log parts, `(segments, classes)`.

    Reference:
        Maron & Lozano-Pérez 1998, "A framework for multiple-instance learning", section 3.
    """
    log_absent = torch.log1p(-class_log_probs(base_task, logits).exp().clamp(max=1 - MIN_PROBABILITY))
    song_absent = log_absent.new_zeros(_count_songs(song), log_absent.shape[1]).index_add(0, song, log_absent)
    score = 1 - song_absent.exp()
    if base_task.target_type == "binary":
        score = torch.stack([song_absent[:, 1].exp(), score[:, 1]], dim=1)
    score = score / score.sum(dim=1, keepdim=True).clamp(min=MIN_PROBABILITY)
    part = (log_absent / song_absent.clamp(max=-MIN_PROBABILITY)[song]).clamp(min=MIN_PROBABILITY)
    return (score[song] * part).clamp(min=MIN_PROBABILITY**2).log()


POOLINGS: Mapping[str, Callable[[Task, torch.Tensor, torch.Tensor], torch.Tensor]] = {
    "attention": attention_pooling,
    "noisy_or": noisy_or_pooling,
}


def multiple_instance_loss(base_task: Task, log_parts: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """Return the base task's loss of each song, on the song's first segment.

    Args:
        base_task: Binary or multiclass task.
        log_parts: Log parts of the segments of whole songs, `(segments, classes)`.
        targets: Packed targets, `(segments, 5)`.

    Returns:
        Losses, `(segments,)`; 0 on all but the first segments.
    """
    columns = SegmentTargets.from_array(targets)
    is_first = torch.ones(len(targets), dtype=torch.bool, device=targets.device)
    is_first[1:] = (columns.song[1:] != columns.song[:-1]) | (columns.position[1:] <= columns.position[:-1])
    song = is_first.long().cumsum(0) - 1
    n_songs = int(song[-1]) + 1
    sums = log_parts.new_zeros(n_songs, log_parts.shape[1]).index_add(0, song, log_parts.exp())
    score = sums.clamp(min=MIN_PROBABILITY)
    label = columns.labels[is_first].nan_to_num()
    # logits that the base task's loss converts back to these scores
    is_binary = base_task.target_type == "binary"
    logits = (score[:, 1:] / (1 - score[:, 1:]).clamp(min=MIN_PROBABILITY)).log() if is_binary else score.log()
    loss = base_task.loss(logits, label)
    return log_parts.new_zeros(len(targets)).masked_scatter(is_first, loss)


def instance_scores(base_task: Task, log_parts: torch.Tensor) -> torch.Tensor:
    """Convert log parts to scores.

    Args:
        base_task: Binary or multiclass task.
        log_parts: Log parts, `(segments, classes)`.

    Returns:
        Scores, `(segments,)` of the positive class, or `(segments, classes)`.
    """
    parts = log_parts.float().exp()
    return parts[:, 1] if base_task.target_type == "binary" else parts


def _count_songs(song: torch.Tensor) -> int:
    return int(song.max()) + 1 if len(song) else 0


def _log_softmax_by_song(values: torch.Tensor, song: torch.Tensor, n_songs: int) -> torch.Tensor:
    """Log-softmax over each song's segments, `(segments,)`."""
    top = values.new_full((n_songs,), float("-inf")).scatter_reduce(0, song, values.detach(), "amax")
    shifted = values - top[song]
    return shifted - values.new_zeros(n_songs).index_add(0, song, shifted.exp())[song].log()
