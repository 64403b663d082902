"""Effect of single words on the score of a text, measured by occlusion.

Reference:
    M. D. Zeiler and R. Fergus, Visualizing and understanding convolutional networks, ECCV 2014.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from rainbow_ray.modalities.text.word_hashing import WORD

MAX_WORDS = 400  # of a text that are occluded; in longer texts a single word has little effect
MAX_SINGLE_WORDS = 40  # occluded one by one; longer texts are first searched in groups
GROUP_WORDS = 8  # neighboring words that are occluded together
MAX_GROUPS = 4  # groups whose words are then occluded one by one


class TextScorer(Protocol):
    """A model that scores texts, on any runtime."""

    @property
    def score_names(self) -> list[str]:
        """`score`, or `score_<class>` of each class."""

    def score_texts(self, texts: Sequence[str]) -> np.ndarray:
        """Return the calibrated scores of texts.

        Args:
            texts: Texts to score.

        Returns:
            `(texts, scores)`, float32 or float64; NaN for empty texts.
        """

    def decode_predictions(self, scores: np.ndarray) -> list[Any]:
        """Convert calibrated scores to predictions.

        Args:
            scores: `(texts, scores)`, as `score_texts` returns them.

        Returns:
            A bool, class, tuple of classes or float per text.
        """


@dataclass(frozen=True)
class WordEffect:
    """Effect of a word on a score.

    Attributes:
        word: The word, in lower case.
        effect: Score of the text minus its score without the word.
    """

    word: str
    effect: float


def word_effects(predictor: TextScorer, text: str, column: str, max_words: int = 5) -> list[WordEffect]:
    """Return the words whose occlusion changes a score most.

    All occurrences of a word are occluded at once. In a long text, groups of neighboring words are occluded first, then
    each word of the groups with the largest effect; two words of a group whose effects cancel may be missed.

    Args:
        predictor: The model.
        text: Text to explain.
        column: Name of the score.
        max_words: Largest number of words to return.

    Returns:
        Words with an effect, in descending order of it: those that raise the score first.
    """
    words = list(dict.fromkeys(word.lower() for word in WORD.findall(text)))[:MAX_WORDS]
    if not words:
        return []

    def effects(groups: list[list[str]]) -> np.ndarray:
        occluded = [_occlude(text, group) for group in groups]
        scores = predictor.score_texts([text, *occluded])[:, predictor.score_names.index(column)].astype(np.float64)
        # a text of one word is empty without it, and has no score
        return np.asarray(np.nan_to_num(scores[0] - scores[1:]))

    if len(words) > MAX_SINGLE_WORDS:
        groups = [words[i : i + GROUP_WORDS] for i in range(0, len(words), GROUP_WORDS)]
        strongest = np.argsort(-np.abs(effects(groups)), kind="stable")[:MAX_GROUPS]
        words = [word for i in sorted(strongest) for word in groups[i]]
    changes = effects([[word] for word in words])
    order = np.argsort(-np.abs(changes), kind="stable")[:max_words]
    result = [WordEffect(words[i], float(changes[i])) for i in order if changes[i] != 0]
    return sorted(result, key=lambda item: -item.effect)


def _occlude(text: str, words: list[str]) -> str:
    """Replace words of a text by spaces."""
    return re.sub(rf"\b({'|'.join(map(re.escape, words))})\b", " ", text, flags=re.IGNORECASE)


def column_to_explain(names: list[str], scores: np.ndarray) -> str:
    """Return the score that determines the prediction of a text.

    Args:
        names: Names of the scores.
        scores: Scores of a text, `(scores,)`.

    Returns:
        The only name, or that of the highest score.
    """
    return names[int(np.argmax(scores))] if len(names) > 1 else names[0]
