"""Predictions of an ONNX bundle with numpy, onnxruntime and tokenizers, without PyTorch and Ray.

An ONNX bundle is the folder that `export --onnx` writes: `model.onnx` (from inputs to uncalibrated scores),
`tokenizer.json`, `bundle.json`, `README.md` and, of a stacked ensemble, `stack.json`.
"""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from pydantic import BaseModel, Field, NonNegativeInt, PositiveInt, model_validator

from rainbow_ray.bundle.integrity import DESCRIPTION, GRAPH, check_files
from rainbow_ray.calibration.apply import Calibration
from rainbow_ray.modalities.plain_tokenizer import PlainTokenizer, check_vocabulary
from rainbow_ray.modalities.selection import reads_only_text
from rainbow_ray.modalities.text.word_hashing import word_buckets
from rainbow_ray.stacking.files import read_stacks
from rainbow_ray.stacking.linear_member import MemberInputs
from rainbow_ray.stacking.stack import Stack, mean_of_fits
from rainbow_ray.tasks.target_types import TARGET_FORMATS, TargetFormat, TargetType
from rainbow_ray.utils.errors import InputError, first_line
from rainbow_ray.utils.paths import resolve_path

if TYPE_CHECKING:
    from onnxruntime import InferenceSession
    from tokenizers import Tokenizer

FORMAT = 3
READABLE_FORMATS = (1, 2, FORMAT)
EARLIER_KEYS = {"problem": "task"}  # of bundle.json in format 1
FEATURES = "features_"  # before the key of features, in names of the graph's outputs
TOKENIZER = "tokenizer.json"
FOLDER = "onnx"  # folder of a run that holds its ONNX bundle
REQUIRED_KEYS = {
    "graph",
    "task",
    "score_names",
    "calibration",
    "max_tokens",
    "pad_id",
    "modalities",
    "segments",
    "files",
}
MAX_BATCH_TOKENS = 8192  # with padding
NOT_UTF8 = "text that is not UTF-8"  # repeated from data/text_cells.py, which imports pyarrow


class OnnxDescription(BaseModel):
    """Content of `bundle.json` that `OnnxPredictor` reads.

    Attributes:
        task: Type of the model's targets; of segments, that of a single segment.
        score_names: `score`, or `score_<class>` of each class.
        max_tokens: Tokens of the longest text that the model reads.
        pad_id: Token that pads.
        segments: Whether the model predicts segments.
        modalities: Modalities that the graph reads.
    """

    task: TargetType
    score_names: list[str] = Field(min_length=1)
    max_tokens: PositiveInt
    pad_id: NonNegativeInt
    segments: bool
    modalities: list[str]

    @model_validator(mode="after")
    def _check_score_names(self) -> OnnxDescription:
        if (self.score_names == ["score"]) != TARGET_FORMATS[self.task].has_one_score:
            raise ValueError(f"score_names {self.score_names} do not belong to a {self.task} model")
        return self


