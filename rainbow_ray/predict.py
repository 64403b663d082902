"""Score songs or ideas with a trained model: `python -m rainbow_ray.predict --model runs/NAME --text "…"`."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rainbow_ray.cli import run
from rainbow_ray.config.load import ADDRESS_VARIABLE
from rainbow_ray.utils.errors import EXIT_SUCCESS
from rainbow_ray.utils.number_format import format_number
from rainbow_ray.utils.paths import folder_of, is_url, location_option, path_option, resolve_path
from rainbow_ray.utils.signals import raise_on_signal

if TYPE_CHECKING:
    from rich.console import Console

    from rainbow_ray.inference.occlusion import TextScorer
    from rainbow_ray.inference.predict_table import TableRequest

WRITERS = (".parquet", ".csv", ".jsonl")
SHOWN_CHARACTERS = 60


def main(arguments: Sequence[str]) -> int:
    options = _parser().parse_args(arguments)
    _check(options)

    from rainbow_ray.distributed.ray_cluster import prepare_environment

    prepare_environment()

    from rainbow_ray.inference.load import open_model
    from rainbow_ray.inference.onnx_predictor import OnnxPredictor
    from rainbow_ray.utils.console import make_console

    console = make_console()
    if options.manifest is None:
        model = open_model(options.model, options.device)
        if model.reads_media:
            console.print("Note: a text is scored alone; what else the model reads (audio, MIDI) counts as missing, as"
                          " in training it sometimes was")  # fmt: skip
        _score_texts(model, options, console, read="text" if model.reads_media else None)
        return EXIT_SUCCESS
    root = resolve_path(options.media_root or folder_of(options.manifest) or Path())
    predictor = open_model(options.model, options.device, root)
    if isinstance(predictor, OnnxPredictor):
        from rainbow_ray.utils.errors import InputError

        raise InputError(f"--model {options.model}: an ONNX bundle scores --text and --text-file; tables are scored by"
                         " the run that it came from")  # fmt: skip

    from rainbow_ray.inference.predict_table import chunk_folder, predict_table

    for flag in ("media_root", "allow_missing"):
        if getattr(options, flag) and not predictor.reads_media:
            console.print(f"Note: --{flag.replace('_', '-')} has no effect: this model reads text alone")
    with raise_on_signal():
        try:
            predict_table(predictor, _table_request(options, root), console)
        except KeyboardInterrupt as error:
            if chunk_folder(options.out).exists():
                error.add_note("the chunks that are scored are kept: continue with the same command and --resume")
            raise
    return EXIT_SUCCESS


def _table_request(options: argparse.Namespace, media_root: Path) -> TableRequest:
    from rainbow_ray.inference.predict_table import TableRequest

    return TableRequest(
        options.model, options.manifest, options.out, media_root, options.device, options.chunk_rows, options.workers,
        options.address, options.resume, options.overwrite, options.allow_missing,
    )  # fmt: skip


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m rainbow_ray.predict", description=__doc__, allow_abbrev=False)
    parser.add_argument("--model", type=path_option, required=True, metavar="RUN|FOLDER", help="a run, or its model/"
                        " folder, or what `export --onnx` wrote")  # fmt: skip
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("--manifest", type=location_option, metavar="P", help="parquet file, folder or URL of songs")
    what.add_argument("--text", metavar="T", help="one text")
    what.add_argument("--text-file", type=path_option, metavar="F", help="a text a line; blank lines are left out")
    parser.add_argument("--out", type=path_option, metavar="F", help=f"where the table goes: {', '.join(WRITERS)}")
    parser.add_argument("--media-root", type=path_option, metavar="D", help="where paths of audio and MIDI start"
                        " (default: the manifest's folder)")  # fmt: skip
    parser.add_argument("--allow-missing", action="store_true", help="score rows whose audio or MIDI cannot be"
                        " read, however many they are (default: at most"
                        " data.max_unreadable_fraction of the run)")  # fmt: skip
    parser.add_argument("--overwrite", action="store_true", help="an existing --out may be replaced")
    parser.add_argument("--resume", action="store_true", help="go on with a --manifest that was stopped")
    parser.add_argument("--workers", type=int, metavar="N", help="side by side on --manifest (default: all CPUs or GPUs"
                        " where it is large)")  # fmt: skip
    parser.add_argument("--chunk-rows", type=int, metavar="N", help="rows of --manifest that are scored into one file,"
                        " and lost at most when the command is interrupted (default: at most 10000)")  # fmt: skip
    parser.add_argument("--part-rows", dest="chunk_rows", type=int, help=argparse.SUPPRESS)  # its former name
    parser.add_argument("--address", metavar="A", default=os.environ.get(ADDRESS_VARIABLE) or None,
                        help="a Ray cluster to join (default: one of this command's own)")  # fmt: skip
    parser.add_argument("--top", type=int, metavar="N", help="show the N highest of --text-file, with their words")
    parser.add_argument("--class", dest="by", metavar="NAME", help="rank by this class (default: by the likeliest)")
    parser.add_argument("--device", default="auto", choices=("auto", "cuda", "mps", "cpu"))
    return parser


def _check(options: argparse.Namespace) -> None:
    """Raises `InputError` with all that is wrong before anything is loaded."""
    from rainbow_ray.utils.errors import InputError

    problems = [*_check_out(options)]
    if options.manifest is not None and options.out is None:
        problems.append("--manifest: name a file for the predictions with --out")
    if options.text_file is not None and not options.text_file.is_file():
        problems.append(f"--text-file {options.text_file}: no such file")
    if options.top is not None and (options.text_file is None or options.top < 1):
        problems.append(f"--top {options.top}: a number from 1 on, with --text-file")
    if options.by is not None and options.manifest is not None:
        problems.append("--class: with --manifest there is nothing to rank; --out has the scores of all classes")
    problems += _check_parts(options)
    if problems:
        raise InputError(problems)


def _check_parts(options: argparse.Namespace) -> list[str]:
    """What is wrong with flags of a table's parts."""
    problems = []
    for flag in ("workers", "chunk_rows"):
        value, name = getattr(options, flag), f"--{flag.replace('_', '-')}"
        if value is not None and (options.manifest is None or value < 1):
            problems.append(f"{name} {value}: a number from 1 on, with --manifest")
    if options.resume and options.manifest is None:
        problems.append("--resume: only --manifest can be gone on with")
    if options.resume and options.chunk_rows is not None:
        problems.append("--chunk-rows: cannot be combined with --resume, which keeps the chunks as they are")
    for flag in ("media_root", "allow_missing"):
        if getattr(options, flag) and options.manifest is None:
            problems.append(f"--{flag.replace('_', '-')}: only a --manifest names audio and MIDI")
    if options.overwrite and options.out is None:
        problems.append("--overwrite: there is no --out to replace")
    return problems


