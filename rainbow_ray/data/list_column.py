"""List columns of tables as flat arrays, from which the values of some rows are gathered at once."""

from __future__ import annotations

import itertools
from dataclasses import dataclass

import numpy as np
import pyarrow as pa


@dataclass(frozen=True)
class ListColumn:
    """A list column.

    Attributes:
        values: Values of all rows, one row after the other.
        offsets: Position in `values` where each row begins, and the end of the last one, int `(rows + 1,)`.
    """

    values: np.ndarray
    offsets: np.ndarray

    @staticmethod
    def from_arrow(column: pa.ChunkedArray) -> ListColumn:
        """Return a column of a table; nothing is copied where it has one chunk.

        Args:
            column: Lists without nulls.

        Returns:
            The column.
        """
        lists = column.combine_chunks()
        if isinstance(lists, pa.ChunkedArray):
            lists = lists.chunk(0) if lists.num_chunks else pa.array([], lists.type)
        return ListColumn(lists.values.to_numpy(zero_copy_only=False), lists.offsets.to_numpy())

    def rows(self) -> list[np.ndarray]:
        """Return one array per row.

        Returns:
            Views of the values of each row.
        """
        return [self.values[start:stop] for start, stop in itertools.pairwise(self.offsets)]

    def take(self, indices: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return the values of some rows.

        Args:
            indices: Rows, int64 `(n,)`.

        Returns:
            Their values one row after the other, `(values,)`, and the number of values of each, int `(n,)`.
        """
        starts = self.offsets[indices]
        sizes = self.offsets[indices + 1] - starts
        stops = sizes.cumsum()
        positions = np.arange(stops[-1] if len(stops) else 0) + np.repeat(starts - stops + sizes, sizes)
        return self.values[positions], sizes