class OnnxPredictor:
    """A model of texts on onnxruntime: phases 1, 2 and 4, and single segments of phase 5.

    Args:
        session: Session of the graph.
        tokenizer: Converts texts to token ids.
        info: Content of `bundle.json`.
        stacks: The stack of each fit, of a stacked ensemble.
    """

    def __init__(
        self, session: InferenceSession, tokenizer: PlainTokenizer, info: dict[str, Any], stacks: Sequence[Stack] = ()
    ) -> None:
        self.session, self.tokenizer, self.info, self.stacks = session, tokenizer, info, tuple(stacks)
        self.calibration = Calibration.from_json(info["calibration"])
        self.inputs = {graph_input.name for graph_input in session.get_inputs()}

    @classmethod
    def load(cls, path: str | Path) -> OnnxPredictor:
        """Load an ONNX bundle. Only files of the folder are read, and only if their hashes are those of the export.

        Args:
            path: Folder that `export --onnx` wrote, or a run that contains one.

        Returns:
            The model.

        Raises:
            InputError: The folder is not a complete ONNX bundle of a model of texts, or a package is not installed.
        """
        path = resolve_path(path).resolve()
        folder = path / FOLDER if (path / FOLDER / DESCRIPTION).exists() else path
        missing = [name for name in ("onnxruntime", "tokenizers") if importlib.util.find_spec(name) is None]
        if missing:
            raise InputError(f"{path}: {' and '.join(missing)} must be installed: pip install 'rainbow-ray[predict]'")
        try:
            info = check_files(folder, READABLE_FORMATS, REQUIRED_KEYS, EARLIER_KEYS)
            if not reads_only_text(info["modalities"]):
                raise InputError(f"{path}: this model reads {', '.join(info['modalities'])}; an ONNX bundle predicts"
                                 " from text alone: use `predict` with the run, where rainbow-ray[train] is installed"
                                 )  # fmt: skip
            OnnxDescription.model_validate(info)
            Calibration.from_json(info["calibration"]).check(len(info["score_names"]))
            session, tokenizer = _open(folder)
            stacks = read_stacks(folder)
            for stack in stacks:
                stack.check(info["task"], len(info["score_names"]))
            predictor = cls(session, _plain_tokenizer(tokenizer, folder), info, stacks)
            if problems := predictor._check_tokenizer(tokenizer):
                raise InputError(f"{path}: the ONNX model cannot be used: {problem}" for problem in problems)
            return predictor
        except FileNotFoundError as error:
            raise InputError(f"{path}: no ONNX model here ({Path(error.filename or folder).name} is missing); export"
                             " one with `python -m rainbow_ray.export RUN --onnx`") from error  # fmt: skip
        except InputError:
            raise
        except Exception as error:  # onnxruntime and tokenizers raise many types for damaged files
            raise InputError(f"{path}: the ONNX model is damaged ({first_line(error)}); export it again") from error

    @property
    def reads_media(self) -> bool:
        """Whether the model reads audio or MIDI; always False."""
        return False

    @property
    def score_names(self) -> list[str]:
        """`score`, or `score_<class>` of each class."""
        return list(self.info["score_names"])

    def predict(self, texts: str | Sequence[str | None]) -> list[dict[str, Any]]:
        """Predict texts.

        Args:
            texts: A text, or a list of texts; None and NaN are read as empty.

        Returns:
            A dictionary per text: `prediction`, the scores by name, and `reason`. Of a text without a score, all but
            the reason are None.

        Raises:
            InputError: `texts` is a table, or holds something else than texts.
        """
        plain, is_undecodable = _plain_texts(texts)
        scores = self.score_texts(plain)
        has_score = ~np.isnan(scores).any(axis=1)
        predictions = iter(self.decode_predictions(scores[has_score]))
        rows: list[dict[str, Any]] = []
        for i, row in enumerate(scores):
            if has_score[i]:
                named = dict(zip(self.score_names, map(float, row), strict=True))
                rows.append({"prediction": next(predictions), **named, "reason": None})
            else:
                reason = NOT_UTF8 if is_undecodable[i] else "no text"
                rows.append({"prediction": None, **dict.fromkeys(self.score_names), "reason": reason})
        return rows

    def score_texts(self, texts: Sequence[str]) -> np.ndarray:
        """Return the calibrated scores of texts.

        Args:
            texts: Texts to score.

        Returns:
            `(texts, scores)`, float32 (float64 for regression); NaN for empty texts.
        """
        texts = [text.strip() for text in texts]
        names = self.score_names
        scores = np.full((len(texts), len(names)), np.nan, dtype=self._format.score_dtype)
        indices = np.flatnonzero([bool(text) for text in texts])
        ids = [self._truncate(row) for row in self.tokenizer([texts[i] for i in indices])]
        # the graph reads the segments of a batch as those of one song, so each text is a batch of its own
        for rows in _batches(ids, max_rows=1 if self.info["segments"] else len(ids)):
            row_texts = [texts[indices[i]] for i in rows]
            scores[indices[rows]] = self._run(row_texts, ids, rows).reshape(len(rows), len(names))
        if len(indices) and not self.info["segments"]:
            plain = scores[indices][:, 0] if names == ["score"] else scores[indices]
            scores[indices] = self.calibration.probabilities(plain).reshape(len(indices), len(names))
        return scores

    def decode_predictions(self, scores: np.ndarray) -> list[Any]:
        """Convert calibrated scores to predictions.

        Args:
            scores: `(texts, scores)`, as `score_texts` returns them.

        Returns:
            A bool, class, tuple of classes or float per text.
        """
        classes = [name.removeprefix("score_") for name in self.score_names]
        return self._format.decode(scores, classes, self.calibration.thresholded)

    @property
    def _format(self) -> TargetFormat:
        target_type: TargetType = self.info["task"]
        return TARGET_FORMATS[target_type]

    def _check_tokenizer(self, tokenizer: Tokenizer) -> list[str]:
        """Messages on a tokenizer without a vocabulary, or with tokens that the graph has no embedding for."""
        vocabulary, special = tokenizer.get_vocab(), _special_tokens(tokenizer)
        problems = check_vocabulary(self.tokenizer, vocabulary, special, embeddings=None, files=[TOKENIZER])
        if problems:
            return problems
        last_token = max(number for token, number in vocabulary.items() if token not in special)
        try:
            self.session.run(None, self._inputs([""], [[last_token]], np.array([0])))
        except Exception:  # onnxruntime has no exception of its own for an index that is out of range
            return [f"its tokenizer is not the graph's, which has no embedding for its last token ({last_token})"]
        return []

    def _run(self, texts: list[str], ids: list[list[int]], rows: np.ndarray) -> np.ndarray:
        """Uncalibrated scores of some rows of `ids`, whose texts are `texts`."""
        outputs: list[Any] = list(self.session.run(None, self._inputs(texts, ids, rows)))
        if not self.stacks:
            return np.asarray(outputs[0])
        keys = [output.name.removeprefix(FEATURES) for output in self.session.get_outputs()]
        features = dict(zip(keys[1:], outputs[1:], strict=True))
        return mean_of_fits(self.stacks, np.asarray(outputs[0]), MemberInputs(texts, features), self.info["task"])

    def _truncate(self, ids: list[int]) -> list[int]:
        """Cut a text to the limit; the last token ends every text and stays."""
        limit = int(self.info["max_tokens"])
        return ids if len(ids) <= limit else [*ids[: limit - 1], ids[-1]]

    def _inputs(self, texts: list[str], ids: list[list[int]], rows: np.ndarray) -> dict[str, np.ndarray]:
        """The inputs of the graph for some rows of `ids`, whose texts are `texts`."""
        batch_ids = [ids[i] for i in rows]
        inputs = {
            "input_ids": _pad(batch_ids, self.info["pad_id"]),
            "mask": _pad([[1] * len(row) for row in batch_ids], 0),
            "words": _pad([word_buckets(text) for text in texts], 0),
            "times": np.zeros((len(rows), 4), dtype=np.float32),  # a text has no place in a song
        }
        return {name: value for name, value in inputs.items() if name in self.inputs}


