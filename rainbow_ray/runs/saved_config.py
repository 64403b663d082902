"""The config that a run or a sweep was started with, and with which it goes on."""

from __future__ import annotations

import json
from collections.abc import Collection
from pathlib import Path
from typing import Any

import yaml

from rainbow_ray.config.load import with_resolved_paths
from rainbow_ray.config.schema import HASH_EXCLUDED, Config
from rainbow_ray.config.solver import SOLVED_LOSSES
from rainbow_ray.utils.errors import InputError

MAX_ERROR_CHARACTERS = 120
# null in the configs of runs of earlier versions, which read no descriptors
DESCRIPTOR_KEYS = ("model.audio_encoder.descriptors", "model.midi_encoder.descriptors")


def config_differences(folder: Path, config: Config) -> list[str]:
    """Return the keys in which the config of a run differs from one with which it shall go on.

    Args:
        folder: Folder of the run.
        config: Config of this start.

    Returns:
        A message per key; what is wrong with the saved config, where it cannot be read.
    """
    try:
        saved = with_resolved_paths(read_config(folder))
    except InputError as error:
        return error.problems
    if config.reproducibility.deterministic == "auto" and saved.reproducibility.deterministic is True:
        # the default of earlier versions, which was the same on CPUs
        saved = saved.with_values({"reproducibility.deterministic": "auto"})
    config = _with_saved_defaults(saved, config)
    return _compare(saved.model_dump(exclude=HASH_EXCLUDED), config.model_dump(exclude=HASH_EXCLUDED))


def continued_config(folder: Path, config: Config, user_keys: Collection[str] = ()) -> Config:
    """Return the config with which a run goes on.

    Args:
        folder: Folder of the run.
        config: Config of this start.
        user_keys: Dotted keys that the user set.

    Returns:
        The config, with steps of the size that the run began with, and without descriptors where it read none.

    Raises:
        InputError: The user asks for descriptors that the run did not read.
    """
    continued = _with_saved_defaults(read_config(folder), config)
    dropped = [key for key in DESCRIPTOR_KEYS if key in user_keys and config.at(key) and not continued.at(key)]
    if dropped:
        raise InputError(
            f"{key}: {folder} was started by an earlier version, without descriptors; leave this out, or start anew"
            for key in dropped
        )
    return continued


def _with_saved_defaults(saved: Config, config: Config) -> Config:
    """Return a config with what a run of an earlier version did where this version has another default."""
    values: dict[str, Any] = {}
    if config.training.step_tokens is None:
        values["training.step_tokens"] = saved.training.step_tokens
    values |= {key: None for key in DESCRIPTOR_KEYS if saved.at(key) is None}
    return config.with_values(values)


def read_config(folder: Path) -> Config:
    """Read the config that a run or a sweep was started with.

    Args:
        folder: Its folder.

    Returns:
        The config, under present names.

    Raises:
        InputError: `config.yaml` is missing or damaged.
    """
    try:
        document = yaml.safe_load((folder / "config.yaml").read_text(encoding="utf-8"))
        return Config.model_validate(_with_earlier_defaults(document))
    except (OSError, ValueError, yaml.YAMLError) as error:
        reason = " ".join(str(error).split())[:MAX_ERROR_CHARACTERS]
        raise InputError(f"its config.yaml cannot be read ({reason})") from error


def _with_earlier_defaults(document: Any) -> Any:
    """Return the saved config of a run, with what earlier versions did where keys are missing."""
    training = document.get("training") if isinstance(document, dict) else None
    if not isinstance(training, dict):
        return document
    earlier: dict[str, Any] = {"step_tokens": 0}  # steps did not grow
    if training.get("loss") in SOLVED_LOSSES:
        earlier["solver"] = "adamw"
    return {**document, "training": {**earlier, **training}}


def _compare(saved: dict[str, Any], current: dict[str, Any], prefix: str = "") -> list[str]:
    differences = []
    for key, value in current.items():
        saved_value = saved.get(key)
        if isinstance(value, dict) and isinstance(saved_value, dict):
            differences += _compare(saved_value, value, f"{prefix}{key}.")
        elif value != saved_value:
            differences.append(f"{prefix}{key} was {json.dumps(saved_value)}, now {json.dumps(value)}")
    return differences
