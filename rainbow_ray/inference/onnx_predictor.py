"""Texts scored by an ONNX bundle: with numpy, onnxruntime and tokenizers, without torch and Ray.

What `export --onnx` writes: model.onnx (inputs to uncalibrated scores), tokenizer.json, bundle.json, README.md.
"""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from pydantic import BaseModel, Field, NonNegativeInt, PositiveInt, model_validator

from rainbow_ray.bundle.integrity import DESCRIPTION, GRAPH, check_files
from rainbow_ray.calibration.apply import Calibration
from rainbow_ray.modalities.text.word_hashing import word_buckets
from rainbow_ray.modalities.tokenization import PlainTokenizer, check_vocabulary
from rainbow_ray.utils.errors import InputError, first_line
from rainbow_ray.utils.paths import resolve_path

if TYPE_CHECKING:
    from onnxruntime import InferenceSession
    from tokenizers import Tokenizer

FORMAT = 1
TOKENIZER = "tokenizer.json"
FOLDER = "onnx"  # of a run
NEEDED = {"graph", "problem", "score_names", "calibration", "max_tokens", "pad_id", "modalities", "segments", "files"}
MOST_TOKENS = 8192  # of a batch, with padding
YES = 0.5
NOT_UTF8 = "text that is not UTF-8"  # as in data/normalize.py, which needs pyarrow


class Described(BaseModel):
    """What a description must be for the graph to be asked."""

    problem: Literal["binary", "multiclass", "multilabel", "regression"]
    score_names: list[str] = Field(min_length=1)
    max_tokens: PositiveInt
    pad_id: NonNegativeInt
    segments: bool
    modalities: list[str]

    @model_validator(mode="after")
    def _scores_fit(self) -> Described:
        if (self.score_names == ["score"]) != (self.problem in ("binary", "regression")):
            raise ValueError(f"scores that a {self.problem} model has not")
        return self


