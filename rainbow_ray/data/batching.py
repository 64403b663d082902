"""Which examples make which step: a plan of global steps, then their division into micro-batches.

A step's loss is Σ(weight × loss) / Σ weight over the whole step, so how a step is divided never changes its gradient:
micro-batches are free to hold texts of like length, and steps are free to be random.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from rainbow_ray.config.schema import TrainingConfig
from rainbow_ray.data.dataset import BatchIndices

SPAN = 16  # steps that are sorted by length together, where an epoch has many
JITTER = 0.2  # lengths are shaken by this share before sorting, so that neighbours change from epoch to epoch
MIN_BATCH = 8
EVAL_TOKENS = 16384  # padded tokens of a batch that is only scored
# from how many padded tokens on a micro-batch is worth its overhead
ENOUGH_TOKENS = {"cpu": 512, "mps": 4096, "cuda": 16384}
PADDING = 0.75  # a micro-batch that is large enough ends before a text shorter than this share of its longest


@dataclass(frozen=True)
class TrainingSchedule:
    """How long training runs. `global_batch_size` is examples of a step over all workers."""

    epochs: int
    global_batch_size: int
    steps_per_epoch: int
    notes: tuple[str, ...] = ()

    @property
    def total_steps(self) -> int:
        return self.epochs * self.steps_per_epoch


def fixed_training_schedule(step_size: int, epochs: int, examples: int, songs: int | None = None) -> TrainingSchedule:
    """Another number of examples, trained as before: the same steps' size and the same epochs."""
    return TrainingSchedule(epochs, step_size, _steps(step_size, examples, songs))


