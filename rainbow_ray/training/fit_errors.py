"""Which errors of workers are errors for users: known failures and wrong inputs, as opposed to defects."""

from __future__ import annotations

from rainbow_ray.distributed.ray_errors import causes_of, user_error
from rainbow_ray.model.device import NOT_DETERMINISTIC_MESSAGE, OUT_OF_MEMORY_ADVICE, is_out_of_memory
from rainbow_ray.utils.errors import InputError, TrainingError, first_line


def user_facing_error(error: BaseException) -> TrainingError | InputError | None:
    """Return an error of a worker as one that can be shown to the user.

    Args:
        error: Any error, possibly wrapped by Ray.

    Returns:
        The error to show, or None for an unexpected error, whose traceback matters.
    """
    translated = user_error(error)
    if translated is not None:
        return translated
    for cause in causes_of(error):
        if is_out_of_memory(cause):
            return TrainingError(
                f"out of memory: one song alone does not fit ({first_line(cause)}); {OUT_OF_MEMORY_ADVICE}"
            )
        if NOT_DETERMINISTIC_MESSAGE in str(cause):
            return TrainingError(f"reproducibility.deterministic=true: {first_line(cause)}; use auto or false")
    return None
