"""Where a fit's examples come from: all of them in memory, or read anew each epoch. The loop sees no difference.

A source knows the small facts of every example (targets, weights, lengths, song) and hands out the large ones (token
ids, words) in the order of a plan.
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

from rainbow_ray.data.examples import Examples
from rainbow_ray.data.segments import SequenceIndex
from rainbow_ray.data.splits import make_split


@dataclass(frozen=True)
class BatchIndices:
    """Some examples of a source, by their indices, and which of them are read together.

    `sequence_ids[i]` numbers the sequence of example i; the examples of a sequence follow each other. None: each
    example is independent. The ids cannot be recovered from the indices: sequences of one song may touch.
    """

    indices: np.ndarray
    sequence_ids: np.ndarray | None = None

    @classmethod
    def from_sequences(cls, runs: Sequence[np.ndarray]) -> BatchIndices:
        if not runs:
            return cls(np.array([], dtype=np.int64), np.array([], dtype=np.int64))
        return cls(np.concatenate(runs), np.repeat(np.arange(len(runs)), [len(run) for run in runs]))

    def __len__(self) -> int:
        return len(self.indices)

    @property
    def sequences(self) -> list[np.ndarray]:
        """The indices of each run."""
        return [self.indices[places] for places in sequence_positions(self.sequence_ids, len(self))]


@dataclass(frozen=True)
class ExampleView:
    """Some examples that lie in memory now: `indices` in their source, which are rows `positions` of `examples`.

    `sequence_ids` as in `BatchIndices`.
    """

    examples: Examples
    positions: np.ndarray
    indices: np.ndarray
    sequence_ids: np.ndarray | None = None

    def __len__(self) -> int:
        return len(self.indices)

    def take(self, which: np.ndarray) -> ExampleView:
        return ExampleView(
            self.examples,
            self.positions[which],
            self.indices[which],
            self.sequence_ids[which] if self.sequence_ids is not None else None,
        )

    def with_sequences(self, sequence_ids: np.ndarray | None) -> ExampleView:
        return dataclasses.replace(self, sequence_ids=sequence_ids)

    @property
    def sequence_positions(self) -> list[np.ndarray]:
        """The places among these rows of each run."""
        return sequence_positions(self.sequence_ids, len(self))


def sequence_positions(sequence_ids: np.ndarray | None, size: int) -> list[np.ndarray]:
    """The places of each run, whose examples follow each other; without `sequence_ids` each is one of its own."""
    if size == 0:
        return []
    places = np.arange(size)
    return np.split(places, places[1:] if sequence_ids is None else np.flatnonzero(np.diff(sequence_ids)) + 1)


class Dataset(Protocol):
    """What training asks of data. Arrays are `(examples,)`; indices count all examples of the source."""

    @property
    def targets(self) -> np.ndarray: ...

    @property
    def weights(self) -> np.ndarray:
        """They multiply the loss."""

    @property
    def lengths(self) -> np.ndarray:
        """Tokens of each example."""

    @property
    def in_memory(self) -> bool:
        """Whether examples can be had in any order at no cost."""

    @property
    def songs(self) -> np.ndarray | None:
        """The song of each example as a number, where a song's examples are scored as one; None: each for itself."""

    @property
    def sequence_index(self) -> SequenceIndex | None:
        """Which examples must share a batch, where they are segments of songs; None: each stands for itself."""

    def __len__(self) -> int: ...

    def window_names(self, modality: str) -> list[str]:
        """The names of all windows of a modality, each once."""

    def song_names(self, indices: np.ndarray) -> list[str]:
        """The songs of some examples, each once."""

    def in_memory_subset(self, indices: np.ndarray) -> ExampleView:
        """Those of `indices` that always lie in memory: all of them, or a sample."""

    def shuffle_blocks(self, indices: np.ndarray, *, seed: int, epoch: int) -> list[np.ndarray]:
        """`indices` (repeats allowed) in the pieces that an epoch visits one after the other."""

    def iter_batches(self, parts: Iterable[np.ndarray]) -> Iterator[ExampleView]:
        """The rows of each part, in turn. Where examples are read, parts must follow `shuffle_blocks`."""

    def validation_mask(
        self, indices: np.ndarray, strata: np.ndarray, *, fraction: float, split_by: str, seed: int
    ) -> np.ndarray:
        """Which of `indices` an inner split holds out: bool, as long as `indices`. Songs stay whole."""