def _steps(size: int, examples: int, songs: int | None) -> int:
    steps = -(-examples // size)
    return steps if songs is None else min(steps, songs)


def make_training_schedule(config: TrainingConfig, examples: int, songs: int | None = None) -> TrainingSchedule:
    """Fewer examples mean fewer steps: below `min_steps`, batches shrink (not below 8), then epochs grow.

    Where the examples of `songs` stay together, no step is less than a song.
    """
    asked = config.batch_size * config.gradient_accumulation_steps
    size, epochs = asked, config.epochs

    def steps(size: int) -> int:
        return _steps(size, examples, songs)

    while steps(size) * epochs < config.min_steps and size > MIN_BATCH and steps(size) != songs:
        size = max(MIN_BATCH, size // 2)
    if steps(size) * epochs < config.min_steps:
        epochs = -(-config.min_steps // steps(size))
    notes = []
    if size != asked:
        notes.append(f"batches shrink from {asked} to {size} examples")
    if epochs != config.epochs:
        notes.append(f"epochs grow from {config.epochs} to {epochs}")
    if notes:
        few = f"{steps(asked) * config.epochs} steps are fewer than training.min_steps ({config.min_steps})"
        notes = [f"{few}: {', '.join(notes)}"]
    return TrainingSchedule(epochs, size, steps(size), tuple(notes))


def plan_batches(
    lengths: np.ndarray, *, batch_size: int, seed: int, epoch: int, blocks: list[np.ndarray] | None = None
) -> list[np.ndarray]:
    """Indices into `lengths` of each step of an epoch: every example once, the same for the same seed and epoch.

    With many steps, those of a span hold texts of like length; their order is random again. With few, steps are
    drawn at random: label and length often go together, and a step of one label teaches little. `blocks` are pieces
    that are visited one after the other (by default one, of all): steps then keep to their place in that way.
    """
    rng = np.random.default_rng([seed, epoch])
    blocks = [np.arange(len(lengths))] if blocks is None else blocks
    order = np.concatenate([rng.permutation(block) for block in blocks])
    steps = -(-len(order) // batch_size)
    if steps >= 2 * SPAN:
        shaken = lengths[order] * rng.uniform(1 - JITTER, 1 + JITTER, len(order))
        size = SPAN * batch_size
        spans = [slice(start, start + size) for start in range(0, len(order), size)]
        order = np.concatenate([order[span][np.argsort(shaken[span], kind="stable")] for span in spans])
    planned = [order[start : start + batch_size] for start in range(0, len(order), batch_size)]
    reach = steps if len(blocks) == 1 else SPAN
    turns = [start + rng.permutation(min(reach, steps - start)) for start in range(0, steps, reach)]
    return [planned[i] for i in np.concatenate(turns)]


def shard_indices(step: np.ndarray, lengths: np.ndarray, rank: int, size: int) -> np.ndarray:
    """A worker's share of a step: dealt by length, there and back, so that each has as much to do."""
    if size == 1:
        return step
    turn = np.arange(len(step)) % (2 * size)
    owner = np.where(turn < size, turn, 2 * size - 1 - turn)
    return np.asarray(step[np.argsort(-lengths[step], kind="stable")][owner == rank])


def divide_batch(
    step: np.ndarray, lengths: np.ndarray, *, max_examples: int, max_tokens: int | None, enough_tokens: int
) -> list[np.ndarray]:
    """Cut a step to micro-batches of like lengths, longest first.

    At most `max_examples` each, and `max_tokens` padded tokens (a single longer text is a micro-batch alone). From
    `enough_tokens` on, a micro-batch ends where the next text would mostly be padding.
    """
    ordered = step[np.argsort(-lengths[step], kind="stable")]
    batches: list[np.ndarray] = []
    start = 0
    for i in range(1, len(ordered) + 1):
        if i < len(ordered):
            size, longest = i - start, lengths[ordered[start]]
            full = size >= max_examples or (max_tokens is not None and (size + 1) * longest > max_tokens)
            padded = size * longest >= enough_tokens and lengths[ordered[i]] < PADDING * longest
            if not (full or padded):
                continue
        batches.append(ordered[start:i])
        start = i
    return batches


def plan_sequences(runs: list[np.ndarray], steps: int, *, seed: int, epoch: int) -> list[BatchIndices]:
    """Whole runs of neighbours, in random order, as `steps` steps of about as many examples each, one run at least."""
    assert len(runs) >= steps, "a step has a run of its own"
    order = np.random.default_rng([seed, epoch]).permutation(len(runs)).tolist()
    total, before, number = sum(map(len, runs)), 0, 0
    planned: list[list[np.ndarray]] = [[] for _ in range(steps)]
    for left, i in zip(range(len(runs), 0, -1), order, strict=True):
        wanted = int((before + len(runs[i]) / 2) * steps / total)
        # the next step at most, unless this one is empty; as many runs must be left as there are steps
        number = max(min(wanted, number + bool(planned[number])), steps - left)
        planned[number].append(runs[i])
        before += len(runs[i])
    return [BatchIndices.from_sequences(step) for step in planned]


def shard_sequences(runs: list[np.ndarray], rank: int, size: int) -> BatchIndices:
    """A worker's share of a step's runs: the longest first, each to who has the least so far."""
    done = np.zeros(size)
    mine = []
    for run in sorted(runs, key=len, reverse=True):
        owner = int(done.argmin())
        done[owner] += len(run)
        mine += [run] if owner == rank else []
    return BatchIndices.from_sequences(mine)


def divide_sequences(
    runs: list[np.ndarray], lengths: np.ndarray, *, max_examples: int, max_tokens: int | None
) -> list[BatchIndices]:
    """Micro-batches of whole runs, those with long segments first.

    At most `max_examples` each, and `max_tokens` tokens when all segments are padded to the longest; a run that is more
    is a micro-batch alone. `lengths` are tokens of each example of the source.
    """
    ordered = sorted(runs, key=lambda run: -int(lengths[run].max()))
    batches: list[list[np.ndarray]] = []
    size = longest = 0
    for run in ordered:
        padded = max(longest, int(lengths[run].max())) * (size + len(run))
        if not batches or size + len(run) > max_examples or (max_tokens is not None and padded > max_tokens):
            batches.append([])
            size = longest = 0
        batches[-1].append(run)
        size, longest = size + len(run), max(longest, int(lengths[run].max()))
    return [BatchIndices.from_sequences(batch) for batch in batches]


def scoring_batches(indices: np.ndarray, lengths: np.ndarray) -> list[np.ndarray]:
    """Batches for scoring alone: of like lengths, as large as is safe."""
    if len(indices) == 0:
        return []
    return divide_batch(
        indices, lengths, max_examples=len(indices), max_tokens=EVAL_TOKENS, enough_tokens=ENOUGH_TOKENS["cpu"]
    )
