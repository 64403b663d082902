"""Dataset for tables that exceed memory: an index of small columns in memory, rows read anew each epoch.

One pass over the manifest builds the index. An epoch then visits row groups in a seeded order, in blocks of some
thousand rows; Ray Data reads and prepares them ahead of training, in bounded memory. The batches of an epoch are
planned from the index alone, so they do not depend on the number of workers: each worker prepares only the rows of its
own examples.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
from typing_extensions import override

from rainbow_ray.data.columns import Columns
from rainbow_ray.data.dataset import Dataset, ExampleView, distinct_windows
from rainbow_ray.data.examples import ROW_COLUMNS, SLOT_SUFFIX, Examples, placeholder_text, text_key
from rainbow_ray.data.manifest import Manifest, RowGroup
from rainbow_ray.data.normalize_rows import normalize_rows
from rainbow_ray.data.reader import Prepare, read_sample
from rainbow_ray.data.splits import assign_groups
from rainbow_ray.distributed.ray_errors import quiet_ray_data, unwrapped_errors
from rainbow_ray.distributed.resources import READER_CPUS

BLOCK_ROWS = 8192  # rows that are shuffled together
READ_ROWS = 2048  # rows that are prepared at a time
MIN_TASK_ROWS = 4096  # smaller row groups share a reading task
MAX_BUFFERED_BYTES = 256 * 2**20  # that Ray Data may hold ready for one reader
ESTIMATE_ROWS = 2000  # rows that the size in memory is estimated from
MAX_SAMPLE = 5_000  # examples that stay in memory, for statistics and baselines
LARGE_COLUMNS = ("text", "words", "input_ids")  # columns that the index omits


@dataclass(frozen=True)
class RowGroups:
    """The row groups of a manifest, in its order.

    Attributes:
        file: File of each row group, int `(groups,)`.
        group: Number of each row group in its file, int `(groups,)`.
        first: Row of the manifest that each row group begins with, int `(groups,)`.
        n_rows: Number of rows of the manifest.
    """

    file: np.ndarray
    group: np.ndarray
    first: np.ndarray
    n_rows: int

    def locate(self, rows: np.ndarray) -> np.ndarray:
        """Return the row group of some rows.

        Args:
            rows: Rows of the manifest, int `(n,)`.

        Returns:
            Indices into the row groups, int `(n,)`.
        """
        return np.searchsorted(self.first, rows, side="right") - 1


def size_in_memory(manifest: Manifest, columns: Columns) -> int:
    """Estimate the size of the columns that a run reads.

    Args:
        manifest: Table to read.
        columns: Its columns.

    Returns:
        Bytes in Arrow's memory format: the larger of two estimates, since the metadata of the files count a repeated
        text once, and a sample of rows may not be representative.
    """
    # `ray.data.Dataset.take` would prefetch many rows into the memory of this process
    sample = read_sample(manifest, columns.projection, ESTIMATE_ROWS)
    return int(max(manifest.size_of(columns.projection), sample.nbytes / len(sample) * manifest.rows))


def read_index(
    manifest: Manifest, columns: Columns, prepare: Prepare, length_of: Callable[[pa.Table], np.ndarray]
) -> pa.Table:
    """Read the small columns of all rows.

    Args:
        manifest: Table to read.
        columns: Its columns.
        prepare: Adds the columns of each modality to a block of rows.
        length_of: Returns the number of tokens of each row of a prepared block.

    Returns:
        All rows without `LARGE_COLUMNS`, and with `row` (the row of the manifest), `text_key`, `text_hash`,
        `characters` and `length`.

    Raises:
        InputError: A file or column cannot be read.
    """
    row_groups = find_row_groups(manifest)

    def summarize(block: pa.Table) -> pa.Table:
        texts = block["text"].combine_chunks().dictionary_encode()
        distinct_keys = [text_key(text or "") for text in texts.dictionary.to_pylist()]
        rows = zip(texts.indices.to_pylist(), block["text"].to_pylist(), block["song"].to_pylist(), strict=True)
        keys = [distinct_keys[code] if text else text_key(placeholder_text(song)) for code, text, song in rows]
        hashes = pa.array(pd.util.hash_array(texts.dictionary.to_numpy(zero_copy_only=False)), pa.uint64())
        return (
            block.append_column("text_key", pa.array(keys, pa.uint64()))
            .append_column("text_hash", hashes.take(texts.indices))
            .append_column("characters", pc.utf8_length(pc.fill_null(block["text"], "")))
            .append_column("length", pa.array(length_of(block), pa.int32()))
            .drop_columns([name for name in LARGE_COLUMNS if name in block.column_names])
        )

    tasks = _make_tasks(row_groups, np.arange(row_groups.n_rows), np.arange(row_groups.n_rows))
    blocks = list(_run_tasks(manifest, columns, prepare, tasks, transform=summarize))
    table = pa.concat_tables(blocks, promote_options="permissive")
    return table.rename_columns(["row" if name == "example" else name for name in table.column_names])


def find_row_groups(manifest: Manifest) -> RowGroups:
    """Return the row groups of a manifest.

    Args:
        manifest: Table in parquet files.

    Returns:
        Its row groups, as arrays.
    """
    groups = manifest.row_groups()
    return RowGroups(
        np.array([group.file for group in groups]),
        np.array([group.group for group in groups]),
        np.array([group.start for group in groups]),
        manifest.rows,
    )


@dataclass(frozen=True)
class StreamingDataset(Dataset):
    """Dataset whose examples are read anew each epoch.

    Attributes:
        manifest: Table to read.
        columns: Its columns.
        prepare: Adds the columns of each modality to a block of rows.
        index: Small columns of all examples, in the order of the manifest.
        groups: Group of each example, which no split divides, int `(examples,)`.
        row_groups: Row groups of the manifest.
        sample: Examples that stay in memory, with their text.
        sample_indices: Their indices in the dataset, in ascending order, int64 `(sample,)`.
        songs: Song of each example as an integer, `(examples,)`, where scores are averaged by song.
        in_memory: Always False.
        sequence_index: Always None: tables of segments are kept in memory.
        lengths: Number of tokens of each example, `(examples,)`.
    """

    manifest: Manifest
    columns: Columns
    prepare: Prepare
    index: Examples
    groups: np.ndarray
    row_groups: RowGroups
    sample: Examples
    sample_indices: np.ndarray
    songs: np.ndarray | None = None
    in_memory: bool = False
    sequence_index: None = None
    lengths: np.ndarray = field(init=False)

    def __post_init__(self) -> None:
        """Take the lengths from the index."""
        object.__setattr__(self, "lengths", self.index.table["length"].to_numpy())

    @override
    def __len__(self) -> int:
        return len(self.index)

    @property
    @override
    def targets(self) -> np.ndarray:
        return self.index.targets

    @property
    @override
    def weights(self) -> np.ndarray:
        return self.index.weights

    @override
    def window_names(self, modality: str) -> list[str]:
        return distinct_windows(self.index.table, modality)

    @override
    def song_names(self, indices: np.ndarray) -> list[str]:
        return list(dict.fromkeys(self.index.table["song"].take(pa.array(indices)).to_pylist()))

    @override
    def in_memory_subset(self, indices: np.ndarray) -> ExampleView:
        positions = np.flatnonzero(np.isin(self.sample_indices, indices))
        return ExampleView(self.sample, positions, self.sample_indices[positions])

    @override
    def shuffle_blocks(self, indices: np.ndarray, *, seed: int, epoch: int) -> list[np.ndarray]:
        rank = np.argsort(np.random.default_rng([seed, epoch, 2]).permutation(len(self.row_groups.first)))
        group = self.row_groups.locate(self.index.table["row"].to_numpy()[indices])
        ordered = indices[np.lexsort((indices, rank[group]))]
        return [ordered[start : start + BLOCK_ROWS] for start in range(0, len(ordered), BLOCK_ROWS)]

    @override
    def iter_batches(self, batches: Iterable[np.ndarray]) -> Iterator[ExampleView]:
        batches = list(batches)
        requested = np.concatenate([np.array([], dtype=np.int64), *batches])
        distinct, first_use = np.unique(requested, return_index=True)
        blocks = self._read_blocks(distinct, first_use)
        n_uses = np.bincount(requested, minlength=len(self)).astype(np.int32)  # that are still to come, by example
        position = np.full(len(self), -1, dtype=np.int32)  # of each example in `table`; -1 where it is not in memory
        table: pa.Table | None = None
        indices = np.array([], dtype=np.int64)  # of the rows of `table`
        for batch in batches:
            if len(batch) == 0:  # a step of fewer examples than there are workers
                yield ExampleView(self.sample, batch, batch)
                continue
            while (position[batch] < 0).any():
                block = next(blocks)
                position[indices] = -1
                if table is not None:
                    table = pa.concat_tables([table.take(pa.array(np.flatnonzero(n_uses[indices] > 0))), block])
                    table = table.combine_chunks()
                else:
                    table = block
                indices = table["example"].to_numpy()
                position[indices] = np.arange(len(indices))
            assert table is not None
            targets, weights = self.targets[indices], self.weights[indices]
            yield ExampleView(Examples(table, targets, weights), position[batch], batch)
            np.subtract.at(n_uses, batch, 1)

    @override
    def validation_mask(
        self, indices: np.ndarray, strata: np.ndarray, *, fraction: float, split_by: str, seed: int
    ) -> np.ndarray:
        return np.asarray(assign_groups(self.groups[indices], strata, [fraction, 1 - fraction], seed) == 0)

    def read(self, indices: np.ndarray, *, with_text: bool = False) -> Examples:
        """Read examples into memory at once.

        Args:
            indices: Distinct examples, int64 `(n,)`.
            with_text: Whether to keep the column `text`.

        Returns:
            The examples, in ascending order of their index.
        """
        blocks = list(self._read_blocks(indices, np.arange(len(indices)), with_text=with_text))
        table = pa.concat_tables(blocks).combine_chunks()
        table = table.take(pc.sort_indices(table["example"]))
        examples = table["example"].to_numpy()
        return Examples(table, self.targets[examples], self.weights[examples])

    def _read_blocks(
        self, indices: np.ndarray, first_use: np.ndarray, *, with_text: bool = False
    ) -> Iterator[pa.Table]:
        """Yield blocks of some examples with their index as `example`, row groups ordered by their first use."""
        rows = self.index.table["row"].to_numpy()[indices]
        group_first_use = pd.Series(first_use).groupby(self.row_groups.locate(rows)).min()
        order = group_first_use.sort_values().index.to_numpy()
        tasks = _make_tasks(self.row_groups, rows, indices, order=order)
        names = [name for name in self.index.table.column_names if name == "example_id" or name.endswith(SLOT_SUFFIX)]
        index_columns = self.index.table.select(names)

        def drop_unused(block: pa.Table) -> pa.Table:
            unused = [*ROW_COLUMNS, *([] if with_text else ["text"])]
            return block.drop_columns([name for name in unused if name in block.column_names])

        for block in _run_tasks(self.manifest, self.columns, self.prepare, tasks, transform=drop_unused):
            from_index = index_columns.take(block["example"])
            for name in names:
                block = block.append_column(name, from_index[name])
            yield block


def make_streaming_dataset(
    manifest: Manifest, columns: Columns, prepare: Prepare, index: Examples, groups: np.ndarray, *, seed: int
) -> StreamingDataset:
    """Make a streaming dataset and read its sample.

    Args:
        manifest: Table to read.
        columns: Its columns.
        prepare: Adds the columns of each modality to a block of rows.
        index: Small columns of all examples, in the order of the manifest.
        groups: Group of each example, which no split divides, int `(examples,)`.
        seed: Seed that draws the sample.

    Returns:
        The dataset, with at most `MAX_SAMPLE` examples in memory.
    """
    n = len(index)
    sample_indices = np.sort(np.random.default_rng(seed).choice(n, min(MAX_SAMPLE, n), replace=False))
    empty = Examples(index.table.slice(0, 0), index.targets[:0], index.weights[:0])
    row_groups = find_row_groups(manifest)
    unsampled = StreamingDataset(manifest, columns, prepare, index, groups, row_groups, empty, sample_indices[:0])
    sample = unsampled.read(sample_indices, with_text=True)
    return StreamingDataset(manifest, columns, prepare, index, groups, row_groups, sample, sample_indices)


def _make_tasks(
    row_groups: RowGroups, rows: np.ndarray, examples: np.ndarray, order: np.ndarray | None = None
) -> list[pa.Table]:
    """Divide rows, and the example of each, into reading tasks: row groups in `order`, small ones sharing a task."""
    group = row_groups.locate(rows)
    by_group = np.argsort(group, kind="stable")
    distinct, starts = np.unique(group[by_group], return_index=True)
    members = dict(zip(distinct.tolist(), np.split(by_group, starts[1:]), strict=True))
    tasks: list[list[dict[str, Any]]] = [[]]
    size = 0
    for number in distinct.tolist() if order is None else order.tolist():
        if size >= MIN_TASK_ROWS:
            tasks.append([])
            size = 0
        tasks[-1].append(
            {
                "file": int(row_groups.file[number]),
                "group": int(row_groups.group[number]),
                "rows": rows[members[number]] - row_groups.first[number],
                "examples": examples[members[number]],
            }
        )
        size += len(members[number])
    return [pa.Table.from_pylist(task, schema=_TASK_SCHEMA) for task in tasks if task]


_TASK_SCHEMA = pa.schema(
    [("file", pa.int32()), ("group", pa.int32()), ("rows", pa.list_(pa.int64())), ("examples", pa.list_(pa.int64()))]
)


def _run_tasks(
    manifest: Manifest, columns: Columns, prepare: Prepare, tasks: list[pa.Table], *, transform: Prepare
) -> Iterator[pa.Table]:
    """Run reading tasks through Ray Data, in their order and in bounded memory."""
    import ray.data

    context = ray.data.DataContext.get_current().copy()
    context.execution_options.preserve_order = True
    context.execution_options.resource_limits = context.execution_options.resource_limits.copy(
        object_store_memory=MAX_BUFFERED_BYTES
    )
    context.target_max_block_size = 16 * 2**20
    quiet_ray_data(context)

    def read(task: pa.Table) -> Iterator[pa.Table]:
        for i in range(len(task)):
            file, number = task["file"][i].as_py(), task["group"][i].as_py()
            group = RowGroup(file, number, 0, manifest.groups[file][number])
            rows, examples = (task[name][i].values.to_numpy() for name in ("rows", "examples"))
            for block, indices in _read_selected(manifest, group, columns.projection, rows, examples):
                yield transform(prepare(normalize_rows(block, columns)).append_column("example", pa.array(indices)))

    with ray.data.DataContext.current(context):  # a dataset keeps the context of its creation
        dataset = ray.data.from_arrow(tasks).map_batches(
            read, batch_format="pyarrow", batch_size=None, num_cpus=READER_CPUS
        )
    with unwrapped_errors():
        yield from dataset.iter_batches(batch_format="pyarrow", batch_size=None, prefetch_batches=1)


def _read_selected(
    manifest: Manifest, group: RowGroup, names: list[str], rows: np.ndarray, examples: np.ndarray
) -> Iterator[tuple[pa.Table, np.ndarray]]:
    """Yield selected rows of a row group (sorted `rows`) block by block, with the example of each row."""
    start = 0
    for batch in manifest.batches(group, names, size=READ_ROWS):
        stop = start + len(batch)
        low, high = np.searchsorted(rows, [start, stop])
        if high > low:
            selected = pa.Table.from_batches([batch]).take(pa.array(rows[low:high] - start))
            yield selected, examples[low:high]
        start = stop
