"""What the doors share: flags that stand for config keys, `section.key=value`, and how errors end a command."""

from __future__ import annotations

import argparse
import errno
import os
import sys
from collections.abc import Callable, Sequence
from typing import Any

from rainbow_ray.config.load import ADDRESS_VARIABLE, Resolved, environment_variables, parse_value, resolve
from rainbow_ray.config.phases import get_phase
from rainbow_ray.utils.errors import EXIT_FAILURE, EXIT_INPUT_ERROR, InputError, TrainingError
from rainbow_ray.utils.paths import path_option
from rainbow_ray.utils.signals import describe, exit_code
from rainbow_ray.utils.streams import close_output, print_error, printable, protect_streams

# packages that a light installation lacks, and the extra that brings them
EXTRAS = {
    **dict.fromkeys(("torch", "ray", "transformers", "pandas", "pyarrow", "sklearn", "safetensors", "psutil"), "train"),
    **dict.fromkeys(("fastapi", "starlette", "swagger_ui_bundle"), "serve"),
}
# flags that are another way to write a key
KEY_FLAGS: dict[str, tuple[str, str, str]] = {
    "--manifest": ("data.manifest_path", "P", "parquet file, folder or URL; `demo` for the built-in songs"),
    "--segments": ("segments.path", "P", "phase 5: parquet file of segments, a row a segment and stem"),
    "--media-root": ("data.media_root", "D", "folder that audio and MIDI paths start from (default: the manifest's)"),
    "--encoder": ("model.text_encoder.model_name", "NAME", "hub name, local folder, or `embedded`"),
    "--audio-encoder": (
        "model.audio_encoder.model_name",
        "NAME",
        "of waveforms: hub name, local folder, or `embedded`",
    ),
    "--modalities": ("modalities", "A,B", "what is read, of text, audio, midi"),
    "--folds": ("data.folds", "K", "folds of cross-validation; 1 is a single split"),
    "--split-by": ("data.split_by", "id|COLUMN|row", "what a split must keep whole"),
    "--split-file": ("data.split_file", "F", "reuse the split.json of a run"),
    "--metric": ("training.metric", "M", "the headline metric"),
    "--output-dir": ("logging.output_dir", "D", "where runs lie (default: runs)"),
    "--usd-per-hour": ("logging.usd_per_hour", "X", "price of the machine: the cost is then told"),
}

# flags of one door only
TRAIN_FLAGS: dict[str, tuple[str, str, str]] = {
    "--workers": ("training.workers", "N", "workers that share one fit; 1..4 is elastic"),
}
TUNE_FLAGS: dict[str, tuple[str, str, str]] = {
    "--trials": ("tune.trials", "N", "of the whole sweep, failed and pruned ones included (default: 30)"),
    "--space": ("tune.space", "FILE:FUNCTION", "what is searched (default: tune_spaces/phaseN.py)"),
    "--concurrent": ("tune.max_concurrent_trials", "N", "trials side by side"),
    "--gpus-per-trial": ("tune.gpus_per_trial", "F", "0.25: four trials share a GPU"),
    "--workers-per-trial": ("tune.workers_per_trial", "N", "workers that share each fit of a trial"),
    "--budget-minutes": ("tune.budget_minutes", "X", "stop in time"),
    "--budget-usd": ("tune.budget_usd", "X", "stop before more is spent; needs --usd-per-hour"),
}
DOORS = {
    "train": {**KEY_FLAGS, **TRAIN_FLAGS},
    "check": {**KEY_FLAGS, **TRAIN_FLAGS},
    "tune": {**KEY_FLAGS, **TUNE_FLAGS},
}

PLAIN_TEXT = {
    "data.manifest_path", "segments.path", "data.split_by", "data.split_file", "model.text_encoder.model_name",
    "training.metric",
    "model.audio_encoder.model_name", "data.media_root",
    "logging.output_dir", "tune.space",
}  # fmt: skip


def make_parser(program: str, description: str) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog=f"python -m rainbow_ray.{program}",
        description=description,
        epilog="Any key of the config can be set: training.epochs=5. --print-config shows them all. "
        "Environment: RAINBOW_SECTION__KEY, RAINBOW_MANIFEST.",
        allow_abbrev=False,
    )
    parser.add_argument(
        "--phase",
        type=int,
        metavar="N",
        help="1: yes or no, 2: classes, 4: a number, 5: segments, from text; 3: classes, from text, audio and MIDI",
    )
    parser.add_argument("--config", type=path_option, metavar="F", help="YAML file")
    for flag, (_, placeholder, text) in DOORS[program].items():
        parser.add_argument(flag, metavar=placeholder, help=text)
    if program == "check":
        parser.add_argument("--prepare", action="store_true", help="read and encode all audio and MIDI into the cache")
    if program == "train":
        parser.add_argument("--ensemble", action="store_true", help="keep the folds' models, averaged, as one")
    parser.add_argument("--wandb", action="store_true", help="mirror the run to Weights & Biases")
    parser.add_argument(
        "--address",
        metavar="A",
        default=os.environ.get(ADDRESS_VARIABLE) or None,
        help=f"a Ray cluster to join (default: {ADDRESS_VARIABLE}, else one of this command's own)",
    )
    if program in ("train", "tune"):
        parser.add_argument("--name", metavar="S", help="the run is exactly OUTPUT_DIR/S")
        parser.add_argument("--resume", action="store_true", help="go on with a run that was stopped")
        parser.add_argument("--dry-run", action="store_true", help="read and split the data, say what would be done")
        parser.add_argument("--print-config", action="store_true", help="print the config as a file that can be run")
    parser.add_argument("overrides", nargs="*", metavar="section.key=value", help="any key of the config")
    return parser


