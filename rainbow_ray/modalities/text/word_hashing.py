"""The words of a text, and the bucket that each is hashed to. Needs no torch, as a model may be used without it."""

from __future__ import annotations

import re
import zlib

BUCKETS = 8192  # 0 is padding
WORD = re.compile(r"\w\w+")


def word_buckets(text: str) -> list[int]:
    """The sorted buckets (1 to 8191) of the words of a text, each once. crc32 is the same everywhere."""
    return sorted({1 + zlib.crc32(word.encode()) % (BUCKETS - 1) for word in WORD.findall(text.lower())})
