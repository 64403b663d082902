"""Suggestions of a search space: each call of `trial.suggest_…` is checked, and recorded with its line."""

from __future__ import annotations

import linecache
import math
import numbers
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution

from rainbow_ray.config.renamed_keys import renamed_keys


@dataclass(frozen=True)
class Suggestion:
    """A call of `trial.suggest_…`.

    Attributes:
        distribution: Distribution that it suggests a value from.
        location: Place of the call, as file:line.
    """

    distribution: BaseDistribution
    location: str

    def __str__(self) -> str:
        return f"{describe(self.distribution)} at {self.location}"


class RecordingTrial:
    """Passes calls on to an Optuna trial and records them.

    A key that is suggested under a former name is recorded, and passed to Optuna, under its present name.

    An invalid call is recorded as a problem and returns an arbitrary value, so that the rest of the space is checked.

    Args:
        trial: An Optuna trial.
        earlier: Suggestions of earlier draws of the same space, by key.

    Attributes:
        values: Value of each suggested key.
        suggestions: First suggestion of each key.
        former_keys: Former names of keys that the space uses.
        problems: What is wrong with the calls.
    """

    def __init__(self, trial: Any, earlier: dict[str, Suggestion] | None = None) -> None:
        self.trial = trial
        self.earlier = earlier or {}
        self.values: dict[str, Any] = {}
        self.suggestions: dict[str, Suggestion] = {}
        self.former_keys: set[str] = set()
        self.problems: list[str] = []

    def __getattr__(self, name: str) -> Any:
        attribute = getattr(self.trial, name)
        if name not in DISTRIBUTIONS:
            return attribute

        def ask(name: str, *arguments: Any, **options: Any) -> Any:
            return self._ask(method, name, arguments, options)

        method = name
        return ask

    def _ask(self, method: str, key: str, arguments: tuple[Any, ...], options: dict[str, Any]) -> Any:
        location = _calling_line()
        if not isinstance(key, str):
            self.problems.append(
                f"{key!r} is not a key: the first argument of {method} is a config key ({_quote(location)})"
            )
            return _placeholder_value(arguments)
        if key in renamed_keys():
            self.former_keys.add(key)
            key = renamed_keys()[key]
        try:
            suggestion = Suggestion(DISTRIBUTIONS[method](*arguments, **options), location)
        except (TypeError, ValueError, OverflowError) as error:
            self.problems.append(f"{key}: {error} ({_quote(location)})")
            return self.values.setdefault(key, _placeholder_value(arguments))
        first = self.suggestions.get(key)
        if first is not None:
            if first.distribution != suggestion.distribution:
                self.problems.append(f"{key} is suggested twice: {first}, and {suggestion}; keep one of the two")
            return self.values[key]
        self.suggestions[key] = suggestion
        previous = self.earlier.get(key)
        if previous is not None and not _can_alternate(previous.distribution, suggestion.distribution):
            self.problems.append(
                f"{key} is suggested from two distributions that one search cannot combine: {previous}, and"
                f" {suggestion}; use the same kind, and the same choices, in all branches"
            )
            return self.values.setdefault(key, _placeholder_value(arguments))
        self.values[key] = getattr(self.trial, method)(key, *arguments, **options)
        return self.values[key]


def describe(distribution: BaseDistribution) -> str:
    """Describe a distribution.

    Args:
        distribution: A distribution of Optuna.

    Returns:
        A text such as `float 0 to 0.1, log`.
    """
    if isinstance(distribution, CategoricalDistribution):
        return f"one of {list(distribution.choices)}"
    assert isinstance(distribution, FloatDistribution | IntDistribution)
    kind = "float" if isinstance(distribution, FloatDistribution) else "int"
    step = f", step {distribution.step:g}" if distribution.step not in (None, 1) else ""
    return f"{kind} {distribution.low:g} to {distribution.high:g}{step}{', log' if distribution.log else ''}"


