"""Division of an epoch into optimizer steps, of a step among workers, and of a worker's part into micro-batches.

The loss of a step is Σ(weight × loss) / Σ weight over the whole step, so the way a step is divided never changes its
gradient: micro-batches hold texts of similar length even where the steps themselves are random.
"""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass

import numpy as np

from rainbow_ray.config.schema import TrainingConfig
from rainbow_ray.data.dataset import BatchIndices

STEP_TOKENS = 32_768  # of an optimizer step, up to which batches of texts grow
MIN_STEPS_OF_GROWN_BATCHES = 2_000
SORTED_STEPS = 16  # steps that are sorted by length together
LENGTH_NOISE = 0.1  # relative noise on lengths before sorting, so that neighbors differ between epochs
MIN_BATCH = 8
MAX_EVAL_TOKENS = 16384  # padded tokens of a batch that is only scored
# What a forward and backward pass takes beyond the time of its tokens, as a number of tokens, by device type. On CPUs
# measured (54, with 6 layers of width 384); on GPUs, starting the kernels of DeBERTa-v3-base takes as long as about
# 1,000 tokens on a card of 80 TFLOPS, and several times as many on the largest ones.
PASS_OVERHEAD_TOKENS = {"cpu": 64, "mps": 512, "cuda": 1024}
FEWEST_PASSES = 2**40  # such an overhead asks for as few passes as the limits allow


@dataclass(frozen=True)
class TrainingSchedule:
    """Number of epochs and steps of a fit.

    Attributes:
        epochs: Number of epochs.
        global_batch_size: Examples per optimizer step, over all workers and micro-batches.
        steps_per_epoch: Optimizer steps per epoch.
        notes: What differs from the config, as messages.
        is_solved: Whether the classifier is solved to its optimum, in the place of all steps.
    """

    epochs: int
    global_batch_size: int
    steps_per_epoch: int
    notes: tuple[str, ...] = ()
    is_solved: bool = False

    @property
    def description(self) -> str:
        """Epochs and steps for the user."""
        if self.is_solved:
            return "a linear classifier, solved to the optimum"
        return f"{self.epochs} epochs of {self.steps_per_epoch} steps of {self.global_batch_size} examples"

    @property
    def total_steps(self) -> int:
        """Optimizer steps of all epochs."""
        return self.epochs * self.steps_per_epoch


def fixed_training_schedule(
    global_batch_size: int, epochs: int, n_examples: int, n_songs: int | None = None
) -> TrainingSchedule:
    """Return a schedule with a given batch size and number of epochs, for the refit on all examples.

    Args:
        global_batch_size: Examples per optimizer step.
        epochs: Number of epochs.
        n_examples: Number of training examples.
        n_songs: Number of songs, where the segments of a song stay in one step; otherwise None.

    Returns:
        The schedule.
    """
    return TrainingSchedule(epochs, global_batch_size, _count_steps(global_batch_size, n_examples, n_songs))