def read_config(arguments: argparse.Namespace) -> Resolved:
    """File < environment < flags and `section.key=value`. Raises `InputError` with all that is wrong."""
    problems: list[str] = []
    overrides: list[tuple[str, Any]] = []
    for flag, (key, _, _) in {**KEY_FLAGS, **TRAIN_FLAGS, **TUNE_FLAGS}.items():
        value = getattr(arguments, flag.removeprefix("--").replace("-", "_"), None)
        if value is not None:
            # names and paths stay text, also those that YAML would read as a number or a date
            plain = key in PLAIN_TEXT
            overrides.append((key, value.split(",") if key == "modalities" else value if plain else parse_value(value)))
    if arguments.wandb:
        overrides.append(("logging.wandb.enabled", True))
    if getattr(arguments, "ensemble", False):
        overrides.append(("training.ensemble", True))
    for item in arguments.overrides:
        key, equals, value = item.partition("=")
        if not equals:
            problems.append(f"command line: {item!r} is not of the form section.key=value")
        else:
            overrides.append((key, parse_value(value)))
    keys = [key for key, _ in overrides]
    twice = [key for key, value in overrides if keys.count(key) > 1 and dict(overrides)[key] != value]
    problems += [f"command line: {key} is given twice, with different values" for key in dict.fromkeys(twice)]
    resolved = None
    try:
        resolved = resolve(arguments.config, environment_variables(), overrides)
    except InputError as error:
        problems += error.problems
    if resolved is not None:
        problems += _set_phase(resolved, arguments.phase)
    if problems or resolved is None:
        raise InputError(problems)
    return resolved


def _set_phase(resolved: Resolved, flag: int | None) -> list[str]:
    config = resolved.config
    if flag is not None and "phase" in resolved.user_keys and flag != config.phase:
        return [f"--phase {flag}: the config says phase {config.phase}; leave one of them out"]
    if flag is not None:
        config.phase = flag
    try:
        get_phase(config.phase)
    except InputError as error:
        return error.problems
    return []


def _check_encoding(arguments: Sequence[str]) -> None:
    """Raise `InputError` for arguments that are no text: neither pyarrow nor Ray can be given such a name."""
    problems = []
    for argument in arguments:
        try:
            argument.encode()
        except UnicodeEncodeError:
            raw = os.fsencode(argument).decode("utf-8", "backslashreplace")
            encoding = sys.getfilesystemencoding()
            problems.append(f"{raw}: not text in {encoding}; rename what it names, or set LC_ALL=C.UTF-8")
    if problems:
        raise InputError(problems)


def run(main: Callable[[Sequence[str]], int]) -> int:
    """Run a command: its exit code, and no traceback for what the user can mend.

    Args:
        main: Takes the arguments and returns an exit code.

    Returns:
        0 done, 1 the work failed, 2 the input or the config is wrong, 130 interrupted (SIGINT), 143 terminated
        (SIGTERM).
    """
    protect_streams()
    try:
        _check_encoding(sys.argv[1:])
        code = main(sys.argv[1:])
        if sys.stdout is not None:
            sys.stdout.flush()
        return code
    except KeyboardInterrupt as error:
        print(printable(describe(error)), file=sys.stderr)
        return exit_code(error)
    except Exception as error:
        reported = _report(error)
        if reported is None:
            raise
        return reported


def _report(error: Exception) -> int | None:
    """Print what the user can mend, and return the exit code; None for a defect of ours."""
    if isinstance(error, InputError):
        for problem in error.problems:
            print_error(problem)
        return EXIT_INPUT_ERROR
    if isinstance(error, TrainingError):
        print_error(str(error))
        return EXIT_FAILURE
    if isinstance(error, BrokenPipeError):  # `… | head`
        close_output()
        return EXIT_FAILURE
    if isinstance(error, PermissionError | IsADirectoryError | NotADirectoryError):
        print_error(f"{error.filename}: {error.strerror}")
        return EXIT_INPUT_ERROR
    if isinstance(error, OSError) and error.errno == errno.ENOSPC:
        close_output()  # it may be what cannot be written
        print_error(f"{error.filename or 'standard output'}: {error.strerror}")
        return EXIT_FAILURE
    if isinstance(error, ModuleNotFoundError) and (package := (error.name or "").partition(".")[0]) in EXTRAS:
        print_error(f"{package} is not installed: pip install 'rainbow-ray[{EXTRAS[package]}]'")
        return EXIT_INPUT_ERROR
    return None
