"""Hashing of words to buckets. It needs no torch, because ONNX models are used without it."""

from __future__ import annotations

import re
import zlib

BUCKETS = 8192  # including 0, which is padding
WORD = re.compile(r"\w\w+")


def word_buckets(text: str) -> list[int]:
    """Return the buckets of the words of a text.

    Args:
        text: Any text. Words are runs of at least two letters or digits, in lower case.

    Returns:
        Sorted buckets from 1 to `BUCKETS - 1`, each once, by CRC-32, which is the same on every machine.
    """
    return sorted({1 + zlib.crc32(word.encode()) % (BUCKETS - 1) for word in WORD.findall(text.lower())})
