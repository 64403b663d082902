"""Errors of Ray tasks are unwrapped to the exception that the task raised."""

from __future__ import annotations

import pickle

import pytest
from ray.exceptions import RayError, RayTaskError, UserCodeException

from rainbow_ray.distributed.ray_errors import unwrapped_errors, user_error
from rainbow_ray.training.fit_errors import user_facing_error
from rainbow_ray.utils.errors import InputError, TrainingError


def in_task(cause: Exception) -> RayTaskError:
    return RayTaskError("read", "Traceback …", cause, "ray::read", 1, "127.0.0.1")


def in_user_code(cause: Exception) -> UserCodeException:
    error = UserCodeException("UDF failed to process a data block.")
    error.__cause__ = cause
    return error


def annotated(error: Exception) -> Exception:
    """Return the exception of a task as Ray Data annotates it and as the driver receives it."""
    error = type(error)(*error.args)
    suffix = "Failed to apply UDF transform after 1/1 attempts."
    error.args = (f"{error.args[0]}\n{suffix}",) if isinstance(error.args[0], str) else (*error.args, suffix)
    return RayError.from_bytes(in_task(error).to_bytes())


WRAPPED = [
    annotated,
    lambda error: error,
    in_task,
    lambda error: in_task(error).as_instanceof_cause(),
    lambda error: in_task(in_user_code(error)),
    lambda error: in_task(in_task(error).as_instanceof_cause()).as_instanceof_cause(),
    lambda error: pickle.loads(pickle.dumps(in_task(error))),  # noqa: S301
]


@pytest.mark.parametrize("wrap", WRAPPED)
@pytest.mark.parametrize("error", [InputError(["one", "two"]), TrainingError("three")])
def test_user_facing_errors_are_unwrapped(wrap, error):
    with pytest.raises(type(error)) as caught, unwrapped_errors():
        raise wrap(error)
    assert type(caught.value) is type(error)
    assert str(caught.value) == str(error)
    assert str(user_facing_error(wrap(error))) == str(error)


def test_other_errors_keep_their_traceback():
    error = in_task(KeyError("a defect"))
    assert user_error(error) is None
    assert user_facing_error(error) is None
    with pytest.raises(RayTaskError), unwrapped_errors():
        raise error
    assert "out of memory" in str(user_facing_error(in_task(in_user_code(MemoryError("no more")))))
    strict = RuntimeError("adaptive_max_pool2d_cuda does not have a deterministic implementation, but you set …")
    assert "reproducibility.deterministic=true: adaptive_max_pool2d" in str(user_facing_error(in_task(strict)))
