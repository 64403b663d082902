"""Search spaces of functions, for tests."""

from __future__ import annotations

from rainbow_ray.tuning.search_space import Space


def make_space(suggest) -> Space:
    return Space(suggest, "test:space", __file__)
