"""What is trained: a model and its problem on a device, fitted to the training side before the first step."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from rainbow_ray.config.schema import Config
from rainbow_ray.data.batch import Batch, SegmentTimes, make_batch, make_segment_times, to_device
from rainbow_ray.data.batching import MAX_EVAL_TOKENS, divide_sequences, scoring_batches
from rainbow_ray.data.dataset import BatchIndices, Dataset, ExampleView, InMemoryDataset
from rainbow_ray.distributed.process_group import ProcessGroup
from rainbow_ray.modalities import encoder_cache
from rainbow_ray.modalities.spec import InputSpec, load_encoders, make_collates
from rainbow_ray.modalities.text import tokenize
from rainbow_ray.modalities.text.bag_of_words import log_count_ratios
from rainbow_ray.modalities.text.modality import SPEC as TEXT
from rainbow_ray.model.audio_features import AudioFeatureCache
from rainbow_ray.model.device import OUT_OF_MEMORY_ADVICE, Precision, is_out_of_memory
from rainbow_ray.model.frozen_cache import MB, CachedHiddenStates, FrozenFeatureCache, make_key
from rainbow_ray.model.model import PrecomputedFeatures, RainbowModel
from rainbow_ray.tasks.base import Task
from rainbow_ray.tasks.scores import empty_scores
from rainbow_ray.tasks.segment_targets import SONG
from rainbow_ray.training.checkpoint import CheckpointManager
from rainbow_ray.utils.errors import TrainingError

STATISTICS = 4096  # examples of the training side that centre and scale the head's inputs


@dataclass(frozen=True)
class Stored:
    """What a fit read from the store: under which key, and how long it computed before (0: another fit had)."""

    key: str
    seconds: float


class Learner:
    """A model that reads rows of a source. `training` is the side that words and statistics are taken from.

    `hear` names the windows of sound that will be read, where these are not all of the source's.

    `features`, `(examples, width)`, stand in for the encoder where training does not change it; `states` for its frozen
    layers where training changes only those above.
    """

    def __init__(
        self, config: Config, source: Dataset, reading: InputSpec, task: Task, training: np.ndarray, *,
        device: torch.device, precision: Precision, process_group: ProcessGroup,
        prefix: FrozenFeatureCache | None = None,
        hear: Mapping[str, Sequence[str]] | None = None,
    ) -> None:  # fmt: skip
        self.config, self.source, self.reading, self.task = config, source, reading, task
        self.device, self.precision, self.process_group, self.prefix = device, precision, process_group, prefix
        self.notes: list[str] = []
        self.stored: Stored | None = None
        self.draw: int | None = None  # which view of a stem training takes, by epoch
        training = training[source.weights[training] > 0]  # segments without a label teach nothing
        self.model = self._build(training)
        self.audio_features = AudioFeatureCache(self.model, reading, device, precision)
        self.collates = make_collates(
            reading, self.audio_features.find, lambda: self.draw if self.model.training else None
        )
        self.audio_features.prepare(
            {name: source.window_names(name) for name in reading.cached} if hear is None else hear
        )
        self.states: CachedHiddenStates | None = None
        self.features = self._find_features()
        if self.features is None:
            self.states = self._find_states()
        self._fit_statistics(training)
        self.spare = self._shortest(training)
        self.wrapped: nn.Module = process_group.wrap(self.model)

    def losses(self, rows: ExampleView, only: Collection[str] | None = None) -> tuple[torch.Tensor, torch.Tensor]:
        """Weighted losses `(examples,)` and logits, fp32, of some rows.

        `only` names modalities: as if examples had nothing else, with NaN for those that have none of them.
        """
        module = self.wrapped if torch.is_grad_enabled() else self.model
        inputs = self.inputs(rows)
        if only is not None and isinstance(inputs, Batch):
            inputs = inputs.only(only)
        with self.precision.autocast(self.device):
            logits = module(inputs).float()
        logits = finish_logits(self.task, logits, inputs.segment_times)
        if only is not None and isinstance(inputs, Batch):
            logits = logits.masked_fill(~inputs.has_any[:, None], torch.nan)
        targets = to_device(torch.from_numpy(self.source.targets[rows.indices]), self.device)
        if inputs.segment_times is not None and inputs.segment_times.sequence_ids is not None:
            targets[:, SONG] = (
                inputs.segment_times.sequence_ids
            )  # windows of one song that touch are not each other's neighbours
        weights = torch.from_numpy(self.source.weights[rows.indices]).to(self.device)
        return self.task.loss(logits, targets) * weights, logits

    def inputs(self, rows: ExampleView) -> Batch | PrecomputedFeatures:
        """What the model is given for some rows: a padded batch, or features that were computed before."""
        if self.features is None:
            return self._batch(rows)
        segment_times = make_segment_times(rows.examples.table, rows.indices, rows.sequence_ids)
        features = self.features[torch.from_numpy(rows.indices).to(self.device)]
        return PrecomputedFeatures(features, segment_times.to(self.device) if segment_times is not None else None)

    def rows(self, parts: Sequence[BatchIndices]) -> Iterator[ExampleView]:
        """The rows of each part, in turn; with features at hand nothing has to be read."""
        if self.features is None:
            return self._visit(parts)
        examples = self.source.in_memory_subset(np.array([], dtype=np.int64)).examples
        return (ExampleView(examples, part.indices, part.indices, part.sequence_ids) for part in parts)

    def _visit(self, parts: Sequence[BatchIndices]) -> Iterator[ExampleView]:
        read = self.source.iter_batches(part.indices for part in parts)
        return (rows.with_sequences(part.sequence_ids) for rows, part in zip(read, parts, strict=True))

    def nothing(self) -> torch.Tensor:
        """A loss of zero that reaches every trained parameter: it joins in what the others have."""
        with self.precision.autocast(self.device):
            out: torch.Tensor = self.wrapped(self.spare).float().sum() * 0.0
            return out

    def score(self, indices: np.ndarray) -> tuple[np.ndarray, float | None]:
        """Scores of the examples in the order of `indices`, and their weighted mean loss (None without examples).

        Each worker of the process group scores its share, and all get the whole.
        """
        scores, total = self._score(indices)
        finite = np.isfinite(scores)
        bad = ~finite.all(axis=tuple(range(1, finite.ndim)))
        if bad.any():
            songs = ", ".join(self.source.song_names(indices[bad][:10]))
            raise TrainingError(f"scores are not finite, of the songs {songs}: {advice(self.config)}")
        weight = float(self.source.weights[indices].sum(dtype=np.float64))
        return scores, (total / weight if weight else None)

    def score_part(self, indices: np.ndarray, only: Collection[str]) -> np.ndarray:
        """Scores as if examples had nothing but the modalities `only`; NaN for those that have none of them."""
        return self._score(indices, only)[0]

    @torch.no_grad()
    def _score(self, indices: np.ndarray, only: Collection[str] | None = None) -> tuple[np.ndarray, float]:
        """Scores, and the sum of the weighted losses."""
        self.model.eval()
        place = np.zeros(len(self.source), dtype=np.int64)
        place[indices] = np.arange(len(indices))
        scores = torch.from_numpy(np.zeros_like(empty_scores(self.task, len(indices))))
        said, total = torch.zeros(len(indices)), 0.0

        def one(rows: ExampleView) -> None:
            nonlocal total
            losses, logits = self.losses(rows, only)
            # of overlapping windows, the one that sees most around a segment has the say on it
            kept = torch.from_numpy(self._kept(rows))
            at = torch.from_numpy(place[rows.indices])[kept]
            scores[at] = self.task.scores(logits).cpu()[kept]
            said.index_add_(0, at, torch.ones(len(at)))
            total += float(losses.cpu()[kept].sum())

        for rows in self._shares(indices, self.process_group, together=True):
            self._in_parts(one, rows)
        group = self.process_group
        scores, said, (total,) = (
            group.all_reduce_sum(scores),
            group.all_reduce_sum(said),
            group.all_reduce_scalars(total),
        )
        scores[said != 1] = torch.nan  # what nobody scored, or two did, is no score
        return scores.numpy(), total

    @torch.no_grad()
    def attention(self, indices: np.ndarray) -> list[list[float]] | None:
        """Which modality looks how much at which, on average over some examples; None where nothing attends."""
        if self.model.fusion is None or len(indices) == 0 or self.model.fusion.attends is False:
            return None
        self.model.eval()
        total = torch.zeros(len(self.model.modalities), len(self.model.modalities))

        def one(rows: ExampleView) -> None:
            instance_log_probs = self.model.attention(self._batch(rows))
            assert instance_log_probs is not None
            total.add_(instance_log_probs.float().sum(0).cpu())

        for rows in self._shares(indices, self.process_group):
            self._in_parts(one, rows)
        means = self.process_group.all_reduce_sum(total) / len(indices)
        return [[round(v, 4) for v in row] for row in means.tolist()]

    def base_hash(self) -> str:
        """Identifies what is frozen: a checkpoint holds only what is trained."""
        text_part = (
            encoder_cache.digest(self.reading.text, self.model.text.constant_tensors()) if self.model.text else ""
        )
        return text_part + (self.model.audio.identity() if self.model.audio is not None else "")

    def _build(self, training: np.ndarray) -> RainbowModel:
        model = build_model(self.config, self.reading, self.task)
        if model.words is not None:
            known = self.source.in_memory_subset(training)
            lists = known.examples.take(known.positions).ragged(tokenize.WORDS)
            belongs = self.task.one_hot(self.source.targets[known.indices])
            weigh = self.config.model.bag_of_words.weighting == "ratio"
            ratios = log_count_ratios(lists, belongs) if weigh else None
            model.words.fit(lists, ratios, self.config.reproducibility.seed)
        model.to(self.device)
        return model

    def _find_features(self) -> torch.Tensor | None:
        """Features of all examples, `(examples, width)`, where training does not change them."""
        limit = self.config.data.in_memory_limit_mb * MB
        if not self.model.features_are_constant or len(self.source) * self.model.width * 4 > limit:
            return None
        everything = np.arange(len(self.source))
        if not isinstance(self.source, InMemoryDataset):
            parts = self._shares(everything, self.process_group)
            return self._encode(parts, everything, self.model.features, self.model.width, self.process_group)
        assert self.model.text is not None
        assert self.model.pooling is not None
        width = self.model.text.width
        shape = (len(self.source), width)

        def encode(process_group: ProcessGroup) -> torch.Tensor:
            parts = self._shares(everything, process_group)
            return self._encode(parts, everything, self.model.encode, width, process_group)

        stored = None
        if self.prefix is not None:
            key = self._prefix_key(self.model.text.depth, self.model.pooling.kind)
            # a group of its own: one of the workers computes, while the others wait for its file
            stored = self._stored(key, shape, torch.float32, lambda out: out.copy_(encode(ProcessGroup())))
        everybody = all(self.process_group.all_gather_object(stored is not None))
        encoded = stored.to(self.device) if stored is not None and everybody else encode(self.process_group)
        words = tokenize.pad_rows(self.source.examples.ragged(tokenize.WORDS), 0).to(self.device)
        with torch.no_grad():
            return self.model.join(encoded, words, torch.arange(len(encoded), device=self.device))

    def _find_states(self) -> CachedHiddenStates | None:
        """What the frozen layers give for all examples, where some are and there is room for it."""
        encoder, source = self.model.text, self.source
        if (
            self.prefix is None
            or encoder is None
            or encoder.constant_depth == 0
            or not isinstance(source, InMemoryDataset)
        ):
            return None
        depth = encoder.constant_depth
        first, same_as = source.distinct  # stems of a song have the same text
        starts = np.concatenate([[0], np.cumsum(tokenize.lengths(source.examples.table)[first], dtype=np.int64)])
        shortest = source.in_memory_subset(np.array([int(np.argmin(source.lengths))]))
        like = self._states_of(shortest, depth, None)
        shape = (int(starts[-1]), *like.shape[2:])

        def fill(out: torch.Tensor) -> None:
            below = self._states_below(depth, starts, same_as, shape, like.dtype)

            def one(rows: ExampleView) -> None:
                states = self._states_of(rows, depth, below).cpu()
                for row, index in enumerate(same_as[rows.indices].tolist()):
                    begin, end = starts[index], starts[index + 1]
                    out[begin:end] = states[row, : end - begin]

            for batch in scoring_batches(first, source.lengths):
                self._in_parts(one, source.in_memory_subset(batch))

        values = self._stored(self._prefix_key(depth), shape, like.dtype, fill)
        if values is None:
            size = shape[0] * int(np.prod(shape[1:])) * like.dtype.itemsize
            self.notes.append(f"what the frozen layers say takes {size / MB:.0f} MB, more than"
                              " training.feature_cache_mb or the disk allows: it is computed in each step")  # fmt: skip
            return None
        return CachedHiddenStates(values, starts, same_as)

    def _stored(
        self, key: str, shape: tuple[int, ...], dtype: torch.dtype, compute: Callable[[torch.Tensor], object]
    ) -> torch.Tensor | None:
        """What the store has, or lets this fit compute; how it went is remembered."""
        assert self.prefix is not None
        seconds = 0.0

        def timed(out: torch.Tensor) -> None:
            nonlocal seconds
            began = time.perf_counter()
            compute(out)
            seconds = time.perf_counter() - began

        found = self.prefix.get(key, shape, dtype, timed)
        if found is not None:
            self.stored = Stored(key, round(seconds, 4))
        return found

    def _states_below(
        self, depth: int, starts: np.ndarray, same_as: np.ndarray, shape: tuple[int, ...], dtype: torch.dtype
    ) -> tuple[int, CachedHiddenStates] | None:
        """The deepest states above which nothing but frozen layers has to run, where a shallower fit left some."""
        assert self.prefix is not None
        assert self.model.text is not None
        for lesser in range(depth - 1, 0, -1) if not self.model.text.mixed else ():
            found = self.prefix.find(self._prefix_key(lesser), shape, dtype)
            if found is not None:
                return lesser, CachedHiddenStates(found, starts, same_as)
        return None

    @torch.no_grad()
    def _states_of(self, rows: ExampleView, depth: int, below: tuple[int, CachedHiddenStates] | None) -> torch.Tensor:
        """Of some rows: `(examples, length, …, width)`."""
        self.model.eval()
        assert self.model.text is not None
        alone = {TEXT.name: self.collates[TEXT.name]}
        inputs = make_batch(rows.examples, rows.positions, alone).to(self.device).units[TEXT.name]
        known = (below[0], below[1].pad(rows.indices).to(self.device)) if below is not None else None
        with self.precision.autocast(self.device):
            return self.model.text.states(inputs[tokenize.TOKENS], inputs["mask"], depth, known)

    def _prefix_key(self, depth: int, pooling: str = "") -> str:
        """Everything that what frozen layers say depends on."""
        assert isinstance(self.source, InMemoryDataset)
        encoder = self.model.text
        assert encoder is not None
        body = encoder.body.config
        return make_key(
            encoder_cache.digest(self.reading.text, encoder.constant_tensors(depth)), body.to_json_string(),
            body._attn_implementation, depth, encoder.mixed, encoder.whole and depth == encoder.depth, pooling,
            self.precision.name, self.device.type, torch.__version__, self.source.token_hash,
        )  # fmt: skip

    def _fit_statistics(self, training: np.ndarray) -> None:
        known = self.source.in_memory_subset(training)
        if len(known) > STATISTICS:
            rng = np.random.default_rng(self.config.reproducibility.seed)
            known = known.take(np.sort(rng.choice(len(known), STATISTICS, replace=False)))
        if self.features is not None:
            features = self.features[torch.from_numpy(known.indices).to(self.device)]
        else:
            batches = scoring_batches(np.arange(len(known)), self.source.lengths[known.indices])
            parts = (known.take(batch) for batch in self.process_group.shard(batches))
            features = self._encode(parts, known.indices, self.model.features, self.model.width, self.process_group)
        self.model.fit_statistics(features)

    @torch.no_grad()
    def _encode(
        self, parts: Iterable[ExampleView], indices: np.ndarray, encode: Any, width: int, process_group: ProcessGroup
    ) -> torch.Tensor:
        """What a part of the model gives for `indices`: `(indices, width)`, each worker computing its `parts`."""
        self.model.eval()
        place = np.zeros(len(self.source), dtype=np.int64)
        place[indices] = np.arange(len(indices))
        out = torch.zeros(len(indices), width, device=self.device)

        def one(part: ExampleView) -> None:
            with self.precision.autocast(self.device):
                encoded = encode(self._batch(part)).float()
            out[torch.from_numpy(place[part.indices]).to(self.device)] = encoded

        for part in parts:
            self._in_parts(one, part)
        return process_group.all_reduce_sum(out)

    def _shares(
        self, indices: np.ndarray, process_group: ProcessGroup, *, together: bool = False
    ) -> Iterable[ExampleView]:
        """This worker's share of some examples, in batches for scoring; segments `together` with their neighbours."""
        neighbours = self.source.sequence_index
        if together and neighbours is not None:
            windows = [w for song in neighbours.group_by_song(indices) for w in neighbours.scoring_sequences(song)]
            parts = divide_sequences(
                windows, self.source.lengths, max_examples=len(indices), max_tokens=MAX_EVAL_TOKENS
            )
            return self._visit(process_group.shard(parts))
        batches: list[np.ndarray] = []
        for window in self.source.shuffle_blocks(indices, seed=0, epoch=0):
            batches += scoring_batches(window, self.source.lengths)
        return self.source.iter_batches(process_group.shard(batches))

    def _kept(self, rows: ExampleView) -> np.ndarray:
        """Which of some rows, windows of songs, count as scored here; all, where each example stands for itself."""
        neighbours = self.source.sequence_index
        if neighbours is None or rows.sequence_ids is None:
            return np.ones(len(rows), dtype=bool)
        return np.concatenate([neighbours.center_mask(rows.indices[run]) for run in rows.sequence_positions])

    def _in_parts(self, work: Any, rows: ExampleView) -> None:
        """Do the work on rows, in halves where memory does not suffice; what is read together is not torn."""
        runs = rows.sequence_positions
        try:
            work(rows)
            return
        except Exception as error:
            if not is_out_of_memory(error):
                raise
            if len(runs) < 2:
                if len(rows) < 2:
                    raise
                lacks = f"memory on {self.device.type} does not suffice for {len(rows)} segments that are read together"
                raise TrainingError(
                    f"{lacks}: try a smaller segments.max_sequence_length, or {OUT_OF_MEMORY_ADVICE[4:]}"
                ) from error
        if self.device.type == "cuda":
            torch.cuda.empty_cache()
        middle = len(runs) // 2
        for half in (runs[:middle], runs[middle:]):
            self._in_parts(work, rows.take(np.concatenate(half)))

    def _batch(self, rows: ExampleView) -> Batch:
        batch = make_batch(rows.examples, rows.positions, self.collates, rows.sequence_ids)
        if self.states is not None:
            batch.units[TEXT.name][tokenize.STATES] = self.states.pad(rows.indices)
        return batch.to(self.device)

    def _shortest(self, training: np.ndarray) -> Batch | PrecomputedFeatures:
        """A few examples that together have all modalities, so that they reach every parameter."""
        known = self.source.in_memory_subset(training)
        chosen = [int(np.argmin(self.source.lengths[known.indices]))]
        for name in self.reading.media:
            having = np.array([len(row) > 0 for row in known.examples.table[name].take(known.positions).to_pylist()])
            chosen += np.flatnonzero(having)[:1].tolist()
        return self.inputs(known.take(np.unique(chosen)))


