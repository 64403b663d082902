"""Splits that keep songs whole: by song and equal text, by a column held out, or (with a warning) by row.

A group is what a split must not cut: songs that share their normalised text are joined to one, and so are songs that
share a value of the held-out column.
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
from scipy.sparse import coo_matrix
from scipy.sparse.csgraph import connected_components
from sklearn.model_selection import GroupShuffleSplit, StratifiedGroupKFold

from rainbow_ray.data.examples import Examples
from rainbow_ray.utils.errors import InputError

FORMAT = 1
TRAIN_ONLY = -1  # the fold of a song that only trains
CHUNK = 10_000  # songs that are written at a time
MANY = 20_000  # groups from which on they are dealt out at once
DRAWS = 100  # seeded draws of a single split, of which the best balanced is taken


@dataclass(frozen=True)
class Split:
    """`fold[i]` is the fold that scores example i (and the others train on), or -1 where it always trains."""

    fold: np.ndarray
    n_folds: int
    split_by: str
    seed: int
    shared_texts: int  # texts that stand on both sides of some fold
    cut_groups: int  # groups that do: only a split file can cut one

    def train_val_indices(self, fold: int) -> tuple[np.ndarray, np.ndarray]:
        """Indices `(train, val)` of one fold."""
        return np.flatnonzero(self.fold != fold), np.flatnonzero(self.fold == fold)

    def take(self, indices: np.ndarray) -> Split:
        """The same folds for some of the examples."""
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
    """Assign each example a fold. `strata` are integers, `(examples,)`: shares of them are kept alike over folds.

    `saved_split` is a `split.json` read by `read_split_file`: songs that it names keep their fold, new ones are added.
    """
    groups = group_ids(examples, split_by)
    n_groups = int(groups.max()) + 1
    if n_groups < 2:
        raise InputError(f"--split-by {split_by}: all songs fall into one group, so nothing can be held out")
    n_folds = min(n_folds, n_groups)
    if saved_split is not None:
        fold = _extend(examples, groups, strata, saved_split, split_by)
        n_folds = int(saved_split["folds"])
    elif n_groups > MANY:
        parts = assign_groups(groups, strata, [val_fraction] if n_folds == 1 else [1 / n_folds] * n_folds, seed)
        fold = np.where(parts < n_folds, parts, TRAIN_ONLY)
    elif n_folds == 1:
        fold = _single(groups, strata, val_fraction, seed)
    else:
        fold = _k_fold(groups, strata, n_folds, seed)
    problems = [
        f"fold {k} has no song to {what}: choose other --folds, --split-file or data.val_split"
        for k in range(n_folds)
        for what, empty in (("score", not (fold == k).any()), ("train on", (fold == k).all()))
        if empty
    ]
    if problems:
        raise InputError(problems)
    shared = _on_both_sides(examples.text_keys, fold)
    return Split(fold, n_folds, split_by, seed, shared_texts=shared, cut_groups=_on_both_sides(groups, fold))


def group_ids(examples: Examples, by: str) -> np.ndarray:
    """The group of each example, `(examples,)`, numbered by first appearance."""
    n = len(examples)
    if by == "row":
        return np.arange(n)
    texts = np.asarray(pd.factorize(examples.text_keys)[0])
    a_song_an_example = examples.table["example_id"].equals(examples.table["song"].cast(pa.string()))
    if by == "id" and a_song_an_example:
        return texts  # nothing but its text can join a song to another
    keys = [examples.codes("song"), texts] + ([examples.codes("held_out")] if by != "id" else [])
    # examples and key values are the nodes of a graph: what hangs together is one group
    edges, offset = [], n
    for codes in keys:
        present = codes >= 0
        edges.append(np.stack([np.flatnonzero(present), codes[present].astype(np.int64) + offset]))
        offset += int(codes.max()) + 1
    pairs = np.concatenate(edges, axis=1)
    graph = coo_matrix((np.ones(pairs.shape[1], dtype=np.int8), (pairs[0], pairs[1])), shape=(offset, offset))
    component = connected_components(graph, directed=False)[1][:n]
    return np.asarray(pd.factorize(component)[0])


def assign_groups(groups: np.ndarray, strata: np.ndarray, shares: list[float], seed: int) -> np.ndarray:
    """Deal many groups (integers) to parts by their shares: each example's part, `len(shares)` where none is left.

    Groups stay whole; each stratum (of a group's first example) is dealt by itself, in a seeded order.
    """
    _, first, codes = np.unique(groups, return_index=True, return_inverse=True)
    size, stratum = np.bincount(codes), strata[first]
    order = np.lexsort((np.random.default_rng(seed).random(len(first)), stratum))
    frame = pd.DataFrame({"stratum": stratum[order], "size": size[order]})
    inside = frame.groupby("stratum")["size"]
    middle = (inside.cumsum() - frame["size"] / 2) / inside.transform("sum")
    part = np.empty(len(first), dtype=np.int64)
    part[order] = np.searchsorted(np.cumsum(shares), middle.to_numpy(), side="right")
    return part[codes]


def split_hash(split: Split) -> str:
    """Tells whether two splits of the same data are one."""
    return hashlib.sha256(split.fold.astype(np.int8).tobytes()).hexdigest()[:16]


def write_json(split: Split, examples: Examples, path: Path) -> None:
    """Write `split.json`: the fold of each example, with the hashes that tell whether it still fits the data.

    Written some songs at a time: there may be millions.
    """
    facts = {
        "format": FORMAT,
        "by": split.split_by,
        "folds": split.n_folds,
        "seed": split.seed,
        "data_hash": examples.hash,
        "shared_texts": split.shared_texts,
    }
    columns: dict[str, tuple[np.ndarray, Callable[[Any], Any]]] = {
        "fold": (split.fold, int),
        "text": (examples.text_keys, _written),
    }
    with path.open("w", encoding="utf-8") as file:
        file.write(json.dumps(facts)[:-1])
        for name, (values, plain) in columns.items():
            file.write(f', "{name}": {{')
            for start in range(0, len(examples), CHUNK):
                stop = start + CHUNK
                ids = examples.table["example_id"].slice(start, CHUNK).to_pylist()
                part = json.dumps(dict(zip(ids, map(plain, values[start:stop]), strict=True)))
                file.write((", " if start else "") + part[1:-1])
            file.write("}")
        file.write("}\n")


def _written(text_key: int) -> str:
    """A text's key as files have it: JSON's numbers are not exact so far up."""
    return f"{text_key:016x}"


def read_split_file(path: Path, *, folds: int | None, by: str) -> dict[str, Any]:
    """Read a `split.json`. Raises `InputError` when it is none, or contradicts what else was asked for."""
    document = _split_document(path)
    problems = []
    if document["format"] > FORMAT:
        problems.append(f"--split-file {path}: its format {document['format']} is newer than this version's {FORMAT}")
    if folds is not None and folds != document["folds"]:
        problems.append(f"--split-file {path}: it has {document['folds']} fold(s), but --folds asks for {folds}")
    if by != document["by"]:
        problems.append(f"--split-file {path}: it is split by {document['by']}, but --split-by asks for {by}")
    valid = range(TRAIN_ONLY, document["folds"])
    if any(fold not in valid for fold in document["fold"].values()):
        problems.append(f"--split-file {path}: it names folds outside 0 to {document['folds'] - 1}")
    if document["folds"] < 1 or not document["fold"]:
        problems.append(f"--split-file {path}: it places no songs")
    elif document["folds"] > len(document["fold"]) and document["folds"] > 1:
        problems.append(f"--split-file {path}: it has {document['folds']} folds of {len(document['fold'])} songs")
    if problems:
        raise InputError(problems)
    return document


def _split_document(path: Path) -> dict[str, Any]:
    """The content of a `split.json`. Raises `InputError` where it is none."""
    try:
        document = json.loads(path.read_text(encoding="utf-8-sig"))
    except OSError as error:
        raise InputError(f"--split-file {path}: cannot be read ({error.strerror or error})") from error
    except (ValueError, RecursionError) as error:
        raise InputError(f"--split-file {path}: not JSON ({error})") from error
    shape = {"format": int, "by": str, "folds": int, "fold": dict, "text": dict}
    if not isinstance(document, dict) or any(not isinstance(document.get(k), t) for k, t in shape.items()):
        raise InputError(f"--split-file {path}: not a split.json of a run (it needs {', '.join(shape)})")
    if not all(isinstance(key, str) for key in document["text"].values()):
        raise InputError(f"--split-file {path}: the values of its `text` must be hashes of texts, as a run writes them")
    return document


def _k_fold(groups: np.ndarray, strata: np.ndarray, folds: int, seed: int) -> np.ndarray:
    fold = np.full(len(groups), TRAIN_ONLY)
    splitter = StratifiedGroupKFold(n_splits=folds, shuffle=True, random_state=seed)
    for number, (_, val) in enumerate(splitter.split(np.zeros(len(groups)), merge_rare_strata(strata, folds), groups)):
        fold[val] = number
    return fold


def merge_rare_strata(strata: np.ndarray, folds: int) -> np.ndarray:
    """Classes with fewer members than folds cannot be spread: they join the largest one."""
    sizes = np.bincount(strata)
    return np.where(sizes[strata] < folds, sizes.argmax(), strata)


def _single(groups: np.ndarray, strata: np.ndarray, val_split: float, seed: int) -> np.ndarray:
    whole = np.bincount(strata) / len(strata)

    def imbalance(val: np.ndarray) -> tuple[int, float]:
        inside = np.bincount(strata[val], minlength=len(whole))
        one_sided = int(np.sum((inside == 0) | (inside == np.bincount(strata)))) - int(np.sum(whole == 0))
        shares = inside / max(1, len(val))
        return one_sided, float(np.abs(shares - whole).sum() + abs(len(val) / len(groups) - val_split))

    draws = GroupShuffleSplit(n_splits=DRAWS, test_size=val_split, random_state=seed)
    try:
        val = min((val for _, val in draws.split(groups, groups=groups)), key=imbalance)
    except ValueError as error:
        raise InputError(f"data.val_split: {val_split:g} of {groups.max() + 1} groups leaves one side empty") from error
    fold = np.full(len(groups), TRAIN_ONLY)
    fold[val] = 0
    return fold


def _extend(examples: Examples, groups: np.ndarray, strata: np.ndarray, known: dict[str, Any], by: str) -> np.ndarray:
    places: dict[str, int] = known["fold"]
    fold = np.array([places.get(example, -2) for example in examples.ids])
    by_text = {key: places[example] for example, key in known["text"].items() if example in places}
    if by != "row":
        # a new song goes where a song with its text, or of its group, already lies
        keys = examples.text_keys
        for i in np.flatnonzero(fold == -2):
            fold[i] = by_text.get(_written(keys[i]), -2)
    candidates = [TRAIN_ONLY, 0] if known["folds"] == 1 else list(range(known["folds"]))
    wanted = {place: sum(value == place for value in places.values()) / max(1, len(places)) for place in candidates}
    for group in pd.unique(groups[fold == -2]):
        members = np.flatnonzero(groups == group)
        placed = fold[members][fold[members] != -2]
        if len(placed):
            fold[members[fold[members] == -2]] = placed[0]
            continue
        stratum = strata[members[0]]
        # the place that is furthest below its share of this stratum, counting what is placed so far
        have = {place: np.sum((fold == place) & (strata == stratum)) for place in candidates}
        total = sum(have.values()) + len(members)
        fold[members] = max(candidates, key=lambda place: wanted[place] * total - have[place])
    return fold


def _on_both_sides(keys: np.ndarray, fold: np.ndarray) -> int:
    """How many keys lie in more than one place, and so on both sides of some fold."""
    codes, names = pd.factorize(keys)
    low, high = np.full(len(names), fold.max()), np.full(len(names), fold.min())
    np.minimum.at(low, codes, fold)
    np.maximum.at(high, codes, fold)
    return int((low != high).sum())
