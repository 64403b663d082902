"""Mappings whose keys were renamed."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TypeVar

T = TypeVar("T")


def rename_keys(mapping: Mapping[str, T], renamed: Mapping[str, str]) -> dict[str, T]:
    """Return a copy of a mapping in which former keys have their present names.

    Args:
        mapping: Values by key, as an earlier version may have written them.
        renamed: Present names of keys by former name.

    Returns:
        The same values in the same order. A value under the present name has precedence over one under a former name.
    """
    return {renamed.get(key, key): value for key, value in mapping.items() if renamed.get(key) not in mapping}
