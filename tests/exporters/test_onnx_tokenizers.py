"""The tokenizer of an ONNX folder: it must match the graph, and special tokens in texts are plain text."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnx
import pytest
import tokenizers
from onnx import TensorProto, helper, numpy_helper

from rainbow_ray.bundle.integrity import file_hashes
from rainbow_ray.inference.onnx_predictor import OnnxPredictor
from rainbow_ray.utils.errors import InputError

WORDS = {
    "[PAD]": 0,
    "[UNK]": 1,
    "[CLS]": 2,
    "[SEP]": 3,
    "a": 4,
    "door": 5,
    "wall": 6,
    "[": 7,
    "]": 8,
    "pad": 9,
    "##d": 10,
}
POINTER = "version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 440449768\n"


def write_graph(file: Path, embeddings: int) -> None:
    """Write a model whose score is the sigmoid of the mean of one-dimensional token embeddings."""
    table = numpy_helper.from_array(np.linspace(-2, 2, embeddings, dtype=np.float32), "table")
    ids = helper.make_tensor_value_info("input_ids", TensorProto.INT64, ["examples", "length"])
    scores = helper.make_tensor_value_info("scores", TensorProto.FLOAT, ["examples"])
    nodes = [
        helper.make_node("Gather", ["table", "input_ids"], ["embedded"]),
        helper.make_node("ReduceMean", ["embedded"], ["mean"], axes=[1], keepdims=0),
        helper.make_node("Sigmoid", ["mean"], ["scores"]),
    ]
    graph = helper.make_graph(nodes, "tiny", [ids], [scores], [table])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.save(model, file)


def write_tokenizer(file: Path, vocabulary: dict[str, int]) -> None:
    model = tokenizers.models.WordPiece(vocabulary, unk_token="[UNK]")
    fast = tokenizers.Tokenizer(model)
    fast.normalizer = tokenizers.normalizers.Lowercase()
    fast.pre_tokenizer = tokenizers.pre_tokenizers.BertPreTokenizer()
    fast.add_special_tokens(["[PAD]", "[UNK]", "[CLS]", "[SEP]"])
    fast.post_processor = tokenizers.processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", vocabulary["[CLS]"]), ("[SEP]", vocabulary["[SEP]"])]
    )
    fast.save(str(file))


def describe(folder: Path) -> None:
    document = {
        "format": 2, "graph": "model.onnx", "task": "binary", "score_names": ["score"], "calibration": {},
        "max_tokens": 64, "pad_id": 0, "modalities": ["text"], "segments": False, "files": file_hashes(folder),
    }  # fmt: skip
    (folder / "bundle.json").write_text(json.dumps(document))


@pytest.fixture
def folder(tmp_path) -> Path:
    write_graph(tmp_path / "model.onnx", len(WORDS))
    write_tokenizer(tmp_path / "tokenizer.json", WORDS)
    describe(tmp_path)
    return tmp_path


def test_special_tokens_in_texts_are_text(folder):
    predictor = OnnxPredictor.load(folder)
    token_ids = [4, 5, 7, 9, 8, 6]  # a door [ pad ] wall
    row = predictor.tokenizer(["a door [PAD] wall"])[0]
    assert row == [2, *token_ids, 3]
    (score,) = predictor.score_texts(["a door [PAD] wall"])
    mean = np.linspace(-2, 2, len(WORDS), dtype=np.float32)[[2, *token_ids, 3]].mean()
    assert score[0] == pytest.approx(1 / (1 + np.exp(-mean)), abs=1e-6)


def test_a_tokenizer_without_vocabulary_is_rejected(folder):
    write_tokenizer(folder / "tokenizer.json", {"[PAD]": 0, "[UNK]": 1, "[CLS]": 2, "[SEP]": 3})
    describe(folder)
    with pytest.raises(InputError, match="its tokenizer has no vocabulary"):
        OnnxPredictor.load(folder)


def test_a_tokenizer_with_more_tokens_than_embeddings_is_rejected(folder):
    write_graph(folder / "model.onnx", len(WORDS) - 1)
    describe(folder)
    with pytest.raises(InputError, match="no embedding for its last token"):
        OnnxPredictor.load(folder)


@pytest.mark.parametrize("name", ["model.onnx", "tokenizer.json", "bundle.json"])
def test_git_lfs_pointers_are_distinguished_from_damage(folder, name):
    (folder / name).write_text(POINTER)
    with pytest.raises(InputError, match=f"{name} is a Git LFS pointer"):
        OnnxPredictor.load(folder)


def test_a_damaged_tokenizer_is_rejected(folder):
    for content in ("{}", '{"model": {}}', "[]", "null"):
        (folder / "tokenizer.json").write_text(content)
        describe(folder)
        with pytest.raises(InputError, match="damaged"):
            OnnxPredictor.load(folder)
