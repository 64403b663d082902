"""Which words a text holds, as features: labels often follow words, and an encoder's averages blur them.

Each word is hashed to a bucket. A bucket's row is a fixed random direction (Johnson–Lindenstrauss: inner products of
word presences survive), scaled by how strongly the word speaks for a class on the training side: the log-count ratio
of Wang and Manning 2012, "Baselines and Bigrams", eq. 2–3. Adding the rows of a text's words gives `width` dense
features, which the head weighs beside the encoder's. Dense, because Adam moves the weight of a word seen once as far
as that of a frequent one; nothing to learn here, because 43 songs do not teach a thousand weights.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import nn

from rainbow_ray.modalities.text.word_hashing import BUCKETS

SMOOTHING = 2  # texts; between two groups of one size that is one each


def log_count_ratios(lists: list[np.ndarray], belongs: np.ndarray) -> np.ndarray:
    """How strongly each word speaks for each group of texts, against all others: `(BUCKETS, groups)`.

    `belongs` is `(texts, groups)`, bool. As if `SMOOTHING` more texts had held each word, dealt to the two sides in
    proportion to their texts: a word that nobody has says nothing, however few texts a group has (with one more on each
    side, as in the paper, all rare words would speak for a small group). Nor does a group that all or no texts are in.
    """
    everything = _count(lists)
    columns = []
    for inside in belongs.T:
        share = float(inside.mean()) if len(inside) else 0.0
        if share in (0.0, 1.0):
            columns.append(np.zeros(BUCKETS))
            continue
        counts = _count([row for row, there in zip(lists, inside, strict=True) if there])
        own, others = counts / share, (everything - counts) / (1 - share)
        columns.append(np.log((own + SMOOTHING) / (others + SMOOTHING)))
    return np.stack(columns, axis=1).astype(np.float32)


def _count(lists: list[np.ndarray]) -> np.ndarray:
    joined = np.concatenate(lists) if lists else np.array([], dtype=np.int64)
    return np.bincount(joined, minlength=BUCKETS)


class WordPresence(nn.Module):
    """Buckets `(units, words)`, padded with 0, to features `(units, width)`."""

    table: torch.Tensor

    def __init__(self, width: int) -> None:
        super().__init__()
        self.width = width
        self.register_buffer("table", torch.zeros(BUCKETS, width))

    def fit(self, lists: list[np.ndarray], ratios: np.ndarray | None, seed: int) -> None:
        """Set the rows from the training side.

        `ratios` is `(BUCKETS, classes)`: how strongly each word speaks for each class; None weighs all words alike.
        A word that the training side does not have gets no row: it would only be noise.
        """
        seen = np.zeros(BUCKETS, dtype=bool)
        for buckets in lists:
            seen[buckets] = True
        if ratios is None:
            ratios = np.ones((BUCKETS, 1), dtype=np.float32)
        generator = torch.Generator().manual_seed(seed)
        directions = torch.randn(BUCKETS, self.width, generator=generator) / self.width**0.5
        # each class has its share of the features, so that the head can tell their evidence apart
        share = torch.arange(self.width) * ratios.shape[1] // self.width
        scale = torch.from_numpy(np.ascontiguousarray(ratios, dtype=np.float32))[:, share]
        self.table.copy_(directions * scale * torch.from_numpy(seen)[:, None])

    def forward(self, buckets: torch.Tensor) -> torch.Tensor:
        return nn.functional.embedding_bag(buckets, self.table, mode="sum", padding_idx=0)
