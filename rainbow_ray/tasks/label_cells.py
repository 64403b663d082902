"""Cells of a label column as names: one name a cell, or several; what has no single reading is refused.

All problems read labels through these functions, so that one spelling means the same in every phase.
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
from rainbow_ray.data.containers import (
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
from rainbow_ray.data.normalize import label_name, label_names, text_column
from rainbow_ray.utils.errors import InputError

DELIMITERS = r"[,;|]"
TORN_PIECE = "a delimiter inside of brackets or quotes"
MISSING_WORDS = frozenset(
    {"nan", "none", "null", "na", "n/a", "<na>", "nat", "#n/a"}
)  # what tools write for a missing cell
BRACKETED = re.compile(r"\[[^\[\]{}()'\",]*\w[^\[\]{}()'\",]*\]")  # `[chorus]`: a list of one, or a name
SHOWN = 3


@dataclass(frozen=True)
class LabelCells:
    """Single labels of rows.

    Attributes:
        codes: Which of `names` each row has, `(rows,)`, int64; -1 where the label is missing.
        names: The distinct names.
        notes: Sentences about what was read in another way than it is written.
    """

    codes: np.ndarray
    names: tuple[str, ...]
    notes: tuple[str, ...] = ()

    @property
    def counts(self) -> dict[str, int]:
        """How many rows have each name."""
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
    """Read one label a row; a container of one item stands for its item.

    Args:
        labels: Raw labels, `(rows,)`.
        column: The target's name, for messages.
        keep: Texts that are names as they are written, whatever they look like.

    Returns:
        The distinct names and which of them each row has.

    Raises:
        InputError: A cell holds several labels, a container without a single reading, or what is no name.
    """
    try:
        undecodable = is_bytes_type(labels.type) and bool(text_column(labels).undecodable.any())
        texts = label_names(labels, column)
    except (InputError, pa.ArrowInvalid, pa.ArrowNotImplementedError):
        undecodable, texts = True, pa.chunked_array([], pa.string())
    if undecodable:
        raise InputError(f"target {column!r} holds {labels.type}, which are no names of classes; name another with"
                         " data.target_column")  # fmt: skip
    codes, written = pd.factorize(texts.to_numpy())
    written = [str(text) for text in written]
    keep = {*keep, *_bracketed_names(written)}
    refused: dict[str, list[str]] = {}
    names: list[str | None] = []
    for text in written:
        try:
            names.append(text if text in keep else single_item(text))
        except ContainerError as error:
            names.append(None)
            refused.setdefault(str(error), []).append(text)
    rows = dict(zip(written, np.bincount(codes[codes >= 0], minlength=len(written)).tolist(), strict=True))
    _refuse(refused, rows, column, several=False)
    taken = [text for text, name in zip(written, names, strict=True) if name not in (text, None)]
    notes: tuple[str, ...] = ()
    if taken:
        number = sum(rows[text] for text in taken)
        notes = (f"target {column!r}: {number} rows hold a list of one label, which is taken ({_some(taken)})",)
    new_codes, distinct = pd.factorize(np.array([*names, None], dtype=object))
    return LabelCells(new_codes[codes], tuple(str(name) for name in distinct), notes)  # -1 is the last, a missing one


def _bracketed_names(written: Sequence[str]) -> set[str]:
    """Texts such as `[chorus]` that are names: lists would have no plain names between them, but their own items."""
    if all(text[:1] in CLOSING for text in written):
        return set()
    others = {*written, *CONSTANTS}
    inner = {text: text[1:-1].strip() for text in written if BRACKETED.fullmatch(text)}
    return {text for text, word in inner.items() if word not in others and not NUMBER.fullmatch(word)}


def _bracketed_in_lists(cells: Sequence[Any]) -> set[str]:
    """`_bracketed_names` where cells hold several labels: names between delimiters count, other lists speak against."""
    written = list(dict.fromkeys(label_name(cell) for cell in cells if isinstance(cell, str)))
    pieces = [piece.strip() for text in written if text[:1] not in CLOSING for piece in re.split(DELIMITERS, text)]
    in_brackets = [text for text in written if text[:1] == "[" and text[-1:] == "]"]
    if any(not BRACKETED.fullmatch(text) for text in in_brackets):
        return set()
    known = set(pieces)  # `[a b]` may be a list of `a` and `b`
    return {text for text in _bracketed_names([*pieces, *in_brackets]) if known.isdisjoint(text[1:-1].split())}


def several_labels(
    labels: pa.ChunkedArray, column: str, delimiter: str | None = None, keep: Collection[str] = ()
) -> list[list[str] | None]:
    """Read any number of labels a row.

    Args:
        labels: Raw labels, `(rows,)`: names with delimiters, lists, mappings of names to booleans, or texts that spell
            out one of these.
        column: The target's name, for messages.
        delimiter: What stands between names; None: any of `,`, `;` and `|`.
        keep: Texts that are names as they are written, whatever they look like.

    Returns:
        The names of each row, each once; None where all that a row has is missing.

    Raises:
        InputError: A cell has no single reading.
    """
    refused: dict[str, list[str]] = {}
    try:
        cells = labels.to_pylist()
    except (ValueError, OverflowError, pa.ArrowException) as error:
        raise InputError(f"target {column!r} holds {labels.type}, which cannot be read as names of classes: {error}"
                         ) from error  # fmt: skip
    keep = {*keep, *_bracketed_in_lists(cells)}
    rows = Counter[str]()
    found: list[list[str] | None] = []
    for cell in cells:
        try:
            found.append(_names_of_cell(cell, delimiter, keep))
        except ContainerError as error:
            found.append(None)
            rows[str(cell)] += 1
            if rows[str(cell)] == 1:
                refused.setdefault(str(error), []).append(str(cell))
    _refuse(refused, rows, column, several=True)
    _refuse_indicators(cells, column)
    return found


def doubtful_names(counts: Mapping[str, int], column: str, mapped: Collection[str] = ()) -> tuple[str, ...]:
    """Return warnings about names that may stand for a missing label, or for the same class as another.

    Args:
        counts: How many rows have each name.
        column: The target's name.
        mapped: Names that the user has mapped to classes, about which no warning is given.

    Returns:
        Messages for the user.
    """
    notes = []
    missing = [name for name in counts if name.casefold() in MISSING_WORDS and name not in mapped]
    if missing:
        listed = _some([f"{name!r} ({counts[name]} rows)" for name in missing])
        notes.append(f"target {column!r}: {listed} may be a missing value that was written as text, and is a class of"
                     " its own; write null in the table, or list the classes in data.class_mapping and map it to null"
                     )  # fmt: skip
    groups: dict[str, list[str]] = {}
    for name in sorted(counts):
        groups.setdefault("".join(unicodedata.normalize("NFKC", name).casefold().split()), []).append(name)
    alike = [" and ".join(f"{name!r} ({counts[name]} rows)" for name in names)
             for names in groups.values() if len(names) > 1]  # fmt: skip
    if alike:
        notes.append(f"target {column!r}: names that differ only in case, white space or width are different classes:"
                     f" {_some(alike)}; data.class_mapping joins them")  # fmt: skip
    return tuple(notes)


def without_missing_words(cells: LabelCells, column: str, keep: Collection[str] = ()) -> LabelCells:
    """Treat words such as `nan` as missing labels, where Booleans or numbers are expected.

    Args:
        cells: Labels of rows.
        column: Name of the target column, for messages.
        keep: Names that are labels, whatever they look like.

    Returns:
        The labels, with a note about the words.
    """
    words = [name for name in cells.names if name.casefold() in MISSING_WORDS and name not in keep]
    if not words:
        return cells
    listed = _some([f"{name!r} ({cells.counts[name]} rows)" for name in words])
    kept = [name for name in cells.names if name not in words]
    new_code = np.array([kept.index(name) if name in kept else -1 for name in cells.names] + [-1])
    note = f"target {column!r}: {listed} is written in the place of a missing label, and these rows are left out"
    return LabelCells(new_code[cells.codes], tuple(kept), (*cells.notes, note))


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
    """A name between delimiters, without quotes around it."""
    if QUOTED.fullmatch(piece) and piece[0] in "'\"":
        return label_name(piece[1:-1]) or None
    unbalanced = any(piece.count(a) != piece.count(b) for a, b in ("()", "[]", "{}")) or piece.count('"') % 2
    if plain and unbalanced:
        raise ContainerError(TORN_PIECE)
    return label_name(piece) or None


def _refuse(refused: Mapping[str, Sequence[str]], rows: Mapping[str, int], column: str, *, several: bool) -> None:
    """Raise `InputError` with a problem for each form, if there is any."""
    advice = ('write a list column, or JSON such as ["a", "b"]' if several else
              "write one label a row, or set data.multi_label=true in phase 2")  # fmt: skip
    if refused:
        raise InputError([
            f"target {column!r} holds {form} in {sum(rows[text] for text in texts)} rows, such as"
            f" {_some([_short(text) for text in texts])}; {advice}"
            for form, texts in refused.items()
        ])  # fmt: skip


def _refuse_indicators(cells: Iterable[Any], column: str) -> None:
    """Raise `InputError` where all rows are equally long lists of 0 and 1 in which values repeat."""
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
        raise InputError(f"target {column!r} holds {INDICATORS}, lists of {len(lists[0])} numbers 0 or 1; write the"
                         ' names of the classes that a song has, such as ["a", "b"]')  # fmt: skip


def _short(text: str) -> str:
    return repr(text if len(text) <= 60 else f"{text[:57]}...")


def _some(names: Sequence[str]) -> str:
    more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    return ", ".join(names[:SHOWN]) + more
