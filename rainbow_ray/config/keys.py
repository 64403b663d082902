"""Dotted keys of the config: all of them, their choices, and their former names."""

from __future__ import annotations

import functools
import typing
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Literal, NamedTuple, TypeVar

from rainbow_ray.config.schema import Config, Section

T = TypeVar("T")


class KeyName(NamedTuple):
    """A dotted key in its present or a former spelling, and its present name."""

    spelling: str
    present: str
    section: type[Section]
    name: str  # present name inside the section


@functools.cache
def known_keys() -> tuple[str, ...]:
    """Return every dotted key that holds a value.

    Returns:
        Keys in the order of the schema.
    """
    return tuple(key for key, _, _ in leaves(Config()))


def choices(key: str) -> tuple[str, ...]:
    """Return the names that a key chooses among.

    Args:
        key: Dotted key.

    Returns:
        Names of the key's `Literal` type; empty for keys that accept anything else, too.
    """
    *sections, name = key.split(".")
    section: Any = Config
    for part in sections:
        section = section.model_fields[part].annotation
    annotation = section.model_fields[name].annotation
    if typing.get_origin(annotation) is Literal:
        return typing.get_args(annotation)
    types = [part for part in typing.get_args(annotation) if part is not type(None)]
    return typing.get_args(types[0]) if len(types) == 1 and typing.get_origin(types[0]) is Literal else ()


def short_names(keys: Iterable[str]) -> dict[str, str]:
    """Return the shortest unambiguous name of each key.

    Args:
        keys: Dotted keys.

    Returns:
        By key, its shortest end that no other key ends with.
    """
    keys = list(keys)

    def short(key: str) -> str:
        parts = key.split(".")
        ends = [".".join(parts[i:]) for i in range(len(parts) - 1, -1, -1)]
        return next((end for end in ends if not any(f".{o}".endswith(f".{end}") for o in keys if o != key)), key)

    return {key: short(key) for key in keys}


def leaves(section: Section, prefix: str = "") -> Iterator[tuple[str, Any, str]]:
    """Yield the keys of a section that hold values.

    Args:
        section: A config, or a section of it.
        prefix: Dotted key of the section with a period at its end; empty for the whole config.

    Yields:
        Dotted key, value and description, in the order of the schema.
    """
    for name, field in type(section).model_fields.items():
        value = getattr(section, name)
        if isinstance(value, Section):
            yield from leaves(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value, field.description or ""


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
    renamed = renamed_keys()
    return {renamed.get(key, key): value for key, value in values.items() if renamed.get(key) not in values}


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
