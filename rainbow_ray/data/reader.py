"""Reading the rows of a manifest: all of them with Ray Data, or a sample in this process.

Tables that fit into memory are read once, before any worker starts (`read_rows`). Larger ones are read anew each epoch
(`data/streaming.py`), through the same `normalize_rows` and `prepare`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import numpy as np
import pyarrow as pa

from rainbow_ray.data.columns import Columns
from rainbow_ray.data.manifest import Manifest, RowGroup
from rainbow_ray.data.normalize_rows import normalize_rows
from rainbow_ray.distributed.ray_errors import quiet_ray_data, unwrapped_errors

MEDIA_ROWS = 32  # rows per task that reads audio or MIDI: reading media is slow, so few rows keep all CPUs busy
TEXT_ROWS = 4096  # rows per task that reads only text
N_SAMPLED_GROUPS = 20  # row groups that a sample of a large manifest is read from

Prepare = Callable[[pa.Table], pa.Table]


def read_sample(manifest: Manifest, names: list[str], max_rows: int | None = None) -> pa.Table:
    """Read the first rows of row groups spread evenly over a manifest.

    Args:
        manifest: Table to read.
        names: Columns to read.
        max_rows: Approximate number of rows; None, or at least the size of the manifest, reads all rows.

    Returns:
        The rows, in the order of the manifest.

    Raises:
        InputError: A file or column cannot be read.
    """
    if max_rows is None or manifest.rows <= max_rows:
        return manifest.read(names)
    groups = [group for group in manifest.row_groups() if group.rows]
    chosen = np.unique(np.linspace(0, len(groups) - 1, N_SAMPLED_GROUPS).round().astype(int))
    rows_per_group = -(-max_rows // len(chosen))
    tables = [_first_rows(manifest, groups[i], names, rows_per_group) for i in chosen]
    return pa.concat_tables(tables).combine_chunks()


def _first_rows(manifest: Manifest, group: RowGroup, names: list[str], max_rows: int) -> pa.Table:
    """Read the first rows of a row group."""
    batches, n_rows = [], 0
    for batch in manifest.batches(group, names, size=max_rows):
        batches.append(batch)
        n_rows += len(batch)
        if n_rows >= max_rows:
            break
    return pa.Table.from_batches(batches).slice(0, max_rows)


def read_rows_locally(
    manifest: Manifest, columns: Columns, prepare: Prepare, *, max_rows: int | None = None
) -> pa.Table:
    """Read and prepare rows in this process, without Ray.

    Args:
        manifest: Table to read.
        columns: Its columns.
        prepare: Adds the columns of each modality to normalized rows.
        max_rows: Approximate number of rows to sample; None reads all rows.

    Returns:
        Rows as `read_rows` returns them, with their number among the rows read as `row`.

    Raises:
        InputError: A file or column cannot be read.
    """
    rows = prepare(normalize_rows(read_sample(manifest, columns.projection, max_rows), columns))
    return rows.append_column("row", pa.array(np.arange(len(rows)))).combine_chunks()


def read_rows(
    manifest: Manifest, columns: Columns, prepare: Prepare, on_rows: Callable[[int], None] | None = None
) -> pa.Table:
    """Read and prepare all rows with Ray Data.

    Ray Data's tasks read row groups by `Manifest.batches`, as this process does: Ray's own parquet reader treats some
    paths and types differently.

    Args:
        manifest: Table to read.
        columns: Its columns.
        prepare: Adds the columns of each modality to normalized rows.
        on_rows: Called with the number of rows of each block that was read.

    Returns:
        Normalized rows with the prepared columns, in the order of the manifest.

    Raises:
        InputError: A file or column cannot be read.
    """
    import ray.data

    context = ray.data.DataContext.get_current()
    context.execution_options.preserve_order = True
    quiet_ray_data(context)
    task_rows = MEDIA_ROWS if columns.media else TEXT_ROWS
    groups = manifest.row_groups()

    def read(numbers: pa.Table) -> Iterator[pa.Table]:
        for number in numbers["group"].to_pylist():
            for batch in manifest.batches(groups[number], columns.projection, size=task_rows):
                yield pa.Table.from_batches([batch])

    def normalize_and_prepare(block: pa.Table) -> pa.Table:
        return prepare(normalize_rows(block, columns))

    with unwrapped_errors():
        tasks = [pa.table({"group": pa.array(numbers, pa.int64())}) for numbers in _task_groups(groups, task_rows)]
        dataset = ray.data.from_arrow(tasks).map_batches(read, batch_format="pyarrow", batch_size=None)
        dataset = dataset.repartition(target_num_rows_per_block=task_rows)
        dataset = dataset.map_batches(normalize_and_prepare, batch_format="pyarrow", batch_size=task_rows)
        blocks = []
        for block in dataset.iter_batches(batch_size=None, batch_format="pyarrow"):
            blocks.append(block)
            if on_rows is not None:
                on_rows(len(block))
    return pa.concat_tables([block for block in blocks if len(block)], promote_options="permissive").combine_chunks()


def _task_groups(groups: Sequence[RowGroup], min_rows: int) -> list[list[int]]:
    """Divide row groups, in their order, into tasks of at least `min_rows` rows; return the numbers of each task."""
    tasks: list[list[int]] = []
    size = min_rows
    for number, group in enumerate(groups):
        if size >= min_rows:
            tasks.append([])
            size = 0
        tasks[-1].append(number)
        size += group.rows
    return tasks
