"""Limits of micro-batches: by tokens for text, by examples otherwise; they grow again, more and more rarely."""

from __future__ import annotations

from rainbow_ray.training.micro_batches import FIRST_PATIENCE, AdaptiveLimits, MicroBatchLimits


def succeed(limits: AdaptiveLimits, steps: int, largest_tokens: int = 32 * 512) -> None:
    for _ in range(steps):
        limits.record_success(largest_tokens)


def test_a_batch_of_long_texts_that_fails_limits_tokens_alone():
    limits = AdaptiveLimits(MicroBatchLimits(32, None), by_tokens=True)
    limits.shrink(32, 32 * 512)
    assert limits.current == MicroBatchLimits(32, 16 * 512)
    limits.shrink(16, 16 * 512)
    assert limits.current == MicroBatchLimits(32, 8 * 512)
    limits.shrink(2, 4)
    assert limits.current == MicroBatchLimits(32, 2)


def test_without_tokens_the_number_of_examples_is_halved():
    limits = AdaptiveLimits(MicroBatchLimits(32, 1000), by_tokens=False)
    limits.shrink(20, 400)
    assert limits.current == MicroBatchLimits(10, 500)


def test_limits_grow_to_what_was_requested_and_wait_longer_after_each_failure():
    limits = AdaptiveLimits(MicroBatchLimits(32, None), by_tokens=True)
    limits.shrink(32, 32 * 512)
    succeed(limits, FIRST_PATIENCE - 1)
    assert limits.current.tokens == 16 * 512
    succeed(limits, 1)
    assert limits.current.tokens == 20 * 512
    limits.shrink(20, 20 * 512)
    succeed(limits, 2 * FIRST_PATIENCE - 1)
    assert limits.current.tokens == 10 * 512
    succeed(limits, 100 * FIRST_PATIENCE)
    assert limits.current == MicroBatchLimits(32, None)


def test_limits_never_exceed_the_initial_ones():
    limits = AdaptiveLimits(MicroBatchLimits(3, 100), by_tokens=False)
    limits.shrink(3, 90)
    succeed(limits, 100 * FIRST_PATIENCE)
    assert limits.current == MicroBatchLimits(3, 100)


def test_limits_that_were_resumed_wait_as_after_a_first_failure():
    limits = AdaptiveLimits(MicroBatchLimits(32, None), by_tokens=True)
    limits.current = MicroBatchLimits(32, 1000)
    succeed(limits, FIRST_PATIENCE - 1)
    assert limits.current.tokens == 1000
    succeed(limits, 1)
    assert limits.current.tokens == 1250