@dataclass(frozen=True)
class InMemoryDataset:
    """All examples lie in memory."""

    examples: Examples
    lengths: np.ndarray
    songs: np.ndarray | None = None
    in_memory: bool = True
    sequence_index: SequenceIndex | None = None

    def __len__(self) -> int:
        return len(self.examples)

    @property
    def targets(self) -> np.ndarray:
        return self.examples.targets

    @property
    def weights(self) -> np.ndarray:
        return self.examples.weights

    @functools.cached_property
    def token_hash(self) -> str:
        """Identifies what encoders read of all examples, in their order."""
        ids = self.examples.ragged("input_ids")
        digest = hashlib.sha256(self.lengths.tobytes())
        for row in ids:
            digest.update(np.ascontiguousarray(row).data)
        return digest.hexdigest()

    @functools.cached_property
    def distinct(self) -> tuple[np.ndarray, np.ndarray]:
        """The first example of each distinct row of token ids, and which of these each example is."""
        ids = [row.tobytes() for row in self.examples.ragged("input_ids")]
        codes, seen = pd.factorize(np.array(ids, dtype=object))
        return np.unique(codes, return_index=True)[1] if len(seen) else np.array([], dtype=np.int64), codes

    def window_names(self, modality: str) -> list[str]:
        return distinct_windows(self.examples.table, modality)

    def song_names(self, indices: np.ndarray) -> list[str]:
        return list(dict.fromkeys(self.examples.songs[indices]))

    def in_memory_subset(self, indices: np.ndarray) -> ExampleView:
        return ExampleView(self.examples, indices, indices)

    def shuffle_blocks(self, indices: np.ndarray, *, seed: int, epoch: int) -> list[np.ndarray]:  # noqa: ARG002
        return [indices]

    def iter_batches(self, parts: Iterable[np.ndarray]) -> Iterator[ExampleView]:
        return (self.in_memory_subset(part) for part in parts)

    def validation_mask(
        self, indices: np.ndarray, strata: np.ndarray, *, fraction: float, split_by: str, seed: int
    ) -> np.ndarray:
        side = self.examples.take(indices)
        return np.asarray(
            make_split(side, strata, n_folds=1, val_fraction=fraction, split_by=split_by, seed=seed).fold == 0
        )


def count_songs(source: Dataset, indices: np.ndarray) -> int | None:
    """How many songs `indices` are of, where their examples stay together; None where each stands for itself."""
    return len(source.sequence_index.group_by_song(indices)) if source.sequence_index is not None else None


def distinct_windows(table: pa.Table, modality: str) -> list[str]:
    """All names in a modality's column, each once, in their order; none where there is no such column."""
    if modality not in table.column_names:
        return []
    return [str(name) for name in pc.unique(pc.list_flatten(table[modality])).to_pylist()]


def mean_score_per_song(source: Dataset, indices: np.ndarray, scores: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """One example of each song among `indices`, and the mean of their scores: `(songs,)`, `(songs, …)`.

    Examples without a score (NaN) do not count; a song of which none has one has none. Where each example stands for
    itself, what was given.
    """
    if source.songs is None or len(indices) == 0:
        return indices, scores
    _, first, song = np.unique(source.songs[indices], return_index=True, return_inverse=True)
    sums, counts = np.zeros((2, len(first), *scores.shape[1:]))
    np.add.at(sums, song, np.nan_to_num(scores))
    np.add.at(counts, song, ~np.isnan(scores))
    means = np.divide(sums, counts, out=np.full_like(sums, np.nan), where=counts > 0)
    return indices[first], means.astype(scores.dtype)


def scatter_song_means(source: Dataset, scores: np.ndarray) -> np.ndarray:
    """Scores `(examples, …)` with the mean of a song's examples at one of them, and NaN at the others."""
    if source.songs is None:
        return scores
    made = np.full_like(scores, np.nan)
    first, means = mean_score_per_song(source, np.arange(len(scores)), scores)
    made[first] = means
    return made