def _check_out(options: argparse.Namespace) -> list[str]:
    out, problems = options.out, []
    if out is None:
        return []
    if out.suffix not in WRITERS:
        problems.append(f"--out {out}: its name must end in one of {', '.join(WRITERS)}")
    if out.is_dir():
        problems.append(f"--out {out}: this is a folder")
    elif out.exists() and not options.overwrite:
        problems.append(f"--out {out}: the file exists; another name, or --overwrite")
    if not out.parent.is_dir():
        problems.append(f"--out {out}: there is no folder {out.parent}")
    return problems + _check_against_input(out, options.text_file or options.manifest)


def _check_against_input(out: Path, source: Path | str | None) -> list[str]:
    """What is read is never written over, nor added to."""
    if source is None or is_url(str(source)):
        return []
    given, beside = Path(source), out.with_name(f"{out.stem}.intervals{out.suffix}")
    try:
        source_path, is_folder = given.resolve(), given.is_dir()
    except (OSError, RuntimeError):  # a name that is too long, a link to itself: opening it says what is wrong
        return []
    if source_path in (out.resolve(), beside.resolve()):
        return [f"--out {out}: this is what is read, or would be written over; another name"]
    if is_folder and source_path in out.resolve().parents:
        return [f"--out {out}: it lies in the manifest's folder, and would be read as songs; another folder"]
    return []


def _read_texts(path: Path) -> list[str]:
    """The lines of a file that say something. Raises `InputError` for what is no UTF-8."""
    from rainbow_ray.utils.errors import InputError

    try:
        # some editors put a mark in front; other characters that end lines somewhere are part of a text
        lines = path.read_text(encoding="utf-8-sig").replace("\r\n", "\n").split("\n")
    except UnicodeDecodeError as error:
        raise InputError(f"--text-file {path}: this is not UTF-8 text; save it as UTF-8") from error
    return [line.strip() for line in lines if line.strip()]


