"""Token ids of texts: special tokens that stand in a text are ordinary text, and a vocabulary is checked before use.

Needs neither torch nor transformers: bundles, training and the ONNX folder go through the same two entry points,
`PlainTokenizer` and `check_vocabulary`.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field

EncodeBatch = Callable[[Sequence[str]], list[list[int]]]

PROBE = "a"  # any text: shows which special tokens a tokenizer puts around one
MARKERS = "▁Ġ#@</w>"  # what tokenizers write before or after a word to say where it begins or ends
SAMPLED = 300  # tokens of a vocabulary that are spelled out and read again
LONG = 3  # characters of a token that has to be put together from smaller ones
MIN_LONG = 50  # tokens of that length, below which nothing can be said about them


@dataclass(frozen=True)
class PlainTokenizer:
    """Token ids of texts in which the spelling of a special token has no meaning of its own.

    A tokenizer puts its special tokens (`[CLS]`, `</s>`) around a text. Where a text holds such a spelling itself, most
    tokenizers would give the special token's id, which lets a text end itself, or hide its words behind padding. Some
    do so even when told otherwise: in a Unigram vocabulary `<s>` is a piece like any other, and normalization may bring
    forth the spelling. Ids of special tokens between those that were put around are therefore replaced by the ids of
    the same spelling, broken by a space.

    Attributes:
        encode_batch: Texts to token ids, special tokens put around each.
        front: How many special tokens are put before a text.
        back: How many are put behind it.
        replacements: For the id of each special token, the ids of its spelling as ordinary text.
        broken: Spellings that are broken in a text before it is read, the longest first: that of the unknown token,
            whose id also stands for unknown words, and all of a tokenizer that always looks for them.
    """

    encode_batch: EncodeBatch
    front: int
    back: int
    replacements: Mapping[int, tuple[int, ...]] = field(default_factory=dict)
    broken: tuple[str, ...] = ()

    @classmethod
    def make(
        cls, encode_batch: EncodeBatch, special: Mapping[str, int], unknown: str | None = None, *, splits: bool = True
    ) -> PlainTokenizer:
        """Return a plain tokenizer, after observing how a tokenizer reads its own special tokens.

        Args:
            encode_batch: Texts to token ids, with special tokens around each, never cut or padded.
            special: Ids of the special tokens by their spelling.
            unknown: The unknown token, which stands for words that the vocabulary lacks.
            splits: Whether the tokenizer itself reads special tokens in texts as text, where it can.

        Returns:
            The tokenizer.
        """
        ids = {number for token, number in special.items() if token != unknown}
        probe = encode_batch([PROBE])[0]
        front = _count_leading(probe, ids)
        back = _count_leading(probe[front:][::-1], ids)
        plain = cls(encode_batch, front, back)
        spelled = {token: number for token, number in special.items() if token != unknown and len(token) > 1}
        rows = plain.inner([_broken(token) for token in spelled])
        replacements = {
            number: tuple(i for i in row if i not in ids) for number, row in zip(spelled.values(), rows, strict=True)
        }
        broken = [token for token in special if len(token) > 1] if not splits else []
        if (
            unknown is not None
            and unknown in special
            and len(unknown) > 1
            and special[unknown] in plain.inner([unknown])[0]
        ):
            broken.append(unknown)
        return cls(encode_batch, front, back, replacements, tuple(sorted(set(broken), key=len, reverse=True)))

    def __call__(self, texts: Sequence[str]) -> list[list[int]]:
        """Token ids of each text, with the special tokens that the tokenizer puts around it."""
        if not texts:
            return []
        for token in self.broken:
            texts = [text.replace(token, _broken(token)) for text in texts]
        return [self._replace(row) for row in self.encode_batch(texts)]

    def inner(self, texts: Sequence[str]) -> list[list[int]]:
        """Return token ids as the tokenizer gives them, without the special tokens around each text.

        Args:
            texts: Texts.

        Returns:
            Token ids of each text.
        """
        return [row[self.front : len(row) - self.back] for row in self.encode_batch(texts)] if texts else []

    def _replace(self, row: list[int]) -> list[int]:
        stop = len(row) - self.back
        inner = row[self.front : stop]
        if self.replacements.keys().isdisjoint(inner):
            return row
        plain = [number for token in inner for number in self.replacements.get(token, (token,))]
        return [*row[: self.front], *plain, *row[stop:]]


def check_vocabulary(
    tokenizer: PlainTokenizer,
    vocabulary: Mapping[str, int],
    special: Mapping[str, int],
    *,
    embeddings: int | None,
    padding: int | None = None,
    files: Collection[str] = (),
) -> list[str]:
    """What keeps a tokenizer from reading texts for an encoder.

    Libraries make an empty tokenizer where the files of one are missing, and every word is then unknown.

    Args:
        tokenizer: The tokenizer.
        vocabulary: Ids of all its tokens by their spelling.
        special: Those that are special.
        embeddings: How many tokens the encoder has embeddings for; None where that is not known.
        padding: Id that fills up short rows; None where there is no such token.
        files: Names of the files that hold a vocabulary of this kind, for the message.

    Returns:
        One sentence for each problem, without a subject's name; empty for a tokenizer that can be used.
    """
    ordinary = {token: number for token, number in vocabulary.items() if token not in special}
    words = {token: token.strip(MARKERS) for token in ordinary}
    words = {token: word for token, word in words.items() if word.isalnum()}
    named = f": {' or '.join(files)} is missing or damaged" if files else ""
    if not words:
        return [f"its tokenizer has no vocabulary, so that every word would be unknown{named}"]
    problems = []
    if not _reads_own(tokenizer, list(words.values()), special):
        problems.append(f"its tokenizer cannot read the words of its own vocabulary{named}")
    long = [word for word in words.values() if len(word) >= LONG]
    if not problems and len(long) >= MIN_LONG and not _reads_own(tokenizer, long, special):
        problems.append("its tokenizer reads words letter by letter although its vocabulary holds them: its merges are"
                        f" missing{named}")  # fmt: skip
    around = tokenizer.encode_batch([PROBE])[0]
    reachable = {*ordinary.values(), *around, *([padding] if padding is not None else [])}
    if embeddings is not None and max(reachable) >= embeddings:
        beyond = sum(number >= embeddings for number in reachable)
        problems.append(f"its tokenizer is not the encoder's: it has {len(vocabulary)} tokens, {beyond} of them beyond"
                        f" the {embeddings} that the encoder has embeddings for")  # fmt: skip
    return problems


def _reads_own(tokenizer: PlainTokenizer, words: Sequence[str], special: Mapping[str, int]) -> bool:
    """Whether any of some words of a vocabulary is read as one token that is known."""
    unknown = set(special.values())
    sample = words[:: max(1, len(words) // SAMPLED)]
    return any(len(row) == 1 and row[0] not in unknown for row in tokenizer.inner(sample))


def _count_leading(row: Sequence[int], ids: Collection[int]) -> int:
    return next((place for place, number in enumerate(row) if number not in ids), len(row))


def _broken(token: str) -> str:
    """A spelling that no tokenizer takes for the special token, and a reader for the same."""
    return f"{token[0]} {token[1:]}"
