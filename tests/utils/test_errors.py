"""Parts of messages."""

from __future__ import annotations

import pytest

from rainbow_ray.utils.errors import format_names


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
