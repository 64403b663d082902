"""Errors of Ray's tasks, unwrapped: what a task raised comes out as itself, whatever Ray put around it."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable, Iterator
from typing import Any

from rainbow_ray.utils.errors import InputError, TrainingError

MOST_LAYERS = 20


def causes_of(error: BaseException) -> Iterator[BaseException]:
    """Yield an error and what it wraps, from the outside in.

    Ray wraps what a task raises as `RayTaskError.cause`, Ray Data as the `__cause__` of a `UserCodeException`.
    """
    current: BaseException | None = error
    for _ in range(MOST_LAYERS):
        if current is None:
            return
        yield current
        cause = getattr(current, "cause", None)
        current = cause if isinstance(cause, BaseException) else current.__cause__


def user_error(error: BaseException) -> InputError | TrainingError | None:
    """Return the error for people that an error is or wraps, without Ray's traceback in its text."""
    for cause in causes_of(error):
        # not Ray's own mixture of a task's error and its cause, whose text is a traceback
        if isinstance(cause, InputError | TrainingError) and type(cause) in (InputError, TrainingError):
            return cause
    return None


@contextlib.contextmanager
def unwrapped_errors(
    known: Callable[[BaseException], InputError | TrainingError | None] = user_error,
) -> Iterator[None]:
    """Let errors for people that were raised inside Ray's tasks come out as themselves.

    Args:
        known: Finds such an error in what Ray raised; None where there is none.

    Raises:
        InputError, TrainingError: As raised in the task.
    """
    try:
        yield
    except Exception as error:
        found = known(error)
        if found is None or found is error:
            raise
        raise found from error


def quiet_ray_data(context: Any) -> None:
    """Let errors of Ray Data's tasks reach the caller as they are, and nothing be logged of them beside.

    Args:
        context: The `ray.data.DataContext` that a data set is made in.
    """
    context.enable_progress_bars = False
    context.print_on_execution_start = False
    context.raise_original_map_exception = True  # a `UserCodeException` loses its cause between processes
    logging.getLogger("ray.data").setLevel(logging.CRITICAL + 1)
