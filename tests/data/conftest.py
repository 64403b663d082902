"""Fixtures of the tests of data."""

from __future__ import annotations

import pytest

from tests.helpers import data_of, plan_of


@pytest.fixture
def read_songs(write_table, tiny_encoder):
    """Return a function that prepares the data of a run from a table."""

    def read_table(rows: dict, **keys):
        return data_of(plan_of(write_table(rows), tiny_encoder("bert"), **keys))

    return read_table
