"""Parsing of the cells of a label column into one or several class names; ambiguous cells are rejected.

All tasks read labels through these functions, so that a cell has the same meaning in every phase.
"""

from __future__ import annotations

import re
import unicodedata
from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa

from rainbow_ray.data.arrow_types import is_bytes_type
from rainbow_ray.data.list_cells import (
    CLOSING,
    CONSTANTS,
    INDICATORS,
    NUMBER,
    QUOTED,
    ContainerError,
    item_name,
    label_items,
    single_item,
)
from rainbow_ray.data.text_cells import label_name, label_names, text_column
from rainbow_ray.utils.errors import InputError, format_names

DELIMITERS = r"[,;|]"
TORN_PIECE = "a delimiter inside of brackets or quotes"  # part of a message
MISSING_WORDS = frozenset({"nan", "none", "null", "na", "n/a", "<na>", "nat", "#n/a"})  # written for missing cells
BRACKETED = re.compile(r"\[[^\[\]{}()'\",]*\w[^\[\]{}()'\",]*\]")  # `[chorus]`: a list of one name, or a name


@dataclass(frozen=True)
class LabelCells:
    """Single labels of rows.

    Attributes:
        codes: Index into `names` of each row, `(rows,)`, int64; -1 for a missing label.
        names: The distinct names.
        notes: Notes about cells whose label differs from their text.
    """

    codes: np.ndarray
    names: tuple[str, ...]
    notes: tuple[str, ...] = ()

    @property
    def counts(self) -> dict[str, int]:
        """Number of rows of each name."""
        sizes = np.bincount(self.codes[self.codes >= 0], minlength=len(self.names))
        return dict(zip(self.names, sizes.tolist(), strict=True))

    def filled(self, name: str | None) -> LabelCells:
        """Replace missing labels.

        Args:
            name: Name for missing labels, or None to leave them missing.

        Returns:
            The labels.
        """
        if name is None or not (self.codes < 0).any():
            return self
        names = self.names if name in self.names else (*self.names, name)
        return LabelCells(np.where(self.codes < 0, names.index(name), self.codes), names, self.notes)


def single_labels(labels: pa.ChunkedArray, column: str, keep: Collection[str] = ()) -> LabelCells:
    """Parse one label per row; a container with one item is read as its item.

    Args:
        labels: Raw labels, `(rows,)`.
        column: Name of the target, for messages.
        keep: Texts that are names although they look like containers.

    Returns:
        The distinct names, and the name of each row.

    Raises:
        InputError: A cell has several labels, is an ambiguous container, or has no name.
    """
    try:
        undecodable = is_bytes_type(labels.type) and bool(text_column(labels).undecodable.any())
        texts = label_names(labels, column)
    except (InputError, pa.ArrowInvalid, pa.ArrowNotImplementedError):
        undecodable, texts = True, pa.chunked_array([], pa.string())
    if undecodable:
        raise InputError(f"target {column!r} has type {labels.type}, which cannot be class names; choose another column"
                         " with data.target_column")  # fmt: skip
    codes, values = pd.factorize(texts.to_numpy())
    distinct_texts = [str(value) for value in values]
    keep = {*keep, *_bracketed_names(distinct_texts)}
    refused: dict[str, list[str]] = {}
    names: list[str | None] = []
    for text in distinct_texts:
        try:
            names.append(text if text in keep else single_item(text))
        except ContainerError as error:
            names.append(None)
            refused.setdefault(str(error), []).append(text)
    counts = np.bincount(codes[codes >= 0], minlength=len(distinct_texts)).tolist()
    n_rows = dict(zip(distinct_texts, counts, strict=True))
    _refuse(refused, n_rows, column, several=False)
    list_texts = [text for text, name in zip(distinct_texts, names, strict=True) if name not in (text, None)]
    notes: tuple[str, ...] = ()
    if list_texts:
        n_lists = sum(n_rows[text] for text in list_texts)
        notes = (f"target {column!r}: {n_lists} rows have a list of one label, which is read as the label"
                 f" ({format_names(list_texts, count_rest=True)})",)  # fmt: skip
    new_codes, distinct = pd.factorize(np.array([*names, None], dtype=object))
    # the code -1 of a missing label selects the last entry, which is None
    return LabelCells(new_codes[codes], tuple(str(name) for name in distinct), notes)


