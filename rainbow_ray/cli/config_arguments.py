"""Arguments of the commands that read a config: train, tune, check."""

from __future__ import annotations

import argparse
import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from rainbow_ray.cli.deprecated_flags import add_renamed_flag
from rainbow_ray.config.json_schema import config_json_schema
from rainbow_ray.config.load import ADDRESS_VARIABLE, Resolved, dump, environment_variables, parse_value, resolve
from rainbow_ray.config.phases import get_phase
from rainbow_ray.utils.errors import InputError
from rainbow_ray.utils.paths import path_option
from rainbow_ray.utils.streams import print_note


@dataclass(frozen=True)
class KeyFlag:
    """A command-line flag that sets one key of the config.

    Attributes:
        name: Name of the flag, such as `--folds`.
        key: Dotted key, such as `data.folds`.
        placeholder: What `--help` shows for the value.
        help: Description for `--help`.
        is_text: Whether the value stays text. Names and paths do, even if YAML would read a number or a date.
        is_list: Whether commas separate several values.
        former_name: Former name of the flag, or None.
    """

    name: str
    key: str
    placeholder: str
    help: str
    is_text: bool = False
    is_list: bool = False
    former_name: str | None = None

    @property
    def destination(self) -> str:
        """Name of the value in the parsed arguments."""
        return self.name.removeprefix("--").replace("-", "_")

    def parse(self, value: str) -> Any:
        """Return the value of the key.

        Args:
            value: Value from the command line.

        Returns:
            Text, a list of texts, or what YAML reads.
        """
        if self.is_list:
            return value.split(",")
        return value if self.is_text else parse_value(value)


COMMON_FLAGS = (
    KeyFlag(
        "--manifest", "data.manifest_path", "P", "parquet file, folder or URL; `demo` for the built-in songs",
        is_text=True,
    ),
    KeyFlag("--segments", "segments.path", "P", "phase 5: parquet file of segments and stems", is_text=True),
    KeyFlag(
        "--media-root", "data.media_root", "D",
        "folder that paths of audio and MIDI start from (default: the manifest's)", is_text=True,
    ),
    KeyFlag(
        "--encoder", "model.text_encoder.model_name", "NAME", "hub name, local folder, or `embedded`", is_text=True
    ),
    KeyFlag(
        "--audio-encoder", "model.audio_encoder.model_name", "NAME",
        "of waveforms: hub name, local folder, or `embedded`", is_text=True,
    ),
    KeyFlag("--modalities", "modalities", "A,B", "inputs of the model, of text, audio, midi", is_list=True),
    KeyFlag("--folds", "data.folds", "K", "folds of cross-validation; 1 is a single split"),
    KeyFlag("--split-by", "data.split_by", "id|COLUMN|row", "what a split keeps together", is_text=True),
    KeyFlag("--split-file", "data.split_file", "F", "reuse the split.json of a run", is_text=True),
    KeyFlag("--metric", "training.metric", "M", "the headline metric", is_text=True),
    KeyFlag("--output-dir", "logging.output_dir", "D", "folder of the runs (default: runs)", is_text=True),
    KeyFlag("--usd-per-hour", "logging.usd_per_hour", "X", "price of the machine, for estimates of the cost"),
)  # fmt: skip
TRAIN_FLAGS = (KeyFlag("--workers", "training.workers", "N", "workers that share one fit; 1..4 is elastic"),)
TUNE_FLAGS = (
    KeyFlag("--trials", "tune.trials", "N", "of the whole sweep, failed and pruned ones included (default: 30)"),
    KeyFlag(
        "--space", "tune.space", "FILE:FUNCTION", "search space (default: tune_spaces/phaseN.py)", is_text=True
    ),
    KeyFlag(
        "--max-concurrent", "tune.max_concurrent_trials", "N", "trials that run in parallel",
        former_name="--concurrent",
    ),
    KeyFlag("--gpus-per-trial", "tune.gpus_per_trial", "F", "0.25: four trials share a GPU"),
    KeyFlag("--workers-per-trial", "tune.workers_per_trial", "N", "workers that share each fit of a trial"),
    KeyFlag("--budget-minutes", "tune.budget_minutes", "X", "stop after this time"),
    KeyFlag("--budget-usd", "tune.budget_usd", "X", "stop before more is spent; needs --usd-per-hour"),
)  # fmt: skip
FLAGS_OF_COMMAND = {
    "train": (*COMMON_FLAGS, *TRAIN_FLAGS),
    "check": (*COMMON_FLAGS, *TRAIN_FLAGS),
    "tune": (*COMMON_FLAGS, *TUNE_FLAGS),
}
PHASE_HELP = "1: binary, 2: classes, 4: a number, 5: segments, from text; 3: classes, from text, audio and MIDI"


