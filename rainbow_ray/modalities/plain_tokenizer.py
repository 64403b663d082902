"""Tokenization that reads special tokens in texts as ordinary text, and checks of a tokenizer's vocabulary.

Needs neither torch nor transformers: training, bundles and ONNX bundles all use `PlainTokenizer` and
`check_vocabulary`.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field

EncodeBatch = Callable[[Sequence[str]], list[list[int]]]

PROBE = "a"  # any text: shows which special tokens a tokenizer adds to it
MARKERS = "▁Ġ#@</w>"  # characters with which tokenizers mark the start or the end of a word
N_SAMPLED_WORDS = 300  # words of a vocabulary that are tokenized to test it
MIN_LONG_CHARACTERS = 3  # length of a token that must be merged from shorter ones
MIN_LONG_WORDS = 50  # with fewer long words, merges are not tested


@dataclass(frozen=True)
class PlainTokenizer:
    """A tokenizer that reads the spelling of a special token in a text as ordinary text.

    A tokenizer adds special tokens (`[CLS]`, `</s>`) before and after a text. Where the text itself contains such a
    spelling, most tokenizers return the id of the special token, so that a text could end itself or mask its words as
    padding. Some do so even with special tokens disabled: in a Unigram vocabulary `<s>` is an ordinary piece, and
    normalization may produce the spelling. Therefore ids of special tokens inside the text are replaced by the ids of
    the spelling with a space inserted.

    Attributes:
        encode_batch: Function from texts to token ids with special tokens.
        front: Number of special tokens before a text.
        back: Number of special tokens after a text.
        replacements: Token ids of the spelling as ordinary text, by the id of the special token.
        broken: Spellings into which a space is inserted before tokenization, longest first: the unknown token, whose id
            also stands for unknown words, and all special tokens of a tokenizer that cannot disable them.
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
        """Return a plain tokenizer, after testing how a tokenizer reads its own special tokens.

        Args:
            encode_batch: Function from texts to token ids with special tokens, without truncation or padding.
            special: Ids of the special tokens by their spelling.
            unknown: The unknown token, which stands for words outside of the vocabulary.
            splits: Whether the tokenizer is set to read special tokens in texts as ordinary text.

        Returns:
            The tokenizer.
        """
        ids = {number for token, number in special.items() if token != unknown}
        probe = encode_batch([PROBE])[0]
        front = _count_leading(probe, ids)
        back = _count_leading(probe[front:][::-1], ids)
        plain = cls(encode_batch, front, back)
        spelled = {token: number for token, number in special.items() if token != unknown and len(token) > 1}
        rows = plain.inner([_with_space(token) for token in spelled])
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
        """Return the token ids of each text, with the special tokens before and after it."""
        if not texts:
            return []
        for token in self.broken:
            texts = [text.replace(token, _with_space(token)) for text in texts]
        return [self._replace(row) for row in self.encode_batch(texts)]

    def inner(self, texts: Sequence[str]) -> list[list[int]]:
        """Return the unmodified token ids of each text, without the special tokens before and after it.

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
    """Check whether a tokenizer can be used with an encoder.

    Libraries create an empty tokenizer if its files are missing, and every word is then unknown.

    Args:
        tokenizer: The tokenizer.
        vocabulary: Ids of all its tokens by their spelling.
        special: Ids of its special tokens by their spelling.
        embeddings: Number of the encoder's token embeddings; None if it is not known.
        padding: Id of the padding token; None if there is none.
        files: Names of the files with a vocabulary of this kind, for the message.

    Returns:
        A message for each problem; empty if the tokenizer can be used.
    """
    ordinary = {token: number for token, number in vocabulary.items() if token not in special}
    words = {token: token.strip(MARKERS) for token in ordinary}
    words = {token: word for token, word in words.items() if word.isalnum()}
    missing_files = f": {' or '.join(files)} is missing or damaged" if files else ""
    if not words:
        return [f"its tokenizer has no vocabulary, so every word would be unknown{missing_files}"]
    problems = []
    if not _reads_words(tokenizer, list(words.values()), special):
        problems.append(f"its tokenizer cannot read the words of its own vocabulary{missing_files}")
    long_words = [word for word in words.values() if len(word) >= MIN_LONG_CHARACTERS]
    if not problems and len(long_words) >= MIN_LONG_WORDS and not _reads_words(tokenizer, long_words, special):
        problems.append("its tokenizer reads words of its vocabulary letter by letter: its merges are"
                        f" missing{missing_files}")  # fmt: skip
    special_ids = tokenizer.encode_batch([PROBE])[0]
    reachable = {*ordinary.values(), *special_ids, *([padding] if padding is not None else [])}
    if embeddings is not None and max(reachable) >= embeddings:
        n_beyond = sum(number >= embeddings for number in reachable)
        problems.append(f"its tokenizer belongs to another encoder: it has {len(vocabulary)} tokens, {n_beyond} of them"
                        f" beyond the {embeddings} that the encoder has embeddings for")  # fmt: skip
    return problems


def _reads_words(tokenizer: PlainTokenizer, words: Sequence[str], special: Mapping[str, int]) -> bool:
    """Return whether any word of a sample is read as one token other than a special token."""
    unknown = set(special.values())
    sample = words[:: max(1, len(words) // N_SAMPLED_WORDS)]
    return any(len(row) == 1 and row[0] not in unknown for row in tokenizer.inner(sample))


def _count_leading(row: Sequence[int], ids: Collection[int]) -> int:
    return next((position for position, number in enumerate(row) if number not in ids), len(row))


def _with_space(token: str) -> str:
    """Insert a space into the spelling of a special token, so that no tokenizer recognizes it."""
    return f"{token[0]} {token[1:]}"
