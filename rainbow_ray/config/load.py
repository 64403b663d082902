"""Sources of the config, merged: a YAML file < environment variables < the command line."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel, ValidationError

from rainbow_ray.config.schema import Config, renamed_keys
from rainbow_ray.utils.errors import InputError, did_you_mean
from rainbow_ray.utils.paths import expand, expand_space, resolve_encoder

ENVIRONMENT_PREFIX = "RAINBOW_"
# keys that name files and folders, and how `~` and what is relative in them is resolved
PATH_KEYS: dict[str, Callable[[str], str]] = {
    "data.manifest_path": expand,
    "data.split_file": expand,
    "data.media_root": expand,
    "data.media_cache": expand,
    "segments.path": expand,
    "logging.output_dir": expand,
    "tune.space": expand_space,
    "model.text_encoder.model_name": resolve_encoder,  # workers read it by its name
    "model.audio_encoder.model_name": resolve_encoder,
}


class Resolved(BaseModel):
    """A config, and which of its dotted keys the user set (file, environment or command line).

    `notes` are deprecation warnings: keys that the user wrote under a former name.
    """

    config: Config
    user_keys: frozenset[str]
    notes: tuple[str, ...] = ()


def resolve(file: Path | None, environment: Mapping[str, str], overrides: list[tuple[str, Any]]) -> Resolved:
    """Merge the sources and check every type. Raises `InputError` with all unknown keys and wrong values."""
    problems: list[str] = []
    merged: dict[str, Any] = {}
    origin: dict[str, str] = {}
    sources = [*_from_file(file, problems), *_from_environment(environment)]
    sources += [(key, value, f"command line: {key}") for key, value in overrides]
    notes: dict[str, None] = {}
    renamed = renamed_keys()
    for key, value, where in sources:
        if key in renamed:
            notes[f"{where} is deprecated: the key is now {renamed[key]}"] = None
            key = renamed[key]
        if key not in known_keys():
            problems.append(f"{where}: unknown key{did_you_mean(key, known_keys())}")
            continue
        problems += _check_path(key, value, where)
        _set(merged, key, _resolved(key, value))
        origin[key] = where
    try:
        config = Config.model_validate(merged)
    except ValidationError as error:
        problems += _explain(error, origin)
    if problems:
        raise InputError(dict.fromkeys(problems))
    return Resolved(config=config, user_keys=frozenset(origin), notes=tuple(notes))


def override(config: Config, values: Mapping[str, Any], where: str) -> Config:
    """The config with some dotted keys set. Raises `InputError` with all unknown keys and wrong values."""
    document = config.model_dump()
    renamed = renamed_keys()
    values = {renamed.get(key, key): value for key, value in values.items()}
    problems = [f"{where}: unknown key{did_you_mean(key, known_keys())}" for key in values if key not in known_keys()]
    if problems:
        raise InputError(problems)
    for key, value in values.items():
        _set(document, key, _resolved(key, value))
    try:
        return Config.model_validate(document)
    except ValidationError as error:
        raise InputError(_explain(error, {key: f"{where}: {key}" for key in values})) from error


def parse_value(text: str) -> Any:
    """A value as YAML writes it, and numbers such as `2e-5`, which YAML 1.1 takes for a string."""
    if text.startswith("{") and ": " not in text:
        text = text.replace(":", ": ")  # to YAML, {a:b} would be one key without a value
    try:
        value = yaml.safe_load(text)
    except yaml.YAMLError:
        return text
    return _number(value)


def with_resolved_paths(config: Config) -> Config:
    """The config with its paths as `resolve` would write them: one that an earlier version wrote may have `~` in it."""
    document = config.model_dump()
    for key in PATH_KEYS:
        _set(document, key, _resolved(key, config.at(key)))
    return Config.model_validate(document)


def known_keys() -> list[str]:
    """Every dotted key that holds a value."""
    return [key for key, _, _ in _leaves(Config())]


def short_names(keys: Iterable[str]) -> dict[str, str]:
    """The shortest end of each dotted key that no other of `keys` shares."""
    keys = list(keys)

    def short(key: str) -> str:
        parts = key.split(".")
        ends = [".".join(parts[i:]) for i in range(len(parts) - 1, -1, -1)]
        return next((end for end in ends if not any(f".{o}".endswith(f".{end}") for o in keys if o != key)), key)

    return {key: short(key) for key in keys}


def dump(config: Config) -> str:
    """The config as a YAML file with each key's meaning: the file gives the same config when read."""
    lines = ["# rainbow_ray: every key with its value; delete the lines that you do not change."]
    previous: tuple[str, ...] = ()
    for key, value, description in _leaves(config):
        *sections, name = key.split(".")
        for level, section in enumerate(sections):
            if tuple(sections[: level + 1]) != previous[: level + 1]:
                lines.append(f"{'  ' * level}{section}:")
        previous = tuple(sections)
        comment = f"  # {description}" if description else ""
        written = yaml.safe_dump(value, default_flow_style=True, width=10_000).removesuffix("...\n").strip()
        lines.append(f"{'  ' * len(sections)}{name}: {written}{comment}")
    return "\n".join(lines) + "\n"


