"""List columns as flat arrays: rows in any order and number, with chunks, slices and empty lists."""

from __future__ import annotations

import copy
import pickle

import numpy as np
import pyarrow as pa
import pytest

from rainbow_ray.data.examples import Examples
from rainbow_ray.data.list_column import ListColumn

ROWS = [[1, 2, 3], [], [4], [5, 6], []]
COLUMNS = {
    "one chunk": pa.chunked_array([pa.array(ROWS, pa.list_(pa.int32()))]),
    "two chunks": pa.chunked_array(
        [pa.array(ROWS[:2], pa.list_(pa.int32())), pa.array(ROWS[2:], pa.list_(pa.int32()))]
    ),
    "a slice": pa.chunked_array([pa.array([[9, 9], *ROWS, [7]], pa.large_list(pa.int32()))]).slice(1, 5),
}


@pytest.mark.parametrize("name", COLUMNS)
@pytest.mark.parametrize("indices", [[0, 1, 2, 3, 4], [3, 0, 3], [1], [4, 1], []])
def test_rows_are_taken_in_any_order(name, indices):
    column = ListColumn.from_arrow(COLUMNS[name])
    assert [row.tolist() for row in column.rows()] == ROWS
    values, sizes = column.take(np.array(indices, dtype=np.int64))
    assert values.tolist() == [value for index in indices for value in ROWS[index]]
    assert sizes.tolist() == [len(ROWS[index]) for index in indices]


def test_a_table_without_rows_has_no_values():
    column = ListColumn.from_arrow(pa.chunked_array([], pa.list_(pa.int32())))
    assert column.rows() == []
    assert column.take(np.array([], dtype=np.int64))[0].tolist() == []


def test_columns_that_are_kept_are_not_sent_to_other_processes():
    table = pa.table({"ids": COLUMNS["one chunk"].combine_chunks(), "present": [True] * 5})
    examples = Examples(table, np.zeros(5, dtype=np.float32), np.ones(5, dtype=np.float32))
    size = len(pickle.dumps(examples))
    assert examples.lists("ids") is examples.lists("ids")
    assert examples.values("present").tolist() == [True] * 5
    assert len(pickle.dumps(examples)) == size
    unpickled = copy.deepcopy(examples)
    assert unpickled.lists("ids").take(np.array([3]))[0].tolist() == [5, 6]
