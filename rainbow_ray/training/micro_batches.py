"""Size limits of micro-batches, which shrink where memory does not suffice and grow again."""

from __future__ import annotations

from dataclasses import dataclass

GROWTH = 1.25  # of a limit, after steps that fit into memory
FIRST_PATIENCE = 64  # steps that must fit before a limit grows; twice as many after each further failure


@dataclass(frozen=True)
class MicroBatchLimits:
    """Largest size of a micro-batch.

    Attributes:
        examples: Number of examples.
        tokens: Number of tokens, padding included; None: no limit.
    """

    examples: int
    tokens: int | None


class AdaptiveLimits:
    """Limits that every worker of a fit adapts alike.

    Args:
        initial: Limits that are never exceeded.
        by_tokens: Whether memory depends on padded tokens, as in models of text alone. Then a batch of long texts that
            fails does not make batches of short ones smaller.

    Attributes:
        current: The limits.
    """

    def __init__(self, initial: MicroBatchLimits, *, by_tokens: bool) -> None:
        self.current = self._initial = initial
        self._by_tokens = by_tokens
        self._n_failures = self._n_successes = 0

    def shrink(self, n_examples: int, n_tokens: int) -> None:
        """Halve the limits after a micro-batch that exceeded the memory.

        Args:
            n_examples: Its number of examples, at least 2.
            n_tokens: Its number of tokens, padding included.
        """
        current = self.current
        if self._by_tokens:
            tokens = max(1, n_tokens // 2)
            shrunk = MicroBatchLimits(current.examples, min(tokens, current.tokens or tokens))
        else:
            halved_tokens = max(1, current.tokens // 2) if current.tokens else None
            shrunk = MicroBatchLimits(min(current.examples, max(1, n_examples // 2)), halved_tokens)
        if shrunk != current:
            self._n_failures += 1
        self.current, self._n_successes = shrunk, 0

    def record_success(self, largest_tokens: int) -> None:
        """Count a step that fitted into memory, and let the limits grow after enough of them.

        Args:
            largest_tokens: Padded tokens of a micro-batch of the most examples and the longest texts; a token limit
                above it is lifted where there was none initially.
        """
        if self.current == self._initial:
            return
        self._n_successes += 1
        if self._n_successes < FIRST_PATIENCE * 2 ** max(0, self._n_failures - 1):
            return
        self._n_successes = 0
        initial, current = self._initial, self.current
        examples = min(initial.examples, max(current.examples + 1, int(current.examples * GROWTH)))
        tokens = None if current.tokens is None else max(current.tokens + 1, int(current.tokens * GROWTH))
        if tokens is not None:
            ceiling = initial.tokens or largest_tokens
            tokens = tokens if tokens < ceiling else initial.tokens
        self.current = MicroBatchLimits(examples, tokens)