def _leaves(section: BaseModel, prefix: str = "") -> Iterator[tuple[str, Any, str]]:
    for name, field in type(section).model_fields.items():
        value = getattr(section, name)
        if isinstance(value, BaseModel):
            yield from _leaves(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value, field.description or ""


def _from_file(file: Path | None, problems: list[str]) -> list[tuple[str, Any, str]]:
    if file is None:
        return []
    try:
        document = yaml.safe_load(file.read_text(encoding="utf-8"))
    except OSError as error:
        problems.append(f"--config {file}: cannot be read ({error.strerror or error})")
        return []
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        problems.append(f"--config {file}: not YAML: {' '.join(str(error).split())}")
        return []
    if document is None:
        return []
    if not isinstance(document, dict):
        problems.append(f"--config {file}: holds a {type(document).__name__}, not sections with keys")
        return []
    return list(_flatten(document, file, ""))


def _flatten(document: dict[Any, Any], file: Path, prefix: str) -> Iterator[tuple[str, Any, str]]:
    known = set(known_keys())
    sections = {key.rsplit(".", depth)[0] for key in known for depth in range(1, key.count(".") + 1)}
    for name, value in document.items():
        key = f"{prefix}{name}"
        if isinstance(value, dict) and key not in known:
            yield from _flatten(value, file, f"{key}.") if value else [(key, value, f"{file}: {key}")]
        elif value is None and key in sections:
            continue  # a section whose keys are all commented out
        else:
            yield key, _number(value), f"{file}: {key}"


ADDRESS_VARIABLE = f"{ENVIRONMENT_PREFIX}ADDRESS"  # of the Ray cluster that a pod is part of: no key, but --address


def _from_environment(environment: Mapping[str, str]) -> list[tuple[str, Any, str]]:
    found = []
    for name in sorted(environment):
        if name == f"{ENVIRONMENT_PREFIX}MANIFEST":
            found.append(("data.manifest_path", environment[name], name))
        elif name.startswith(ENVIRONMENT_PREFIX) and name != ADDRESS_VARIABLE:
            key = name.removeprefix(ENVIRONMENT_PREFIX).lower().replace("__", ".")
            found.append((key, parse_value(environment[name]), f"{name}: {key}"))
    return found


def _number(value: Any) -> Any:
    if isinstance(value, str) and "e" in value.lower():
        try:
            return float(value)
        except ValueError:
            return value
    return value


def _check_path(key: str, value: Any, where: str) -> list[str]:
    if key in PATH_KEYS and isinstance(value, str) and (not value or "\0" in value):
        return [f"{where}: {value!r} names nothing; leave the key out for its default"]
    return []


def _resolved(key: str, value: Any) -> Any:
    """A value with its path resolved, where the key names one."""
    return PATH_KEYS[key](value) if key in PATH_KEYS and isinstance(value, str) and "\0" not in value else value


def _set(document: dict[str, Any], key: str, value: Any) -> None:
    *sections, name = key.split(".")
    for section in sections:
        document = document.setdefault(section, {})
    document[name] = value


def _explain(error: ValidationError, origin: Mapping[str, str]) -> list[str]:
    problems: dict[str, list[str]] = {}
    for item in error.errors():
        # the location goes on into list items and union members: cut it back to the key
        parts = [str(part) for part in item["loc"]]
        while parts and ".".join(parts) not in origin:
            parts.pop()
        key = ".".join(parts) or ".".join(str(part) for part in item["loc"])
        message = item["msg"][0].lower() + item["msg"][1:]
        problems.setdefault(f"{origin.get(key, key)}: {item['input']!r}", []).append(message)
    return [f"{where}: {', or '.join(dict.fromkeys(messages))}" for where, messages in problems.items()]


def environment_variables() -> dict[str, str]:
    return {name: value for name, value in os.environ.items() if name.startswith(ENVIRONMENT_PREFIX)}
