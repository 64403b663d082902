"""Dotted keys of the config: all of them, their choices, and short names."""

from __future__ import annotations

import functools
import typing
from collections.abc import Iterable, Iterator
from typing import Any, Literal

from rainbow_ray.config.schema import Config, Section


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
