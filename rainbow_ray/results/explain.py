"""Which words moved a model: what a text's score loses when a word is not there (occlusion, Zeiler & Fergus 2014)."""

from __future__ import annotations

import re
from dataclasses import dataclass

import numpy as np

from rainbow_ray.modalities.words import WORD
from rainbow_ray.results.inference import Predictor

MOST_WORDS = 400  # of a text are looked at: longer ones say little by a single word
FEW_WORDS = 40  # are tried one by one; of more, those of the groups that matter most
GROUP = 8  # words that stand together
KEPT_GROUPS = 4


@dataclass(frozen=True)
class Moved:
    """How much higher the score is for a word's being there."""

    word: str
    by: float


def words_that_moved(predictor: Predictor, text: str, column: str, most: int = 5) -> list[Moved]:
    """The words whose absence changes a score most, all their places at once; `column` names the score.

    Those that raise it come first, then those that lower it. In a long text groups of neighbours are left out first,
    and then each word of the groups that mattered most: two that cancel each other may be missed.
    """
    words = list(dict.fromkeys(word.lower() for word in WORD.findall(text)))[:MOST_WORDS]
    if not words:
        return []

    def changes(groups: list[list[str]]) -> np.ndarray:
        without = [_without(text, group) for group in groups]
        scores = predictor.predict([text, *without])[column].to_numpy(dtype=np.float64)
        # what is left of a text of one word is none: it has no score
        return np.asarray(np.nan_to_num(scores[0] - scores[1:]))

    if len(words) > FEW_WORDS:
        groups = [words[i : i + GROUP] for i in range(0, len(words), GROUP)]
        strongest = np.argsort(-np.abs(changes(groups)), kind="stable")[:KEPT_GROUPS]
        words = [word for i in sorted(strongest) for word in groups[i]]
    by = changes([[word] for word in words])
    moved = [Moved(words[i], float(by[i])) for i in np.argsort(-np.abs(by), kind="stable")[:most] if by[i] != 0]
    return sorted(moved, key=lambda one: -one.by)


def _without(text: str, words: list[str]) -> str:
    return re.sub(rf"\b({'|'.join(map(re.escape, words))})\b", " ", text, flags=re.IGNORECASE)


def column_to_explain(names: list[str], scores: np.ndarray) -> str:
    """The score that a prediction rests on: the only one, or the highest of a song's classes."""
    return names[int(np.argmax(scores))] if len(names) > 1 else names[0]
