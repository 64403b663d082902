"""Explanations of errors that pyarrow, fsspec and remote back ends raise when a table is read, with advice."""

from __future__ import annotations

import codecs
import re

from pyarrow.fs import FileSystem

N_MAGIC_BYTES = 64
SIGNATURES = (
    (b"PARE", "an encrypted parquet file; write it without encryption"),
    (b"ARROW1", "an Arrow (Feather) file; write it as parquet"),
    (b"ORC", "an ORC file; write it as parquet"),
    (b"\x1f\x8b", "a gzip file; unpack it"),
    (b"PK\x03\x04", "a zip file; unpack it"),
    (b"(\xb5/\xfd", "a zstd file; unpack it"),
    (b"version https://git-lfs", "a Git LFS pointer, not the file itself; run `git lfs pull`"),
    (b"<", "a web page (HTML or XML), not the file itself; name the address that downloads the file"),
    (b"\x00\x05\x16\x07", "an AppleDouble file, which macOS writes next to a file; name the file itself"),
)
UNREACHABLE = ("connect", "gaierror", "timeout", "timedout", "offlinemode", "localentrynotfound", "maxretry")
UNREACHABLE_TEXT = ("name or service not known", "temporary failure in name resolution", "network is unreachable",
                    "cannot connect", "connection error", "offline mode", "failed to resolve")  # fmt: skip
DENIED = ("nocredentials", "credential", "gatedrepo", "unauthorized", "forbidden", "accessdenied")
DENIED_TEXT = ("credential", "access denied", "forbidden", "unauthorized", "anonymous caller")
STATUS = re.compile(r"^\W*(\d{3})\b|\b(?:status|error|code|http)\W{1,3}(\d{3})\b(?!\.)", re.IGNORECASE)
MEMORY = re.compile(r"(malloc|realloc) of size (\d+) failed")


def describe_file_type(filesystem: FileSystem, path: str) -> str | None:
    """Guess the type of a file from its first bytes.

    Args:
        filesystem: File system of the file.
        path: Path on that file system.

    Returns:
        A description with advice, or None where the bytes are not conclusive.
    """
    try:
        with filesystem.open_input_stream(path) as file:
            start = bytes(file.read(N_MAGIC_BYTES))
    except Exception:
        return None
    text = start.removeprefix(b"\xef\xbb\xbf")
    for signature, description in SIGNATURES:
        if text.lstrip().startswith(signature):
            return description
    if text and not start.startswith(b"PAR1") and _is_text(text):
        return "a text file (CSV or JSON, perhaps); write it as parquet"
    return None


def explain_read_error(error: BaseException, *, remote: bool) -> str:
    """Explain an error of pyarrow, fsspec or a remote back end, with advice.

    Args:
        error: The error that was raised while a table was opened or read.
        remote: Whether the table is at a URL.

    Returns:
        A sentence without a final period.
    """
    if isinstance(error, FileNotFoundError) and error.__cause__ is not None:
        error = error.__cause__  # fsspec raises FileNotFoundError for any HTTP error
    text, names = _message(error), _class_names(error)
    lower = text.lower()
    if "decrypt" in lower or "encrypted" in lower:
        return f"it is encrypted ({text}); write it without encryption"
    if MEMORY.search(text):
        return f"it is damaged, or larger than memory ({text}); export it again in smaller row groups"
    if remote:
        return _explain_remote_error(error, text, names)
    if isinstance(error, FileNotFoundError):
        return f"no such file ({text})"
    if isinstance(error, PermissionError):
        return "permission is denied"
    if isinstance(error, UnicodeError):
        return "its name is not UTF-8; rename it"
    if isinstance(error, OSError) and error.errno is not None:  # the operating system failed, not the content
        return text
    return f"{text}; export it again"


def _explain_remote_error(error: BaseException, text: str, names: str) -> str:
    """Explain an error of a remote back end by its classes and its message."""
    lower, status = text.lower(), _http_status(error, text)
    if isinstance(error, ImportError):
        return f"a package that this kind of URL needs is missing ({text})"
    if any(word in names for word in UNREACHABLE) or any(word in lower for word in UNREACHABLE_TEXT):
        return f"the server cannot be reached ({text}); check the network, or name a local copy"
    if isinstance(error, FileNotFoundError) or status == 404:
        return f"no such file ({text})"
    denied = isinstance(error, PermissionError) or any(word in names for word in DENIED)
    if denied or status in (401, 403) or any(word in lower for word in DENIED_TEXT):
        return f"access is denied ({text}); set the credentials of its file system in the environment"
    if status is not None and status >= 500:
        return f"the server answered with an error ({text}); try again later, or name a local copy"
    if "range" in lower:
        return f"the server does not send parts of files ({text}); prefix the URL with simplecache::"
    return f"{text}; try again, or name a local copy"


def _http_status(error: BaseException, text: str) -> int | None:
    """Return the HTTP status: an attribute of errors of aiohttp, httpx and requests, or a number in the message.

    Other numbers in the message, such as ports in addresses, do not count.
    """
    status = getattr(error, "status", None) or getattr(getattr(error, "response", None), "status_code", None)
    if isinstance(status, int):
        return status
    match = STATUS.search(text)
    return int(match[1] or match[2]) if match is not None else None


def _message(error: BaseException) -> str:
    """Return the message of an error on one line, at most 200 characters of it."""
    text = " ".join((getattr(error, "strerror", None) or str(error)).split())
    return (text or type(error).__name__)[:200]


def _class_names(error: BaseException) -> str:
    """Return the class names of an error and of its causes, in lower case."""
    names: list[str] = []
    current: BaseException | None = error
    while current is not None and len(names) < 40:
        names += [kind.__name__.lower() for kind in type(current).__mro__]
        current = current.__cause__ or current.__context__
    return " ".join(names)


def _is_text(start: bytes) -> bool:
    """Return whether bytes are UTF-8 text; the last character may be incomplete."""
    try:
        decoded = codecs.getincrementaldecoder("utf-8")().decode(start)
    except UnicodeDecodeError:
        return False
    return all(character.isprintable() or character in "\r\n\t" for character in decoded)
