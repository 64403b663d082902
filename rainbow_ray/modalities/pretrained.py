"""Encoders that come trained: every config, tokenizer and weights file is loaded, and checked, by this module.

Transformers fills what a folder lacks with random weights and with tokenizers that know no word, and says so at most in
its log. Here such a folder is refused in a sentence. A hub is asked once whether it can be reached; where it cannot,
only what was downloaded before is used.
"""

from __future__ import annotations

import contextlib
import functools
import pickle
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from rainbow_ray.modalities.hub import hub_problem, offline, quiet_libraries
from rainbow_ray.modalities.tokenization import PlainTokenizer, check_vocabulary
from rainbow_ray.modalities.weights import (
    PICKLED,
    SAFETENSORS,
    check_finite,
    check_loaded,
    check_values,
    check_weight_files,
)
from rainbow_ray.utils.errors import InputError, first_line
from rainbow_ray.utils.io import describe_foreign_content

FAST = "tokenizer.json"  # holds a whole tokenizer; other files are then not read
PREPROCESSORS = ("preprocessor_config.json", "processor_config.json")
MIN_EMBEDDINGS, MIN_COVERAGE = 1000, 0.8  # below which share of the embeddings a vocabulary looks cut off


@dataclass(frozen=True)
class EncoderKind:
    """How users name encoders of one modality, for messages.

    Attributes:
        key: Config key that holds the encoder's name.
        option: Flag of the commands.
        contents: What a local folder has to hold.
    """

    key: str
    option: str
    contents: str


TEXT = EncoderKind("model.text_encoder.model_name", "--encoder", "config.json, weights and tokenizer")
AUDIO = EncoderKind("model.audio_encoder.model_name", "--audio-encoder", "config.json and weights")


def read_config(name: str, source: str, kind: EncoderKind) -> Any:
    """Return the config of an encoder.

    Args:
        name: Name as the user wrote it.
        source: Local folder or hub name that it stands for.
        kind: Modality of the encoder.

    Returns:
        A config of transformers.

    Raises:
        InputError: There is no config, or it cannot be read.
    """
    from transformers import AutoConfig

    return _load(name, source, kind, "config.json", AutoConfig.from_pretrained)


def read_tokenizer(name: str, source: str) -> Any:
    """Return the tokenizer of a text encoder; a fast one reads special tokens in texts as ordinary text.

    That setting is saved with the tokenizer, and makes no difference to other texts. Slow tokenizers keep their own,
    because they would also split words that were added to their vocabulary.

    Args:
        name: Name as the user wrote it.
        source: Local folder or hub name that it stands for.

    Returns:
        A tokenizer of transformers.

    Raises:
        InputError: There is no tokenizer, or it cannot be read.
    """
    from transformers import AutoTokenizer

    tokenizer = _load(name, source, TEXT, "the tokenizer", AutoTokenizer.from_pretrained)
    folder = Path(source)
    used = [FAST] if (folder / FAST).is_file() else tokenizer.vocab_files_names.values()
    foreign = [found for file in used if (found := describe_foreign_content(folder / file))]
    if foreign:  # which a list of words, one a line, may be without an error
        raise InputError(f"{TEXT.key}: {name!r} cannot be loaded: {found}" for found in foreign)
    if tokenizer.is_fast:
        tokenizer.split_special_tokens = tokenizer.init_kwargs["split_special_tokens"] = True
    return tokenizer


def read_weights(name: str, source: str, kind: EncoderKind) -> Any:
    """Return an encoder with its weights, in fp32, after checking that they are complete and finite.

    Args:
        name: Name as the user wrote it.
        source: Local folder or hub name that it stands for.
        kind: Modality of the encoder.

    Returns:
        A model of transformers.

    Raises:
        InputError: Weights are missing, damaged, of another architecture, or not finite.
    """
    from transformers import AutoModel

    folder = Path(source)
    problems = check_weight_files(folder) if folder.is_dir() else []
    if not problems:
        load = functools.partial(
            AutoModel.from_pretrained, dtype=torch.float32, output_loading_info=True, ignore_mismatched_sizes=True
        )
        body, info = _load(name, source, kind, "the weights", load)
        problems = check_loaded(body, info) or check_finite(body) or check_values(body)  # what is missing has no values
    if problems:
        raise InputError(f"{kind.key}: {name!r} cannot be used: {problem}" for problem in problems)
    return body


def read_preprocessor(name: str, source: str, kind: EncoderKind) -> Any:
    """Return the preprocessor of an audio encoder.

    Args:
        name: Name as the user wrote it.
        source: Local folder or hub name that it stands for.
        kind: Modality of the encoder.

    Returns:
        A feature extractor of transformers; None if the encoder has none.

    Raises:
        InputError: It cannot be read.
    """
    from transformers import AutoFeatureExtractor

    folder = Path(source)
    if folder.is_dir() and not any((folder / file).is_file() for file in PREPROCESSORS):
        return None
    try:
        return _load(name, source, kind, PREPROCESSORS[0], AutoFeatureExtractor.from_pretrained)
    except InputError:
        if (folder / PREPROCESSORS[0]).is_file():
            raise
        return None  # some models have none; their config and weights were loaded before


def plain_tokenizer(tokenizer: Any) -> PlainTokenizer:
    """Return the token ids of texts by a tokenizer of transformers, without a cut.

    Args:
        tokenizer: Tokenizer of transformers.

    Returns:
        A tokenizer that reads special tokens in texts as ordinary text.
    """

    def encode_batch(texts: Any) -> list[list[int]]:
        ids: list[list[int]] = tokenizer(list(texts), truncation=False, padding=False, verbose=False)["input_ids"]
        return ids

    special = special_tokens(tokenizer)
    return PlainTokenizer.make(encode_batch, special, tokenizer.unk_token, splits=tokenizer.is_fast)


