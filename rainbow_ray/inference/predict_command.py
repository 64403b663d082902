"""Work of `python -m rainbow_ray.predict`: check the options, then score texts or a table."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from rainbow_ray.distributed.ray_cluster import prepare_environment
from rainbow_ray.inference.load import open_model
from rainbow_ray.inference.onnx_predictor import OnnxPredictor
from rainbow_ray.inference.predict_texts import predict_texts
from rainbow_ray.utils.console import make_console
from rainbow_ray.utils.errors import EXIT_SUCCESS, InputError
from rainbow_ray.utils.paths import folder_of, is_url, resolve_path
from rainbow_ray.utils.signals import raise_on_signal

if TYPE_CHECKING:
    from rainbow_ray.inference.predict_table import TableRequest

SUFFIXES = (".parquet", ".csv", ".jsonl")
MEDIA_FLAGS = ("media_root", "allow_missing")


def predict(options: argparse.Namespace) -> int:
    """Score texts or a table with a trained model.

    Args:
        options: Arguments of `predict`.

    Returns:
        The exit code.

    Raises:
        InputError: The options, the model or the table are wrong.
    """
    check_options(options)
    prepare_environment()
    console = make_console()
    if options.manifest is None:
        model = open_model(options.model, options.device)
        if model.reads_media:
            console.print(
                "Note: only the text is scored; the model's other modalities (audio, MIDI) count as missing, as in a"
                " part of its training examples"
            )
        predict_texts(model, options, console, modalities="text" if model.reads_media else None)
        return EXIT_SUCCESS
    media_root = resolve_path(options.media_root or folder_of(options.manifest) or Path())
    predictor = open_model(options.model, options.device, media_root)
    if isinstance(predictor, OnnxPredictor):
        raise InputError(
            f"--model {options.model}: an ONNX bundle scores --text and --text-file; tables are scored by the run that"
            " it was exported from"
        )

    # A light installation, which scores texts with an ONNX bundle, lacks what tables need.
    from rainbow_ray.inference.predict_table import chunk_folder, predict_table

    for option in MEDIA_FLAGS:
        if getattr(options, option) and not predictor.reads_media:
            console.print(f"Note: {_flag(option)} has no effect: this model reads only text")
    if options.suggest is not None:
        from rainbow_ray.inference.suggest import suggest

        with raise_on_signal():
            suggest(predictor, _table_request(options, media_root), options.suggest, console, options.out)
        return EXIT_SUCCESS
    with raise_on_signal():
        try:
            predict_table(predictor, _table_request(options, media_root), console)
        except KeyboardInterrupt as error:
            if chunk_folder(options.out).exists():
                error.add_note("the chunks that are scored are kept: continue with the same command and --resume")
            raise
    return EXIT_SUCCESS


def _table_request(options: argparse.Namespace, media_root: Path) -> TableRequest:
    from rainbow_ray.inference.predict_table import TableRequest

    return TableRequest(
        options.model, options.manifest, options.out or Path("suggestions"), media_root, options.device,
        options.chunk_rows, options.workers, options.address, options.resume, options.overwrite, options.allow_missing,
    )  # fmt: skip


def check_options(options: argparse.Namespace) -> None:
    """Check the options before anything is loaded.

    Args:
        options: Arguments of `predict`.

    Raises:
        InputError: Options are wrong or contradict each other, with all problems.
    """
    problems = _check_output(options)
    if options.suggest is not None and (options.manifest is None or options.suggest < 1):
        problems.append(f"--suggest {options.suggest}: must be a number from 1 on, with --manifest")
    if options.suggest is not None and (options.resume or options.workers or options.chunk_rows or options.address):
        problems.append("--suggest: cannot be combined with --resume, --workers, --chunk-rows or --address")
    if options.manifest is not None and options.out is None and options.suggest is None:
        problems.append("--manifest: name a file for the predictions with --out")
    if options.text_file is not None and not options.text_file.is_file():
        problems.append(f"--text-file {options.text_file}: no such file")
    if options.top is not None and (options.text_file is None or options.top < 1):
        problems.append(f"--top {options.top}: must be a number from 1 on, with --text-file")
    if options.rank_by_class is not None and options.manifest is not None:
        problems.append(
            "--rank-by-class: with --manifest there is nothing to rank; --out has the scores of all classes"
        )
    problems += _check_table_options(options)
    if problems:
        raise InputError(problems)


def _check_table_options(options: argparse.Namespace) -> list[str]:
    """Return messages on options that apply to tables only."""
    problems = []
    for option in ("workers", "chunk_rows"):
        value = getattr(options, option)
        if value is not None and (options.manifest is None or value < 1):
            problems.append(f"{_flag(option)} {value}: must be a number from 1 on, with --manifest")
    if options.resume and options.manifest is None:
        problems.append("--resume: only --manifest can be continued")
    if options.resume and options.chunk_rows is not None:
        problems.append("--chunk-rows: cannot be combined with --resume, which keeps the chunks as they are")
    problems += [
        f"{_flag(option)}: applies only to --manifest, which names audio and MIDI"
        for option in MEDIA_FLAGS
        if getattr(options, option) and options.manifest is None
    ]
    if options.overwrite and options.out is None:
        problems.append("--overwrite: there is no --out to replace")
    return problems


def _flag(option: str) -> str:
    return f"--{option.replace('_', '-')}"


def _check_output(options: argparse.Namespace) -> list[str]:
    """Return messages on `--out`."""
    out, problems = options.out, []
    if out is None:
        return []
    if out.suffix not in SUFFIXES:
        problems.append(f"--out {out}: its name must end in one of {', '.join(SUFFIXES)}")
    if out.is_dir():
        problems.append(f"--out {out}: this is a folder")
    elif out.exists() and not options.overwrite:
        problems.append(f"--out {out}: the file exists; choose another name, or --overwrite")
    if not out.parent.is_dir():
        problems.append(f"--out {out}: there is no folder {out.parent}")
    return problems + _check_against_input(out, options.text_file or options.manifest)


def _check_against_input(out: Path, source: Path | str | None) -> list[str]:
    """Return messages on an output that would replace the input, or would be read as a part of it."""
    if source is None or is_url(str(source)):
        return []
    path, intervals = Path(source), out.with_name(f"{out.stem}.intervals{out.suffix}")
    try:
        input_path, is_folder = path.resolve(), path.is_dir()
    except (OSError, RuntimeError):  # a name that is too long or a link to itself, which opening it reports
        return []
    if input_path in (out.resolve(), intervals.resolve()):
        return [f"--out {out}: this would replace the input; choose another name"]
    if is_folder and input_path in out.resolve().parents:
        return [f"--out {out}: it is in the manifest's folder, and would be read as songs; choose another folder"]
    return []