def _bracketed_names(texts: Sequence[str]) -> set[str]:
    """Return texts such as `[chorus]` that are names: not all texts are containers, and no item is a text itself."""
    if all(text[:1] in CLOSING for text in texts):
        return set()
    other_words = {*texts, *CONSTANTS}
    inner = {text: text[1:-1].strip() for text in texts if BRACKETED.fullmatch(text)}
    return {text for text, word in inner.items() if word not in other_words and not NUMBER.fullmatch(word)}


def _bracketed_in_lists(cells: Sequence[Any]) -> set[str]:
    """Return the bracketed names among cells of several labels; none if any cell is a list of several items."""
    texts = list(dict.fromkeys(label_name(cell) for cell in cells if isinstance(cell, str)))
    pieces = [piece.strip() for text in texts if text[:1] not in CLOSING for piece in re.split(DELIMITERS, text)]
    in_brackets = [text for text in texts if text[:1] == "[" and text[-1:] == "]"]
    if any(not BRACKETED.fullmatch(text) for text in in_brackets):
        return set()
    plain_names = set(pieces)  # `[a b]` is a list if `a` or `b` occurs as a name
    return {text for text in _bracketed_names([*pieces, *in_brackets]) if plain_names.isdisjoint(text[1:-1].split())}


def several_labels(
    labels: pa.ChunkedArray, column: str, delimiter: str | None = None, keep: Collection[str] = ()
) -> list[list[str] | None]:
    """Parse any number of labels per row.

    Args:
        labels: Raw labels, `(rows,)`: names with delimiters, lists, mappings of names to booleans, or texts that
            contain one of these.
        column: Name of the target, for messages.
        delimiter: Separator of names; None: any of `,`, `;` and `|`.
        keep: Texts that are names although they look like containers.

    Returns:
        The distinct names of each row; None if the label is missing.

    Raises:
        InputError: A cell is ambiguous.
    """
    refused: dict[str, list[str]] = {}
    try:
        cells = labels.to_pylist()
    except (ValueError, OverflowError, pa.ArrowException) as error:
        raise InputError(f"target {column!r} has type {labels.type}, which cannot be read as class names: {error}"
                         ) from error  # fmt: skip
    keep = {*keep, *_bracketed_in_lists(cells)}
    rows = Counter[str]()
    names_of_rows: list[list[str] | None] = []
    for cell in cells:
        try:
            names_of_rows.append(_names_of_cell(cell, delimiter, keep))
        except ContainerError as error:
            names_of_rows.append(None)
            rows[str(cell)] += 1
            if rows[str(cell)] == 1:
                refused.setdefault(str(error), []).append(str(cell))
    _refuse(refused, rows, column, several=True)
    _refuse_indicators(cells, column)
    return names_of_rows


def doubtful_names(counts: Mapping[str, int], column: str, mapped: Collection[str] = ()) -> tuple[str, ...]:
    """Return warnings about names that may mean a missing label, or the same class as another name.

    Args:
        counts: Number of rows of each name.
        column: Name of the target.
        mapped: Names in `data.class_mapping`, which cause no warning.

    Returns:
        Messages for the user.
    """
    notes = []
    missing = [name for name in counts if name.casefold() in MISSING_WORDS and name not in mapped]
    if missing:
        listed = format_names([f"{name!r} ({counts[name]} rows)" for name in missing], count_rest=True)
        notes.append(f"target {column!r}: {listed} may be a missing value that was written as text, and is read as a"
                     " class; write null in the table, or list the classes in data.class_mapping and map it to null"
                     )  # fmt: skip
    groups: dict[str, list[str]] = {}
    for name in sorted(counts):
        groups.setdefault("".join(unicodedata.normalize("NFKC", name).casefold().split()), []).append(name)
    similar = [" and ".join(f"{name!r} ({counts[name]} rows)" for name in names)
             for names in groups.values() if len(names) > 1]  # fmt: skip
    if similar:
        notes.append(f"target {column!r}: names that differ only in case, white space or width are different classes:"
                     f" {format_names(similar, count_rest=True)}; merge them with data.class_mapping")  # fmt: skip
    return tuple(notes)


