"""Targets of segments: label, start, end, position in the song, and the song.

Outside of `tasks/`, targets of segments are a packed array of `(segments, 5)`, which is indexed, split and batched as
targets of any other task are. `SegmentTargets` gives its columns their names.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Generic, TypeVar

import numpy as np

from rainbow_ray.metrics.segments import durations

if TYPE_CHECKING:
    import torch

LABEL, START, END, POSITION, SONG = range(5)  # columns of the packed array

ArrayT = TypeVar("ArrayT", np.ndarray, "torch.Tensor")


@dataclass(frozen=True)
class SegmentTargets(Generic[ArrayT]):
    """Targets of segments, as arrays of numpy or tensors of PyTorch.

    Segments of a song follow each other in the order of time. The columns have one dtype, that of the labels.

    Attributes:
        labels: Targets of the base task, `(segments,)`, NaN for segments without a label.
        start: Seconds from the song's start, `(segments,)`.
        end: Seconds from the song's start, `(segments,)`.
        position: Index of the segment in its song, from 0, `(segments,)`.
        song: Number of the song, `(segments,)`.
    """

    labels: ArrayT
    start: ArrayT
    end: ArrayT
    position: ArrayT
    song: ArrayT

    @classmethod
    def from_array(cls, array: ArrayT) -> SegmentTargets[ArrayT]:
        """Return the columns of a packed array.

        Args:
            array: Packed targets, `(segments, 5)`.

        Returns:
            Views of the columns.
        """
        return cls(*(array[..., column] for column in range(5)))

    @classmethod
    def concatenate(cls, parts: Sequence[SegmentTargets[np.ndarray]]) -> SegmentTargets[np.ndarray]:
        """Return the segments of several parts after each other.

        Args:
            parts: Targets of numpy arrays, at least one.

        Returns:
            Targets of all segments.
        """
        return SegmentTargets.from_array(np.concatenate([part.to_array() for part in parts]))

    def to_array(self: SegmentTargets[np.ndarray]) -> np.ndarray:
        """Return the packed array.

        Returns:
            A copy of the targets, `(segments, 5)`, in the widest dtype of the columns.
        """
        return np.stack([self.labels, self.start, self.end, self.position, self.song], axis=-1)

    def __len__(self) -> int:
        """Return the number of segments."""
        return len(self.labels)

    def __getitem__(self, index: Any) -> SegmentTargets[ArrayT]:
        """Return the segments of a slice, a mask or an array of indices."""
        return SegmentTargets(*(getattr(self, field.name)[index] for field in dataclasses.fields(self)))

    @property
    def has_label(self: SegmentTargets[np.ndarray]) -> np.ndarray:
        """Mask of the segments that have a label, bool, `(segments,)`."""
        return np.asarray(~np.isnan(self.labels))

    @property
    def filled_labels(self: SegmentTargets[np.ndarray]) -> np.ndarray:
        """Labels, with 0 for segments that have none, `(segments,)`."""
        return np.where(self.has_label, self.labels, 0.0)

    def song_slices(self: SegmentTargets[np.ndarray]) -> list[slice]:
        """Return the rows of each song.

        Returns:
            A slice for each song; a song that a bootstrap draws twice in a row counts as two.
        """
        if len(self) == 0:
            return []
        is_first = (np.diff(self.song) != 0) | (np.diff(self.position) <= 0)
        edges = np.concatenate([[0], np.flatnonzero(is_first) + 1, [len(self)]])
        return [slice(a, b) for a, b in zip(edges[:-1].tolist(), edges[1:].tolist(), strict=True)]

    def song_labels(self: SegmentTargets[np.ndarray]) -> np.ndarray:
        """Return the label of each song, where all labeled segments of a song have the same.

        Returns:
            The largest label of each song, float32, `(songs,)`.
        """
        return np.array([np.nanmax(self.labels[rows]) for rows in self.song_slices()], dtype=np.float32)

    def durations(self: SegmentTargets[np.ndarray]) -> np.ndarray:
        """Return the duration of each segment of one song, without overlaps.

        Returns:
            Seconds, float64, `(segments,)`; see `metrics.segments.durations`.
        """
        return durations(self.start, self.end)


def song_slices(targets: np.ndarray) -> list[slice]:
    """Return the rows of each song in packed targets.

    Args:
        targets: Packed targets, `(segments, 5)`.

    Returns:
        A slice for each song, as `SegmentTargets.song_slices` has them.
    """
    return SegmentTargets.from_array(targets).song_slices()
