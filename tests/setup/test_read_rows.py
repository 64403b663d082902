"""Which process reads a table."""

from __future__ import annotations

import pytest

from rainbow_ray.setup.prepare import describe_dataset, needs_ray, prepare_data
from rainbow_ray.setup.read_rows import DRIVER_MAX_MB, reads_in_driver
from tests.helpers import plan_of


def test_a_small_table_of_texts_is_read_in_this_process(songs_file):
    plan = plan_of(songs_file)
    assert not needs_ray(plan)
    data = prepare_data(plan)
    assert data.profile["reader"] == "driver"
    assert "read in this process" in describe_dataset(plan, data)[0]


@pytest.mark.parametrize(
    ("reader", "size_mb", "expected"),
    [
        ("auto", DRIVER_MAX_MB, True),
        ("auto", DRIVER_MAX_MB + 1, False),
        ("driver", DRIVER_MAX_MB + 1, True),
        ("ray", 0, False),
        ("driver", 2000, False),  # above data.in_memory_limit_mb, Ray Data streams
    ],
)
def test_size_and_config_decide(songs_file, reader, size_mb, expected):
    assert reads_in_driver(plan_of(songs_file, data__reader=reader), size_mb) == expected


def test_media_are_read_in_parallel(stems_file):
    plan = plan_of(stems_file, phase=3, modalities=["text", "midi"])
    assert needs_ray(plan)
    assert not needs_ray(plan_of(stems_file, phase=3, modalities=["text", "midi"], data__reader="driver"))