class OnnxPredictor:
    """A model of texts on onnxruntime: phases 1, 2 and 4, and single segments of phase 5."""

    def __init__(self, session: InferenceSession, tokenizer: PlainTokenizer, info: dict[str, Any]) -> None:
        self.session, self.tokenizer, self.info = session, tokenizer, info
        self.calibration = Calibration.from_json(info["calibration"])
        self.inputs = {one.name for one in session.get_inputs()}

    @classmethod
    def load(cls, path: str | Path) -> OnnxPredictor:
        """From the folder that `export --onnx` wrote, or a run that has one. Raises `InputError` when it is not whole.

        Reads nothing but the folder's own files, each of which must be the one that was written.
        """
        path = resolve_path(path).resolve()
        folder = path / FOLDER if (path / FOLDER / DESCRIPTION).exists() else path
        lacking = [name for name in ("onnxruntime", "tokenizers") if importlib.util.find_spec(name) is None]
        if lacking:
            raise InputError(f"{path}: {' and '.join(lacking)} must be installed: pip install 'rainbow-ray[predict]'")
        try:
            info = check_files(folder, (FORMAT,), NEEDED)
            if info["modalities"] != ["text"]:
                raise InputError(f"{path}: this model reads {', '.join(info['modalities'])}; ONNX bundles score texts"
                                 " alone: use `predict` where rainbow_ray is installed whole")  # fmt: skip
            Described.model_validate(info)
            Calibration.from_json(info["calibration"]).check(len(info["score_names"]))
            session, tokenizer = _open(folder)
            predictor = cls(session, _plain_tokenizer(tokenizer, folder), info)
            if problems := predictor._check_tokenizer(tokenizer):
                raise InputError(f"{path}: the ONNX model cannot be used: {problem}" for problem in problems)
            return predictor
        except FileNotFoundError as error:
            raise InputError(f"{path}: no ONNX model here ({Path(error.filename or folder).name} is missing); write one"
                             " with `python -m rainbow_ray.export RUN --onnx`") from error  # fmt: skip
        except InputError:
            raise
        except Exception as error:  # whatever onnxruntime and tokenizers make of a file that is no model
            raise InputError(f"{path}: the ONNX model is damaged ({first_line(error)}); export it again") from error

    @property
    def reads_media(self) -> bool:
        """Whether it reads audio or MIDI: only texts are scored here."""
        return False

    @property
    def score_names(self) -> list[str]:
        """`score`, or `score_<class>` of each class."""
        return list(self.info["score_names"])

    def predict(self, texts: str | Sequence[str | None]) -> list[dict[str, Any]]:
        """For each text `prediction`, its scores by name, and `reason`, which says why a text has none.

        Raises `InputError` for a table, and for what is no text.
        """
        given, undecodable = _plain_texts(texts)
        scores = self.score_texts(given)
        known = ~np.isnan(scores).any(axis=1)
        said = iter(self.decode_predictions(scores[known]))
        return [
            {"prediction": next(said), **dict(zip(self.score_names, map(float, row), strict=True)), "reason": None}
            if there
            else {"prediction": None, **dict.fromkeys(self.score_names), "reason": NOT_UTF8 if broken else "no text"}
            for row, there, broken in zip(scores, known, undecodable, strict=True)
        ]

    def score_texts(self, texts: Sequence[str]) -> np.ndarray:
        """Calibrated scores `(texts, scores)`, NaN where there is no text."""
        texts = [text.strip() for text in texts]
        names = self.score_names
        kind = np.float64 if self.info["problem"] == "regression" else np.float32
        scores = np.full((len(texts), len(names)), np.nan, dtype=kind)
        there = np.flatnonzero([bool(text) for text in texts])
        ids = [self._cut(row) for row in self.tokenizer([texts[i] for i in there])]
        # segments of a batch would be those of one song
        for rows in _batches(ids, most=1 if self.info["segments"] else len(ids)):
            found = np.asarray(self.session.run(None, self._inputs([texts[there[i]] for i in rows], ids, rows))[0])
            scores[there[rows]] = found.reshape(len(rows), len(names))
        if len(there) and not self.info["segments"]:
            plain = scores[there][:, 0] if names == ["score"] else scores[there]
            scores[there] = self.calibration.probabilities(plain).reshape(len(there), len(names))
        return scores

    def decode_predictions(self, scores: np.ndarray) -> list[Any]:
        """What calibrated scores `(texts, scores)` say: yes or no, a class, several of them, or a number."""
        kind, classes = self.info["problem"], [name.removeprefix("score_") for name in self.score_names]
        if kind == "regression":
            return [float(row[0]) for row in scores]
        if kind == "multiclass":
            return [classes[i] for i in scores.argmax(axis=1)]
        plain = scores[:, 0] if self.score_names == ["score"] else scores
        yes = self.calibration.thresholded(plain) > YES
        if kind == "binary":
            return [bool(one) for one in yes]
        return [tuple(classes[i] for i in np.flatnonzero(row)) for row in yes]

    def _check_tokenizer(self, tokenizer: Tokenizer) -> list[str]:
        """What keeps the tokenizer from reading texts for the graph: no words, or tokens without an embedding."""
        vocabulary, special = tokenizer.get_vocab(), _special_tokens(tokenizer)
        problems = check_vocabulary(self.tokenizer, vocabulary, special, embeddings=None, files=[TOKENIZER])
        if problems:
            return problems
        last = max(number for token, number in vocabulary.items() if token not in special)
        try:
            self.session.run(None, self._inputs([""], [[last]], np.array([0])))
        except Exception:  # of onnxruntime, which has no class of its own for an index that is out of range
            return [f"its tokenizer is not the graph's, which has no embedding for its last token ({last})"]
        return []

    def _cut(self, ids: list[int]) -> list[int]:
        limit = int(self.info["max_tokens"])
        return ids if len(ids) <= limit else [*ids[: limit - 1], ids[-1]]

    def _inputs(self, texts: list[str], ids: list[list[int]], rows: np.ndarray) -> dict[str, np.ndarray]:
        chosen = [ids[i] for i in rows]
        made = {
            "input_ids": _pad(chosen, self.info["pad_id"]),
            "mask": _pad([[1] * len(row) for row in chosen], 0),
            "words": _pad([word_buckets(text) for text in texts], 0),
            "times": np.zeros((len(rows), 4), dtype=np.float32),  # of no known place
        }
        return {name: value for name, value in made.items() if name in self.inputs}