def _score_texts(
    predictor: TextScorer, options: argparse.Namespace, console: Console, *, read: str | None = None
) -> None:
    """Score texts and print them; `read` names the modalities that a model of several has read of each."""
    import numpy as np

    from rainbow_ray.inference.occlusion import words_that_moved
    from rainbow_ray.utils.errors import InputError

    texts = [_whole(options.text)] if options.text is not None else _read_texts(options.text_file)
    if not any(text.strip() for text in texts):
        raise InputError(f"{'--text' if options.text is not None else options.text_file}: there is no text in it")
    names, scores = predictor.score_names, predictor.score_texts(texts)
    said = predictor.decode_predictions(scores)
    column = _ranked_by(predictor, options.by)
    rank = scores[:, names.index(column)] if column is not None else scores.max(axis=1)
    order = np.argsort(-rank, kind="stable")
    more = {} if read is None else {"modalities": read}
    rows = [{"text": texts[i], "prediction": said[i], **dict(zip(names, map(float, scores[i]), strict=True)), **more}
            for i in order]  # fmt: skip
    if options.out is not None:
        _write(rows, options.out)
        console.print(f"{len(rows)} predictions in {options.out}")
    for row in rows[: options.top or len(rows)]:
        asked = column or max(names, key=lambda name: row[name])
        shown = row["text"] if len(texts) == 1 else _short(row["text"])
        console.print(f"{format_number(row[asked])}  {_said(row['prediction'])}  {shown}")
        moved = words_that_moved(predictor, row["text"], asked) if options.top or len(texts) == 1 else []
        if moved:
            console.print("       " + ", ".join(f"{one.word} {format_number(one.by, signed=True)}" for one in moved))


def _whole(text: str) -> str:
    """A text of the command line; bytes that are no UTF-8 arrive as halves of characters. Raises `InputError`."""
    from rainbow_ray.utils.errors import InputError

    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise InputError("--text: this is not UTF-8 text") from error
    return text


def _ranked_by(predictor: TextScorer, name: str | None) -> str | None:
    """The column of a class that was asked for; of a single score, that. Raises `InputError` for an unknown class."""
    from rainbow_ray.utils.errors import InputError, did_you_mean

    columns = predictor.score_names
    if name is None:
        return columns[0] if len(columns) == 1 else None
    classes = [column.removeprefix("score_") for column in columns] if len(columns) > 1 else []
    if name not in classes:
        known = f"; there are: {', '.join(classes)}" if classes else ": this model has none"
        raise InputError(f"--class {name!r}: no such class{did_you_mean(name, classes)}{known}")
    return f"score_{name}"


def _write(rows: list[dict[str, Any]], path: Path) -> None:
    """To a temporary name, then into place. pandas writes it where it is; a light installation has none."""
    import csv
    import io
    import json

    from rainbow_ray.utils.errors import InputError
    from rainbow_ray.utils.io import atomic_write

    if path.suffix == ".parquet":
        try:
            import pyarrow as pa
            import pyarrow.parquet as pq
        except ModuleNotFoundError as error:
            raise InputError(f"--out {path}: parquet needs the whole of rainbow_ray (pip install 'rainbow-ray[train]');"
                             " .csv and .jsonl do not") from error  # fmt: skip
        atomic_write(path, lambda file: pq.write_table(pa.Table.from_pylist(rows), file))
        return
    text = io.StringIO()
    if path.suffix == ".csv":
        table = csv.DictWriter(text, list(rows[0]))
        table.writeheader()
        table.writerows({**row, "prediction": _cell(row["prediction"])} for row in rows)
    else:
        text.writelines(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    atomic_write(path, lambda file: file.write_text(text.getvalue(), encoding="utf-8", newline=""))


def _cell(prediction: object) -> object:
    return ", ".join(prediction) if isinstance(prediction, tuple) else prediction


def _said(prediction: object) -> str:
    if isinstance(prediction, tuple):
        return ", ".join(prediction) or "none"
    return format_number(prediction) if isinstance(prediction, float) else str(prediction)


def _short(text: str) -> str:
    flat = " ".join(text.split())
    return flat if len(flat) <= SHOWN_CHARACTERS else f"{flat[: SHOWN_CHARACTERS - 1]}…"


if __name__ == "__main__":
    sys.exit(run(main))
