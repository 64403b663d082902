"""Checks of config values that need no data."""

from __future__ import annotations

from rainbow_ray.config.schema import Config
from rainbow_ray.distributed.resources import parse_workers
from rainbow_ray.utils.errors import InputError


def check_workers(config: Config) -> list[str]:
    """Return what is wrong with the number of workers.

    Args:
        config: The config.

    Returns:
        Messages about `training.workers`.
    """
    try:
        parse_workers(config.training.workers)
    except InputError as error:
        return error.problems
    return []
