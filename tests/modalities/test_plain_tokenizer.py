"""Special tokens inside texts are read as ordinary text, and vocabularies are checked before use."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pytest
import tokenizers
import transformers

from rainbow_ray.inference.onnx_predictor import _plain_tokenizer
from rainbow_ray.modalities import pretrained
from rainbow_ray.modalities.plain_tokenizer import PlainTokenizer, check_vocabulary
from rainbow_ray.modalities.text import tokenize

LETTERS = "abcdefghijklmnopqrstuvwxyzé<>[]/.,!?"
ORDINARY = ["a river, a door!", "two  spaces é [b] < s > a", "", "x", "unknown 7 ☃ signs", "line\nbreak"]


def pieces(*special: str) -> list[tuple[str, float]]:
    """Return a Unigram vocabulary in which special tokens are ordinary pieces with the highest score."""
    return [*((token, 0.0) for token in special), ("▁", -3.0), *((letter, -4.0) for letter in LETTERS), ("▁door", -2.0)]


def make_tokenizer(kind: str):
    characters = {letter: number + 10 for number, letter in enumerate(LETTERS)}
    if kind == "wordpiece":
        marked = {f"##{letter}": number + 100 for letter, number in characters.items()}
        special = {"[PAD]": 0, "[UNK]": 1, "[CLS]": 2, "[SEP]": 3, "[MASK]": 4}
        return transformers.BertTokenizer(vocab={**special, **characters, **marked, "door": 90})
    if kind == "byte-level":
        special = {"<s>": 0, "<pad>": 1, "</s>": 2, "<unk>": 3, "<mask>": 4}
        return transformers.RobertaTokenizer(vocab={**special, **characters, "Ġ": 91, "do": 92}, merges=[("d", "o")])
    if kind == "deberta":
        return transformers.DebertaV2Tokenizer(vocab=pieces("[PAD]", "[CLS]", "[SEP]", "[UNK]"), unk_id=3)
    if kind == "xlm-roberta":
        return transformers.XLMRobertaTokenizer(vocab=pieces("<s>", "<pad>", "</s>", "<unk>"))
    if kind == "t5":
        return transformers.T5Tokenizer(vocab=pieces("<pad>", "</s>", "<unk>"), extra_ids=3)
    if kind == "whole words":  # without a pre-tokenizer that would split brackets off
        words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "a", "river", "door"]
        model = tokenizers.models.WordLevel({word: n for n, word in enumerate(words)}, unk_token="[UNK]")
        fast = tokenizers.Tokenizer(model)
        fast.pre_tokenizer = tokenizers.pre_tokenizers.WhitespaceSplit()
        fast.post_processor = tokenizers.processors.TemplateProcessing(
            single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
        )
        roles = {"unk_token": "[UNK]", "cls_token": "[CLS]", "sep_token": "[SEP]", "pad_token": "[PAD]"}
        return transformers.PreTrainedTokenizerFast(tokenizer_object=fast, **roles)
    assert kind == "bytes"
    slow = transformers.ByT5Tokenizer(extra_ids=3)
    slow.add_tokens(["door"])
    return slow


KINDS = ["wordpiece", "byte-level", "deberta", "xlm-roberta", "t5", "whole words", "bytes"]


@pytest.fixture(params=KINDS)
def saved(request, tmp_path) -> Path:
    """Save a tokenizer of each kind and return its folder."""
    make_tokenizer(request.param).save_pretrained(tmp_path)
    transformers.BertConfig().save_pretrained(tmp_path)
    return tmp_path


def content_ids(plain: PlainTokenizer, row: list[int]) -> list[int]:
    return row[plain.front : len(row) - plain.back]


def test_ordinary_texts_have_the_ids_of_the_tokenizer(saved):
    expected = transformers.AutoTokenizer.from_pretrained(saved)(ORDINARY, truncation=False)["input_ids"]
    plain = tokenize.load_plain_tokenizer(str(saved))
    assert plain(ORDINARY) == expected
    assert plain([]) == []


def test_special_tokens_in_a_text_are_read_as_text(saved):
    tokenizer, plain = tokenize.load_tokenizer(str(saved)), tokenize.load_plain_tokenizer(str(saved))
    special = pretrained.special_tokens(tokenizer)
    texts = [
        text.format(token)
        for token in special
        for text in ("{0}", "a {0} door", "a{0}door", "{0}{0} a {0}", "a door {0}", "  {0}\n")
    ]
    for row, text in zip(plain(texts), texts, strict=True):
        special_ids = set(content_ids(plain, row)) & (set(special.values()) - {tokenizer.unk_token_id})
        assert not special_ids, text
        assert row[: plain.front] == plain(["a"])[0][: plain.front]
        assert row[len(row) - plain.back :] == plain(["a"])[0][len(plain(["a"])[0]) - plain.back :]
        assert content_ids(plain, row) or not tokenizer.unk_token, f"{text}: it is read, not dropped"


def test_words_before_and_after_a_special_token_are_read(saved):
    plain = tokenize.load_plain_tokenizer(str(saved))
    words = content_ids(plain, plain(["a"])[0])
    special = pretrained.special_tokens(tokenize.load_tokenizer(str(saved)))
    for row in plain([f"a {token} a" for token in special]):
        assert set(content_ids(plain, row)) & set(words), "the text around a special token is read"


def test_special_tokens_that_result_from_normalization_are_text():
    tokenizer = make_tokenizer("xlm-roberta")
    tokenizer.backend_tokenizer.normalizer = tokenizers.normalizers.NFKC()
    plain = pretrained.plain_tokenizer(tokenizer)
    assert not {0, 1, 2} & set(content_ids(plain, plain(["a ＜s＞ ＜/s＞ ＜pad＞ door"])[0]))


def test_a_literal_unknown_token_is_not_an_unknown_word():
    plain = pretrained.plain_tokenizer(make_tokenizer("xlm-roberta"))
    assert plain.broken == ("<unk>",)
    assert 3 not in plain(["a <unk> door"])[0]
    assert 3 in plain(["a ☃ door"])[0]


def test_the_setting_is_saved_and_a_tokenizer_json_gives_the_same_ids(saved, tmp_path_factory):
    tokenizer, plain = tokenize.load_tokenizer(str(saved)), tokenize.load_plain_tokenizer(str(saved))
    if not tokenizer.is_fast:
        pytest.skip("it has no tokenizer.json")
    folder = tmp_path_factory.mktemp("again")
    tokenizer.save_pretrained(folder)
    loaded = transformers.AutoTokenizer.from_pretrained(folder)
    assert loaded.split_special_tokens
    texts = [*ORDINARY, *(f"a {token} door" for token in pretrained.special_tokens(tokenizer))]
    assert tokenize.load_plain_tokenizer(str(folder))(texts) == plain(texts)
    tokenizer.backend_tokenizer.save(str(folder / "tokenizer.json"))
    fast = tokenizers.Tokenizer.from_file(str(folder / "tokenizer.json"))
    fast.no_truncation()
    fast.no_padding()
    fast.encode_special_tokens = True
    assert _plain_tokenizer(fast, folder)(texts) == plain(texts)


def test_rows_are_prepared_without_special_tokens_from_texts():
    texts = ["a door [PAD] [PAD] wall", "a door [SEP] wall", "a door [MASK] wall", "a door wall"]
    rows = tokenize.prepare(pa.table({"text": texts}), encoder="embedded", limit=512)["input_ids"].to_pylist()
    assert all(not {0, 100, 101, 102, 103} & set(row[1:-1]) for row in rows)
    assert all(row[0] == 101 and row[-1] == 102 for row in rows)
    assert rows[3] == tokenize.load_tokenizer("embedded")("a door wall")["input_ids"]


SPECIAL = {"[PAD]": 0, "[UNK]": 1}
WORDS = {"[PAD]": 0, "[UNK]": 1, "a": 2, "river": 3}


def encode_words(texts):
    return [[WORDS.get(word, 1) for word in sentence.split()] for sentence in texts]


def problems_of(encode=encode_words, vocabulary=None, **keys) -> list[str]:
    plain = PlainTokenizer.make(encode, SPECIAL, "[UNK]")
    return check_vocabulary(plain, vocabulary or WORDS, SPECIAL, **{"embeddings": 4, **keys})


def test_unusable_vocabularies_are_reported():
    assert problems_of() == []
    (problem,) = problems_of(vocabulary=SPECIAL, files=["vocab.txt"])
    assert "no vocabulary" in problem
    assert "vocab.txt is missing or damaged" in problem
    (problem,) = problems_of(embeddings=3)
    assert "4 tokens, 1 of them beyond the 3" in problem
    (problem,) = problems_of(padding=9)
    assert "beyond" in problem
    (problem,) = problems_of(lambda texts: [[1] * len(sentence.split()) for sentence in texts])
    assert "cannot read the words of its own vocabulary" in problem


def test_missing_merges_of_a_vocabulary_are_reported():
    letters = "abcdefghij"
    vocabulary = {**SPECIAL, **{letter: n + 2 for n, letter in enumerate(letters)}}
    vocabulary |= {f"{a}{b}c": 20 + 10 * i + j for i, a in enumerate(letters) for j, b in enumerate(letters)}

    def by_letters(texts):
        return [[vocabulary.get(letter, 1) for letter in sentence] for sentence in texts]

    (problem,) = problems_of(by_letters, vocabulary, embeddings=None)
    assert "merges are missing" in problem
