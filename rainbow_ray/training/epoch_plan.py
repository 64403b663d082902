"""Which examples a fit trains on in each epoch, and in which steps."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from rainbow_ray.config.schema import Config
from rainbow_ray.data.batching import TrainingSchedule, plan_batches, plan_sequences, shard_indices, shard_sequences
from rainbow_ray.data.dataset import BatchIndices, Dataset
from rainbow_ray.data.sampling import resample_indices
from rainbow_ray.distributed.process_group import ProcessGroup
from rainbow_ray.tasks.base import Task


@dataclass(frozen=True)
class EpochPlanner:
    """Plans the steps of each epoch; the plan does not depend on the number of workers.

    Attributes:
        config: Seed and sampling.
        dataset: Examples to train on.
        task: Provides the strata that sampling balances.
        train_indices: Training examples, `(n,)`.
    """

    config: Config
    dataset: Dataset
    task: Task
    train_indices: np.ndarray

    def sample(self, epoch: int) -> np.ndarray:
        """Return the examples of an epoch.

        Args:
            epoch: Number of the epoch, from 0.

        Returns:
            Indices into the dataset, with repeats where `training.sampling` is `oversample`.
        """
        strata = self.task.strata(self.dataset.targets[self.train_indices])
        seed, sampling = self.config.reproducibility.seed, self.config.training.sampling
        return np.asarray(self.train_indices[resample_indices(strata, sampling, seed=seed, epoch=epoch)])

    def steps(
        self, epoch: int, schedule: TrainingSchedule, *, random_access: bool, by_length: bool
    ) -> list[BatchIndices]:
        """Return the steps of an epoch.

        Args:
            epoch: Number of the epoch, from 0.
            schedule: Number of examples per step over all workers, and of steps where segments are read in sequences.
            random_access: Whether examples can be read in any order at no cost.
            by_length: Whether padding takes time, so that steps hold texts of similar length.

        Returns:
            The examples of each step over all workers.
        """
        seed, sample = self.config.reproducibility.seed, self.sample(epoch)
        if self.dataset.sequence_index is not None:
            return plan_sequences(self._sequences(epoch), schedule.steps_per_epoch, seed=seed, epoch=epoch)
        has_copies = self.config.training.sampling == "oversample"  # which would all be in one step, of equal length
        blocks = [sample] if random_access else self.dataset.shuffle_blocks(sample, seed=seed, epoch=epoch)
        planned = plan_batches(
            self.dataset.lengths, batch_size=schedule.global_batch_size, seed=seed, epoch=epoch, blocks=blocks,
            strata=self._strata() if by_length and not has_copies else None,
        )  # fmt: skip
        return [BatchIndices(step) for step in planned]

    def shard(self, step: BatchIndices, process_group: ProcessGroup) -> BatchIndices:
        """Return one worker's part of a step.

        Args:
            step: A step over all workers.
            process_group: The workers, as one of them sees the group.

        Returns:
            The examples of that worker; the parts have similar numbers of tokens.
        """
        rank, size = process_group.rank, process_group.size
        if step.sequence_ids is None:
            return BatchIndices(shard_indices(step.indices, self.dataset.lengths, rank, size))
        return step if size == 1 else shard_sequences(step.sequences, rank, size)

    def _strata(self) -> np.ndarray:
        """Return the stratum of each training example, int64 `(examples,)`; 0 for other examples."""
        strata = np.zeros(len(self.dataset), dtype=np.int64)
        strata[self.train_indices] = self.task.strata(self.dataset.targets[self.train_indices])
        return strata

    def _sequences(self, epoch: int) -> list[np.ndarray]:
        """Songs, or windows of long songs, that have at least one label; windows move from epoch to epoch."""
        sequence_index = self.dataset.sequence_index
        assert sequence_index is not None
        rng = np.random.default_rng([self.config.reproducibility.seed, epoch, 3])
        shift = int(rng.integers(sequence_index.max_length))
        songs = sequence_index.group_by_song(self.train_indices)
        sequences = [sequence for song in songs for sequence in sequence_index.training_sequences(song, shift=shift)]
        return [sequence for sequence in sequences if self.dataset.weights[sequence].any()]