def advice(config: Config) -> str:
    """What helps when numbers are not finite."""
    return (
        f"try a smaller training.learning_rate ({config.training.learning_rate:g}) or head_learning_rate"
        f" ({config.training.head_learning_rate:g}), or training.mixed_precision=off"
    )


def build_model(config: Config, reading: InputSpec, task: Task) -> RainbowModel:
    """The model as the config describes it, around encoders of its own (they are cut to the layer read)."""
    return RainbowModel(
        load_encoders(reading), config.model, task.outputs, reading.modalities, reading.seconds,
        temporal=task.is_sequence_task,
    )  # fmt: skip


def finish_logits(task: Task, logits: torch.Tensor, segment_times: SegmentTimes | None) -> torch.Tensor:
    """What the head gave, as the problem reads it: where only songs have labels, each segment's part in its song's."""
    return task.finalize_logits(logits, segment_times.sequence_ids if segment_times is not None else None)


def load_fitted(config: Config, reading: InputSpec, task: Task, folder: Path) -> tuple[RainbowModel, Task]:
    """A finished fit's model, its checkpoint put back onto the encoders, and its problem as fitted."""
    saved = CheckpointManager(folder).load_model()
    if saved is None:
        raise TrainingError(f"{folder}: the fit left no model that can be read")
    fitted = task.from_json(saved["problem"])
    model = build_model(config, reading, fitted)
    model.load_trained_state(saved["model"])
    return model, fitted
