"""Score songs or ideas with a trained model: `python -m rainbow_ray.predict --model runs/NAME --text "…"`."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from rainbow_ray.cli import DONE, run

if TYPE_CHECKING:
    import pandas as pd
    from rich.console import Console

    from rainbow_ray.data.manifest import Manifest
    from rainbow_ray.results.inference import Predictor

WRITERS = (".parquet", ".csv", ".jsonl")
SHOWN_CHARACTERS = 60
SONG_ID = "id"  # of tables of songs


def main(arguments: Sequence[str]) -> int:
    options = _parser().parse_args(arguments)
    _check(options)

    from rich.console import Console

    from rainbow_ray.runtime import prepare_environment

    prepare_environment()

    from rainbow_ray.results.inference import Predictor

    root = options.media_root or (Path(options.manifest).parent if options.manifest else Path())
    predictor = Predictor.load(options.model, options.device, root)
    console = Console(soft_wrap=True, highlight=False)
    if options.manifest is not None and predictor.reads_segments:
        _score_segments(predictor, options, console)
    elif options.manifest is not None:
        _score_manifest(predictor, options, console)
    else:
        _score_texts(predictor, options, console)
    return DONE


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m rainbow_ray.predict", description=__doc__, allow_abbrev=False)
    parser.add_argument("--model", type=Path, required=True, metavar="RUN|FOLDER", help="a run, or its model/ folder")
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("--manifest", metavar="P", help="parquet file, folder or URL of songs")
    what.add_argument("--text", metavar="T", help="one text")
    what.add_argument("--text-file", type=Path, metavar="F", help="a text a line; blank lines are left out")
    parser.add_argument("--out", type=Path, metavar="F", help=f"where the table goes: {', '.join(WRITERS)}")
    parser.add_argument("--media-root", type=Path, metavar="D", help="where paths of audio and MIDI start (default: the"
                        " manifest's folder)")  # fmt: skip
    parser.add_argument("--overwrite", action="store_true", help="an existing --out may be replaced")
    parser.add_argument("--top", type=int, metavar="N", help="show the N highest of --text-file, with their words")
    parser.add_argument("--class", dest="by", metavar="NAME", help="rank by this class (default: by the likeliest)")
    parser.add_argument("--device", default="auto", choices=("auto", "cuda", "mps", "cpu"))
    return parser


def _check(options: argparse.Namespace) -> None:
    """Raises `InputError` with all that is wrong before anything is loaded."""
    from rainbow_ray.errors import InputError

    problems = []
    if options.manifest is not None and options.out is None:
        problems.append("--manifest: name a file for the predictions with --out")
    if options.out is not None and options.out.suffix not in WRITERS:
        problems.append(f"--out {options.out}: its name must end in one of {', '.join(WRITERS)}")
    if options.out is not None and options.out.is_dir():
        problems.append(f"--out {options.out}: this is a folder")
    elif options.out is not None and options.out.exists() and not options.overwrite:
        problems.append(f"--out {options.out}: the file exists; another name, or --overwrite")
    if options.out is not None and not options.out.parent.is_dir():
        problems.append(f"--out {options.out}: there is no folder {options.out.parent}")
    if options.text_file is not None and not options.text_file.is_file():
        problems.append(f"--text-file {options.text_file}: no such file")
    if options.top is not None and (options.text_file is None or options.top < 1):
        problems.append(f"--top {options.top}: a number from 1 on, with --text-file")
    if options.by is not None and options.manifest is not None:
        problems.append("--class: with --manifest there is nothing to rank; --out has the scores of all classes")
    if problems:
        raise InputError(problems)


def _read_texts(path: Path) -> list[str]:
    """The lines of a file that say something. Raises `InputError` for what is no UTF-8."""
    from rainbow_ray.errors import InputError

    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()  # some editors put a mark in front
    except UnicodeDecodeError as error:
        raise InputError(f"--text-file {path}: this is not UTF-8 text; save it as UTF-8") from error
    return [line.strip() for line in lines if line.strip()]


def _score_texts(predictor: Predictor, options: argparse.Namespace, console: Console) -> None:
    import numpy as np
    import pandas as pd

    from rainbow_ray.errors import InputError
    from rainbow_ray.results.explain import words_that_moved

    texts = [options.text] if options.text is not None else _read_texts(options.text_file)
    if not any(text.strip() for text in texts):
        raise InputError(f"{'--text' if options.text is not None else options.text_file}: there is no text in it")
    found = predictor.predict(texts)
    column = _ranked_by(predictor, options.by)
    rank = found[column] if column is not None else found[predictor.score_names].max(axis=1)
    order = np.argsort(-rank.to_numpy(), kind="stable")
    table = pd.concat([pd.Series(texts, name="text"), found], axis=1).iloc[order]
    if options.out is not None:
        _write(table, options.out)
        console.print(f"{len(table)} predictions in {options.out}")
    for _, row in table.head(options.top or len(table)).iterrows():
        asked = column or max(predictor.score_names, key=lambda name: row[name])
        shown = row["text"] if len(texts) == 1 else _short(row["text"])
        console.print(f"{row[asked]:.3f}  {_said(row['prediction'])}  {shown}", markup=False)
        moved = words_that_moved(predictor, row["text"], asked) if options.top or len(texts) == 1 else []
        if moved:
            console.print("       " + ", ".join(f"{one.word} {one.by:+.3f}" for one in moved), markup=False)


def _ranked_by(predictor: Predictor, name: str | None) -> str | None:
    """The column of a class that was asked for; of a single score, that. Raises `InputError` for an unknown class."""
    from rainbow_ray.errors import InputError, nearest

    columns = predictor.score_names
    if name is None:
        return columns[0] if len(columns) == 1 else None
    classes = [column.removeprefix("score_") for column in columns] if len(columns) > 1 else []
    if name not in classes:
        known = f"; there are: {', '.join(classes)}" if classes else ": this model has none"
        raise InputError(f"--class {name!r}: no such class{nearest(name, classes)}{known}")
    return f"score_{name}"


def _score_manifest(predictor: Predictor, options: argparse.Namespace, console: Console) -> None:
    import pandas as pd

    from rainbow_ray.data.manifest import open_manifest
    from rainbow_ray.errors import InputError

    manifest = open_manifest(options.manifest)
    wanted, names = predictor.bundle.info["text_columns"], manifest.schema.names
    wrong = _wrong_texts(manifest, wanted)
    if wrong:
        raise InputError(wrong)
    song = predictor.bundle.info.get("id_column", "id")
    kept = [song] if song in names else []
    columns = [name for pair in predictor.bundle.info.get("media_columns", {}).values() for name in pair]
    media = [name for name in columns if name in names]
    parts = []
    size = 256 if media else 4096  # media in the table are large
    for batch in manifest.dataset().to_batches(columns=list(dict.fromkeys([*kept, *wanted, *media])), batch_size=size):
        rows = batch.to_pandas()
        parts.append(pd.concat([rows[kept], predictor.predict(rows[[*wanted, *media]])], axis=1))
    table = pd.concat(parts, ignore_index=True)
    _write(table, options.out)
    unread = int(table["prediction"].isna().sum())
    console.print(
        f"{len(table)} predictions in {options.out}"
        + (f"; {unread} rows have {'no text' if not media else 'nothing to read'}" if unread else "")
    )


def _wrong_texts(manifest: Manifest, wanted: list[str]) -> list[str]:
    """Columns of texts that are missing, or hold something else."""
    import pyarrow as pa

    from rainbow_ray.errors import nearest

    names, problems = manifest.schema.names, []
    for name in wanted:
        if name not in names:
            problems.append(f"{manifest}: no column {name!r}, which this model reads{nearest(name, names)}")
            continue
        kind = manifest.schema.field(name).type
        if pa.types.is_nested(kind) or pa.types.is_binary(kind):
            problems.append(f"{manifest}: column {name!r} holds {kind}, not text")
    return problems


def _score_segments(predictor: Predictor, options: argparse.Namespace, console: Console) -> None:
    """A row a segment in --out, and the stretches that they make beside it; of a table of segments, or of songs."""
    from rainbow_ray.data.manifest import open_manifest
    from rainbow_ray.data.sections import make_segments
    from rainbow_ray.errors import InputError
    from rainbow_ray.segment_plan import TIMES, cache_folder, folder_of, wrong_times

    beside = options.out.with_name(f"{options.out.stem}.stretches{options.out.suffix}")
    if beside.exists() and not options.overwrite:
        raise InputError(f"--out {options.out}: stretches go to {beside}, which exists; another name, or --overwrite")
    manifest, info = open_manifest(options.manifest), predictor.bundle.info
    names, notes = manifest.schema.names, list[str]()
    song = info["id_column"] if info["id_column"] in names else SONG_ID
    if not set(TIMES) & set(names) and song in names:  # a table of songs
        root = options.media_root or folder_of(options.manifest) or Path.cwd()
        made, notes = make_segments(manifest, cache_folder(), song, info["segments"]["seconds"], root)
        manifest = open_manifest(str(made), "segments")
    wrong = [*wrong_times(manifest), *_wrong_texts(manifest, info["text_columns"])]
    if wrong:
        raise InputError(wrong)
    table = manifest.dataset().to_table()
    if info["id_column"] not in table.column_names and song in table.column_names:
        table = table.rename_columns({song: info["id_column"]})
    found = predictor.predict_segments(table)
    _write(found.segments, options.out)
    _write(found.stretches, beside)
    for note in notes:
        console.print(f"Note: {note}")
    weak = " (WEAK: only songs' labels were learned)" if len(found.segments) and found.segments["weak"].any() else ""
    console.print(
        f"{len(found.segments)} segments in {options.out}{weak}, {len(found.stretches)} stretches in {beside}"
    )
    for reason, n in found.unusable.items():
        console.print(f"  in no stretch: {n}: {reason}")


def _write(table: pd.DataFrame, path: Path) -> None:
    """To a temporary name, then into place."""
    from rainbow_ray.files import write_safely

    if path.suffix == ".parquet":
        write_safely(path, lambda file: table.to_parquet(file, index=False))
    elif path.suffix == ".csv":
        told = table["prediction"].map(lambda said: ", ".join(said) if isinstance(said, tuple) else said)
        write_safely(path, lambda file: table.assign(prediction=told).to_csv(file, index=False))
    else:
        write_safely(path, lambda file: table.to_json(file, orient="records", lines=True, force_ascii=False))


def _said(prediction: object) -> str:
    if isinstance(prediction, tuple):
        return ", ".join(prediction) or "none"
    return f"{prediction:.3g}" if isinstance(prediction, float) else str(prediction)


def _short(text: str) -> str:
    flat = " ".join(text.split())
    return flat if len(flat) <= SHOWN_CHARACTERS else f"{flat[: SHOWN_CHARACTERS - 1]}…"


if __name__ == "__main__":
    sys.exit(run(main))