def suggest_float(low: float, high: float, *, step: float | None = None, log: bool = False) -> BaseDistribution:
    """Return the distribution of `trial.suggest_float`.

    Args:
        low: Lower bound.
        high: Upper bound.
        step: Step of the values, or None.
        log: Whether values are drawn on a logarithmic scale.

    Returns:
        The distribution. Impossible ones raise ValueError or TypeError.
    """
    _check_numbers(low=low, high=high, **({} if step is None else {"step": step}))
    return FloatDistribution(low, high, step=step, log=log)


def suggest_int(low: int, high: int, *, step: int = 1, log: bool = False) -> BaseDistribution:
    """Return the distribution of `trial.suggest_int`.

    Args:
        low: Lower bound.
        high: Upper bound.
        step: Step of the values.
        log: Whether values are drawn on a logarithmic scale.

    Returns:
        The distribution.

    Raises:
        ValueError: A bound is no integer, or the distribution is impossible.
    """
    _check_numbers(low=low, high=high, step=step)
    for name, value in (("low", low), ("high", high), ("step", step)):
        if value != int(value):
            raise ValueError(f"{name}={value} is not an integer")
    return IntDistribution(low, high, step=step, log=log)


def suggest_categorical(choices: Sequence[Any]) -> BaseDistribution:
    """Return the distribution of `trial.suggest_categorical`.

    Args:
        choices: Plain values.

    Returns:
        The distribution.

    Raises:
        TypeError: The choices are no list.
    """
    if not isinstance(choices, list | tuple | range):  # a set has no order, and text would be taken letter by letter
        raise TypeError(f"choices must be a list, not a {type(choices).__name__}")
    return CategoricalDistribution(choices)


def suggest_uniform(low: float, high: float) -> BaseDistribution:
    """Return the distribution of the deprecated `trial.suggest_uniform`.

    Args:
        low: Lower bound.
        high: Upper bound.

    Returns:
        The distribution.
    """
    return suggest_float(low, high)


def suggest_loguniform(low: float, high: float) -> BaseDistribution:
    """Return the distribution of the deprecated `trial.suggest_loguniform`.

    Args:
        low: Lower bound.
        high: Upper bound.

    Returns:
        The distribution.
    """
    return suggest_float(low, high, log=True)


def suggest_discrete_uniform(low: float, high: float, q: float) -> BaseDistribution:
    """Return the distribution of the deprecated `trial.suggest_discrete_uniform`.

    Args:
        low: Lower bound.
        high: Upper bound.
        q: Step of the values.

    Returns:
        The distribution.
    """
    return suggest_float(low, high, step=q)


DISTRIBUTIONS: dict[str, Callable[..., BaseDistribution]] = {
    function.__name__: function
    for function in (
        suggest_float, suggest_int, suggest_categorical, suggest_uniform, suggest_loguniform, suggest_discrete_uniform
    )
}  # fmt: skip


def _check_numbers(**values: Any) -> None:
    for name, value in values.items():
        if isinstance(value, bool) or not isinstance(value, numbers.Real):
            raise TypeError(f"{name}={value!r} is not a number")
        if not math.isfinite(value):
            raise ValueError(f"{name}={value} is not finite")


def _can_alternate(first: BaseDistribution, second: BaseDistribution) -> bool:
    """Return whether Optuna accepts both for a key, in different trials: ranges of numbers may differ, choices not."""
    if type(first) is not type(second):
        return False
    return not isinstance(first, CategoricalDistribution) or first == second


def _placeholder_value(arguments: Sequence[Any]) -> Any:
    """Return an arbitrary value for an invalid call."""
    first = arguments[0] if arguments else None
    return first[0] if isinstance(first, list | tuple) and first else first


def _quote(location: str) -> str:
    """Return the place of a call with its line of code."""
    file, _, line = location.rpartition(":")
    return f"{file}, line {line}: `{linecache.getline(file, int(line)).strip()}`"


def _calling_line() -> str:
    """Return file:line of the call in the space."""
    frame = sys._getframe()
    while frame.f_back is not None and frame.f_code.co_filename == __file__:
        frame = frame.f_back
    return f"{frame.f_code.co_filename}:{frame.f_lineno}"