def special_tokens(tokenizer: Any) -> dict[str, int]:
    """Return the special tokens of a tokenizer: those with a role, and those that were added as special.

    Args:
        tokenizer: Tokenizer of transformers.

    Returns:
        Ids by spelling.
    """
    added = {str(token): number for number, token in tokenizer.added_tokens_decoder.items() if token.special}
    with_role = zip(map(str, tokenizer.all_special_tokens), tokenizer.all_special_ids, strict=True)
    return {**added, **{token: number for token, number in with_role if number is not None}}


def check_tokenizer(tokenizer: Any, plain: PlainTokenizer, embeddings: int | None) -> list[str]:
    """Return why a tokenizer of transformers cannot be used with an encoder, as `check_vocabulary`.

    Args:
        tokenizer: Tokenizer of transformers.
        plain: The same tokenizer as `plain_tokenizer` returns it.
        embeddings: Number of the encoder's embeddings; None if it is not known.

    Returns:
        A sentence per problem.
    """
    if not tokenizer.vocab_files_names:  # characters or bytes are its vocabulary
        return []
    names = sorted({FAST, *tokenizer.vocab_files_names.values()})
    return check_vocabulary(
        plain, tokenizer.get_vocab(), special_tokens(tokenizer),
        embeddings=embeddings, padding=tokenizer.pad_token_id, files=names,
    )  # fmt: skip


def check_coverage(tokenizer: Any, embeddings: int | None) -> list[str]:
    """Return a warning if a vocabulary is much smaller than the encoder's.

    Args:
        tokenizer: Tokenizer of transformers.
        embeddings: Number of the encoder's embeddings; None if it is not known.

    Returns:
        One warning, or none.
    """
    if embeddings is None or embeddings < MIN_EMBEDDINGS or len(tokenizer) >= MIN_COVERAGE * embeddings:
        return []
    return [f"the encoder has embeddings for {embeddings} tokens, but its tokenizer has only {len(tokenizer)}: its"
            " vocabulary may be cut off, or another encoder's"]  # fmt: skip


def count_embeddings(body: Any) -> int | None:
    """Return the number of tokens that a text encoder has embeddings for.

    Args:
        body: Model of transformers.

    Returns:
        The number; None if it has no table of embeddings.
    """
    try:
        table = body.get_input_embeddings()
    except NotImplementedError:
        return None
    return getattr(table, "num_embeddings", None)


def source_of(name: str) -> str:
    """Return what the name of an encoder stands for.

    Args:
        name: Local folder or hub name.

    Returns:
        The name, with `~` expanded.
    """
    return str(Path(name).expanduser()) if name.startswith("~") else name


def _load(name: str, source: str, kind: EncoderKind, part: str, loader: Callable[..., Any]) -> Any:
    """Call a loader of transformers; whatever it makes of a damaged or missing folder becomes an `InputError`."""
    if problem := _path_problem(source):
        raise InputError(f"{kind.key}: {name!r} cannot be loaded: {problem}{_advice(kind, is_local=False)}")
    is_local = Path(source).is_dir()
    with quiet_libraries():
        unreachable = None if is_local else hub_problem()
        try:
            with offline() if unreachable else contextlib.nullcontext():
                return loader(source, trust_remote_code=False)
        except MemoryError:
            raise
        except Exception as error:  # of transformers, tokenizers, safetensors, torch, sentencepiece and the hub
            reason = _explain(error, source, part) if is_local else _explain_hub(error, unreachable)
            raise InputError(
                f"{kind.key}: {name!r} cannot be loaded: {reason}{_advice(kind, is_local=is_local)}"
            ) from error


def _path_problem(source: str) -> str | None:
    """What is wrong with a name that can only be a path."""
    if Path(source).is_file():
        return "it is a file; name the folder that it lies in"
    if source.startswith(("/", ".")) or source.count("/") > 1 or "\\" in source:
        return None if Path(source).is_dir() else "there is no such folder"
    return None


def _advice(kind: EncoderKind, *, is_local: bool) -> str:
    if is_local:
        return ""
    return f"; use `{kind.option} embedded`, or name a local folder with {kind.contents}"


def _explain_hub(error: Exception, unreachable: str | None) -> str:
    if unreachable is not None:
        return f"it is no local folder, it was not downloaded before, and {unreachable}"
    return _explain_code(error) or first_line(error)


def _explain(error: Exception, source: str, part: str) -> str:
    """Why a local folder cannot be loaded."""
    folder = Path(source)
    if not (folder / "config.json").is_file():
        return "the folder holds no config.json"
    names = ["config.json"] if part == "config.json" else sorted(path.name for path in folder.iterdir())
    is_weights = part == "the weights"
    foreign = [
        found for file in names
        if (folder / file).is_file() and (Path(file).suffix in (".safetensors", ".bin")) == is_weights
        and (found := describe_foreign_content(folder / file))
    ]  # fmt: skip
    if foreign:
        return "; ".join(foreign)
    if is_weights and isinstance(error, pickle.UnpicklingError):
        return f"{PICKLED} holds objects that are no tensors, and is not opened, since these may run code: save its" \
               f" tensors as {SAFETENSORS}"  # fmt: skip
    return _explain_code(error) or f"{part} cannot be read ({first_line(error)})"


def _explain_code(error: Exception) -> str | None:
    if "trust_remote_code" in str(error) or "custom code" in str(error):
        return "it needs code of its own, which is never run here: use an encoder that transformers has built in"
    return None
