"""Loading and validation of pretrained encoders: configs, tokenizers and weights.

If files are missing, transformers initializes weights at random and creates tokenizers with an empty vocabulary, and
reports it in its log at most. This module raises an error instead. The hub is contacted once; if it cannot be reached,
only files in the local cache are used.
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
from rainbow_ray.modalities.plain_tokenizer import PlainTokenizer, check_vocabulary
from rainbow_ray.modalities.weight_checks import (
    PICKLED,
    SAFETENSORS,
    check_finite,
    check_loaded,
    check_values,
    check_weight_files,
)
from rainbow_ray.utils.errors import InputError, first_line
from rainbow_ray.utils.io import describe_foreign_content

FAST = "tokenizer.json"  # contains the complete tokenizer; transformers then reads no other file
PREPROCESSORS = ("preprocessor_config.json", "processor_config.json")
MIN_EMBEDDINGS = 1000  # smaller encoders are not checked for the coverage of their vocabulary
MIN_COVERAGE = 0.8  # fraction of the embeddings; a smaller vocabulary may be truncated


@dataclass(frozen=True)
class EncoderKind:
    """Names of an encoder's settings and files in messages, by modality.

    Attributes:
        key: Config key of the encoder's name.
        option: Command-line flag of the encoder's name.
        contents: Files that a local folder must contain.
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
        source: Local folder or hub name.
        kind: Modality of the encoder.

    Returns:
        A config of transformers.

    Raises:
        InputError: There is no config, or it cannot be read.
    """
    from transformers import AutoConfig

    return _load(name, source, kind, "config.json", AutoConfig.from_pretrained)


def read_tokenizer(name: str, source: str) -> Any:
    """Return the tokenizer of a text encoder; a fast one is set to read special tokens in texts as ordinary text.

    The setting is saved with the tokenizer and does not affect other texts. Slow tokenizers keep their default, because
    they would also split words that were added to their vocabulary.

    Args:
        name: Name as the user wrote it.
        source: Local folder or hub name.

    Returns:
        A tokenizer of transformers.

    Raises:
        InputError: There is no tokenizer, or it cannot be read.
    """
    from transformers import AutoTokenizer

    tokenizer = _load(name, source, TEXT, "the tokenizer", AutoTokenizer.from_pretrained)
    folder = Path(source)
    used = [FAST] if (folder / FAST).is_file() else tokenizer.vocab_files_names.values()
    foreign = [description for file in used if (description := describe_foreign_content(folder / file))]
    if foreign:  # transformers may read such a file as a list of words without raising an error
        raise InputError(f"{TEXT.key}: {name!r} cannot be loaded: {description}" for description in foreign)
    if tokenizer.is_fast:
        tokenizer.split_special_tokens = tokenizer.init_kwargs["split_special_tokens"] = True
    return tokenizer


def read_weights(name: str, source: str, kind: EncoderKind) -> Any:
    """Return an encoder with its weights, in fp32, after checking that they are complete and finite.

    Args:
        name: Name as the user wrote it.
        source: Local folder or hub name.
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
        # Missing weights are initialized at random: whoever loads an encoder must not thereby get other random numbers
        # than whoever has it cached. Their values are not checked.
        with torch.random.fork_rng(devices=[]):
            body, info = _load(name, source, kind, "the weights", load)
        problems = check_loaded(body, info) or check_finite(body) or check_values(body)
    if problems:
        raise InputError(f"{kind.key}: {name!r} cannot be used: {problem}" for problem in problems)
    return body


def read_preprocessor(name: str, source: str, kind: EncoderKind) -> Any:
    """Return the preprocessor of an audio encoder.

    Args:
        name: Name as the user wrote it.
        source: Local folder or hub name.
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
        return None  # some models have no preprocessor; their config and weights were loaded before


def plain_tokenizer(tokenizer: Any) -> PlainTokenizer:
    """Wrap a tokenizer of transformers as a `PlainTokenizer`, without truncation.

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
    """Check whether a tokenizer of transformers can be used with an encoder, by `check_vocabulary`.

    Args:
        tokenizer: Tokenizer of transformers.
        plain: The same tokenizer as `plain_tokenizer` returns it.
        embeddings: Number of the encoder's embeddings; None if it is not known.

    Returns:
        A sentence per problem.
    """
    if not tokenizer.vocab_files_names:  # its vocabulary is characters or bytes
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
            " vocabulary may be truncated, or belong to another encoder"]  # fmt: skip


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
    """Resolve the name of an encoder.

    Args:
        name: Local folder or hub name.

    Returns:
        The name, with `~` expanded.
    """
    return str(Path(name).expanduser()) if name.startswith("~") else name


def _load(name: str, source: str, kind: EncoderKind, part: str, loader: Callable[..., Any]) -> Any:
    """Call a loader of transformers, and convert its errors about damaged or missing folders to `InputError`."""
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
        except Exception as error:  # transformers, tokenizers, safetensors, sentencepiece and the hub raise many types
            reason = _explain(error, source, part) if is_local else _explain_hub(error, unreachable)
            raise InputError(
                f"{kind.key}: {name!r} cannot be loaded: {reason}{_advice(kind, is_local=is_local)}"
            ) from error


def _path_problem(source: str) -> str | None:
    """Return a problem with a name that can only be a path."""
    if Path(source).is_file():
        return "it is a file; name the folder that contains it"
    if source.startswith(("/", ".")) or source.count("/") > 1 or "\\" in source:
        return None if Path(source).is_dir() else "there is no such folder"
    return None


def _advice(kind: EncoderKind, *, is_local: bool) -> str:
    if is_local:
        return ""
    return f"; use `{kind.option} embedded`, or name a local folder with {kind.contents}"


def _explain_hub(error: Exception, unreachable: str | None) -> str:
    if unreachable is not None:
        return f"it is not a local folder, it was not downloaded before, and {unreachable}"
    return _explain_code(error) or first_line(error)


def _explain(error: Exception, source: str, part: str) -> str:
    """Explain why a local folder cannot be loaded."""
    folder = Path(source)
    if not (folder / "config.json").is_file():
        return "the folder has no config.json"
    names = ["config.json"] if part == "config.json" else sorted(path.name for path in folder.iterdir())
    is_weights = part == "the weights"
    foreign = [
        description for file in names
        if (folder / file).is_file() and (Path(file).suffix in (".safetensors", ".bin")) == is_weights
        and (description := describe_foreign_content(folder / file))
    ]  # fmt: skip
    if foreign:
        return "; ".join(foreign)
    if is_weights and isinstance(error, pickle.UnpicklingError):
        return f"{PICKLED} contains objects other than tensors, and is not loaded, since they may run code: save its" \
               f" tensors as {SAFETENSORS}"  # fmt: skip
    return _explain_code(error) or f"{part} cannot be read ({first_line(error)})"


def _explain_code(error: Exception) -> str | None:
    if "trust_remote_code" in str(error) or "custom code" in str(error):
        return "it needs custom code, which is never run here: use an encoder that transformers has built in"
    return None