def _plain_texts(texts: Any) -> tuple[list[str], list[bool]]:
    """Texts as strings, empty for None, NaN and bytes that are not UTF-8, and which are such bytes.

    Raises `InputError` for anything else.
    """
    if hasattr(texts, "columns") or hasattr(texts, "column_names"):
        raise InputError("an ONNX model scores texts, not tables: give it a column, such as table['concept']; the run"
                         " that it came from scores tables")  # fmt: skip
    cells = [texts] if isinstance(texts, str | bytes) or texts is None else list(texts)
    plain, undecodable = [], [False] * len(cells)
    for row, cell in enumerate(cells):
        if isinstance(cell, str):
            plain.append(cell.encode("utf-8", "replace").decode())  # half a character is none
        elif isinstance(cell, bytes | bytearray | memoryview):
            try:
                plain.append(bytes(cell).decode())
            except UnicodeDecodeError:
                plain.append("")
                undecodable[row] = True
        elif cell is None or (isinstance(cell, float) and np.isnan(cell)) or type(cell).__name__ == "NAType":
            plain.append("")
        else:
            raise InputError(f"text {row} is a {type(cell).__name__}, not text")
    return plain, undecodable


def _open(folder: Path) -> tuple[InferenceSession, Tokenizer]:
    import onnxruntime
    from tokenizers import Tokenizer

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(folder / GRAPH, options, providers=["CPUExecutionProvider"])
    tokenizer = Tokenizer.from_file(str(folder / TOKENIZER))
    tokenizer.no_truncation()
    tokenizer.no_padding()
    tokenizer.encode_special_tokens = True  # no file keeps this
    return session, tokenizer


def _plain_tokenizer(tokenizer: Tokenizer, folder: Path) -> PlainTokenizer:
    """Token ids of texts, never cut, special tokens in texts read as text."""

    def encode_batch(texts: Sequence[str]) -> list[list[int]]:
        return [encoding.ids for encoding in tokenizer.encode_batch(list(texts))]

    return PlainTokenizer.make(encode_batch, _special_tokens(tokenizer), _unknown_token(folder / TOKENIZER))


def _special_tokens(tokenizer: Tokenizer) -> dict[str, int]:
    return {token.content: n for n, token in tokenizer.get_added_tokens_decoder().items() if token.special}


def _unknown_token(file: Path) -> str | None:
    """The token that stands for what a vocabulary lacks; kinds of vocabularies name it in two ways."""
    model = json.loads(file.read_text(encoding="utf-8"))["model"]
    if model.get("unk_id") is not None:
        return str(model["vocab"][model["unk_id"]][0])
    unknown = model.get("unk_token")
    return None if unknown is None else str(unknown)


def _batches(ids: list[list[int]], most: int) -> Iterator[np.ndarray]:
    """Texts of like length together, the longest first, at most so many."""
    order = sorted(range(len(ids)), key=lambda i: -len(ids[i]))
    start = 0
    while start < len(order):
        size = min(most, max(1, MOST_TOKENS // max(1, len(ids[order[start]]))))
        yield np.array(order[start : start + size])
        start += size


def _pad(rows: list[list[int]], value: int) -> np.ndarray:
    longest = max(1, *(len(row) for row in rows))
    return np.array([[*row, *[value] * (longest - len(row))] for row in rows], dtype=np.int64)
