"""Texts as token ids: the tokenizer of an encoder, prepared rows, and padded batches."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import torch

from rainbow_ray.config.schema import TextEncoderConfig
from rainbow_ray.data.examples import Examples
from rainbow_ray.modalities import pretrained
from rainbow_ray.modalities.plain_tokenizer import PlainTokenizer
from rainbow_ray.modalities.text.embedded import source_of
from rainbow_ray.modalities.text.word_hashing import word_buckets
from rainbow_ray.modalities.weight_checks import ROBERTA_FAMILY
from rainbow_ray.utils.errors import InputError, first_line

TOKENS, WORDS = "input_ids", "words"  # columns of prepared rows, and inputs of a batch
N_TOKENS = "tokens"  # column: tokens before the cut
PRESENT = "has_text"  # column: whether the text is not empty
STATES = "states"  # input of a batch: cached hidden states of the frozen layers
MIN_TOKENS = 8  # that an encoder must be able to read: special tokens, and some of a text
MAX_TOKENS = 1_000_000  # a tokenizer without a limit gives 1e30


@functools.cache
def load_tokenizer(name: str) -> Any:
    """Return the tokenizer of a text encoder.

    Args:
        name: `embedded`, a local folder, or a hub name.

    Returns:
        A tokenizer of transformers.

    Raises:
        InputError: There is none, or it cannot be read.
    """
    return pretrained.read_tokenizer(name, source_of(name))


@functools.cache
def load_plain_tokenizer(name: str) -> PlainTokenizer:
    """Return the tokenizer of a text encoder that reads special tokens in texts as ordinary text.

    Args:
        name: `embedded`, a local folder, or a hub name.

    Returns:
        A function from texts to token ids.

    Raises:
        InputError: It has no vocabulary, or cannot read its own words.
    """
    tokenizer = load_tokenizer(name)
    try:
        plain = pretrained.plain_tokenizer(tokenizer)
        problems = pretrained.check_tokenizer(tokenizer, plain, None)
    except Exception as error:  # of tokenizers, whose vocabulary lacks the tokens that it works with
        raise InputError(tokenizer_problem(name, f"its tokenizer cannot read a text ({first_line(error)})")) from error
    if problems:
        raise InputError(tokenizer_problem(name, problem) for problem in problems)
    return plain


def check_embeddings(name: str, n_embeddings: int | None) -> None:
    """Check that an encoder has an embedding for each token that its tokenizer can give.

    Args:
        name: Name of the encoder.
        n_embeddings: Number of its embeddings; None if it is not known.

    Raises:
        InputError: It lacks some.
    """
    plain = load_plain_tokenizer(name)
    if problems := pretrained.check_tokenizer(load_tokenizer(name), plain, n_embeddings):
        raise InputError(tokenizer_problem(name, problem) for problem in problems)


def tokenizer_problem(name: str, problem: str) -> str:
    """Return a message about the tokenizer of an encoder.

    Args:
        name: Name of the encoder.
        problem: A clause whose subject is the tokenizer or the encoder.

    Returns:
        The message, with the config key of the encoder.
    """
    return f"{pretrained.TEXT.key}: {name!r} cannot be used: {problem}"


def token_limit(name: str, config: TextEncoderConfig, encoder_config: Any) -> int:
    """Return the number of tokens of the longest text that an encoder reads.

    Args:
        name: Name of the encoder.
        config: Its section of the config, whose `max_length` is a limit too.
        encoder_config: Its config of transformers.

    Returns:
        The least of all limits.

    Raises:
        InputError: The files of the encoder allow fewer than `MIN_TOKENS`.
    """
    model_max_length = load_tokenizer(name).model_max_length
    positions = getattr(encoder_config, "max_position_embeddings", None)
    limits = {f"tokenizer_config.json has model_max_length {model_max_length}": min(model_max_length, MAX_TOKENS)}
    if positions and positions > 0:  # XLNet has -1, which means no limit
        # the RoBERTa family counts positions from its padding index on
        from_padding = encoder_config.model_type in ROBERTA_FAMILY
        limits[f"config.json has max_position_embeddings {positions}"] = positions - (
            encoder_config.pad_token_id + 1 if from_padding else 0
        )
    too_small = [setting for setting, limit in limits.items() if limit < MIN_TOKENS]
    if too_small:
        raise InputError(f"{pretrained.TEXT.key}: {name!r} cannot be used: its {setting}, which is too short for a"
                         f" text: at least {MIN_TOKENS} tokens are needed" for setting in too_small)  # fmt: skip
    return int(min(config.max_length, *limits.values()))


@functools.lru_cache(maxsize=8)
def pad_id(name: str) -> int:
    """Return the token id that pads short texts; the mask hides it from the encoder.

    Args:
        name: Name of the encoder.

    Returns:
        The id; 0 if the tokenizer has no padding token.
    """
    return load_tokenizer(name).pad_token_id or 0


def prepare(rows: pa.Table, *, encoder: str, limit: int) -> pa.Table:
    """Return plain rows with the token ids and words of their texts.

    Each distinct text is tokenized once per block, because the stems of a song repeat its text.

    Args:
        rows: Plain rows with `text`.
        encoder: Name of the encoder.
        limit: Number of tokens at which texts are cut; the last token, a separator, is kept.

    Returns:
        The rows with `input_ids`, `tokens` (their number before the cut), `words` (hash buckets) and `has_text`.
    """
    texts = rows["text"].combine_chunks().dictionary_encode()
    distinct = [text or "" for text in texts.dictionary.to_pylist()]
    ids = load_plain_tokenizer(encoder)(distinct)
    columns = {
        TOKENS: pa.array([_cut(row, limit) for row in ids], pa.list_(pa.int32())),
        N_TOKENS: pa.array([len(row) for row in ids], pa.int32()),
        WORDS: pa.array([word_buckets(text) for text in distinct], pa.list_(pa.int32())),
        PRESENT: pa.array([bool(text) for text in distinct], pa.bool_()),
    }
    for name, values in columns.items():
        rows = rows.append_column(name, values.take(texts.indices))
    return rows


def lengths(rows: pa.Table) -> np.ndarray:
    """Return the number of tokens of each prepared row after the cut.

    Args:
        rows: Rows with `input_ids`.

    Returns:
        `(rows,)` int32.
    """
    return np.asarray(pc.list_value_length(rows[TOKENS]).to_numpy().astype(np.int32))


def collate(examples: Examples, indices: np.ndarray, *, pad_id: int) -> dict[str, torch.Tensor]:
    """Return the texts of a batch, padded to the longest.

    Args:
        examples: Examples with prepared columns.
        indices: Rows of the batch, `(n,)`.
        pad_id: Token id of padding.

    Returns:
        `input_ids` and `mask`, `(n, length)` int64; `words`, `(n, words)` int64, padded with 0; `present`, `(n,)` bool,
        false for empty texts.
    """
    tokens, n_tokens = examples.lists(TOKENS).take(indices)
    ids = pad_values(tokens, n_tokens, pad_id)
    mask = torch.from_numpy((np.arange(ids.shape[1])[None] < n_tokens[:, None]).astype(np.int64))
    is_present = examples.values(PRESENT)[indices].astype(bool)
    words = pad_values(*examples.lists(WORDS).take(indices), 0)
    return {TOKENS: ids, "mask": mask, WORDS: words, "present": torch.from_numpy(is_present)}


def pad_rows(rows: Sequence[np.ndarray], value: int) -> torch.Tensor:
    """Return rows of integers as one matrix.

    Args:
        rows: Arrays `(length,)`.
        value: Value that pads them to the longest.

    Returns:
        `(rows, longest)` int64, with at least one column.
    """
    lengths = np.array([len(row) for row in rows], dtype=np.int64)
    return pad_values(np.concatenate([np.array([], dtype=np.int64), *rows]), lengths, value)


def pad_values(values: np.ndarray, lengths: np.ndarray, value: int) -> torch.Tensor:
    """Return rows of integers, which follow each other in one array, as a matrix.

    Args:
        values: Values of all rows, `(sum of lengths,)`.
        lengths: Number of values of each row, int `(rows,)`.
        value: Value that pads them to the longest.

    Returns:
        `(rows, longest)` int64, with at least one column.
    """
    longest = max(1, int(lengths.max(initial=0)))
    padded = np.full((len(lengths), longest), value, dtype=np.int64)
    padded[np.arange(longest)[None] < lengths[:, None]] = values
    return torch.from_numpy(padded)


def _cut(ids: list[int], limit: int) -> list[int]:
    """At most `limit` token ids; the last one, a separator in each family, keeps its place."""
    return ids if len(ids) <= limit else [*ids[: limit - 1], ids[-1]]
