"""Inputs of a model: batches of examples, and everything that training does not change, computed once.

Three things are computed before the first step and then read from caches:

- the output of the frozen layers of an audio encoder (`AudioFeatureCache`),
- the features of all examples, where the text encoder and the pooling are frozen,
- the hidden states of the frozen layers of the text encoder, where only layers above them are trained.
"""

from __future__ import annotations

import time
import weakref
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from rainbow_ray.config.schema import Config
from rainbow_ray.data.batch import Batch, make_batch, make_segment_times, to_device
from rainbow_ray.data.batching import MAX_EVAL_TOKENS, divide_sequences, scoring_batches
from rainbow_ray.data.dataset import BatchIndices, Dataset, ExampleView, InMemoryDataset
from rainbow_ray.distributed.process_group import ProcessGroup
from rainbow_ray.modalities import encoder_cache
from rainbow_ray.modalities.rows import make_collates
from rainbow_ray.modalities.spec import InputSpec
from rainbow_ray.modalities.text import tokenize
from rainbow_ray.modalities.text.modality import SPEC as TEXT
from rainbow_ray.model.audio_feature_cache import AudioFeatureCache, WindowKeys
from rainbow_ray.model.cached_states import CachedHiddenStates, ResidentStates, move_to_gpu
from rainbow_ray.model.device import ExecutionContext
from rainbow_ray.model.frozen_feature_cache import MB, FrozenFeatureCache
from rainbow_ray.model.model import PrecomputedFeatures, RainbowModel
from rainbow_ray.training.batch_halving import run_in_halves
from rainbow_ray.training.prepared_batch import PreparedBatch
from rainbow_ray.utils.hashing import hash_parts

MAX_STATISTICS_EXAMPLES = 4096  # training examples that the standardizer is fitted to


@dataclass(frozen=True)
class CacheUse:
    """Use of the frozen-feature cache by one fit.

    Attributes:
        key: Key of the entry that the fit reads.
        seconds: Time that the fit spent on computing the entry; 0 where another fit had computed it.
    """

    key: str
    seconds: float


