"""Songs that are too many to lie in memory: an index of small facts does, and rows are read when their turn comes.

The index is made by one pass over the manifest. An epoch then visits pieces of the files (row groups) in a seeded
order, in windows of some thousand rows; Ray Data reads and prepares them ahead of the training, in bounded memory.
Which rows make which step is planned from the index alone, so it is the same whatever the number of workers: each of
them reads the windows and prepares only the rows that are its own.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

from rainbow_ray.data.dataset import ExampleView, distinct_windows
from rainbow_ray.data.examples import NOT_KEPT, SLOTS, Examples, placeholder_text, text_key
from rainbow_ray.data.manifest import Columns, Manifest, normalize_rows
from rainbow_ray.data.parquet_table import RowGroup
from rainbow_ray.data.reader import Prepare, head
from rainbow_ray.data.splits import assign_groups
from rainbow_ray.distributed.ray_errors import quiet_ray_data, unwrapped_errors
from rainbow_ray.distributed.resources import READER_CPUS

WINDOW = 8192  # rows that are shuffled together
READ = 2048  # rows that are prepared at a time
TASK = 4096  # rows of one reading task, at least: smaller row groups are read together
BUFFERED = 256 * 2**20  # bytes that Ray Data may hold ready for one reader
ESTIMATED = 2000  # rows that the size in memory is estimated from
SAMPLE = 5_000  # examples that stay in memory: statistics and baselines are taken from them
LARGE_COLUMNS = ("text", "words", "input_ids")  # what the index leaves out


@dataclass(frozen=True)
class RowGroups:
    """The row groups of a manifest, in its order: `first[i]` is the row that piece i begins with."""

    file: np.ndarray
    group: np.ndarray
    first: np.ndarray
    rows: int

    def of(self, row: np.ndarray) -> np.ndarray:
        """The piece that each row lies in."""
        return np.searchsorted(self.first, row, side="right") - 1


def size_in_memory(manifest: Manifest, columns: Columns) -> int:
    """Bytes of the columns that are read, as Arrow would hold them: the larger of two estimates.

    The files' own metadata count a text once where it repeats; some rows say little of the others.
    """
    # `Dataset.head` would read far ahead, into this process's memory
    some = head(manifest, columns.projection, ESTIMATED)
    return int(max(manifest.size_of(columns.projection), some.nbytes / len(some) * manifest.rows))


def read_index(
    manifest: Manifest, columns: Columns, prepare: Prepare, length_of: Callable[[pa.Table], np.ndarray]
) -> pa.Table:
    """All rows as plain rows, what is known of their text in its place.

    That is `row`, `text_key`, `text_hash`, `characters`, `tokens` and, by `length_of`, `length`.
    """
    pieces = find_row_groups(manifest)

    def slim(block: pa.Table) -> pa.Table:
        texts = block["text"].combine_chunks().dictionary_encode()
        keyed = [text_key(text or "") for text in texts.dictionary.to_pylist()]
        pairs = zip(texts.indices.to_pylist(), block["text"].to_pylist(), block["song"].to_pylist(), strict=True)
        keys = [keyed[code] if text else text_key(placeholder_text(song)) for code, text, song in pairs]
        hashes = pa.array(pd.util.hash_array(texts.dictionary.to_numpy(zero_copy_only=False)), pa.uint64())
        return (
            block.append_column("text_key", pa.array(keys, pa.uint64()))
            .append_column("text_hash", hashes.take(texts.indices))
            .append_column("characters", pc.utf8_length(pc.fill_null(block["text"], "")))
            .append_column("length", pa.array(length_of(block), pa.int32()))
            .drop_columns([name for name in LARGE_COLUMNS if name in block.column_names])
        )

    items = _items(pieces, np.arange(pieces.rows), np.arange(pieces.rows))
    blocks = list(_read(manifest, columns, prepare, items, then=slim))
    table = pa.concat_tables(blocks, promote_options="permissive")
    return table.rename_columns(["row" if name == "example" else name for name in table.column_names])


def find_row_groups(manifest: Manifest) -> RowGroups:
    groups = manifest.row_groups()
    return RowGroups(
        np.array([group.file for group in groups]),
        np.array([group.group for group in groups]),
        np.array([group.start for group in groups]),
        manifest.rows,
    )


@dataclass(frozen=True)
class StreamingDataset:
    """A source whose examples are read anew each epoch. `index` has a slim row an example, in the manifest's order.

    `sample` are some of them that stay in memory, the ones with the numbers `sampled` (sorted).
    """

    manifest: Manifest
    columns: Columns
    prepare: Prepare
    index: Examples
    groups: np.ndarray
    pieces: RowGroups
    sample: Examples
    sampled: np.ndarray
    songs: np.ndarray | None = None
    in_memory: bool = False
    sequence_index: None = None  # songs' segments are kept in memory
    lengths: np.ndarray = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "lengths", self.index.table["length"].to_numpy())

    def __len__(self) -> int:
        return len(self.index)

    @property
    def targets(self) -> np.ndarray:
        return self.index.targets

    @property
    def weights(self) -> np.ndarray:
        return self.index.weights

    def window_names(self, modality: str) -> list[str]:
        return distinct_windows(self.index.table, modality)

    def song_names(self, indices: np.ndarray) -> list[str]:
        return list(dict.fromkeys(self.index.table["song"].take(pa.array(indices)).to_pylist()))

    def in_memory_subset(self, indices: np.ndarray) -> ExampleView:
        inside = np.flatnonzero(np.isin(self.sampled, indices))
        return ExampleView(self.sample, inside, self.sampled[inside])

    def shuffle_blocks(self, indices: np.ndarray, *, seed: int, epoch: int) -> list[np.ndarray]:
        turn = np.argsort(np.random.default_rng([seed, epoch, 2]).permutation(len(self.pieces.first)))
        piece = self.pieces.of(self.index.table["row"].to_numpy()[indices])
        ordered = indices[np.lexsort((indices, turn[piece]))]
        return [ordered[start : start + WINDOW] for start in range(0, len(ordered), WINDOW)]

    def iter_batches(self, parts: Iterable[np.ndarray]) -> Iterator[ExampleView]:
        parts = list(parts)
        everything = np.concatenate([np.array([], dtype=np.int64), *parts])
        wanted, first = np.unique(everything, return_index=True)
        blocks = self._blocks(wanted, first)
        uses = np.bincount(everything, minlength=len(self)).astype(np.int32)
        place = np.full(len(self), -1, dtype=np.int32)  # where in `table` an example lies
        table: pa.Table | None = None
        numbers = np.array([], dtype=np.int64)
        for part in parts:
            if len(part) == 0:  # a step of fewer examples than there are workers
                yield ExampleView(self.sample, part, part)
                continue
            while (place[part] < 0).any():
                block = next(blocks)
                place[numbers] = -1
                if table is not None:
                    table = pa.concat_tables([table.take(pa.array(np.flatnonzero(uses[numbers] > 0))), block])
                    table = table.combine_chunks()
                else:
                    table = block
                numbers = table["example"].to_numpy()
                place[numbers] = np.arange(len(numbers))
            assert table is not None
            targets, weights = self.targets[numbers], self.weights[numbers]
            yield ExampleView(Examples(table, targets, weights), place[part], part)
            np.subtract.at(uses, part, 1)

    def validation_mask(
        self,
        indices: np.ndarray,
        strata: np.ndarray,
        *,
        fraction: float,
        split_by: str,  # noqa: ARG002
        seed: int,
    ) -> np.ndarray:
        return np.asarray(assign_groups(self.groups[indices], strata, [fraction, 1 - fraction], seed) == 0)

    def read(self, indices: np.ndarray, *, whole: bool = False) -> Examples:
        """Some examples at once, with their text if `whole`."""
        order = np.arange(len(indices))
        blocks = list(self._blocks(indices, order, whole=whole))
        table = pa.concat_tables(blocks).combine_chunks()
        table = table.take(pc.sort_indices(table["example"]))
        numbers = table["example"].to_numpy()
        return Examples(table, self.targets[numbers], self.weights[numbers])

    def _blocks(self, wanted: np.ndarray, first_needed: np.ndarray, *, whole: bool = False) -> Iterator[pa.Table]:
        """The rows of some examples as blocks with their number as `example`, pieces in the order of need."""
        rows = self.index.table["row"].to_numpy()[wanted]
        piece = self.pieces.of(rows)
        need = pd.Series(first_needed).groupby(piece).min()
        items = _items(self.pieces, rows, wanted, order=need.sort_values().index.to_numpy())
        names = [name for name in self.index.table.column_names if name == "example_id" or name.endswith(SLOTS)]
        known = self.index.table.select(names)

        def then(block: pa.Table) -> pa.Table:
            dropped = [*NOT_KEPT, *([] if whole else ["text"])]
            return block.drop_columns([name for name in dropped if name in block.column_names])

        for block in _read(self.manifest, self.columns, self.prepare, items, then=then):
            facts = known.take(block["example"])
            for name in names:
                block = block.append_column(name, facts[name])
            yield block


def make_streaming_dataset(
    manifest: Manifest, columns: Columns, prepare: Prepare, index: Examples, groups: np.ndarray, *, seed: int
) -> StreamingDataset:
    """The source of an index, its sample read."""
    n = len(index)
    sampled = np.sort(np.random.default_rng(seed).choice(n, min(SAMPLE, n), replace=False))
    nothing = Examples(index.table.slice(0, 0), index.targets[:0], index.weights[:0])
    pieces = find_row_groups(manifest)
    bare = StreamingDataset(manifest, columns, prepare, index, groups, pieces, nothing, sampled[:0])
    sample = bare.read(sampled, whole=True)
    return StreamingDataset(manifest, columns, prepare, index, groups, pieces, sample, sampled)


def _items(
    pieces: RowGroups, rows: np.ndarray, examples: np.ndarray, order: np.ndarray | None = None
) -> list[pa.Table]:
    """What reading tasks are told: piece by piece, which of its rows are wanted and as which example.

    Pieces follow each other in `order`; small ones share a task.
    """
    piece = pieces.of(rows)
    by_piece = np.argsort(piece, kind="stable")
    present, starts = np.unique(piece[by_piece], return_index=True)
    members = dict(zip(present.tolist(), np.split(by_piece, starts[1:]), strict=True))
    tasks: list[list[dict[str, Any]]] = [[]]
    size = 0
    for number in present.tolist() if order is None else order.tolist():
        inside = members[number]
        if size >= TASK:
            tasks.append([])
            size = 0
        tasks[-1].append(
            {
                "file": int(pieces.file[number]),
                "group": int(pieces.group[number]),
                "rows": rows[inside] - pieces.first[number],
                "examples": examples[inside],
            }
        )
        size += len(inside)
    return [pa.Table.from_pylist(task, schema=_ITEM) for task in tasks if task]


_ITEM = pa.schema(
    [("file", pa.int32()), ("group", pa.int32()), ("rows", pa.list_(pa.int64())), ("examples", pa.list_(pa.int64()))]
)


def _read(
    manifest: Manifest, columns: Columns, prepare: Prepare, items: list[pa.Table], *, then: Prepare
) -> Iterator[pa.Table]:
    """Run the reading tasks through Ray Data, in their order and in bounded memory."""
    import ray.data

    context = ray.data.DataContext.get_current().copy()
    context.execution_options.preserve_order = True
    context.execution_options.resource_limits = context.execution_options.resource_limits.copy(
        object_store_memory=BUFFERED
    )
    context.target_max_block_size = 16 * 2**20
    quiet_ray_data(context)

    def read(task: pa.Table) -> Iterator[pa.Table]:
        for i in range(len(task)):
            file, number = task["file"][i].as_py(), task["group"][i].as_py()
            group = RowGroup(file, number, 0, manifest.groups[file][number])
            rows, examples = (task[name][i].values.to_numpy() for name in ("rows", "examples"))
            for block, numbers in _slices(manifest, group, columns.projection, rows, examples):
                yield then(prepare(normalize_rows(block, columns)).append_column("example", pa.array(numbers)))

    with ray.data.DataContext.current(context):  # a dataset keeps the context that it was made in
        dataset = ray.data.from_arrow(items).map_batches(
            read, batch_format="pyarrow", batch_size=None, num_cpus=READER_CPUS
        )
    with unwrapped_errors():
        yield from dataset.iter_batches(batch_format="pyarrow", batch_size=None, prefetch_batches=1)


def _slices(
    manifest: Manifest, group: RowGroup, names: list[str], rows: np.ndarray, examples: np.ndarray
) -> Iterator[tuple[pa.Table, np.ndarray]]:
    """The wanted rows of a row group, some at a time, with their examples' numbers. `rows` is sorted."""
    start = 0
    for batch in manifest.batches(group, names, size=READ):
        stop = start + len(batch)
        low, high = np.searchsorted(rows, [start, stop])
        if high > low:
            chosen = pa.Table.from_batches([batch]).take(pa.array(rows[low:high] - start))
            yield chosen, examples[low:high]
        start = stop
