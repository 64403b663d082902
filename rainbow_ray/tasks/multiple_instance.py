"""Multiple-instance learning: a song's label is all that is known, and its segments share in it.

What the model says of a segment comes as logs of its share (`model/temporal.py` makes them, which sees the whole song):
the shares of a song's segments add up to the song's own score.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch.nn import functional

from rainbow_ray.tasks.segment_targets import LABEL, PLACE, SONG

if TYPE_CHECKING:
    from rainbow_ray.tasks.base import Task

TINY = 1e-7


def instance_log_probs(inner: Task, pooling: str, logits: torch.Tensor, song: torch.Tensor) -> torch.Tensor:
    """Log shares `(segments, classes)` of whole songs; `song` numbers them from 0, `(segments,)`.

    attention: a softmax over the song's segments weighs what each says (Ilse et al. 2018, eq. 7, on scores).
    noisy_or: the song is of a class unless no segment is (Maron & Lozano-Pérez 1998); segments share in it by how far
    each brings it about. Of several classes the songs' scores are made to sum to 1.
    """
    songs = int(song.max()) + 1 if len(song) else 0
    if pooling == "attention":
        said = _log_classes(inner, logits[:, :-1])
        return said + _log_softmax_by(logits[:, -1], song, songs)[:, None]
    absent = torch.log1p(-_log_classes(inner, logits).exp().clamp(max=1 - TINY))  # log(1 - p) of each segment
    together = absent.new_zeros(songs, absent.shape[1]).index_add(0, song, absent)
    score = 1 - together.exp()
    if inner.name == "binary":
        score = torch.stack([together[:, 1].exp(), score[:, 1]], dim=1)
    score = score / score.sum(dim=1, keepdim=True).clamp(min=TINY)
    part = (absent / together.clamp(max=-TINY)[song]).clamp(min=TINY)
    return (score[song] * part).clamp(min=TINY**2).log()


def multiple_instance_loss(inner: Task, log_shares: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """The song's loss on its first segment, 0 on the others: `(segments,)`."""
    first = torch.ones(len(targets), dtype=torch.bool, device=targets.device)
    first[1:] = (targets[1:, SONG] != targets[:-1, SONG]) | (targets[1:, PLACE] <= targets[:-1, PLACE])
    song = first.long().cumsum(0) - 1
    songs = int(song[-1]) + 1
    score = log_shares.new_zeros(songs, log_shares.shape[1]).index_add(0, song, log_shares.exp()).clamp(min=TINY)
    label = targets[first, LABEL].nan_to_num()
    # logits that the inner loss reads back as these scores
    said = (score[:, 1:] / (1 - score[:, 1:]).clamp(min=TINY)).log() if inner.name == "binary" else score.log()
    loss = inner.loss(said, label)
    return log_shares.new_zeros(len(targets)).masked_scatter(first, loss)


def instance_scores(inner: Task, log_shares: torch.Tensor) -> torch.Tensor:
    """Shares as scores: `(segments,)` of yes, or `(segments, classes)`."""
    made = log_shares.float().exp()
    return made[:, 1] if inner.name == "binary" else made


def _log_classes(inner: Task, logits: torch.Tensor) -> torch.Tensor:
    if inner.name == "binary":
        return torch.cat([functional.logsigmoid(-logits), functional.logsigmoid(logits)], dim=1)
    return functional.log_softmax(logits, dim=1)


def _log_softmax_by(values: torch.Tensor, song: torch.Tensor, songs: int) -> torch.Tensor:
    """A log-softmax over each song's segments: `(segments,)`."""
    top = values.new_full((songs,), float("-inf")).scatter_reduce(0, song, values.detach(), "amax")
    shifted = values - top[song]
    return shifted - values.new_zeros(songs).index_add(0, song, shifted.exp())[song].log()
