"""Suggestions of a search space: each call of `trial.suggest_…` is checked, and recorded with its line."""

from __future__ import annotations

import functools
import linecache
import math
import numbers
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution

from rainbow_ray.config.renamed_keys import present_value, renamed_keys, renamed_values


@dataclass(frozen=True)
class Suggestion:
    """A call of `trial.suggest_…`.

    Attributes:
        distribution: Distribution that it suggests a value from.
        name: Key as the call has it: its present or a former name.
        location: Place of the call, as file:line.
    """

    distribution: BaseDistribution
    name: str
    location: str

    def __str__(self) -> str:
        return f"{describe(self.distribution)} at {self.location}"


class RecordingTrial:
    """Passes calls on to an Optuna trial and records them.

    Keys and values under former names are recorded, and passed to Optuna, under their present names. The space itself
    gets values as it writes them, and can read `params` and `distributions` by the names that it uses.

    An invalid call is recorded as a problem and returns an arbitrary value, so that the rest of the space is checked.

    Args:
        trial: An Optuna trial.
        earlier: Suggestions of earlier draws of the same space, by key.

    Attributes:
        values: Value of each suggested key.
        suggestions: First suggestion of each key.
        constants: Value of each key that the space sets for all trials.
        notes: Deprecation warnings: former names of keys and values that the space uses.
        problems: What is wrong with the calls.
    """

    def __init__(self, trial: Any, earlier: Mapping[str, Suggestion] | None = None) -> None:
        self.trial = trial
        self.earlier = earlier or {}
        self.values: dict[str, Any] = {}
        self.suggestions: dict[str, Suggestion] = {}
        self.constants: dict[str, Any] = {}
        self.notes: set[str] = set()
        self.problems: list[str] = []
        self._former_values: dict[str, dict[str, str]] = {}  # what the space writes for each present value, by key

    def __getattr__(self, name: str) -> Any:
        attribute = getattr(self.trial, name)
        return functools.partial(self._ask, name) if name in DISTRIBUTIONS else attribute

    @property
    def params(self) -> dict[str, Any]:
        """Values that the trial has suggested so far, by key; former names can be read, too."""
        return _ByKey({key: self._as_written(key, value) for key, value in self.trial.params.items()})

    @property
    def distributions(self) -> dict[str, BaseDistribution]:
        """Distributions of the values so far, by key; former names can be read, too."""
        return _ByKey(self.trial.distributions)

    def record_constants(self, constants: Mapping[str, Any]) -> None:
        """Record what the space returned.

        Args:
            constants: Values by key; keys and values may have former names.
        """
        names: dict[str, str] = {}
        for name, value in constants.items():
            key = self._present_key(name)
            suggestion = self.suggestions.get(key)
            if suggestion is not None and suggestion.name == name:
                self.problems.append(f"{key} is both suggested and returned as a constant")
            elif suggestion is not None:
                self.problems.append(
                    f"{key} is both suggested, as {suggestion.name}, and returned as a constant, as {name}"
                )
            if names.setdefault(key, name) != name:
                self.problems.append(f"{names[key]} and {name} are the same key; return only {key}")
            self.constants[key] = present_value(key, value)
            if isinstance(value, str) and self.constants[key] != value:
                self._note_former_value(key, value)

    def _ask(self, method: str, /, name: Any, *arguments: Any, **options: Any) -> Any:
        location = _calling_line()
        if not isinstance(name, str):
            self.problems.append(
                f"{name!r} is not a key: the first argument of {method} is a config key ({_quote(location)})"
            )
            return _placeholder_value(arguments)
        key = self._present_key(name)
        try:
            distribution = DISTRIBUTIONS[method](*arguments, **options)
            if isinstance(distribution, CategoricalDistribution) and key in renamed_values():
                arguments, options = (self._present_choices(key, distribution.choices),), {}
                distribution = CategoricalDistribution(*arguments)
        except (TypeError, ValueError, OverflowError) as error:
            self.problems.append(f"{key}: {error} ({_quote(location)})")
            return self.values.setdefault(key, _placeholder_value(arguments))
        problem = self._check(key, Suggestion(distribution, name, location))
        if problem is not None:
            self.problems.append(problem)
            self.values.setdefault(key, _placeholder_value(arguments))
        if key not in self.values:
            self.values[key] = getattr(self.trial, method)(key, *arguments, **options)
        return self._as_written(key, self.values[key])

    def _check(self, key: str, suggestion: Suggestion) -> str | None:
        """Record the first suggestion of a key; return how one contradicts an earlier one, or None."""
        first = self.suggestions.setdefault(key, suggestion)
        if first.name != suggestion.name:
            return (
                f"{key} is suggested twice: as {first.name} at {first.location}, and as {suggestion.name} at"
                f" {suggestion.location}; suggest only {key}"
            )
        if first.distribution != suggestion.distribution:
            return f"{key} is suggested twice: {first}, and {suggestion}; keep one of the two"
        previous = self.earlier.get(key)
        if (
            first is suggestion
            and previous is not None
            and not _can_alternate(previous.distribution, suggestion.distribution)
        ):
            return (
                f"{key} is suggested from two distributions that one search cannot combine: {previous}, and"
                f" {suggestion}; use the same kind, and the same choices, in all branches"
            )
        return None

    def _present_key(self, name: str) -> str:
        """Return the present name of a key; note a former one."""
        if name in renamed_keys():
            self.notes.add(f"{name} is deprecated: the key is now {renamed_keys()[name]}")
        return renamed_keys().get(name, name)

    def _present_choices(self, key: str, choices: Sequence[Any]) -> list[Any]:
        """Return choices under present names; note former ones."""
        for former, present in renamed_values()[key].items():
            if former in choices and present in choices:
                raise ValueError(f"{former!r} and {present!r} are the same choice; give only {present!r}")
            if former in choices:
                self._former_values.setdefault(key, {})[present] = former
                self._note_former_value(key, former)
        return [present_value(key, choice) for choice in choices]

    def _note_former_value(self, key: str, value: str) -> None:
        self.notes.add(f"{key}: {value!r} is deprecated: the value is now {present_value(key, value)!r}")

    def _as_written(self, key: str, value: Any) -> Any:
        """Return a value under the name that the space has for it."""
        return self._former_values.get(key, {}).get(value, value) if isinstance(value, str) else value


class _ByKey(dict[str, Any]):
    """A dict by present key that can also be read by former keys."""

    def __missing__(self, name: str) -> Any:
        key = renamed_keys().get(name)
        if key is None or key not in self:
            raise KeyError(name)
        return self[key]

    def __contains__(self, name: object) -> bool:
        return super().__contains__(renamed_keys().get(name, name) if isinstance(name, str) else name)

    def get(self, name: str, default: Any = None) -> Any:
        try:
            return self[name]
        except KeyError:
            return default


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
