"""Decoding of small text files with an unknown encoding."""

from __future__ import annotations

import codecs
import re
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from charset_normalizer import CharsetMatch

UNSURE = "an encoding that cannot be determined reliably; save it as UTF-8"
BINARY = "binary data, not text"

_MARKS = (
    (codecs.BOM_UTF8, "utf-8"), (codecs.BOM_UTF32_LE, "utf-32-le"), (codecs.BOM_UTF32_BE, "utf-32-be"),
    (codecs.BOM_UTF16_LE, "utf-16-le"), (codecs.BOM_UTF16_BE, "utf-16-be"),
)  # fmt: skip

# encodings of several bytes a character, the script that its letters are of, and the share of them that must be
_HAN, _KANA, _HANGUL = "[\u3400-\u9fff]", "[\u3040-\u30ff]", "[\uac00-\ud7a3]"
_MULTIBYTE = {"gb18030": (_HAN, 0.8), "big5": (_HAN, 0.8), "cp932": (_KANA, 0.2), "euc_jp": (_KANA, 0.2),
              "euc_kr": (_HANGUL, 0.8)}  # fmt: skip
_LATIN = frozenset({"cp1250", "cp1252", "cp1254", "cp1257"})  # code pages that differ in a few letters only
_CANDIDATES = [*_MULTIBYTE, *sorted(_LATIN), "cp1251", "koi8_r", "cp1253", "cp1255", "cp1256", "cp874"]

_MIN_LETTERS = 10  # beyond ASCII, of a text in an encoding of several bytes
_MIN_COHERENCE = 0.2  # of a text in an encoding of one byte with the letter frequencies of a language
_MAX_CHAOS = 0.05
_CHAOS_MARGIN, _COHERENCE_MARGIN = 0.05, 0.1  # by which the best reading must be ahead of every other
_HALF_WIDTH = re.compile("[\uff61-\uff9f]")
_SIGN_IN_WORD = re.compile(r"(?<=[^\W\d_])[¡-´¶-¿×÷‚ƒ„†‡ˆ‰‹˜]|[¡-´¶-¿×÷](?=[^\W\d_])")
_CONTROLS = re.compile("[\x00-\x08\x0e-\x1f]")


class UndecodableError(ValueError):
    """Bytes whose encoding is unknown or ambiguous.

    Args:
        reason: Cause, equal for all files with the same fault.
    """

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


def decode_text(data: bytes) -> str:
    """Return the text of a file.

    A byte order mark decides; else UTF-8 where it is valid, UTF-16 where every other byte is zero, and otherwise what
    charset-normalizer detects, if no other reading comes near it.

    Args:
        data: The whole file.

    Returns:
        Its text, without a byte order mark.

    Raises:
        UndecodableError: The bytes are no text, or several encodings are as likely.
    """
    for mark, encoding in _MARKS:
        if data.startswith(mark):
            return _checked(_decode(data[len(mark) :], encoding).rstrip("\x00"))
    if data.endswith(b"\x00\x00\x00\x00"):  # a file that was allocated in advance
        data = data.rstrip(b"\x00")
    if b"\x00" in data:
        return _checked(_decode(data, _wide_encoding(data)))
    try:
        return _checked(data.decode("utf-8"))
    except UnicodeDecodeError:
        return _checked(_detect(data))


def _wide_encoding(data: bytes) -> str:
    """Return the byte order of UTF-16 by the positions of the zero bytes of its ASCII characters."""
    n_even_zeros, n_odd_zeros = data[::2].count(0), data[1::2].count(0)
    if max(n_even_zeros, n_odd_zeros) < 0.3 * len(data) / 2 or min(n_even_zeros, n_odd_zeros) > 0.1 * max(
        n_even_zeros, n_odd_zeros
    ):
        raise UndecodableError(BINARY)
    return "utf-16-be" if n_even_zeros > n_odd_zeros else "utf-16-le"


def _decode(data: bytes, encoding: str) -> str:
    try:
        return data.decode(encoding)
    except UnicodeDecodeError as error:
        raise UndecodableError(f"{encoding.upper()} that is damaged or cut off") from error


def _checked(text: str) -> str:
    if len(_CONTROLS.findall(text)) > 0.01 * len(text):
        raise UndecodableError(BINARY)
    return _CONTROLS.sub("", text).replace("\ufeff", "")


def _detect(data: bytes) -> str:
    from charset_normalizer import from_bytes

    matches = list(from_bytes(data, cp_isolation=_CANDIDATES))
    if not matches or not _is_plausible(matches[0]):
        raise UndecodableError(UNSURE)
    best = matches[0]
    if any(_is_almost_as_likely(match, best) for match in matches[1:]):
        raise UndecodableError(UNSURE)
    return str(best)


def _is_plausible(match: CharsetMatch) -> bool:
    if match.chaos > _MAX_CHAOS:
        return False
    return _is_of_its_script(match) if match.encoding in _MULTIBYTE else (
        match.coherence >= _MIN_COHERENCE and not _SIGN_IN_WORD.search(str(match))
    )  # fmt: skip


def _is_of_its_script(match: CharsetMatch) -> bool:
    """Return whether the non-ASCII letters of a text belong to the script of its encoding."""
    script, share = _MULTIBYTE[match.encoding]
    letters = "".join(letter for letter in str(match) if not letter.isascii() and letter.isalpha())
    n_in_script = len(re.findall(script, letters))
    return len(letters) >= _MIN_LETTERS and n_in_script >= share * len(letters) and not _HALF_WIDTH.search(letters)


def _is_almost_as_likely(match: CharsetMatch, best: CharsetMatch) -> bool:
    """Return whether another encoding is almost as likely as the best one."""
    if str(match) == str(best):
        return False
    if best.encoding in _MULTIBYTE:
        if match.encoding in _MULTIBYTE and not _is_of_its_script(match):
            return False
        if match.encoding not in _MULTIBYTE and match.coherence < _MIN_COHERENCE:
            return False
    # code pages of one script differ in a few letters, which chaos does not see
    by_chaos = match.chaos - best.chaos >= _CHAOS_MARGIN and not {match.encoding, best.encoding} <= _LATIN
    return not (by_chaos or best.coherence - match.coherence >= _COHERENCE_MARGIN)
