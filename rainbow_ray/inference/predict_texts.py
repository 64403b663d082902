"""Score texts from the command line, rank them, and print and write the result."""

from __future__ import annotations

import argparse
import csv
import io
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from rainbow_ray.inference.occlusion import word_effects
from rainbow_ray.utils.errors import InputError, did_you_mean
from rainbow_ray.utils.io import atomic_write
from rainbow_ray.utils.number_format import format_number

if TYPE_CHECKING:
    from rich.console import Console

    from rainbow_ray.inference.occlusion import TextScorer

MAX_SHOWN_CHARACTERS = 60


def predict_texts(
    predictor: TextScorer, options: argparse.Namespace, console: Console, *, modalities: str | None = None
) -> None:
    """Score the texts of `--text` or `--text-file`, print them from the highest on, and write `--out`.

    Args:
        predictor: The model.
        options: Arguments of `predict`.
        console: Where the result is printed.
        modalities: What a model of several modalities has read of each text; None where it reads only text.

    Raises:
        InputError: There is no text, or no class with the name of `--rank-by-class`.
    """
    texts = [_check_encoding(options.text)] if options.text is not None else _read_texts(options.text_file)
    if not any(text.strip() for text in texts):
        raise InputError(f"{'--text' if options.text is not None else options.text_file}: there is no text in it")
    names, scores = predictor.score_names, predictor.score_texts(texts)
    predictions = predictor.decode_predictions(scores)
    column = _ranking_column(predictor, options.rank_by_class)
    ranking = scores[:, names.index(column)] if column is not None else scores.max(axis=1)
    order = np.argsort(-ranking, kind="stable")
    extra = {} if modalities is None else {"modalities": modalities}
    rows = [
        {
            "text": texts[i],
            "prediction": predictions[i],
            **dict(zip(names, map(float, scores[i]), strict=True)),
            **extra,
        }
        for i in order
    ]
    if options.out is not None:
        write_rows(rows, options.out)
        console.print(f"{len(rows)} predictions in {options.out}")
    for row in rows[: options.top or len(rows)]:
        shown_column = column or max(names, key=lambda name: row[name])
        text = row["text"] if len(texts) == 1 else shorten(row["text"])
        console.print(f"{format_number(row[shown_column])}  {format_prediction(row['prediction'])}  {text}")
        if options.top or len(texts) == 1:
            _print_words(predictor, row["text"], shown_column, console)


def _print_words(predictor: TextScorer, text: str, column: str, console: Console) -> None:
    """Print the words that change a score most."""
    words = word_effects(predictor, text, column)
    if words:
        changes = (f"{word.word} {format_number(word.effect, signed=True)}" for word in words)
        console.print("       " + ", ".join(changes))


def _read_texts(path: Path) -> list[str]:
    """Return the lines of a file that are not blank. Raises `InputError` for a file that is not UTF-8."""
    try:
        # Some editors write a byte order mark. Other characters that end lines, such as U+2028, are part of a text.
        lines = path.read_text(encoding="utf-8-sig").replace("\r\n", "\n").split("\n")
    except UnicodeDecodeError as error:
        raise InputError(f"--text-file {path}: this is not UTF-8 text; save it as UTF-8") from error
    return [line.strip() for line in lines if line.strip()]


def _check_encoding(text: str) -> str:
    """Return a text of the command line. Raises `InputError` for unpaired surrogates, which stand for other bytes."""
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise InputError("--text: this is not UTF-8 text") from error
    return text


def _ranking_column(predictor: TextScorer, class_name: str | None) -> str | None:
    """Return the score to rank by, or None for the highest of each text. Raises `InputError` for an unknown class."""
    columns = predictor.score_names
    if class_name is None:
        return columns[0] if len(columns) == 1 else None
    classes = [column.removeprefix("score_") for column in columns] if len(columns) > 1 else []
    if class_name not in classes:
        available = f"; one of: {', '.join(classes)}" if classes else ": this model has none"
        raise InputError(f"--rank-by-class {class_name!r}: no such class{did_you_mean(class_name, classes)}{available}")
    return f"score_{class_name}"


def write_rows(rows: list[dict[str, Any]], path: Path) -> None:
    """Write a table without pandas, which a light installation lacks.

    Args:
        rows: The rows, at least one.
        path: File to write: .parquet, .csv or .jsonl.

    Raises:
        InputError: Parquet needs the full installation.
    """
    if path.suffix == ".parquet":
        try:
            import pyarrow as pa
            import pyarrow.parquet as pq
        except ModuleNotFoundError as error:
            raise InputError(
                f"--out {path}: parquet needs the full installation (pip install 'rainbow-ray[train]'); .csv and .jsonl"
                " do not"
            ) from error
        atomic_write(path, lambda file: pq.write_table(pa.Table.from_pylist(rows), file))
        return
    text = io.StringIO()
    if path.suffix == ".csv":
        table = csv.DictWriter(text, list(rows[0]))
        table.writeheader()
        table.writerows({**row, "prediction": _csv_cell(row["prediction"])} for row in rows)
    else:
        text.writelines(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    atomic_write(path, lambda file: file.write_text(text.getvalue(), encoding="utf-8", newline=""))


def _csv_cell(prediction: object) -> object:
    return ", ".join(prediction) if isinstance(prediction, tuple) else prediction


def format_prediction(prediction: object) -> str:
    """Return a prediction as text.

    Args:
        prediction: A bool, class, tuple of classes or float.

    Returns:
        The text.
    """
    if isinstance(prediction, tuple):
        return ", ".join(prediction) or "none"
    return format_number(prediction) if isinstance(prediction, float) else str(prediction)


def shorten(text: str) -> str:
    """Return a text on one line, cut to the length that is shown.

    Args:
        text: The text.

    Returns:
        The line.
    """
    flat = " ".join(text.split())
    return flat if len(flat) <= MAX_SHOWN_CHARACTERS else f"{flat[: MAX_SHOWN_CHARACTERS - 1]}…"
