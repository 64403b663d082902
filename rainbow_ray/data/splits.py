"""Splits into training and validation sets that never divide a group of songs.

Groups are formed by song id and equal text, additionally by a column (`--split-by COLUMN`), or (with a warning) by row.
Songs with the same normalized text are one group, and so are songs with the same value of the column.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa

from rainbow_ray.data.examples import Examples
from rainbow_ray.utils.errors import InputError

FORMAT = 1
TRAIN_ONLY = -1  # fold of an example that is never in a validation set
UNASSIGNED = -2  # fold of an example that a split file does not name, before it gets one
CHUNK_SIZE = 10_000  # examples that are written at a time
MAX_SEARCHED_GROUPS = 20_000  # with more, groups are assigned in one pass instead of searched for balance
N_DRAWS = 100  # random draws of a single split, of which the best balanced is taken


@dataclass(frozen=True)
class Split:
    """Division of examples into folds.

    Attributes:
        fold: Fold whose validation set example `i` is in, int `(examples,)`; `TRAIN_ONLY` for none.
        n_folds: Number of folds; 1 is a single split.
        split_by: `"id"`, `"row"` or the column that groups were formed by.
        seed: Seed of the split.
        n_shared_texts: Texts that are both in the training and the validation set of some fold.
        n_divided_groups: Groups that are; only a split file can divide one.
    """

    fold: np.ndarray
    n_folds: int
    split_by: str
    seed: int
    n_shared_texts: int
    n_divided_groups: int

    def train_val_indices(self, fold: int) -> tuple[np.ndarray, np.ndarray]:
        """Return the training and validation examples of a fold.

        Args:
            fold: Number of the fold.

        Returns:
            Indices `(train, val)`, int64, in ascending order.
        """
        return np.flatnonzero(self.fold != fold), np.flatnonzero(self.fold == fold)

    def take(self, indices: np.ndarray) -> Split:
        """Return the split of some of the examples.

        Args:
            indices: Examples, int64 `(n,)`.

        Returns:
            The same folds, for these examples.
        """
        return dataclasses.replace(self, fold=self.fold[indices])


def make_split(
    examples: Examples,
    strata: np.ndarray,
    *,
    n_folds: int,
    val_fraction: float,
    split_by: str,
    seed: int,
    saved_split: dict[str, Any] | None = None,
) -> Split:
    """Assign examples to folds, groups whole and strata in proportion.

    Args:
        examples: Examples to split.
        strata: Stratum of each example, int `(examples,)`; folds keep their proportions as well as groups allow.
        n_folds: Number of folds, reduced to the number of groups where that is smaller; 1 is a single split.
        val_fraction: Fraction of the examples in the validation set of a single split.
        split_by: `"id"`, `"row"` or a column.
        seed: Seed of the assignment.
        saved_split: A `split.json` from `read_split_file`: songs that it names keep their fold, others are added.

    Returns:
        The split.

    Raises:
        InputError: There is only one group, or a fold has no training or no validation examples.
    """
    groups = group_ids(examples, split_by)
    n_groups = int(groups.max()) + 1
    if n_groups < 2:
        raise InputError(f"--split-by {split_by}: all songs form a single group, so nothing can be held out")
    n_folds = min(n_folds, n_groups)
    if saved_split is not None:
        fold = _extend(examples, groups, strata, saved_split, split_by)
        n_folds = int(saved_split["folds"])
    elif n_groups > MAX_SEARCHED_GROUPS:
        fractions = [val_fraction] if n_folds == 1 else [1 / n_folds] * n_folds
        parts = assign_groups(groups, strata, fractions, seed)
        fold = np.where(parts < n_folds, parts, TRAIN_ONLY)
    elif n_folds == 1:
        fold = _single_split(groups, strata, val_fraction, seed)
    else:
        fold = _k_fold(groups, strata, n_folds, seed)
    _check_folds(fold, n_folds)
    n_shared_texts, n_divided_groups = _count_divided(examples.text_keys, fold), _count_divided(groups, fold)
    return Split(fold, n_folds, split_by, seed, n_shared_texts, n_divided_groups)


def _check_folds(fold: np.ndarray, n_folds: int) -> None:
    """Raise `InputError` if a fold has no training or no validation examples."""
    problems = [
        f"fold {k} has no song to {purpose}: choose other --folds, --split-file or data.val_split"
        for k in range(n_folds)
        for purpose, is_empty in (("score", not (fold == k).any()), ("train on", (fold == k).all()))
        if is_empty
    ]
    if problems:
        raise InputError(problems)


def group_ids(examples: Examples, split_by: str) -> np.ndarray:
    """Return the group of each example.

    Args:
        examples: Examples to group.
        split_by: `"row"` makes each example a group; `"id"` joins examples of one song or with equal text; a column
            joins those with an equal value as well.

    Returns:
        Groups numbered by first appearance, int `(examples,)`.
    """
    n = len(examples)
    if split_by == "row":
        return np.arange(n)
    texts = np.asarray(pd.factorize(examples.text_keys)[0])
    one_example_per_song = examples.table["example_id"].equals(examples.table["song"].cast(pa.string()))
    if split_by == "id" and one_example_per_song:
        return texts  # songs can only be joined by their text

    from scipy.sparse import coo_matrix
    from scipy.sparse.csgraph import connected_components

    keys = [examples.codes("song"), texts] + ([examples.codes("held_out")] if split_by != "id" else [])
    # examples and key values are the nodes of a graph, whose connected components are the groups
    edges, offset = [], n
    for codes in keys:
        is_present = codes >= 0
        edges.append(np.stack([np.flatnonzero(is_present), codes[is_present].astype(np.int64) + offset]))
        offset += int(codes.max()) + 1
    pairs = np.concatenate(edges, axis=1)
    graph = coo_matrix((np.ones(pairs.shape[1], dtype=np.int8), (pairs[0], pairs[1])), shape=(offset, offset))
    component = connected_components(graph, directed=False)[1][:n]
    return np.asarray(pd.factorize(component)[0])


def assign_groups(groups: np.ndarray, strata: np.ndarray, fractions: list[float], seed: int) -> np.ndarray:
    """Assign many groups to parts by fractions of the examples, in one pass.

    Args:
        groups: Group of each example, int `(examples,)`.
        strata: Stratum of each example, int `(examples,)`; that of a group's first example counts for the group.
        fractions: Fraction of the examples of each part; their sum may be less than 1.
        seed: Seed of the order in which the groups of a stratum are assigned.

    Returns:
        Part of each example, int `(examples,)`; `len(fractions)` for examples that belong to none.
    """
    _, first, codes = np.unique(groups, return_index=True, return_inverse=True)
    size, stratum = np.bincount(codes), strata[first]
    order = np.lexsort((np.random.default_rng(seed).random(len(first)), stratum))
    frame = pd.DataFrame({"stratum": stratum[order], "size": size[order]})
    sizes = frame.groupby("stratum")["size"]
    middle = (sizes.cumsum() - frame["size"] / 2) / sizes.transform("sum")
    part = np.empty(len(first), dtype=np.int64)
    part[order] = np.searchsorted(np.cumsum(fractions), middle.to_numpy(), side="right")
    return part[codes]


def split_hash(split: Split) -> str:
    """Return a hash of the folds, by which two splits of the same examples are compared.

    Args:
        split: Split to hash.

    Returns:
        16 hexadecimal digits.
    """
    return hashlib.sha256(split.fold.astype(np.int8).tobytes()).hexdigest()[:16]


def write_split_file(split: Split, examples: Examples, path: Path) -> None:
    """Write `split.json`: the fold and the text hash of each example, in chunks, since there may be millions.

    Args:
        split: Split of `examples`.
        examples: Its examples.
        path: File to write.
    """
    header = {
        "format": FORMAT,
        "by": split.split_by,
        "folds": split.n_folds,
        "seed": split.seed,
        "data_hash": examples.hash,
        "shared_texts": split.n_shared_texts,
    }
    columns: dict[str, tuple[np.ndarray, Callable[[Any], Any]]] = {
        "fold": (split.fold, int),
        "text": (examples.text_keys, _format_text_key),
    }
    with path.open("w", encoding="utf-8") as file:
        file.write(json.dumps(header)[:-1])
        for name, (values, to_json) in columns.items():
            file.write(f', "{name}": {{')
            for start in range(0, len(examples), CHUNK_SIZE):
                stop = start + CHUNK_SIZE
                ids = examples.table["example_id"].slice(start, CHUNK_SIZE).to_pylist()
                chunk = json.dumps(dict(zip(ids, map(to_json, values[start:stop]), strict=True)))
                file.write((", " if start else "") + chunk[1:-1])
            file.write("}")
        file.write("}\n")


def _format_text_key(text_key: int) -> str:
    """Format a text key as hexadecimal: numbers in JSON are exact only up to 2**53."""
    return f"{text_key:016x}"


def read_split_file(path: Path, *, n_folds: int | None, split_by: str) -> dict[str, Any]:
    """Read a `split.json`.

    Args:
        path: File to read.
        n_folds: Number of folds that `--folds` requests; None accepts any.
        split_by: `data.split_by` of the run.

    Returns:
        The document, with `fold` and `text` by example id.

    Raises:
        InputError: The file is not a valid `split.json`, or contradicts the arguments.
    """
    document = _read_document(path)
    problems = []
    if document["format"] > FORMAT:
        problems.append(f"--split-file {path}: its format {document['format']} is newer than this version's {FORMAT}")
    if n_folds is not None and n_folds != document["folds"]:
        problems.append(f"--split-file {path}: it has {document['folds']} fold(s), but --folds requests {n_folds}")
    if split_by != document["by"]:
        problems.append(f"--split-file {path}: it is split by {document['by']}, but --split-by requests {split_by}")
    valid = range(TRAIN_ONLY, document["folds"])
    if any(fold not in valid for fold in document["fold"].values()):
        problems.append(f"--split-file {path}: it names folds outside 0 to {document['folds'] - 1}")
    if document["folds"] < 1 or not document["fold"]:
        problems.append(f"--split-file {path}: it assigns no songs")
    elif document["folds"] > len(document["fold"]) and document["folds"] > 1:
        problems.append(f"--split-file {path}: it has {document['folds']} folds of {len(document['fold'])} songs")
    if problems:
        raise InputError(problems)
    return document


def _read_document(path: Path) -> dict[str, Any]:
    """Read the content of a `split.json`; raise `InputError` where the file is none."""
    try:
        document = json.loads(path.read_text(encoding="utf-8-sig"))
    except OSError as error:
        raise InputError(f"--split-file {path}: cannot be read ({error.strerror or error})") from error
    except (ValueError, RecursionError) as error:
        raise InputError(f"--split-file {path}: not JSON ({error})") from error
    types = {"format": int, "by": str, "folds": int, "fold": dict, "text": dict}
    if not isinstance(document, dict) or any(not isinstance(document.get(k), t) for k, t in types.items()):
        raise InputError(f"--split-file {path}: not a split.json of a run (it needs {', '.join(types)})")
    if not all(isinstance(key, str) for key in document["text"].values()):
        raise InputError(f"--split-file {path}: the values of its `text` must be hashes of texts, as a run writes them")
    return document


def _k_fold(groups: np.ndarray, strata: np.ndarray, n_folds: int, seed: int) -> np.ndarray:
    """Assign groups to the folds of a cross-validation."""
    from sklearn.model_selection import StratifiedGroupKFold

    fold = np.full(len(groups), TRAIN_ONLY)
    splitter = StratifiedGroupKFold(n_splits=n_folds, shuffle=True, random_state=seed)
    strata = merge_rare_strata(strata, n_folds)
    for number, (_, val) in enumerate(splitter.split(np.zeros(len(groups)), strata, groups)):
        fold[val] = number
    return fold


def merge_rare_strata(strata: np.ndarray, n_folds: int) -> np.ndarray:
    """Merge strata with fewer examples than folds into the largest stratum, since folds cannot stratify by them.

    Args:
        strata: Stratum of each example, int `(examples,)`.
        n_folds: Number of folds.

    Returns:
        Strata of the same shape.
    """
    sizes = np.bincount(strata)
    return np.where(sizes[strata] < n_folds, sizes.argmax(), strata)


def _single_split(groups: np.ndarray, strata: np.ndarray, val_fraction: float, seed: int) -> np.ndarray:
    """Draw a single split: of many random ones, the one whose strata are the best balanced."""
    from sklearn.model_selection import GroupShuffleSplit

    overall = np.bincount(strata) / len(strata)

    def imbalance(val: np.ndarray) -> tuple[int, float]:
        counts = np.bincount(strata[val], minlength=len(overall))
        n_one_sided = int(np.sum((counts == 0) | (counts == np.bincount(strata)))) - int(np.sum(overall == 0))
        fractions = counts / max(1, len(val))
        return n_one_sided, float(np.abs(fractions - overall).sum() + abs(len(val) / len(groups) - val_fraction))

    draws = GroupShuffleSplit(n_splits=N_DRAWS, test_size=val_fraction, random_state=seed)
    try:
        val = min((val for _, val in draws.split(groups, groups=groups)), key=imbalance)
    except ValueError as error:
        raise InputError(f"data.val_split: {val_fraction:g} of {groups.max() + 1} groups leaves the training or the"
                         " validation set empty") from error  # fmt: skip
    fold = np.full(len(groups), TRAIN_ONLY)
    fold[val] = 0
    return fold


def _extend(
    examples: Examples, groups: np.ndarray, strata: np.ndarray, saved_split: dict[str, Any], split_by: str
) -> np.ndarray:
    """Apply a saved split, and assign the examples that it does not name."""
    saved_folds: dict[str, int] = saved_split["fold"]
    fold = np.array([saved_folds.get(example, UNASSIGNED) for example in examples.ids])
    text_folds = {key: saved_folds[example] for example, key in saved_split["text"].items() if example in saved_folds}
    if split_by != "row":
        # a new song joins a song with its text, or of its group
        keys = examples.text_keys
        for i in np.flatnonzero(fold == UNASSIGNED):
            fold[i] = text_folds.get(_format_text_key(keys[i]), UNASSIGNED)
    candidates = [TRAIN_ONLY, 0] if saved_split["folds"] == 1 else list(range(saved_split["folds"]))
    n_saved = max(1, len(saved_folds))
    fractions = {k: sum(value == k for value in saved_folds.values()) / n_saved for k in candidates}
    for group in pd.unique(groups[fold == UNASSIGNED]):
        members = np.flatnonzero(groups == group)
        assigned = fold[members][fold[members] != UNASSIGNED]
        if len(assigned):
            fold[members[fold[members] == UNASSIGNED]] = assigned[0]
            continue
        stratum = strata[members[0]]
        # the fold that is furthest below its fraction of this stratum, counting what is assigned so far
        counts = {k: np.sum((fold == k) & (strata == stratum)) for k in candidates}
        total = sum(counts.values()) + len(members)
        fold[members] = max(candidates, key=lambda k: fractions[k] * total - counts[k])
    return fold


def _count_divided(keys: np.ndarray, fold: np.ndarray) -> int:
    """Count the keys in more than one fold, which are both in a training and a validation set."""
    codes, distinct = pd.factorize(keys)
    low, high = np.full(len(distinct), fold.max()), np.full(len(distinct), fold.min())
    np.minimum.at(low, codes, fold)
    np.maximum.at(high, codes, fold)
    return int((low != high).sum())
