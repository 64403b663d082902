"""Former names of config keys and of their values, and keys that are accepted and have no effect.

The names themselves are in the sections of the config: `renamed`, `renamed_values` and `inert` of each class.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple, TypeVar

from rainbow_ray.config.schema import Config, Section
from rainbow_ray.utils.mappings import rename_keys

T = TypeVar("T")


class KeyName(NamedTuple):
    """A dotted key in its present or a former spelling, and its present name."""

    spelling: str
    present: str
    section: type[Section]
    name: str  # present name inside the section


@functools.cache
def renamed_keys() -> Mapping[str, str]:
    """Return the present dotted key of each former one.

    Returns:
        Present keys by former key. The former name of a section gives a former key for each key in it.
    """
    return {key.spelling: key.present for key in _key_names(Config) if key.spelling != key.present}


@functools.cache
def renamed_values() -> Mapping[str, Mapping[str, str]]:
    """Return the present name of each former name of a value.

    Returns:
        Present values by former value, by present dotted key.
    """
    return {
        key.present: key.section.renamed_values[key.name]
        for key in _key_names(Config)
        if key.name in key.section.renamed_values
    }


@functools.cache
def inert_keys() -> Mapping[str, str]:
    """Return dotted keys that are accepted and have no effect.

    Returns:
        Reasons by dotted key.
    """
    return dict(_inert(Config, ""))


def with_present_keys(values: Mapping[str, T]) -> dict[str, T]:
    """Return values by dotted key with each former key replaced by its present name.

    Args:
        values: Values by dotted key, as an earlier version may have written them.

    Returns:
        The same values in the same order. A value under the present name has precedence over one under a former name.
    """
    return rename_keys(values, renamed_keys())


def present_value(key: str, value: Any) -> Any:
    """Return a value with former names replaced by present ones.

    Args:
        key: Present dotted key.
        value: A value of the key, or lists and dicts that contain values of it.

    Returns:
        The value; itself for a key whose values have no former names.
    """
    names = renamed_values().get(key)
    if names is None:
        return value
    if isinstance(value, str):
        return names.get(value, value)
    if isinstance(value, list | tuple):
        return [present_value(key, item) for item in value]
    if isinstance(value, dict):
        return {name: present_value(key, item) for name, item in value.items()}
    return value


def present_json(key: str, text: str) -> str:
    """Return JSON about a key, such as a distribution, with former names of values replaced by present ones.

    Args:
        key: Present dotted key.
        text: JSON of a value, or of Optuna's distribution of values.

    Returns:
        The JSON; itself for a key whose values have no former names.
    """
    return json.dumps(present_value(key, json.loads(text))) if key in renamed_values() else text


def _sections(section: type[Section]) -> dict[str, type[Section]]:
    kinds = {name: field.annotation for name, field in section.model_fields.items()}
    return {name: kind for name, kind in kinds.items() if isinstance(kind, type) and issubclass(kind, Section)}


def _key_names(section: type[Section], spelling: str = "", present: str = "") -> Iterator[KeyName]:
    sections = _sections(section)
    names = [*((name, name) for name in section.model_fields), *section.renamed.items()]
    for name, new in names:
        if new in sections:
            yield from _key_names(sections[new], f"{spelling}{name}.", f"{present}{new}.")
        else:
            yield KeyName(f"{spelling}{name}", f"{present}{new}", section, new)


def _inert(section: type[Section], prefix: str) -> Iterator[tuple[str, str]]:
    yield from ((f"{prefix}{name}", reason) for name, reason in section.inert.items())
    for name, kind in _sections(section).items():
        yield from _inert(kind, f"{prefix}{name}.")
