"""Hashes of content, for keys of caches and for checks of files."""

from __future__ import annotations

import hashlib
from pathlib import Path

KEY_LENGTH = 32  # hexadecimal digits


def hash_parts(*parts: object) -> str:
    """Return a key of a cache: a hash of everything that the cached value depends on.

    Args:
        parts: Bytes, or objects whose `repr` identifies them.

    Returns:
        32 hexadecimal digits of SHA-256. Each part ends with a null byte.
    """
    digest = hashlib.sha256()
    for part in parts:
        digest.update(part if isinstance(part, bytes) else repr(part).encode())
        digest.update(b"\0")
    return digest.hexdigest()[:KEY_LENGTH]


def file_sha256(path: Path) -> str:
    """Return the SHA-256 of a file's content.

    Args:
        path: The file.

    Returns:
        64 hexadecimal digits.
    """
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
