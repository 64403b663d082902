"""Linear models of texts and of encoders' features, as plain arrays. Needs numpy only; `baselines` fits them.

Boosted decision stumps are linear as well: a stump adds one of two numbers, depending on whether a word is present, or
a number is above a threshold.
"""

from __future__ import annotations

import dataclasses
import functools
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, get_args

import numpy as np

from rainbow_ray.stacking.links import LINKS, LINKS_OF_CLASSES, apply_link
from rainbow_ray.tasks.target_types import Link

WORD = re.compile(r"(?u)\b\w\w+\b")  # the words of scikit-learn's vectorizers
Kind = Literal["word_count", "tf_idf", "word_presence", "encoded", "steps"]


@dataclass(frozen=True)
class MemberInputs:
    """What the linear models read of some examples.

    Attributes:
        texts: Texts, `(examples,)`; empty where there is none.
        features: Features of encoders by key, `(examples, width)` each; 0 where an example lacks the modality.
    """

    texts: Sequence[str]
    features: Mapping[str, np.ndarray] = field(default_factory=dict)

    @functools.cached_property
    def words(self) -> list[list[str]]:
        """Words of each text, in lower case."""
        return [WORD.findall(text.lower()) for text in self.texts]

    def take(self, rows: np.ndarray) -> MemberInputs:
        """Return some of the examples.

        Args:
            rows: Indices of the examples.

        Returns:
            The inputs of these examples.
        """
        features = {key: values[rows] for key, values in self.features.items()}
        return MemberInputs([self.texts[i] for i in rows], features)

    @functools.cached_property
    def present_features(self) -> dict[str, np.ndarray]:
        """Features that are 0 where an example lacks the modality, also those of the text encoder.

        The encoding of an empty text, which linear models read like any other, is not one of a text.
        """
        has_text = np.array([bool(text.strip()) for text in self.texts], dtype=bool)[:, None]
        return {
            key: values if layer_of_key(key) is None else np.where(has_text, values, np.float32(0))
            for key, values in self.features.items()
        }


def hidden_states_key(layer: int) -> str:
    """Return the key of the mean hidden states of a layer of the frozen text encoder.

    Args:
        layer: Number of the layer; 0 for the embeddings.

    Returns:
        The key in `MemberInputs.features`.
    """
    return f"hidden_states_{layer}"


def layer_features(states: np.ndarray | None) -> dict[str, np.ndarray]:
    """Return the mean hidden states of each layer by key.

    Args:
        states: Means of the hidden states, `(examples, layers, width)`, or None without a text encoder.

    Returns:
        `(examples, width)` by key.
    """
    return {} if states is None else {hidden_states_key(i): states[:, i] for i in range(states.shape[1])}


def layer_of_key(key: str) -> int | None:
    """Return the layer that a key names.

    Args:
        key: Key of `MemberInputs.features`.

    Returns:
        The number of a layer of the text encoder; None for another modality.
    """
    name, _, layer = key.rpartition("_")
    return int(layer) if name == "hidden_states" and layer.isdecimal() else None


