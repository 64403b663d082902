"""Mutated media files do not crash or hang a reader, and each is read or counted by its reason."""

from __future__ import annotations

import pytest

from tests.benchmarks.media_faults import survey

pytestmark = pytest.mark.slow


def assert_read_or_counted(modality: str, count: int, seed: int) -> None:
    outcomes, _ = survey(modality, count, seed)
    assert sum(outcomes.values()) == count
    assert not [outcome for outcome in outcomes if outcome.startswith(("HANG", "CRASH"))], outcomes
    assert 0 < outcomes["read"] < count, "some are damaged, and some can be read"


@pytest.mark.parametrize(("modality", "count"), [("midi", 100), ("audio", 100)])
def test_some_mutated_files_are_read_or_counted(modality, count):
    assert_read_or_counted(modality, count, seed=1)


@pytest.mark.long
@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize(("modality", "count"), [("midi", 2000), ("audio", 600)])
def test_thousands_of_mutated_files_are_read_or_counted(modality, count, seed):
    assert_read_or_counted(modality, count, seed)
