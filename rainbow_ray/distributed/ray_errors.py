"""Errors of Ray's tasks: a task's own exception is raised in the caller, without the layers that Ray adds."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable, Iterator
from typing import Any

from rainbow_ray.utils.errors import InputError, TrainingError

MOST_LAYERS = 20


def causes_of(error: BaseException) -> Iterator[BaseException]:
    """Iterate over an error and the errors that it wraps.

    Ray wraps the exception of a task as `RayTaskError.cause`, Ray Data as the `__cause__` of a `UserCodeException`.

    Args:
        error: The error.

    Yields:
        The errors, from the outermost on.
    """
    current: BaseException | None = error
    for _ in range(MOST_LAYERS):
        if current is None:
            return
        yield current
        cause = getattr(current, "cause", None)
        current = cause if isinstance(cause, BaseException) else current.__cause__


def user_error(error: BaseException) -> InputError | TrainingError | None:
    """Return the error for users that an error is or wraps.

    Args:
        error: The error.

    Returns:
        The error without Ray's traceback in its text, or None.
    """
    for cause in causes_of(error):
        # not Ray's own mixture of a task's error and its cause, whose text is a traceback
        if isinstance(cause, InputError | TrainingError) and type(cause) in (InputError, TrainingError):
            return cause
    return None


@contextlib.contextmanager
def unwrapped_errors(
    known: Callable[[BaseException], InputError | TrainingError | None] = user_error,
) -> Iterator[None]:
    """Raise errors for users that occurred in Ray's tasks as themselves.

    Args:
        known: Finds such an error in what Ray raised; returns None where there is none.

    Yields:
        None.

    Raises:
        InputError, TrainingError: As raised in the task.
    """
    try:
        yield
    except Exception as error:
        known_error = known(error)
        if known_error is None or known_error is error:
            raise
        raise known_error from error


def quiet_ray_data(context: Any) -> None:
    """Configure Ray Data to raise the errors of its tasks unchanged, and to log nothing about them.

    Args:
        context: The `ray.data.DataContext` in which a dataset is created.
    """
    context.enable_progress_bars = False
    context.print_on_execution_start = False
    context.raise_original_map_exception = True  # a `UserCodeException` loses its cause between processes
    logging.getLogger("ray.data").setLevel(logging.CRITICAL + 1)