def without_missing_words(cells: LabelCells, column: str, keep: Collection[str] = ()) -> LabelCells:
    """Treat words such as `nan` as missing labels, for targets that are Booleans or numbers.

    Args:
        cells: Labels of rows.
        column: Name of the target column, for messages.
        keep: Names that are labels although they look like missing values.

    Returns:
        The labels, with a note about the words.
    """
    words = [name for name in cells.names if name.casefold() in MISSING_WORDS and name not in keep]
    if not words:
        return cells
    listed = format_names([f"{name!r} ({cells.counts[name]} rows)" for name in words], count_rest=True)
    labels = [name for name in cells.names if name not in words]
    new_code = np.array([labels.index(name) if name in labels else -1 for name in cells.names] + [-1])
    note = f"target {column!r}: {listed} is read as a missing label, and these rows are left out"
    return LabelCells(new_code[cells.codes], tuple(labels), (*cells.notes, note))


def _names_of_cell(cell: Any, delimiter: str | None, keep: Collection[str]) -> list[str] | None:
    if isinstance(cell, str) and label_name(cell) in keep:
        return [label_name(cell)]
    items = label_items(cell, keep)
    if items is None and isinstance(cell, str):
        pieces = re.split(DELIMITERS if delimiter is None else re.escape(delimiter), cell)
        items = [_piece(piece.strip(), plain=delimiter is None) for piece in pieces]
    elif items is None:
        items = [item_name(cell)]
    names = list(dict.fromkeys(name for name in items if name is not None))
    return names if names or not items else None


def _piece(piece: str, *, plain: bool) -> str | None:
    """Return the name in a piece between delimiters, without quotes."""
    if QUOTED.fullmatch(piece) and piece[0] in "'\"":
        return label_name(piece[1:-1]) or None
    unbalanced = any(piece.count(a) != piece.count(b) for a, b in ("()", "[]", "{}")) or piece.count('"') % 2
    if plain and unbalanced:
        raise ContainerError(TORN_PIECE)
    return label_name(piece) or None


def _refuse(refused: Mapping[str, Sequence[str]], n_rows: Mapping[str, int], column: str, *, several: bool) -> None:
    """Raise `InputError` with one problem for each form of label that is rejected, if any."""
    advice = ('write a list column, or JSON such as ["a", "b"]' if several else
              "write one label per row, or set data.multi_label=true in phase 2")  # fmt: skip
    if refused:
        raise InputError([
            f"target {column!r} has {form} in {sum(n_rows[text] for text in texts)} rows, such as"
            f" {format_names([_shorten(text) for text in texts], count_rest=True)}; {advice}"
            for form, texts in refused.items()
        ])  # fmt: skip


def _refuse_indicators(cells: Iterable[Any], column: str) -> None:
    """Raise `InputError` if all rows are lists of 0 and 1 of the same length, in which values repeat."""
    lists = []
    for cell in cells:
        try:
            items = label_items(cell)
        except ContainerError:
            items = None
        if items is None or not set(items) <= {"0", "1"}:
            return
        lists.append(items)
    if len({len(items) for items in lists}) == 1 and any(len(set(items)) < len(items) for items in lists):
        raise InputError(f"target {column!r} has {INDICATORS}, lists of {len(lists[0])} numbers 0 or 1; write the"
                         ' names of the classes of each song, such as ["a", "b"]')  # fmt: skip


def _shorten(text: str) -> str:
    return repr(text if len(text) <= 60 else f"{text[:57]}...")
