"""Parts of messages: errors of other libraries in one line, and lists of names."""

from __future__ import annotations

import pytest

from rainbow_ray.utils.errors import first_line, format_names


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


@pytest.mark.parametrize(
    ("names", "options", "expected"),
    [
        ([], {}, ""),
        (["a", "b", "c"], {}, "a, b, c"),
        (["a", "b", "c", "d"], {}, "a, b, c, …"),
        (["a", "b", "c"], {"count_rest": True}, "a, b, c"),
        (["a", "b", "c", "d", "e"], {"count_rest": True}, "a, b, c and 2 more"),
        (("a", "b"), {"max_shown": 1}, "a, …"),
        (list("abcdef"), {"max_shown": 5, "count_rest": True}, "a, b, c, d, e and 1 more"),
    ],
)
def test_the_first_names_are_listed(names, options, expected):
    assert format_names(names, **options) == expected
