"""Which words moved a model: what a text's score loses when a word is not there (occlusion, Zeiler & Fergus 2014)."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from rainbow_ray.modalities.text.word_hashing import WORD

MOST_WORDS = 400  # of a text are looked at: longer ones say little by a single word
FEW_WORDS = 40  # are tried one by one; of more, those of the groups that matter most
GROUP = 8  # words that stand together
KEPT_GROUPS = 4


class TextScorer(Protocol):
    """What is asked of a model that scores texts, whatever it runs on."""

    @property
    def score_names(self) -> list[str]:
        """`score`, or `score_<class>` of each class."""

    def score_texts(self, texts: Sequence[str]) -> np.ndarray:
        """Calibrated scores, `(texts, scores)`, NaN where there is no text."""

    def decode_predictions(self, scores: np.ndarray) -> list[Any]:
        """What such scores say of each text."""


@dataclass(frozen=True)
class Moved:
    """How much higher the score is for a word's being there."""

    word: str
    by: float


def words_that_moved(predictor: TextScorer, text: str, column: str, most: int = 5) -> list[Moved]:
    """The words whose absence changes a score most, all their places at once; `column` names the score.

    Those that raise it come first, then those that lower it. In a long text groups of neighbours are left out first,
    and then each word of the groups that mattered most: two that cancel each other may be missed.
    """
    words = list(dict.fromkeys(word.lower() for word in WORD.findall(text)))[:MOST_WORDS]
    if not words:
        return []

    def changes(groups: list[list[str]]) -> np.ndarray:
        without = [_without(text, group) for group in groups]
        scores = predictor.score_texts([text, *without])[:, predictor.score_names.index(column)].astype(np.float64)
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