def make_parser(command: str, description: str) -> argparse.ArgumentParser:
    """Return the parser of a command that reads a config.

    Args:
        command: `train`, `tune` or `check`.
        description: Text above the arguments in `--help`.

    Returns:
        The parser.
    """
    parser = argparse.ArgumentParser(
        prog=f"python -m rainbow_ray.{command}",
        description=description,
        epilog="Any key of the config can be set: training.epochs=5."
        + (" --print-config shows them all." if command != "check" else "")
        + " Environment: RAINBOW_SECTION__KEY, RAINBOW_MANIFEST.",
        allow_abbrev=False,
    )
    parser.add_argument("--phase", type=int, metavar="N", help=PHASE_HELP)
    parser.add_argument("--config", type=path_option, metavar="F", help="YAML file")
    for flag in FLAGS_OF_COMMAND[command]:
        if flag.former_name is None:
            parser.add_argument(flag.name, metavar=flag.placeholder, help=flag.help)
        else:
            add_renamed_flag(parser, flag.name, flag.former_name, metavar=flag.placeholder, help=flag.help)
    if command == "check":
        add_renamed_flag(
            parser, "--build-cache", "--prepare", is_switch=True,
            help="read and encode all audio and MIDI into the cache",
        )  # fmt: skip
    if command == "train":
        parser.add_argument(
            "--ensemble", action="store_true", help="keep the average of the folds' models as one model"
        )
    parser.add_argument("--wandb", action="store_true", help="log the run to Weights & Biases")
    parser.add_argument(
        "--address",
        metavar="A",
        default=os.environ.get(ADDRESS_VARIABLE) or None,
        help=f"address of a Ray cluster to join (default: {ADDRESS_VARIABLE}, else start one for this command)",
    )
    if command in ("train", "tune"):
        parser.add_argument("--name", metavar="S", help="folder of the run in OUTPUT_DIR (default: from the date)")
        parser.add_argument("--resume", action="store_true", help="continue a run that was interrupted")
        parser.add_argument("--dry-run", action="store_true", help="read and split the data, print the plan, and stop")
        parser.add_argument("--print-config", action="store_true", help="print the config as a file for --config")
        parser.add_argument("--print-schema", action="store_true", help="print the JSON schema of config files")
    parser.add_argument("overrides", nargs="*", metavar="section.key=value", help="any key of the config")
    return parser


def print_config_or_schema(options: argparse.Namespace) -> bool:
    """Print what `--print-config` or `--print-schema` requests.

    Args:
        options: Parsed arguments of `train` or `tune`.

    Returns:
        Whether one of them was requested.

    Raises:
        InputError: The config is wrong, with all problems.
    """
    if options.print_schema:
        print(json.dumps(config_json_schema(), indent=2))
    elif options.print_config:
        resolved = read_config(options)
        if resolved.problems:
            raise InputError(resolved.problems)
        for note in resolved.notes:
            print_note(note)
        print(dump(resolved.config), end="")
    return bool(options.print_schema or options.print_config)


def read_config(options: argparse.Namespace) -> Resolved:
    """Merge the config file, environment variables, and the command line, which has precedence in this order.

    Args:
        options: Parsed arguments of `train`, `tune` or `check`.

    Returns:
        The config, and the keys that the user set. Its `problems` are for `make_plan` to raise.

    Raises:
        InputError: Unknown keys or values of wrong types, with all problems.
    """
    overrides, problems = _read_overrides(options)
    resolved = None
    try:
        resolved = resolve(options.config, environment_variables(), overrides)
    except InputError as error:
        problems += error.problems
    if resolved is None:
        raise InputError(problems)
    resolved, phase_problems = _with_phase(resolved, options.phase)
    if problems or phase_problems:
        raise InputError([*problems, *phase_problems, *resolved.problems])
    return resolved


def _read_overrides(options: argparse.Namespace) -> tuple[list[tuple[str, Any]], list[str]]:
    """Return the keys and values of the command line, and messages on those that are malformed or contradictory."""
    overrides: list[tuple[str, Any]] = []
    problems: list[str] = []
    for flag in (*COMMON_FLAGS, *TRAIN_FLAGS, *TUNE_FLAGS):
        value = getattr(options, flag.destination, None)
        if value is not None:
            overrides.append((flag.key, flag.parse(value)))
    if options.wandb:
        overrides.append(("logging.wandb.enabled", True))
    if getattr(options, "ensemble", False):
        overrides.append(("training.ensemble", True))
    for item in options.overrides:
        key, equals, value = item.partition("=")
        if not equals:
            problems.append(f"command line: {item!r} is not of the form section.key=value")
        else:
            overrides.append((key, parse_value(value)))
    return overrides, problems + _contradictions(overrides)


def _contradictions(overrides: Sequence[tuple[str, Any]]) -> list[str]:
    """Return messages on keys with several values."""
    keys = [key for key, _ in overrides]
    last = dict(overrides)
    repeated = [key for key, value in overrides if keys.count(key) > 1 and last[key] != value]
    return [f"command line: {key} is given twice, with different values" for key in dict.fromkeys(repeated)]


def _with_phase(resolved: Resolved, flag: int | None) -> tuple[Resolved, list[str]]:
    """Return the config with `--phase`, and messages on a phase that does not exist or that differs from the file."""
    config = resolved.config
    if flag is not None and "phase" in resolved.user_keys and flag != config.phase:
        return resolved, [f"--phase {flag}: the config has phase {config.phase}; leave one of them out"]
    if flag is not None:
        resolved = resolved.model_copy(update={"config": config.with_values({"phase": flag})})
    try:
        get_phase(resolved.config.phase)
    except InputError as error:
        return resolved, error.problems
    return resolved, []
