"""Suppression of what libmpg123 prints on standard error."""

from __future__ import annotations

import contextlib

from rainbow_ray.utils.streams import hold_back_stderr


def hold_back_decoder_messages(is_needed: bool = True) -> contextlib.AbstractContextManager[None]:
    """Suppress the messages of libmpg123, which name no file; failures are reported as `MediaError`.

    Args:
        is_needed: Whether to suppress them; False does nothing.

    Returns:
        A context manager. Lines of other threads are written at its end.
    """
    return hold_back_stderr(_is_of_decoder) if is_needed else contextlib.nullcontext()


def _is_of_decoder(line: bytes) -> bool:
    return not line.strip() or b"mpg123" in line or line.startswith((b"Warning: ", b"Note: ", b"error: "))
