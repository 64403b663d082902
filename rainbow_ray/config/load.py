"""Reading of the config: a YAML file < environment variables < the command line, and its printing as a YAML file."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import yaml
from pydantic import BaseModel, ValidationError

from rainbow_ray.config.keys import choices, known_keys, leaves
from rainbow_ray.config.renamed_keys import inert_keys, present_value, renamed_keys, with_present_keys
from rainbow_ray.config.schema import Config
from rainbow_ray.config.unknown_keys import explain_unknown_key
from rainbow_ray.utils.errors import InputError, did_you_mean
from rainbow_ray.utils.paths import expand, expand_space, resolve_encoder

ENVIRONMENT_PREFIX = "RAINBOW_"
ADDRESS_VARIABLE = f"{ENVIRONMENT_PREFIX}ADDRESS"  # address of the Ray cluster: the flag --address, not a key
MANIFEST_VARIABLE = f"{ENVIRONMENT_PREFIX}MANIFEST"
# keys of files and folders, with the function that resolves `~` and relative paths
PATH_KEYS: dict[str, Callable[[str], str]] = {
    "data.manifest_path": expand,
    "data.split_file": expand,
    "data.media_root": expand,
    "data.media_cache": expand,
    "segments.path": expand,
    "logging.output_dir": expand,
    "tune.space": expand_space,
    "model.text_encoder.model_name": resolve_encoder,  # workers open the encoder by this name
    "model.audio_encoder.model_name": resolve_encoder,
}
WRONG_CHOICE = "literal_error"  # pydantic's type of error for a value that is not in a `Literal`


class Resolved(BaseModel):
    """A config and where its values come from.

    Attributes:
        config: The config. Keys that `problems` mentions have their defaults.
        user_keys: Dotted keys that the user set in the file, the environment or on the command line.
        notes: Deprecation warnings: former names and keys without effect that the user wrote.
        problems: Values that are not among a key's choices. They are not raised at once, so that `make_plan` can raise
            them together with what is wrong with files, columns and encoders.
    """

    config: Config
    user_keys: frozenset[str]
    notes: tuple[str, ...] = ()
    problems: tuple[str, ...] = ()


@dataclass(frozen=True)
class Setting:
    """A value that the user gave to a key.

    Attributes:
        key: Dotted key as it is written.
        value: The value.
        location: Source and key, for messages.
        source: Source of the value; each source has precedence over earlier ones.
    """

    key: str
    value: Any
    location: str
    source: Literal["file", "environment", "command line"]


@dataclass(frozen=True)
class ValueProblem:
    """A value that its key cannot hold.

    Attributes:
        key: Dotted key.
        message: What is wrong with the value, and what is accepted.
        is_choice: Whether only the name is wrong, of a key that accepts some names.
    """

    key: str
    message: str
    is_choice: bool


def resolve(file: Path | None, environment: Mapping[str, str], overrides: list[tuple[str, Any]]) -> Resolved:
    """Merge the sources of the config and validate it.

    Args:
        file: YAML file, or None.
        environment: Environment variables; only those with `ENVIRONMENT_PREFIX` are read.
        overrides: Dotted keys and values from the command line.

    Returns:
        The config, the keys that were set, deprecation warnings, and names that are not among the choices of a key.

    Raises:
        InputError: The file cannot be read, a key is unknown or given under two names, or a value has a wrong type.
    """
    settings, problems = _read_file(file)
    settings += _read_environment(environment)
    settings += [Setting(key, value, f"command line: {key}", "command line") for key, value in overrides]
    problems += _check_names(settings)
    settings, notes = _use_present_names(settings)
    problems += _check_settings(settings)
    values = {setting.key: setting for setting in settings if setting.key in known_keys()}
    document = _nest({key: setting.value for key, setting in values.items()})
    config, value_problems = _validate(document, {key: setting.location for key, setting in values.items()})
    problems += [problem.message for problem in value_problems if not problem.is_choice]
    choice_problems = [problem.message for problem in value_problems if problem.is_choice]
    if problems or config is None:
        raise InputError(dict.fromkeys([*problems, *choice_problems]))
    return Resolved(
        config=config,
        user_keys=frozenset(values),
        notes=tuple(dict.fromkeys(notes)),
        problems=tuple(choice_problems),
    )


def override(config: Config, values: Mapping[str, Any], source: str) -> Config:
    """Return a config with other values of some keys, validated.

    Args:
        config: The config; it is left as it is.
        values: Values by dotted key; former names of keys and values are read.
        source: Name of the source of the values, for messages.

    Returns:
        The changed copy.

    Raises:
        InputError: Keys are unknown, or values are wrong; all of them are listed.
    """
    values = {key: value for key, value in with_present_keys(values).items() if key not in inert_keys()}
    unknown = [key for key in values if key not in known_keys()]
    if unknown:
        raise InputError(f"{source}: {key}: {explain_unknown_key(key)}" for key in unknown)
    document = config.model_dump()
    for key, value in values.items():
        _set(document, key, _resolve_path(key, value))
    result, problems = _validate(document, {key: f"{source}: {key}" for key in values})
    if problems or result is None:
        raise InputError(problem.message for problem in problems)
    return result


def parse_value(text: str) -> Any:
    """Parse a value as YAML, with numbers such as `2e-5`, which YAML 1.1 reads as text.

    Args:
        text: Value on the command line or in an environment variable.

    Returns:
        The value; the text itself where it is not YAML.
    """
    if text.startswith("{") and ": " not in text:
        text = text.replace(":", ": ")  # YAML reads {a:b} as one key without a value
    try:
        value = yaml.safe_load(text)
    except yaml.YAMLError:
        return text
    return _parse_number(value)


def with_resolved_paths(config: Config) -> Config:
    """Return a config with the paths that `resolve` would give it.

    Args:
        config: A config as an earlier version wrote it, with `~` in its paths.

    Returns:
        A copy whose paths are expanded.
    """
    document = config.model_dump()
    for key in PATH_KEYS:
        _set(document, key, _resolve_path(key, config.at(key)))
    return Config.model_validate(document)


def dump(config: Config) -> str:
    """Write a config as a YAML file with a comment on each key.

    Args:
        config: The config.

    Returns:
        Content of a file that gives the same config when it is read.
    """
    lines = ["# rainbow_ray: every key with its value; delete the lines that you do not change."]
    previous: tuple[str, ...] = ()
    for key, value, description in leaves(config):
        *sections, name = key.split(".")
        for level, section in enumerate(sections):
            if tuple(sections[: level + 1]) != previous[: level + 1]:
                lines.append(f"{'  ' * level}{section}:")
        previous = tuple(sections)
        is_listed = all(name in description for name in choices(key))
        accepted = "" if is_listed else f" (one of: {', '.join(choices(key))})"
        yaml_value = yaml.safe_dump(value, default_flow_style=True, width=10_000).removesuffix("...\n").strip()
        lines.append(f"{'  ' * len(sections)}{name}: {yaml_value}  # {description}{accepted}")
    return "\n".join(lines) + "\n"


def environment_variables() -> dict[str, str]:
    """Return the environment variables of this process that `resolve` reads.

    Returns:
        Values by name.
    """
    return {name: value for name, value in os.environ.items() if name.startswith(ENVIRONMENT_PREFIX)}


def _read_file(file: Path | None) -> tuple[list[Setting], list[str]]:
    """Return the settings of a YAML file, and what is wrong with the file."""
    if file is None:
        return [], []
    try:
        document = yaml.safe_load(file.read_text(encoding="utf-8"))
    except OSError as error:
        return [], [f"--config {file}: cannot be read ({error.strerror or error})"]
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        return [], [f"--config {file}: not YAML: {' '.join(str(error).split())}"]
    if document is None:
        return [], []
    if not isinstance(document, dict):
        return [], [f"--config {file}: contains a {type(document).__name__}, not sections with keys"]
    return list(_flatten(document, file, "")), []


def _flatten(document: dict[Any, Any], file: Path, prefix: str) -> Iterator[Setting]:
    leaves = {*known_keys(), *renamed_keys()}
    sections = {key.rsplit(".", depth)[0] for key in leaves for depth in range(1, key.count(".") + 1)}
    for name, value in document.items():
        key = f"{prefix}{name}"
        if isinstance(value, dict) and value and key not in leaves:
            yield from _flatten(value, file, f"{key}.")
        elif value is None and key in sections:
            continue  # a section whose keys are all commented out
        else:
            number = value if isinstance(value, dict) else _parse_number(value)
            yield Setting(key, number, f"{file}: {key}", "file")


def _read_environment(environment: Mapping[str, str]) -> list[Setting]:
    settings = []
    for name in sorted(environment):
        if name == MANIFEST_VARIABLE:
            settings.append(Setting("data.manifest_path", environment[name], name, "environment"))
        elif name.startswith(ENVIRONMENT_PREFIX) and name != ADDRESS_VARIABLE:
            key = name.removeprefix(ENVIRONMENT_PREFIX).lower().replace("__", ".")
            settings.append(Setting(key, parse_value(environment[name]), f"{name}: {key}", "environment"))
    return settings


def _use_present_names(settings: Iterable[Setting]) -> tuple[list[Setting], list[str]]:
    """Return settings under present names of keys and values without inert keys, and a note for each change."""
    present, notes = [], []
    for setting in settings:
        key, value = renamed_keys().get(setting.key, setting.key), setting.value
        if key in inert_keys():
            notes.append(f"{setting.location} is deprecated and has no effect: {inert_keys()[key]}")
            continue
        if key != setting.key:
            notes.append(f"{setting.location} is deprecated: the key is now {key}")
        new_value = present_value(key, value)
        if isinstance(value, str) and new_value != value:
            notes.append(f"{setting.location}: {value!r} is deprecated: the value is now {new_value!r}")
        present.append(Setting(key, _resolve_path(key, new_value), setting.location, setting.source))
    return present, notes


def _check_names(settings: Iterable[Setting]) -> list[str]:
    """Return a problem for each key that one source gives under its former and its present name."""
    problems = []
    earlier: dict[tuple[str, str], Setting] = {}
    for setting in settings:
        key = renamed_keys().get(setting.key, setting.key)
        earlier_setting = earlier.setdefault((setting.source, key), setting)
        if earlier_setting.key != setting.key:
            problems.append(f"{setting.location}: the same key as {earlier_setting.key}; give only {key}")
    return problems


def _check_settings(settings: Iterable[Setting]) -> list[str]:
    """Return a problem for each unknown key, and for each path that names nothing."""
    problems = []
    for setting in settings:
        if setting.key not in known_keys():
            problems.append(f"{setting.location}: {explain_unknown_key(setting.key)}")
            continue
        if setting.key in PATH_KEYS and isinstance(setting.value, str) and _names_nothing(setting.value):
            problems.append(f"{setting.location}: {setting.value!r} names nothing; leave the key out for its default")
    return problems


def _names_nothing(path: str) -> bool:
    return not path or "\0" in path


def _resolve_path(key: str, value: Any) -> Any:
    """Return the value of a key, resolved where it is a path."""
    is_path = key in PATH_KEYS and isinstance(value, str) and not _names_nothing(value)
    return PATH_KEYS[key](value) if is_path else value


def _parse_number(value: Any) -> Any:
    if isinstance(value, str) and "e" in value.lower():
        try:
            return float(value)
        except ValueError:
            return value
    return value


def _nest(values: Mapping[str, Any]) -> dict[str, Any]:
    document: dict[str, Any] = {}
    for key, value in values.items():
        _set(document, key, value)
    return document


def _set(document: dict[str, Any], key: str, value: Any) -> None:
    *sections, name = key.split(".")
    for section in sections:
        document = document.setdefault(section, {})
    document[name] = value


def _validate(document: dict[str, Any], origin: Mapping[str, str]) -> tuple[Config | None, list[ValueProblem]]:
    """Return a config, and problems; wrong choices have their defaults, and other problems leave no config."""
    try:
        return Config.model_validate(document), []
    except ValidationError as error:
        problems = _explain(error, origin)
    if not all(problem.is_choice for problem in problems):
        return None, problems
    defaults = Config()
    for problem in problems:
        _set(document, problem.key, defaults.at(problem.key))
    return Config.model_validate(document), problems


def _explain(error: ValidationError, origin: Mapping[str, str]) -> list[ValueProblem]:
    """Format pydantic's errors, which are several for one value where a key accepts several types."""
    by_key: dict[str, list[Any]] = {}
    for item in error.errors():
        by_key.setdefault(_key_of(item["loc"], origin), []).append(item)
    return [_format(key, origin.get(key, key), items) for key, items in by_key.items()]


def _key_of(location: tuple[int | str, ...], origin: Mapping[str, str]) -> str:
    """Return the key of an error, whose location can go on into items of lists and types of unions."""
    parts = [str(part) for part in location]
    lengths = range(len(parts), 0, -1)
    keys = (".".join(parts[:length]) for length in lengths)
    return next((key for key in keys if key in origin), ".".join(parts))


def _format(key: str, location: str, items: list[Any]) -> ValueProblem:
    """Return the message about one value: with the choices of its key, where it has choices only."""
    value = items[0]["input"]
    if all(item["type"] == WRONG_CHOICE for item in items):
        accepted = choices(key)
        suggestion = did_you_mean(str(value), accepted)
        message = f"{location}: {value!r} is unknown{suggestion}; one of: {', '.join(accepted)}"
        return ValueProblem(key, message, is_choice=True)
    messages = dict.fromkeys(item["msg"][0].lower() + item["msg"][1:] for item in items)
    return ValueProblem(key, f"{location}: {value!r}: {', or '.join(messages)}", is_choice=False)
