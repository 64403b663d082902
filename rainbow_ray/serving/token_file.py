"""The file of the token that requests must send."""

from __future__ import annotations

import os
import secrets
from dataclasses import dataclass
from pathlib import Path

from rainbow_ray.utils.errors import InputError

TOKEN_FILE = Path("~/.config/rainbow_ray/serve_token")
MIN_TOKEN_LENGTH = 16  # characters
TOKEN_BYTES = 32  # of a new token


@dataclass(frozen=True)
class Token:
    """A token and its file.

    Attributes:
        value: The token.
        file: File that contains it.
    """

    value: str
    file: Path


def read_or_create_token(file: Path) -> Token:
    """Return the token of a file. A file that does not exist is created with a random token, readable by its owner.

    Args:
        file: The file.

    Returns:
        The token.

    Raises:
        InputError: The file cannot be read or created, others may read it, or its token is too short.
    """
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        if not file.exists():
            with os.fdopen(os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as stream:
                stream.write(secrets.token_urlsafe(TOKEN_BYTES) + "\n")
        if file.stat().st_mode & 0o077:
            raise InputError(f"--token-file {file}: other users may read it; run chmod 600 {file}")
        value = file.read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"--token-file {file}: it cannot be read or created ({error})") from error
    if len(value) < MIN_TOKEN_LENGTH:
        raise InputError(f"--token-file {file}: a token must have at least {MIN_TOKEN_LENGTH} characters")
    return Token(value, file)