def _plain_texts(texts: Any) -> tuple[list[str], list[bool]]:
    """Texts as strings, empty for None, NaN and bytes that are not UTF-8, and which are such bytes."""
    if hasattr(texts, "columns") or hasattr(texts, "column_names"):
        raise InputError("an ONNX model predicts texts, not tables: pass a column, such as table['concept'], or use the"
                         " run that it was exported from")  # fmt: skip
    cells = [texts] if isinstance(texts, str | bytes) or texts is None else list(texts)
    plain, is_undecodable = [], [False] * len(cells)
    for row, cell in enumerate(cells):
        if isinstance(cell, str):
            plain.append(cell.encode("utf-8", "replace").decode())  # unpaired surrogates
        elif isinstance(cell, bytes | bytearray | memoryview):
            try:
                plain.append(bytes(cell).decode())
            except UnicodeDecodeError:
                plain.append("")
                is_undecodable[row] = True
        elif cell is None or (isinstance(cell, float) and np.isnan(cell)) or type(cell).__name__ == "NAType":
            plain.append("")
        else:
            raise InputError(f"text {row} is a {type(cell).__name__}, not text")
    return plain, is_undecodable


def _open(folder: Path) -> tuple[InferenceSession, Tokenizer]:
    import onnxruntime
    from tokenizers import Tokenizer

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(folder / GRAPH, options, providers=["CPUExecutionProvider"])
    tokenizer = Tokenizer.from_file(str(folder / TOKENIZER))
    tokenizer.no_truncation()
    tokenizer.no_padding()
    tokenizer.encode_special_tokens = True  # read special tokens in texts as text; tokenizer.json does not store this
    return session, tokenizer


def _plain_tokenizer(tokenizer: Tokenizer, folder: Path) -> PlainTokenizer:
    """A tokenizer that does not truncate, and reads special tokens in texts as text."""

    def encode_batch(texts: Sequence[str]) -> list[list[int]]:
        return [encoding.ids for encoding in tokenizer.encode_batch(list(texts))]

    return PlainTokenizer.make(encode_batch, _special_tokens(tokenizer), _unknown_token(folder / TOKENIZER))


def _special_tokens(tokenizer: Tokenizer) -> dict[str, int]:
    return {token.content: n for n, token in tokenizer.get_added_tokens_decoder().items() if token.special}


def _unknown_token(file: Path) -> str | None:
    """The unknown token of a vocabulary, which unigram models give by its index and others by its text."""
    model = json.loads(file.read_text(encoding="utf-8"))["model"]
    if model.get("unk_id") is not None:
        return str(model["vocab"][model["unk_id"]][0])
    unknown = model.get("unk_token")
    return None if unknown is None else str(unknown)


def _batches(ids: list[list[int]], max_rows: int) -> Iterator[np.ndarray]:
    """Batches of texts of similar length, the longest first."""
    order = sorted(range(len(ids)), key=lambda i: -len(ids[i]))
    start = 0
    while start < len(order):
        size = min(max_rows, max(1, MAX_BATCH_TOKENS // max(1, len(ids[order[start]]))))
        yield np.array(order[start : start + size])
        start += size


def _pad(rows: list[list[int]], value: int) -> np.ndarray:
    """Rows of the length of the longest, `(rows, length)`, int64."""
    longest = max(1, *(len(row) for row in rows))
    return np.array([[*row, *[value] * (longest - len(row))] for row in rows], dtype=np.int64)