@dataclass(frozen=True)
class LinearMember:
    """A linear model with a link function.

    Attributes:
        name: Name of the baseline that the member is.
        kind: Features: the number of words (`word_count`), L2-normalized TF-IDF weights (`tf_idf`), presence of words
            (`word_presence`), features of an encoder (`encoded`), or whether such features exceed thresholds (`steps`).
        link: Function from the linear predictor to scores.
        weights: Coefficients, float64, `(features, outputs)`.
        bias: Intercepts, float64, `(outputs,)`.
        vocabulary: Words, `(features,)`, of `tf_idf` and `word_presence`.
        idf: Inverse document frequencies, float64, `(features,)`, of `tf_idf`.
        key: Key of the features in `MemberInputs.features`, of `encoded` and `steps`.
        thresholds: Thresholds, float64, `(features,)`, of `steps`.
        columns: The column of `MemberInputs.features` that each threshold is of, int64, `(features,)`, of `steps`.
        width: Number of these columns, of `steps`.
    """

    name: str
    kind: Kind
    link: Link
    weights: np.ndarray
    bias: np.ndarray
    vocabulary: tuple[str, ...] = ()
    idf: np.ndarray | None = None
    key: str | None = None
    thresholds: np.ndarray | None = None
    columns: np.ndarray | None = None
    width: int = 0

    @property
    def input_width(self) -> int:
        """Number of features that are read, of `encoded` and `steps`."""
        return self.width if self.kind == "steps" else len(self.weights)

    def scores(self, inputs: MemberInputs) -> np.ndarray:
        """Score examples.

        Args:
            inputs: The examples.

        Returns:
            Scores, float64, `(examples,)` or `(examples, classes)`.
        """
        scores = apply_link(self._predictor(inputs), self.link)
        return scores if self.link in LINKS_OF_CLASSES else scores[:, 0]

    def _predictor(self, inputs: MemberInputs) -> np.ndarray:
        """The linear predictor, float64, `(examples, outputs)`."""
        if self.key is not None:
            values = np.asarray(inputs.features[self.key], dtype=np.float64)
            if self.columns is not None and self.thresholds is not None:
                values = (values[:, self.columns] > self.thresholds).astype(np.float64)
            return np.asarray(values @ self.weights + self.bias)
        if self.kind == "word_count":
            counts = np.array([[len(text.split())] for text in inputs.texts], dtype=np.float64).reshape(-1, 1)
            return np.asarray(counts @ self.weights + self.bias)
        predictor = np.tile(self.bias, (len(inputs.texts), 1))
        for row, words in enumerate(inputs.words):
            predictor[row] += self._of_words(words)
        return predictor

    def _of_words(self, words: list[str]) -> np.ndarray:
        """The part of the linear predictor that the words of a text add, `(outputs,)`."""
        columns = [self._index[word] for word in words if word in self._index]
        if not columns:
            return np.zeros(len(self.bias))
        present, counts = np.unique(columns, return_counts=True)
        if self.idf is None:
            return np.asarray(self.weights[present].sum(axis=0))
        values = counts * self.idf[present]
        return np.asarray(values @ self.weights[present] / np.sqrt(np.sum(values**2)))

    @functools.cached_property
    def _index(self) -> dict[str, int]:
        return {word: column for column, word in enumerate(self.vocabulary)}

    def without_unused_features(self) -> LinearMember:
        """Return the same model without words and thresholds that have no effect on its scores.

        Returns:
            The member with fewer features; unchanged where each word of a text changes its norm (`tf_idf`).
        """
        used = np.flatnonzero(np.any(self.weights != 0, axis=1))
        if self.columns is not None and self.thresholds is not None:
            columns, thresholds = self.columns[used], self.thresholds[used]
            return dataclasses.replace(self, weights=self.weights[used], columns=columns, thresholds=thresholds)
        if self.kind != "word_presence":
            return self
        words = tuple(self.vocabulary[i] for i in used)
        return dataclasses.replace(self, weights=self.weights[used], vocabulary=words)

    def to_json(self) -> dict[str, Any]:
        """Return the member as JSON values, which read back to the same numbers.

        Returns:
            The fields by name; arrays as lists.
        """
        document: dict[str, Any] = {"name": self.name, "kind": self.kind, "link": self.link}
        document |= {"bias": self.bias.tolist(), "weights": self.weights.tolist()}
        if self.vocabulary:
            document["vocabulary"] = list(self.vocabulary)
        if self.idf is not None:
            document["idf"] = self.idf.tolist()
        if self.columns is not None and self.thresholds is not None:
            document |= {"columns": self.columns.tolist(), "thresholds": self.thresholds.tolist(), "width": self.width}
        return document | ({} if self.key is None else {"key": self.key})

    @classmethod
    def from_json(cls, document: Mapping[str, Any]) -> LinearMember:
        """Return a member from JSON values.

        Args:
            document: What `to_json` returned.

        Returns:
            The member.

        Raises:
            ValueError: The values cannot be those of a fitted member.
        """
        name = str(document["name"])
        kind, link = document["kind"], document["link"]
        if kind not in get_args(Kind) or link not in LINKS:
            raise ValueError(f"member {name!r} has an unknown kind or link: {kind!r}, {link!r}")
        bias = np.array(document["bias"], dtype=np.float64)
        weights = np.array(document["weights"], dtype=np.float64).reshape(-1, len(bias))
        words = tuple(map(str, document.get("vocabulary", ())))
        idf = None if "idf" not in document else np.array(document["idf"], dtype=np.float64)
        thresholds = None if "thresholds" not in document else np.array(document["thresholds"], dtype=np.float64)
        columns = None if "columns" not in document else np.array(document["columns"], dtype=np.int64)
        arrays = [bias, weights, *(array for array in (idf, thresholds) if array is not None)]
        if bias.ndim != 1 or not all(np.isfinite(array).all() for array in arrays):
            raise ValueError(f"member {name!r} has weights that are not finite")
        width = int(document.get("width", 0))
        member = cls(name, kind, link, weights, bias, words, idf, document.get("key"), thresholds, columns, width)
        member._check_shapes()
        return member

    def _check_shapes(self) -> None:
        n_features = len(self.weights)
        reads_words = self.kind in ("tf_idf", "word_presence")
        fits = len(self.vocabulary) == (n_features if reads_words else 0)
        fits &= (self.idf is not None and self.idf.shape == (n_features,)) == (self.kind == "tf_idf")
        fits &= (self.key is not None) == (self.kind in ("encoded", "steps"))
        for array in (self.thresholds, self.columns):
            fits &= (array is not None and array.shape == (n_features,)) == (self.kind == "steps")
        fits &= self.columns is None or bool(((self.columns >= 0) & (self.columns < self.width)).all())
        fits &= self.kind != "word_count" or n_features == 1
        if not fits:
            raise ValueError(f"member {self.name!r} has arrays whose lengths do not match")