class FeatureProvider:
    """Reads model inputs from a dataset, and from caches where training does not change them.

    The constructor computes what the caches lack; all workers of a process group must call it together.

    Args:
        config: Sections `data` and `training` limit the memory that the caches take.
        dataset: Examples to read.
        input_spec: Modalities, encoders, and the reader of media files.
        model: The model to compute features with, on its device; its bag of words must be fitted.
        execution: Device, precision and process group.
        frozen_cache: Disk cache shared between fits, or None.
        window_keys: Windows to encode up front, by modality; None: all windows of the dataset.

    Attributes:
        features: Features of all examples, `(examples, width)`, fp32, where the encoder is frozen; otherwise None.
        hidden_states: Hidden states of the frozen layers, where some layers are frozen and the cache has room;
            otherwise None.
        resident_states: The same in the memory of the GPU, where they fit; otherwise None.
        audio_features: Output of the frozen layers of the audio encoder.
        collates: Collate function of each modality, for `make_batch`.
        cache_use: The entry of `frozen_cache` that is read, or None.
        view_seed: Seed that chooses the window of a stem in training; None: the first one.
        notes: Messages to the user.
    """

    def __init__(
        self, config: Config, dataset: Dataset, input_spec: InputSpec, model: RainbowModel,
        execution: ExecutionContext, *, frozen_cache: FrozenFeatureCache | None = None,
        window_keys: WindowKeys | None = None,
    ) -> None:  # fmt: skip
        self.config, self.dataset, self.input_spec, self.model = config, dataset, input_spec, model
        self.execution, self.frozen_cache = execution, frozen_cache
        self.notes: list[str] = []
        self.cache_use: CacheUse | None = None
        self.view_seed: int | None = None
        self.audio_features = AudioFeatureCache(model, input_spec, execution.device, execution.precision)
        provider = weakref.proxy(self)  # in a cycle, its tensors would stay on the GPU until Python looks for cycles
        self.collates = make_collates(
            input_spec, self.audio_features.find, lambda: provider.view_seed if model.training else None
        )
        if window_keys is None:
            window_keys = {modality: dataset.window_names(modality) for modality in input_spec.cached}
        self.audio_features.prepare(window_keys)
        self.hidden_states: CachedHiddenStates | None = None
        self.resident_states: ResidentStates | None = None
        self.features = self._compute_features()
        if self.features is None:
            self.hidden_states = self._compute_hidden_states()
        self.resident_states = move_to_gpu(self.hidden_states, execution)

    def prepare(self, view: ExampleView) -> PreparedBatch:
        """Return everything that a forward pass and its loss read, before it is moved to the device.

        Args:
            view: The examples.

        Returns:
            The batch.
        """
        columns = (self.dataset.targets, self.dataset.weights)
        targets, weights = (torch.from_numpy(values[view.indices]) for values in columns)
        batch = self._collate(view) if self.features is None else None
        prepared = PreparedBatch.of(view, batch, targets, weights)
        return prepared.pin_memory() if self.execution.device.type == "cuda" else prepared

    def inputs(self, prepared: PreparedBatch) -> Batch | PrecomputedFeatures:
        """Return the input of the model for some examples, on the device.

        Args:
            prepared: The examples; their rows need not be in memory where `features` are at hand.

        Returns:
            Features that were computed before, or a padded batch.
        """
        view = prepared.view
        if prepared.batch is not None:
            return self._to_device(prepared.batch)
        assert self.features is not None
        times = make_segment_times(view.examples.table, view.indices, view.sequence_ids)
        features = self.features[to_device(torch.from_numpy(view.indices), self.execution.device)]
        return PrecomputedFeatures(features, times.to(self.execution.device) if times is not None else None)

    def batch(self, view: ExampleView) -> Batch:
        """Return some examples as a padded batch on the device, with cached hidden states where there are any.

        Args:
            view: The examples.

        Returns:
            The batch.
        """
        return self._to_device(self._collate(view))

    def _to_device(self, batch: Batch) -> Batch:
        """Return a collated batch on the device, with the hidden states that it names by rows."""
        moved = batch.to(self.execution.device)
        if self.resident_states is not None:
            inputs = moved.units[TEXT.name]
            inputs[tokenize.STATES] = self.resident_states.gather(inputs[tokenize.STATES])
        return moved

    def _collate(self, view: ExampleView) -> Batch:
        batch = make_batch(view.examples, view.positions, self.collates, view.sequence_ids)
        if (states := self.hidden_states) is not None:
            padded = states.pad(view.indices) if self.resident_states is None else states.rows(view.indices)
            batch.units[TEXT.name][tokenize.STATES] = padded
        return batch

    def iter_views(self, batches: Sequence[BatchIndices]) -> Iterator[ExampleView]:
        """Return the examples of each batch in turn.

        Args:
            batches: Indices into the dataset; a streaming dataset reads them in this order.

        Returns:
            An iterator of one view per batch. With `features` at hand, nothing is read.
        """
        if self.features is None:
            return self._read_views(batches)
        examples = self.dataset.in_memory_subset(np.array([], dtype=np.int64)).examples
        return (ExampleView(examples, batch.indices, batch.indices, batch.sequence_ids) for batch in batches)

    def evaluation_views(
        self, indices: np.ndarray, process_group: ProcessGroup, *, whole_sequences: bool = False
    ) -> Iterable[ExampleView]:
        """Return this worker's batches of an evaluation.

        Args:
            indices: Examples to evaluate, `(n,)`.
            process_group: The workers that share the examples.
            whole_sequences: Read segments in sequences, as in training, rather than alone.

        Returns:
            Batches of examples of similar length. Sequences may overlap, so that an example is in several.
        """
        sequence_index = self.dataset.sequence_index
        if whole_sequences and sequence_index is not None:
            sequences = [
                sequence
                for song in sequence_index.group_by_song(indices)
                for sequence in sequence_index.scoring_sequences(song)
            ]
            divided = divide_sequences(
                sequences, self.dataset.lengths, max_examples=len(indices), max_tokens=MAX_EVAL_TOKENS
            )
            return self._read_views(process_group.shard(divided))
        batches: list[np.ndarray] = []
        for block in self.dataset.shuffle_blocks(indices, seed=0, epoch=0):
            batches += scoring_batches(block, self.dataset.lengths, self.execution.device.type)
        return self.dataset.iter_batches(process_group.shard(batches))

    def fit_statistics(self, indices: np.ndarray) -> None:
        """Fit the standardizer of the model to (at most `MAX_STATISTICS_EXAMPLES` of) the training examples.

        Args:
            indices: Training examples, `(n,)`.
        """
        view = self.dataset.in_memory_subset(indices)
        if len(view) > MAX_STATISTICS_EXAMPLES:
            rng = np.random.default_rng(self.config.reproducibility.seed)
            view = view.take(np.sort(rng.choice(len(view), MAX_STATISTICS_EXAMPLES, replace=False)))
        self.model.fit_statistics(self.features_of(view))

    def features_of(self, view: ExampleView) -> torch.Tensor:
        """Return features of examples in memory, before standardization.

        Args:
            view: The examples, `(n,)`, in order of their indices.

        Returns:
            `(n, width)`, fp32; NaN where an example lacks the modality.
        """
        if self.features is not None:
            return self.features[torch.from_numpy(view.indices).to(self.execution.device)]
        batches = scoring_batches(np.arange(len(view)), self.dataset.lengths[view.indices], self.execution.device.type)
        group = self.execution.process_group
        views = (view.take(batch) for batch in group.shard(batches))
        return self._encode(views, view.indices, self.model.features, self.model.width, group)

    def frozen_hash(self) -> str:
        """Return a hash of the frozen weights, which a checkpoint does not contain.

        Returns:
            A hexadecimal string; equal for models that a checkpoint of one can be loaded into.
        """
        text, audio = self.model.text, self.model.audio
        text_hash = encoder_cache.digest(self.input_spec.text, text.constant_tensors()) if text is not None else ""
        return text_hash + (audio.identity() if audio is not None else "")

    def _read_views(self, batches: Sequence[BatchIndices]) -> Iterator[ExampleView]:
        views = self.dataset.iter_batches(batch.indices for batch in batches)
        return (view.with_sequences(batch.sequence_ids) for view, batch in zip(views, batches, strict=True))

    def _compute_features(self) -> torch.Tensor | None:
        """Return the features of all examples, `(examples, width)`, if they are constant and fit in memory."""
        max_bytes = self.config.data.in_memory_limit_mb * MB
        if not self.model.has_frozen_features or len(self.dataset) * self.model.width * 4 > max_bytes:
            return None
        all_indices, group = np.arange(len(self.dataset)), self.execution.process_group
        if not isinstance(self.dataset, InMemoryDataset):
            views = self.evaluation_views(all_indices, group)
            return self._encode(views, all_indices, self.model.features, self.model.width, group)
        assert self.model.text is not None
        assert self.model.pooling is not None
        width = self.model.text.width

        def encode(process_group: ProcessGroup) -> torch.Tensor:
            views = self.evaluation_views(all_indices, process_group)
            return self._encode(views, all_indices, self.model.encode, width, process_group)

        cached = None
        if self.frozen_cache is not None:
            key = self._cache_key(self.model.text.depth, self.model.pooling.kind)
            # a group of its own: one of the workers computes, while the others wait for its file
            cached = self._get_cached(
                key, (len(self.dataset), width), torch.float32, lambda out: out.copy_(encode(ProcessGroup()))
            )
        # a collective call: every worker makes it, also one without the entry
        is_cached_everywhere = all(group.all_gather_object(cached is not None))
        encoded = cached.to(self.execution.device) if cached is not None and is_cached_everywhere else encode(group)
        words = tokenize.pad_rows(self.dataset.examples.lists(tokenize.WORDS).rows(), 0).to(self.execution.device)
        with torch.no_grad():
            return self.model.append_bag_of_words(
                encoded, words, torch.arange(len(encoded), device=self.execution.device)
            )

    def _compute_hidden_states(self) -> CachedHiddenStates | None:
        """Return the hidden states of the frozen layers for all examples; None without frozen layers or cache space."""
        encoder, dataset = self.model.text, self.dataset
        has_frozen_layers = encoder is not None and encoder.constant_depth > 0
        if self.frozen_cache is None or not has_frozen_layers or not isinstance(dataset, InMemoryDataset):
            return None
        assert encoder is not None
        depth = encoder.constant_depth
        first, text_of_example = dataset.distinct  # stems of a song have the same text
        starts = np.concatenate([[0], np.cumsum(tokenize.lengths(dataset.examples.table)[first], dtype=np.int64)])
        shortest = dataset.in_memory_subset(np.array([int(np.argmin(dataset.lengths))]))
        sample = self._hidden_states_of(shortest, depth, None)
        shape = (int(starts[-1]), *sample.shape[2:])

        def fill(out: torch.Tensor) -> None:
            shallower = self._shallower_states(depth, starts, text_of_example, shape, sample.dtype)

            def fill_batch(view: ExampleView) -> None:
                states = self._hidden_states_of(view, depth, shallower).cpu()
                for row, text in enumerate(text_of_example[view.indices].tolist()):
                    start, end = starts[text], starts[text + 1]
                    out[start:end] = states[row, : end - start]

            for batch in scoring_batches(first, dataset.lengths, self.execution.device.type):
                run_in_halves(fill_batch, dataset.in_memory_subset(batch), self.execution.device)

        values = self._get_cached(self._cache_key(depth), shape, sample.dtype, fill)
        if values is None:
            size = shape[0] * int(np.prod(shape[1:])) * sample.dtype.itemsize
            self.notes.append(
                f"the hidden states of the frozen layers take {size / MB:.0f} MB, which exceeds"
                " training.feature_cache_mb or the free disk space: every step computes them anew"
            )
            return None
        return CachedHiddenStates(values, starts, text_of_example)

    def _get_cached(
        self, key: str, shape: tuple[int, ...], dtype: torch.dtype, compute: Callable[[torch.Tensor], object]
    ) -> torch.Tensor | None:
        """Return an entry of the frozen-feature cache, computed where it is missing; `cache_use` records it."""
        assert self.frozen_cache is not None
        seconds = 0.0

        def compute_timed(out: torch.Tensor) -> None:
            nonlocal seconds
            start = time.perf_counter()
            compute(out)
            seconds = time.perf_counter() - start

        values = self.frozen_cache.get(key, shape, dtype, compute_timed)
        if values is not None:
            self.cache_use = CacheUse(key, round(seconds, 4))
        return values

    def _shallower_states(
        self, depth: int, starts: np.ndarray, text_of_example: np.ndarray, shape: tuple[int, ...], dtype: torch.dtype
    ) -> tuple[int, CachedHiddenStates] | None:
        """Return the depth and states of the deepest cached layer below `depth` whose following layers are frozen."""
        assert self.frozen_cache is not None
        assert self.model.text is not None
        for lesser in range(depth - 1, 0, -1) if not self.model.text.mixed else ():
            values = self.frozen_cache.find(self._cache_key(lesser), shape, dtype)
            if values is not None:
                return lesser, CachedHiddenStates(values, starts, text_of_example)
        return None

    @torch.no_grad()
    def _hidden_states_of(
        self, view: ExampleView, depth: int, shallower: tuple[int, CachedHiddenStates] | None
    ) -> torch.Tensor:
        """Return hidden states after `depth` layers, `(examples, length, …, width)`."""
        self.model.eval()
        assert self.model.text is not None
        device = self.execution.device
        inputs = (
            make_batch(view.examples, view.positions, {TEXT.name: self.collates[TEXT.name]}).to(device).units[TEXT.name]
        )
        start = (shallower[0], shallower[1].pad(view.indices).to(device)) if shallower is not None else None
        with self.execution.autocast():
            return self.model.text.states(inputs[tokenize.TOKENS], inputs["mask"], depth, start)

    def _cache_key(self, depth: int, pooling: str = "") -> str:
        """Return the key of everything that the output of the frozen layers depends on."""
        assert isinstance(self.dataset, InMemoryDataset)
        encoder = self.model.text
        assert encoder is not None
        body = encoder.body.config
        return hash_parts(
            encoder_cache.digest(self.input_spec.text, encoder.constant_tensors(depth)), body.to_json_string(),
            body._attn_implementation, depth, encoder.mixed, encoder.is_whole and depth == encoder.depth, pooling,
            self.execution.precision.name, self.execution.device.type, torch.__version__, self.dataset.token_hash,
        )  # fmt: skip

    @torch.no_grad()
    def _encode(
        self, views: Iterable[ExampleView], indices: np.ndarray, encode: Callable[[Batch], torch.Tensor], width: int,
        process_group: ProcessGroup,
    ) -> torch.Tensor:  # fmt: skip
        """Output of `encode` for `indices`, `(indices, width)`; each worker of a group computes its `views`."""
        self.model.eval()
        position = np.zeros(len(self.dataset), dtype=np.int64)
        position[indices] = np.arange(len(indices))
        result = torch.zeros(len(indices), width, device=self.execution.device)

        def encode_batch(view: ExampleView) -> None:
            with self.execution.autocast():
                encoded = encode(self.batch(view)).float()
            result[torch.from_numpy(position[view.indices]).to(self.execution.device)] = encoded

        for view in views:
            run_in_halves(encode_batch, view, self.execution.device)
        return process_group.all_reduce_sum(result)
