"""Which words moved a model: what a text's score loses when a word is not there (occlusion, Zeiler & Fergus 2014)."""

from __future__ import annotations

import re
from dataclasses import dataclass

import numpy as np

from rainbow_ray.modalities.words import WORD
from rainbow_ray.results.inference import Predictor

MOST_WORDS = 200  # of a text are tried: longer ones say little by a single word


@dataclass(frozen=True)
class Moved:
    """How much higher the score is for a word's being there."""

    word: str
    by: float


def words_that_moved(predictor: Predictor, text: str, column: str, most: int = 5) -> list[Moved]:
    """The words whose absence changes a score most, all their places at once; `column` names the score.

    Those that raise it come first, then those that lower it.
    """
    words = list(dict.fromkeys(word.lower() for word in WORD.findall(text)))[:MOST_WORDS]
    if not words:
        return []
    without = [re.sub(rf"\b{re.escape(word)}\b", " ", text, flags=re.IGNORECASE) for word in words]
    scores = predictor.predict([text, *without])[column].to_numpy(dtype=np.float64)
    # what is left of a text of one word is none: it has no score
    changes = np.nan_to_num(scores[0] - scores[1:])
    strongest = np.argsort(-np.abs(changes), kind="stable")[:most]
    moved = [Moved(words[i], float(changes[i])) for i in strongest if changes[i] != 0]
    return sorted(moved, key=lambda one: -one.by)


def column_to_explain(names: list[str], scores: np.ndarray) -> str:
    """The score that a prediction rests on: the only one, or the highest of a song's classes."""
    return names[int(np.argmax(scores))] if len(names) > 1 else names[0]
