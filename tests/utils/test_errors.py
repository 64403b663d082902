"""Errors of other libraries in one line."""

from __future__ import annotations

import pytest

from rainbow_ray.utils.errors import first_line


@pytest.mark.parametrize(
    ("message", "line"),
    [
        ("cannot read\nbecause", "cannot read"),
        ("Found these conflicts:\n\n  the batch size is 3\nand more", "Found these conflicts: the batch size is 3"),
        ("", "ValueError"),
        ("only an introduction:", "only an introduction:"),
    ],
)
def test_the_first_line_says_what_is_wrong(message, line):
    assert first_line(ValueError(message)) == line


def test_long_lines_are_cut():
    assert len(first_line(ValueError("x" * 1000))) == 200
