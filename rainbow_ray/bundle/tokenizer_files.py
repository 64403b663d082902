"""Tokenizers as folders of models keep them: the same files whichever process wrote them.

A fast tokenizer remembers the truncation and padding of its last call, or those that the encoder's author saved
(MiniLM: 128 tokens), and writes them into `tokenizer.json`. Here the files always cut at the model's own limit, and pad
nothing.
"""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

from rainbow_ray.modalities.text.encoder import load_tokenizer

TOKENIZER = "tokenizer.json"


def save_tokenizer(name: str, folder: Path, max_tokens: int) -> None:
    """Write all files of a tokenizer, as transformers reads them.

    Args:
        name: Where `load_tokenizer` finds it.
        folder: Where the files go.
        max_tokens: Tokens of the longest text that the model reads; it becomes `model_max_length`.
    """
    tokenizer = copy.deepcopy(load_tokenizer(name))  # the cached one serves others
    tokenizer.model_max_length = max_tokens
    if hasattr(tokenizer, "backend_tokenizer"):
        _set_limit(tokenizer.backend_tokenizer, max_tokens)
    tokenizer.save_pretrained(folder)


def save_tokenizer_json(name: str, folder: Path, max_tokens: int) -> None:
    """Write `tokenizer.json` alone, as the library `tokenizers` reads it. Arguments as in `save_tokenizer`."""
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_str(load_tokenizer(name).backend_tokenizer.to_str())
    _set_limit(tokenizer, max_tokens)
    tokenizer.save(str(folder / TOKENIZER))


def _set_limit(tokenizer: Any, max_tokens: int) -> None:
    tokenizer.no_padding()
    tokenizer.enable_truncation(max_tokens)
