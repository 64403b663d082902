"""Save tokenizers so that their files do not depend on the process that writes them.

A fast tokenizer stores the truncation and padding of its last call, or those of the encoder's author (MiniLM: 128
tokens), in `tokenizer.json`. The files that are written here truncate at the limit of the model and do not pad.
"""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

from rainbow_ray.modalities.text.tokenize import load_tokenizer

TOKENIZER = "tokenizer.json"


def save_tokenizer(name: str, folder: Path, max_tokens: int) -> None:
    """Write all files of a tokenizer, as transformers reads them.

    Args:
        name: Name or folder that `load_tokenizer` takes.
        folder: Existing folder to write to.
        max_tokens: Tokens of the longest text that the model reads; it becomes `model_max_length`.
    """
    tokenizer = copy.deepcopy(load_tokenizer(name))  # `load_tokenizer` caches it for other callers
    tokenizer.model_max_length = max_tokens
    if hasattr(tokenizer, "backend_tokenizer"):
        _set_limit(tokenizer.backend_tokenizer, max_tokens)
    tokenizer.save_pretrained(folder)


def save_tokenizer_json(name: str, folder: Path, max_tokens: int) -> None:
    """Write `tokenizer.json` alone, as the library `tokenizers` reads it.

    Args:
        name: Name or folder that `load_tokenizer` takes.
        folder: Existing folder to write to.
        max_tokens: Tokens of the longest text that the model reads.
    """
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_str(load_tokenizer(name).backend_tokenizer.to_str())
    _set_limit(tokenizer, max_tokens)
    tokenizer.save(str(folder / TOKENIZER))


def _set_limit(tokenizer: Any, max_tokens: int) -> None:
    """Truncate at the limit, and do not pad."""
    tokenizer.no_padding()
    tokenizer.enable_truncation(max_tokens)
