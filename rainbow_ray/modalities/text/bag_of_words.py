"""Bag-of-words features of a text, in addition to the pooled features of the encoder, which blur single words.

Each word is hashed to a bucket. The row of a bucket is a fixed random direction, scaled by the log-count ratio of the
word for a class in the training set. The features of a text are the sum of the rows of its words. They are dense,
because Adam would move the weight of a word that occurs once as far as that of a frequent one; and they have no learned
parameters, because few songs cannot determine a thousand weights.

Reference:
    Wang and Manning 2012, "Baselines and Bigrams", equations 2 and 3 (log-count ratios); Johnson and Lindenstrauss 1984
    (random projections keep inner products).
"""

from __future__ import annotations

import numpy as np
import torch
from torch import nn
from typing_extensions import override

from rainbow_ray.modalities.text.word_hashing import BUCKETS

SMOOTHING = 2  # texts: one for each of two groups of equal size


def log_count_ratios(lists: list[np.ndarray], belongs: np.ndarray) -> np.ndarray:
    """Return the log-count ratio of each word for each group of texts against all other texts.

    Counts are smoothed as if `SMOOTHING` more texts had each word, divided between the two sides in proportion to their
    texts: so a word that no text has is neutral, however small a group is (with one more text on each side, as in the
    paper, all rare words would speak for a small group). So is every word for a group of all texts or of none.

    Args:
        lists: Buckets of each text, each once.
        belongs: Which texts are in which group, `(texts, groups)` bool.

    Returns:
        Log ratios, `(BUCKETS, groups)` float32; 0 is neutral.

    Reference:
        Wang and Manning 2012, "Baselines and Bigrams", equations 2 and 3.
    """
    totals = _count(lists)
    columns = []
    for in_group in belongs.T:
        fraction = float(in_group.mean()) if len(in_group) else 0.0
        if fraction in (0.0, 1.0):
            columns.append(np.zeros(BUCKETS))
            continue
        counts = _count([row for row, is_inside in zip(lists, in_group, strict=True) if is_inside])
        rate, other_rate = counts / fraction, (totals - counts) / (1 - fraction)
        columns.append(np.log((rate + SMOOTHING) / (other_rate + SMOOTHING)))
    return np.stack(columns, axis=1).astype(np.float32)


def _count(lists: list[np.ndarray]) -> np.ndarray:
    joined = np.concatenate(lists) if lists else np.array([], dtype=np.int64)
    return np.bincount(joined, minlength=BUCKETS)


class WordPresence(nn.Module):
    """Features of the words of a text.

    Args:
        width: Number of features.
    """

    table: torch.Tensor

    def __init__(self, width: int) -> None:
        super().__init__()
        self.width = width
        self.register_buffer("table", torch.zeros(BUCKETS, width))

    def fit(self, lists: list[np.ndarray], ratios: np.ndarray | None, seed: int) -> None:
        """Set the rows of the buckets from the training side; a word that does not occur there gets no row.

        Args:
            lists: Buckets of each training text.
            ratios: Log-count ratios of words and classes, `(BUCKETS, classes)`; None: equal weights of all words.
            seed: Seed of the random directions.
        """
        occurs = np.zeros(BUCKETS, dtype=bool)
        for buckets in lists:
            occurs[buckets] = True
        if ratios is None:
            ratios = np.ones((BUCKETS, 1), dtype=np.float32)
        generator = torch.Generator().manual_seed(seed)
        directions = torch.randn(BUCKETS, self.width, generator=generator) / self.width**0.5
        # separate features for each class, so that the head can weight their evidence separately
        class_of_feature = torch.arange(self.width) * ratios.shape[1] // self.width
        scale = torch.from_numpy(np.ascontiguousarray(ratios, dtype=np.float32))[:, class_of_feature]
        self.table.copy_(directions * scale * torch.from_numpy(occurs)[:, None])

    @override
    def forward(self, buckets: torch.Tensor) -> torch.Tensor:
        """Return the features of texts.

        Args:
            buckets: `(units, words)` int64, padded with 0.

        Returns:
            `(units, width)`.
        """
        return nn.functional.embedding_bag(buckets, self.table, mode="sum", padding_idx=0)
