"""Datasets that training reads examples from: all in memory (`InMemoryDataset`) or streamed (`data/streaming.py`).

A dataset keeps the small columns of every example (targets, weights, lengths, song) in memory, and yields the large
ones (token ids, words, media) batch by batch in a requested order. Training code does not distinguish the two kinds.
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
from typing_extensions import override

from rainbow_ray.data.examples import Examples
from rainbow_ray.data.segments import SequenceIndex
from rainbow_ray.data.splits import make_split


@dataclass(frozen=True)
class BatchIndices:
    """Indices of the examples of a batch, and the sequences that they form.

    Attributes:
        indices: Indices into the dataset, int64 `(n,)`.
        sequence_ids: Sequence of each example, int64 `(n,)`; the examples of a sequence are adjacent and in order.
            None means that every example is independent. The ids cannot be derived from `indices`: two sequences of
            one song may be adjacent and are still read separately.
    """

    indices: np.ndarray
    sequence_ids: np.ndarray | None = None

    @classmethod
    def from_sequences(cls, sequences: Sequence[np.ndarray]) -> BatchIndices:
        """Concatenate sequences.

        Args:
            sequences: Indices into the dataset of each sequence.

        Returns:
            The batch of all sequences, in their order.
        """
        if not sequences:
            return cls(np.array([], dtype=np.int64), np.array([], dtype=np.int64))
        return cls(np.concatenate(sequences), np.repeat(np.arange(len(sequences)), [len(s) for s in sequences]))

    def __len__(self) -> int:
        return len(self.indices)

    @property
    def sequences(self) -> list[np.ndarray]:
        """Indices into the dataset of each sequence."""
        return [self.indices[positions] for positions in sequence_positions(self.sequence_ids, len(self))]


@dataclass(frozen=True)
class ExampleView:
    """Some examples of a dataset that are in memory.

    Attributes:
        examples: Examples in memory, of which the view shows some.
        positions: Rows of `examples`, int64 `(n,)`.
        indices: The same examples as indices into the dataset, int64 `(n,)`.
        sequence_ids: Sequence of each example, as in `BatchIndices`.
    """

    examples: Examples
    positions: np.ndarray
    indices: np.ndarray
    sequence_ids: np.ndarray | None = None

    def __len__(self) -> int:
        return len(self.indices)

    def take(self, rows: np.ndarray) -> ExampleView:
        """Select rows of this view.

        Args:
            rows: Rows of the view, int64 `(m,)`.

        Returns:
            A view of these rows, in the order of `rows`, with their sequence ids.
        """
        sequence_ids = self.sequence_ids[rows] if self.sequence_ids is not None else None
        return ExampleView(self.examples, self.positions[rows], self.indices[rows], sequence_ids)

    def with_sequences(self, sequence_ids: np.ndarray | None) -> ExampleView:
        """Return a copy with other sequence ids.

        Args:
            sequence_ids: Sequence of each example, `(n,)`, or None.

        Returns:
            A view of the same examples.
        """
        return dataclasses.replace(self, sequence_ids=sequence_ids)

    @property
    def sequence_positions(self) -> list[np.ndarray]:
        """Rows of this view that form each sequence."""
        return sequence_positions(self.sequence_ids, len(self))


def sequence_positions(sequence_ids: np.ndarray | None, size: int) -> list[np.ndarray]:
    """Return the positions of each sequence among `size` examples.

    Args:
        sequence_ids: Sequence of each example, `(size,)`, equal ids adjacent; None makes each example a sequence.
        size: Number of examples.

    Returns:
        Consecutive positions of each sequence, in order.
    """
    if size == 0:
        return []
    positions = np.arange(size)
    starts = positions[1:] if sequence_ids is None else np.flatnonzero(np.diff(sequence_ids)) + 1
    return np.split(positions, starts)


class Dataset(ABC):
    """Examples to train on and to score.

    Indices are int64 and count all examples of the dataset from 0. Examples in memory are sorted by id, streamed ones
    by their row in the manifest, and segments by song, then by time. This order never changes.

    Attributes:
        lengths: Number of tokens of each example, int `(examples,)`.
        in_memory: Whether every example is in memory, so that any order of reading costs the same.
        songs: Song of each example as an integer, `(examples,)`, where scores are averaged by song; otherwise None.
        sequence_index: Sequences of segments that a model reads together, or None where examples are independent.
    """

    lengths: np.ndarray
    in_memory: bool
    songs: np.ndarray | None
    sequence_index: SequenceIndex | None

    @property
    @abstractmethod
    def targets(self) -> np.ndarray:
        """Targets of the task, float32 or float64 `(examples, …)`."""

    @property
    @abstractmethod
    def weights(self) -> np.ndarray:
        """Factors of the loss, float32 `(examples,)`; 0 for segments without a label."""

    @abstractmethod
    def __len__(self) -> int:
        """Return the number of examples."""

    @abstractmethod
    def window_names(self, modality: str) -> list[str]:
        """Return the names of all windows of a modality.

        Args:
            modality: `"audio"` or `"midi"`.

        Returns:
            Distinct names, in order of first appearance; empty where no example has the modality.
        """

    @abstractmethod
    def song_names(self, indices: np.ndarray) -> list[str]:
        """Return the ids of the songs of some examples.

        Args:
            indices: Examples, int64 `(n,)`.

        Returns:
            Distinct song ids, in order of first appearance.
        """

    @abstractmethod
    def in_memory_subset(self, indices: np.ndarray) -> ExampleView:
        """Return those of some examples that are always in memory.

        Args:
            indices: Examples, int64 `(n,)`.

        Returns:
            All of `indices` in their order where the dataset is in memory; otherwise those in a fixed random sample of
            the dataset, in ascending order. Only this subset of a streamed dataset has its text.
        """

    @abstractmethod
    def shuffle_blocks(self, indices: np.ndarray, *, seed: int, epoch: int) -> list[np.ndarray]:
        """Divide the examples of an epoch into blocks, within which training may shuffle.

        Args:
            indices: Examples of the epoch, int64 `(n,)`; repeated indices are kept.
            seed: Seed of the order of blocks.
            epoch: Epoch, from 0; each has its own order.

        Returns:
            Blocks to visit one after the other, which together hold `indices` exactly. A dataset in memory gives one
            block. A streamed dataset orders row groups at random and gives blocks of at most `BLOCK_ROWS` examples.
        """

    @abstractmethod
    def iter_batches(self, batches: Iterable[np.ndarray]) -> Iterator[ExampleView]:
        """Read batches, one after the other.

        Args:
            batches: Indices of each batch, int64; a batch may be empty. To bound the memory of a streamed dataset,
                batches must follow the order of `shuffle_blocks`.

        Yields:
            One view per batch, with its examples in the order given.
        """

    @abstractmethod
    def validation_mask(
        self, indices: np.ndarray, strata: np.ndarray, *, fraction: float, split_by: str, seed: int
    ) -> np.ndarray:
        """Choose the examples that an inner split holds out.

        Args:
            indices: Examples to split, int64 `(n,)`.
            strata: Stratum of each of them, int `(n,)`; the fraction holds for each stratum as well as possible.
            fraction: Fraction of the examples to hold out, in (0, 1).
            split_by: `"id"`, `"row"` or a column, as `data.split_by`; a streamed dataset uses the groups of its own
                split.
            seed: Seed of the choice.

        Returns:
            Mask of the examples held out, bool `(n,)`. Groups, and thereby songs, are never divided.
        """


@dataclass(frozen=True)
class InMemoryDataset(Dataset):
    """Dataset whose examples are all in memory.

    Attributes:
        examples: All examples.
        lengths: Number of tokens of each example, `(examples,)`.
        songs: Song of each example as an integer, `(examples,)`, where scores are averaged by song.
        in_memory: Always True.
        sequence_index: Sequences of segments, or None where examples are independent.
    """

    examples: Examples
    lengths: np.ndarray
    songs: np.ndarray | None = None
    in_memory: bool = True
    sequence_index: SequenceIndex | None = None

    @override
    def __len__(self) -> int:
        return len(self.examples)

    @property
    @override
    def targets(self) -> np.ndarray:
        return self.examples.targets

    @property
    @override
    def weights(self) -> np.ndarray:
        return self.examples.weights

    @functools.cached_property
    def token_hash(self) -> str:
        """SHA-256 of the token ids of all examples, in order; part of the key of cached hidden states."""
        ids = self.examples.lists("input_ids").rows()
        digest = hashlib.sha256(self.lengths.tobytes())
        for row in ids:
            digest.update(np.ascontiguousarray(row).data)
        return digest.hexdigest()

    @functools.cached_property
    def distinct(self) -> tuple[np.ndarray, np.ndarray]:
        """First example of each distinct row of token ids, and the distinct row of each example, `(examples,)`."""
        ids = [row.tobytes() for row in self.examples.lists("input_ids").rows()]
        codes, values = pd.factorize(np.array(ids, dtype=object))
        return np.unique(codes, return_index=True)[1] if len(values) else np.array([], dtype=np.int64), codes

    @override
    def window_names(self, modality: str) -> list[str]:
        return distinct_windows(self.examples.table, modality)

    @override
    def song_names(self, indices: np.ndarray) -> list[str]:
        return list(dict.fromkeys(self.examples.songs[indices]))

    @override
    def in_memory_subset(self, indices: np.ndarray) -> ExampleView:
        return ExampleView(self.examples, indices, indices)

    @override
    def shuffle_blocks(self, indices: np.ndarray, *, seed: int, epoch: int) -> list[np.ndarray]:
        return [indices]

    @override
    def iter_batches(self, batches: Iterable[np.ndarray]) -> Iterator[ExampleView]:
        return (self.in_memory_subset(batch) for batch in batches)

    @override
    def validation_mask(
        self, indices: np.ndarray, strata: np.ndarray, *, fraction: float, split_by: str, seed: int
    ) -> np.ndarray:
        chosen = self.examples.take(indices)
        split = make_split(chosen, strata, n_folds=1, val_fraction=fraction, split_by=split_by, seed=seed)
        return np.asarray(split.fold == 0)


def count_songs(dataset: Dataset, indices: np.ndarray) -> int | None:
    """Count the songs of some segments.

    Args:
        dataset: Dataset of the examples.
        indices: Examples, int64 `(n,)`; whole songs.

    Returns:
        The number of songs, or None where examples are independent, not segments in sequences.
    """
    return len(dataset.sequence_index.group_by_song(indices)) if dataset.sequence_index is not None else None


def distinct_windows(table: pa.Table, modality: str) -> list[str]:
    """Return the distinct names of windows in a table.

    Args:
        table: Table of examples.
        modality: Name of the column, a list of window names per row.

    Returns:
        Names in order of first appearance; empty without such a column.
    """
    if modality not in table.column_names:
        return []
    return [str(name) for name in pc.unique(pc.list_flatten(table[modality])).to_pylist()]


def mean_score_per_song(dataset: Dataset, indices: np.ndarray, scores: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Average scores over the examples of each song.

    Args:
        dataset: Dataset of the examples.
        indices: Examples, int64 `(n,)`.
        scores: Their scores, `(n, …)`; NaN values are left out of the mean.

    Returns:
        The first example of each song among `indices`, `(songs,)`, and the mean scores, `(songs, …)`, NaN for a song
        without any score. Where `dataset.songs` is None, `indices` and `scores` as given.
    """
    if dataset.songs is None or len(indices) == 0:
        return indices, scores
    _, first, song = np.unique(dataset.songs[indices], return_index=True, return_inverse=True)
    sums, counts = np.zeros((2, len(first), *scores.shape[1:]))
    np.add.at(sums, song, np.nan_to_num(scores))
    np.add.at(counts, song, ~np.isnan(scores))
    means = np.divide(sums, counts, out=np.full_like(sums, np.nan), where=counts > 0)
    return indices[first], means.astype(scores.dtype)


def scatter_song_means(dataset: Dataset, scores: np.ndarray) -> np.ndarray:
    """Put the mean score of each song at its first example.

    Args:
        dataset: Dataset of the examples.
        scores: Scores of all examples, `(examples, …)`.

    Returns:
        Mean scores `(examples, …)`, NaN at the other examples of a song. Where `dataset.songs` is None, `scores`.
    """
    if dataset.songs is None:
        return scores
    result = np.full_like(scores, np.nan)
    first, means = mean_score_per_song(dataset, np.arange(len(scores)), scores)
    result[first] = means
    return result
