"""Tokenizers of encoders: missing, damaged or unsuitable ones are refused, and unknown words are reported."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import transformers

from rainbow_ray.config.schema import TextEncoderConfig
from rainbow_ray.modalities.text import encoder as text_encoder
from rainbow_ray.modalities.text import tokenize
from rainbow_ray.utils.errors import InputError
from tests.conftest import tiny_body, tiny_config
from tests.helpers import data_of, plan_of
from tests.modalities.encoder_folders import (
    PAGE,
    POINTER,
    edit,
    load_text,
    refusal,
    remove_tokenizer,
)
from tests.song_tables import song_rows


@pytest.mark.parametrize(("file", "key", "value"), [("tokenizer_config.json", "model_max_length", 1),
                                                    ("tokenizer_config.json", "model_max_length", 0),
                                                    ("tokenizer_config.json", "model_max_length", -5),
                                                    ("tokenizer_config.json", "model_max_length", 7),
                                                    ("config.json", "max_position_embeddings", 1)])  # fmt: skip
def test_a_token_limit_too_small_for_a_text_is_refused(file, key, value, text_folder, capfd):
    edit(text_folder / file, **{key: value})
    name = str(text_folder)
    problem = refusal(lambda: tokenize.token_limit(name, TextEncoderConfig(), text_encoder.load_config(name)), capfd)
    assert f"{file} has {key} {value}, which is too short for a text" in problem


TOKENIZER_DAMAGES: dict[str, tuple[Callable[[Path], object], str]] = {
    "none": (remove_tokenizer, "no vocabulary, so every word would be unknown: tokenizer.json or vocab.txt"),
    "its config alone": (lambda folder: remove_tokenizer(folder, "tokenizer_config.json"), "no vocabulary"),
    "pointer": (lambda folder: (folder / "tokenizer.json").write_text(POINTER), "tokenizer.json is a Git LFS pointer"),
    "empty": (lambda folder: (folder / "tokenizer.json").write_text(""), "tokenizer.json is empty"),
    "web page": (lambda folder: (folder / "tokenizer.json").write_text(PAGE), "tokenizer.json is a web page"),
    "cut off": (lambda folder: (folder / "tokenizer.json").write_text('{"model": {'), "the tokenizer cannot be read"),
    "an object": (lambda folder: (folder / "tokenizer.json").write_text("{}"), "the tokenizer cannot be read"),
    "config damaged": (lambda folder: (folder / "tokenizer_config.json").write_text("{"), "the tokenizer cannot be"),
}


@pytest.mark.parametrize("damage", TOKENIZER_DAMAGES)
def test_an_encoder_without_its_tokenizer_is_refused(damage, text_folder, capfd):
    change, words = TOKENIZER_DAMAGES[damage]
    change(text_folder)
    problem = refusal(lambda: load_text(text_folder), capfd)
    assert problem.startswith(f"model.text_encoder.model_name: '{text_folder}'")
    assert words in problem


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (POINTER, "vocab.txt is a Git LFS pointer"),
        (PAGE + "door\nwall\n", "vocab.txt is a web page"),
        ("", "vocab.txt is empty"),
        ("[PAD]\n[UNK]\n[CLS]\n[SEP]\n[MASK]\n", "no vocabulary"),
    ],
)
def test_an_invalid_word_list_is_refused(content, words, text_folder, capfd):
    remove_tokenizer(text_folder)
    (text_folder / "vocab.txt").write_text(content)
    assert words in refusal(lambda: load_text(text_folder), capfd)


@pytest.mark.parametrize("family", ["roberta", "deberta-v2", "distilbert", "xlm-roberta", "camembert", "albert", "t5"])
def test_folders_without_a_vocabulary_are_refused_for_every_family(family, tmp_path, capfd):
    from transformers.models.auto.configuration_auto import CONFIG_MAPPING

    CONFIG_MAPPING[family]().save_pretrained(tmp_path)
    problem = refusal(lambda: tokenize.load_plain_tokenizer(str(tmp_path)), capfd)
    assert "no vocabulary" in problem
    assert "tokenizer.json" in problem


def test_a_tokenizer_larger_than_the_embeddings_is_refused(text_folder, capfd):
    body = tiny_config("bert")
    body.vocab_size = 60
    transformers.AutoModel.from_config(body).save_pretrained(text_folder)
    assert "beyond the 60 that the encoder has embeddings for" in refusal(lambda: load_text(text_folder), capfd)


def test_unused_special_tokens_need_no_embedding(text_folder):
    tokenizer = transformers.AutoTokenizer.from_pretrained(text_folder)
    tokenizer.add_special_tokens({"additional_special_tokens": [f"<extra {i}>" for i in range(60)]})
    tokenizer.save_pretrained(text_folder)
    assert len(tokenizer) > 128
    assert load_text(text_folder) == ()


def test_missing_merges_are_refused(tmp_path, capfd):
    letters = "abcdefghij"
    vocabulary = {token: number for number, token in enumerate(["<s>", "<pad>", "</s>", "<unk>", "<mask>", *letters])}
    words = [f"{a}{b}{c}" for a in letters for b in letters for c in "xyz"]
    vocabulary |= {word: len(vocabulary) + number for number, word in enumerate(words)}
    tiny_body("roberta").save_pretrained(tmp_path)
    (tmp_path / "vocab.json").write_text(json.dumps(vocabulary))
    assert "merges" in refusal(lambda: tokenize.load_plain_tokenizer(str(tmp_path)), capfd)


def test_a_truncated_vocabulary_causes_a_warning(tmp_path, tiny_tokenizer_folder):
    shutil.copytree(tiny_tokenizer_folder, tmp_path, dirs_exist_ok=True)
    body = tiny_config("bert")
    body.vocab_size = 2000
    transformers.AutoModel.from_config(body).save_pretrained(tmp_path)
    (warning,) = load_text(tmp_path)
    assert "embeddings for 2000 tokens, but its tokenizer has only" in warning


def test_unknown_words_cause_a_warning_or_a_refusal(tiny_encoder, write_table):
    encoder = tiny_encoder("bert")

    def concepts(*words: str) -> list[str]:
        return [" ".join([words[n % len(words)]] * 14 + ["door"] * (n % 3) + [str(n)]) for n in range(24)]

    def warnings_of(songs: list[str]) -> list[str]:
        data = data_of(plan_of(write_table({**song_rows(stems=1), "concept": songs}), encoder))
        return [warning for warning in data.warnings if "unknown" in warning]

    assert warnings_of(concepts("riverbank")) == []
    (warning,) = warnings_of(concepts("река", "door wall"))
    assert f"unknown to the tokenizer of '{encoder}'" in warning
    with pytest.raises(InputError, match="unknown to the tokenizer"):
        warnings_of([" ".join(["река"] * (20 + n)) for n in range(24)])
