"""Registry of tasks by name."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from typing import Any

from rainbow_ray.tasks.base import Task
from rainbow_ray.utils.errors import InputError

# imported on first use, so that a command loads only the task that it needs
_FACTORIES: dict[str, str | Callable[..., Task]] = {
    "binary": "rainbow_ray.tasks.binary:Binary",
    "multiclass": "rainbow_ray.tasks.multiclass:Multiclass",
    "multilabel": "rainbow_ray.tasks.multilabel:Multilabel",
    "regression": "rainbow_ray.tasks.regression:Regression",
    "segmentation": "rainbow_ray.tasks.segmentation:segmentation_from_state",
    "weak_segmentation": "rainbow_ray.tasks.weak_segmentation:weak_segmentation_from_state",
}


def task_names() -> tuple[str, ...]:
    """Return the names of all registered tasks.

    Returns:
        Names that `make_task` accepts.
    """
    return tuple(_FACTORIES)


def register_task(name: str, factory: str | Callable[..., Task]) -> None:
    """Add a task to the registry.

    A process that loads a bundle of the task has to register it as well.

    Args:
        name: Name of the task.
        factory: The task's class or a function that returns the task, or its address as `module:attribute`. It is
            called with the state that `Task.to_json` returns, as keyword arguments.

    Raises:
        ValueError: The name is registered already.
    """
    if name in _FACTORIES:
        raise ValueError(f"the task {name!r} is registered already")
    _FACTORIES[name] = factory


def unregister_task(name: str) -> None:
    """Remove a task from the registry.

    Args:
        name: Name of the task.
    """
    _FACTORIES.pop(name, None)


def make_task(name: str, **state: Any) -> Task:
    """Return a task by its name.

    Args:
        name: A registered name.
        **state: The task's state, as `Task.to_json` returns it; without any, the task is unfitted.

    Returns:
        The task.

    Raises:
        InputError: No task of that name is registered.
    """
    if name not in _FACTORIES:
        raise InputError(f"the task {name!r} is unknown; available tasks: {', '.join(_FACTORIES)}")
    factory = _FACTORIES[name]
    if isinstance(factory, str):
        module, _, attribute = factory.partition(":")
        factory = getattr(importlib.import_module(module), attribute)
    task: Task = factory(**state)
    return task