def _count_steps(batch_size: int, n_examples: int, n_songs: int | None) -> int:
    """Return steps of an epoch: at most one per song, where the segments of a song stay in one step."""
    steps = -(-n_examples // batch_size)
    return steps if n_songs is None else min(steps, n_songs)


def make_training_schedule(
    config: TrainingConfig, n_examples: int, n_songs: int | None = None, *, mean_tokens: float | None = None
) -> TrainingSchedule:
    """Return the schedule of a fit.

    With less than `training.min_steps` steps, the batch size is halved (not below 8), then the number of epochs is
    increased. With many more, the batch size is doubled up to `training.step_tokens`.

    Args:
        config: Batch size, gradient accumulation, epochs, minimum number of steps and tokens of a step.
        n_examples: Number of training examples.
        n_songs: Number of songs, where the segments of a song stay in one step; otherwise None.
        mean_tokens: Mean number of tokens of an example, where steps may grow; otherwise None.

    Returns:
        The schedule, with a note on what was changed.
    """
    requested = requested_step_size(config)
    size, epochs = requested, config.epochs

    def steps_of(batch_size: int) -> int:
        return _count_steps(batch_size, n_examples, n_songs)

    while steps_of(size) * epochs < config.min_steps and size > MIN_BATCH and steps_of(size) != n_songs:
        size = max(MIN_BATCH, size // 2)
    if steps_of(size) * epochs < config.min_steps:
        epochs = -(-config.min_steps // steps_of(size))
    grown, step_tokens = size, STEP_TOKENS if config.step_tokens is None else config.step_tokens
    min_steps = max(MIN_STEPS_OF_GROWN_BATCHES, config.min_steps)
    while mean_tokens and 2 * grown * mean_tokens <= step_tokens and steps_of(2 * grown) * epochs >= min_steps:
        grown *= 2
    if grown != size:
        factor = learning_rate_factor(config, grown)
        change = f"steps are increased from {size} to {grown} examples, and learning rates by a factor of {factor:.2g}"
        return TrainingSchedule(epochs, grown, steps_of(grown), (f"training.step_tokens: {change}",))
    changes = []
    if size != requested:
        changes.append(f"the batch size is reduced from {requested} to {size} examples")
    if epochs != config.epochs:
        changes.append(f"the number of epochs is increased from {config.epochs} to {epochs}")
    notes = []
    if changes:
        steps = steps_of(requested) * config.epochs
        notes.append(f"{steps} steps are fewer than training.min_steps ({config.min_steps}): {', '.join(changes)}")
    return TrainingSchedule(epochs, size, steps_of(size), tuple(notes))


def requested_step_size(config: TrainingConfig) -> int:
    """Return the number of examples per step before it is adapted to the number of steps.

    Args:
        config: Batch size and gradient accumulation.

    Returns:
        Their product.
    """
    return config.batch_size * config.gradient_accumulation_steps


def learning_rate_factor(config: TrainingConfig, global_batch_size: int) -> float:
    """Return the factor of the learning rates for steps that are larger than the config asks for.

    Args:
        config: Batch size and gradient accumulation.
        global_batch_size: Examples per step.

    Returns:
        Square root of how many times larger the steps are; 1 for smaller ones.

    Reference:
        Malladi et al. 2022, "On the SDEs and Scaling Rules for Adaptive Gradient Algorithms", definition 5.2.
    """
    return math.sqrt(max(1.0, global_batch_size / requested_step_size(config)))


def plan_batches(
    lengths: np.ndarray, *, batch_size: int, seed: int, epoch: int, blocks: list[np.ndarray] | None = None,
    strata: np.ndarray | None = None,
) -> list[np.ndarray]:  # fmt: skip
    """Divide an epoch into steps.

    With strata, the steps of a span of `SORTED_STEPS` hold texts of similar length, and each stratum is spread evenly
    over them: label and length are often correlated, and a step with a single label gives a poor gradient. The order
    of the steps is shuffled again.

    Args:
        lengths: Number of tokens of each example of the dataset, `(examples,)`.
        batch_size: Examples per step.
        seed: Seed of the order.
        epoch: Epoch, from 0; the same seed and epoch give the same steps.
        blocks: Indices into `lengths` of blocks to visit one after the other, as `Dataset.shuffle_blocks`; by default
            one block of all examples. With several blocks, steps are shuffled only within spans.
        strata: Stratum of each example of the dataset, such as its label, int64 `(examples,)`; None: lengths do not
            matter, and steps are drawn at random.

    Returns:
        Indices of each step, which together hold every index of `blocks` once.
    """
    if len(lengths) == 0:
        return []
    rng = np.random.default_rng([seed, epoch])
    blocks = [np.arange(len(lengths))] if blocks is None else blocks
    order = np.concatenate([rng.permutation(block) for block in blocks])
    n_steps = -(-len(order) // batch_size)
    if strata is not None:
        # the remainder of an epoch is not a span of its own, which would hold few lengths
        n_spans = max(1, n_steps // SORTED_STEPS)
        stops = [SORTED_STEPS * batch_size * i for i in range(n_spans)] + [len(order)]
        spans = [order[start:stop] for start, stop in itertools.pairwise(stops)]
        order = np.concatenate([_sort_by_length(span, lengths, strata, rng) for span in spans])
    steps = [order[start : start + batch_size] for start in range(0, len(order), batch_size)]
    shuffled_steps = n_steps if len(blocks) == 1 else SORTED_STEPS
    turns = [
        start + rng.permutation(min(shuffled_steps, n_steps - start)) for start in range(0, n_steps, shuffled_steps)
    ]
    return [steps[i] for i in np.concatenate(turns)]


def _sort_by_length(span: np.ndarray, lengths: np.ndarray, strata: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Return `span` sorted by the rank of each length within its stratum, relative to the size of the stratum."""
    noisy = lengths[span] * rng.uniform(1 - LENGTH_NOISE, 1 + LENGTH_NOISE, len(span))
    rank = np.zeros(len(span))
    for stratum in np.unique(strata[span]):
        members = np.flatnonzero(strata[span] == stratum)
        rank[members[np.argsort(noisy[members], kind="stable")]] = np.arange(len(members)) / len(members)
        rank[members] += rng.uniform(0, 1, len(members)) / len(members)  # where in its interval each song stands
    return np.asarray(span[np.argsort(rank, kind="stable")])


def shard_indices(step: np.ndarray, lengths: np.ndarray, rank: int, world_size: int) -> np.ndarray:
    """Return the examples of a step that one worker trains on.

    Examples are sorted by length and assigned to workers back and forth, so that all have about as many tokens.

    Args:
        step: Indices of the step, int64 `(n,)`.
        lengths: Number of tokens of each example of the dataset, `(examples,)`.
        rank: Rank of the worker.
        world_size: Number of workers.

    Returns:
        Indices of the worker, longest first; `step` itself for a single worker.
    """
    if world_size == 1:
        return step
    turn = np.arange(len(step)) % (2 * world_size)
    owner = np.where(turn < world_size, turn, 2 * world_size - 1 - turn)
    return np.asarray(step[np.argsort(-lengths[step], kind="stable")][owner == rank])


def divide_batch(
    step: np.ndarray, lengths: np.ndarray, *, max_examples: int, max_tokens: int | None, overhead_tokens: int
) -> list[np.ndarray]:
    """Divide examples into micro-batches of similar lengths, in the least time.

    The time of a micro-batch is taken as proportional to its padded tokens plus `overhead_tokens`.

    Args:
        step: Indices into `lengths`, int64 `(n,)`.
        lengths: Number of tokens of each example, `(examples,)`.
        max_examples: Examples per micro-batch, at most.
        max_tokens: Padded tokens per micro-batch, at most; a single longer text is a micro-batch of its own. None sets
            no limit.
        overhead_tokens: Time of a pass beyond that of its tokens (`PASS_OVERHEAD_TOKENS`), or `FEWEST_PASSES`.

    Returns:
        Indices of each micro-batch, longest texts first.
    """
    ordered = step[np.argsort(-lengths[step], kind="stable")]
    longest = lengths[ordered].astype(np.int64)
    is_uniform = len(ordered) == 0 or longest[0] == longest[-1]
    if len(ordered) <= max_examples and max_tokens is None and (is_uniform or overhead_tokens == FEWEST_PASSES):
        return [ordered] if len(ordered) else []
    # The least time of all examples up to a position, by where the last micro-batch of them begins.
    least, begin = np.zeros(len(ordered) + 1, dtype=np.int64), np.zeros(len(ordered) + 1, dtype=np.int64)
    first = 0  # first position where a micro-batch that ends here may begin: limits only move it forward
    for stop in range(1, len(ordered) + 1):
        first = max(first, stop - max_examples)
        while max_tokens is not None and first < stop - 1 and (stop - first) * longest[first] > max_tokens:
            first += 1
        sizes = np.arange(stop - first, 0, -1)
        times = least[first:stop] + sizes * longest[first:stop]
        best = int(times.argmin())
        begin[stop], least[stop] = first + best, times[best] + overhead_tokens
    stops = [len(ordered)]
    while stops[-1] > 0:
        stops.append(int(begin[stops[-1]]))
    return [ordered[start:stop] for start, stop in itertools.pairwise(reversed(stops))]


def plan_sequences(sequences: list[np.ndarray], n_steps: int, *, seed: int, epoch: int) -> list[BatchIndices]:
    """Divide sequences into steps of about equally many examples.

    Args:
        sequences: Indices into the dataset of each sequence; at least `n_steps` sequences.
        n_steps: Number of steps.
        seed: Seed of the order.
        epoch: Epoch, from 0.

    Returns:
        The steps, each with at least one whole sequence, in random order.
    """
    assert len(sequences) >= n_steps, "every step needs a sequence"
    order = np.random.default_rng([seed, epoch]).permutation(len(sequences)).tolist()
    total, n_before, step = sum(map(len, sequences)), 0, 0
    planned: list[list[np.ndarray]] = [[] for _ in range(n_steps)]
    for n_left, i in zip(range(len(sequences), 0, -1), order, strict=True):
        target = int((n_before + len(sequences[i]) / 2) * n_steps / total)
        # at most the next step, unless this one is empty; and enough sequences must be left for the remaining steps
        step = max(min(target, step + bool(planned[step])), n_steps - n_left)
        planned[step].append(sequences[i])
        n_before += len(sequences[i])
    return [BatchIndices.from_sequences(batch) for batch in planned]


def shard_sequences(sequences: list[np.ndarray], rank: int, world_size: int) -> BatchIndices:
    """Return the sequences of a step that one worker trains on.

    Sequences are assigned from the longest on, each to the worker with the fewest examples so far.

    Args:
        sequences: Indices into the dataset of each sequence.
        rank: Rank of the worker.
        world_size: Number of workers.

    Returns:
        The sequences of the worker, longest first.
    """
    loads = np.zeros(world_size)
    shard = []
    for sequence in sorted(sequences, key=len, reverse=True):
        owner = int(loads.argmin())
        loads[owner] += len(sequence)
        shard += [sequence] if owner == rank else []
    return BatchIndices.from_sequences(shard)


def divide_sequences(
    sequences: list[np.ndarray], lengths: np.ndarray, *, max_examples: int, max_tokens: int | None
) -> list[BatchIndices]:
    """Divide sequences into micro-batches, without dividing a sequence.

    Args:
        sequences: Indices into `lengths` of each sequence.
        lengths: Number of tokens of each example, `(examples,)`.
        max_examples: Examples per micro-batch, at most.
        max_tokens: Tokens per micro-batch with all segments padded to the longest, at most; None sets no limit. A
            sequence that exceeds a limit is a micro-batch of its own.

    Returns:
        The micro-batches, sequences with long segments first.
    """
    ordered = sorted(sequences, key=lambda sequence: -int(lengths[sequence].max()))
    batches: list[list[np.ndarray]] = []
    size = longest = 0
    for sequence in ordered:
        padded = max(longest, int(lengths[sequence].max())) * (size + len(sequence))
        is_full = size + len(sequence) > max_examples or (max_tokens is not None and padded > max_tokens)
        if not batches or is_full:
            batches.append([])
            size = longest = 0
        batches[-1].append(sequence)
        size, longest = size + len(sequence), max(longest, int(lengths[sequence].max()))
    return [BatchIndices.from_sequences(batch) for batch in batches]


def scoring_batches(indices: np.ndarray, lengths: np.ndarray, device_type: str = "cpu") -> list[np.ndarray]:
    """Divide examples into batches for scoring.

    Args:
        indices: Indices into `lengths`, int64 `(n,)`.
        lengths: Number of tokens of each example, `(examples,)`.
        device_type: Type of the device that scores, a key of `PASS_OVERHEAD_TOKENS`.

    Returns:
        Batches of similar lengths, of at most `MAX_EVAL_TOKENS` padded tokens; none for no indices.
    """
    if len(indices) == 0:
        return []
    return divide_batch(
        indices, lengths, max_examples=len(indices), max_tokens=MAX_EVAL_TOKENS,
        overhead_tokens=PASS_OVERHEAD_TOKENS[device_type],
    )  # fmt: skip
