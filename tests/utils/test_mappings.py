"""Keys of earlier versions are read under their present names."""

from __future__ import annotations

from rainbow_ray.utils.mappings import rename_keys


def test_keys_are_renamed_in_order_and_the_present_name_has_precedence():
    assert list(rename_keys({"b": 1, "old": 2, "a": 3}, {"old": "new"}).items()) == [("b", 1), ("new", 2), ("a", 3)]
    assert rename_keys({"new": 1, "old": 2}, {"old": "new"}) == {"new": 1}
    assert rename_keys({"old": 2, "new": 1}, {"old": "new"}) == {"new": 1}
    assert rename_keys({}, {"old": "new"}) == {}
