"""Ray Data reads the manifest, brings it to plain rows and prepares it; batches are cut from what it gives.

What fits into memory is read once, before any worker starts (`read_rows`). What does not is read anew each epoch
(`data/streamed.py`), through the same `normalize_rows` and `prepare`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import numpy as np
import pyarrow as pa

from rainbow_ray.data.manifest import Columns, Manifest, normalize_rows
from rainbow_ray.data.parquet_table import RowGroup
from rainbow_ray.distributed.ray_errors import quiet_ray_data, unwrapped_errors

MEDIA_ROWS = 32  # that a task reads the audio and MIDI of
TEXT_ROWS = 4096  # that a task prepares, where only text is read
PLACES = 20  # of a large manifest are looked at

Prepare = Callable[[pa.Table], pa.Table]


def head(manifest: Manifest, names: list[str], max_rows: int | None = None) -> pa.Table:
    """Columns of the first rows of row groups spread over the whole manifest: about `max_rows` rows, without it all."""
    if max_rows is None or manifest.rows <= max_rows:
        return manifest.read(names)
    groups = [group for group in manifest.row_groups() if group.rows]
    chosen = np.unique(np.linspace(0, len(groups) - 1, PLACES).round().astype(int))
    each = -(-max_rows // len(chosen))
    tables = [_first_rows(manifest, groups[i], names, each) for i in chosen]
    return pa.concat_tables(tables).combine_chunks()


def _first_rows(manifest: Manifest, group: RowGroup, names: list[str], most: int) -> pa.Table:
    """The first rows of a row group."""
    found, rows = [], 0
    for batch in manifest.batches(group, names, size=most):
        found.append(batch)
        rows += len(batch)
        if rows >= most:
            break
    return pa.Table.from_batches(found).slice(0, most)


def read_rows_locally(
    manifest: Manifest, columns: Columns, prepare: Prepare, *, max_rows: int | None = None
) -> pa.Table:
    """Rows as `read_rows` gives them, of `head`, and with their number there as `row`; without Ray."""
    rows = prepare(normalize_rows(head(manifest, columns.projection, max_rows), columns))
    return rows.append_column("row", pa.array(np.arange(len(rows)))).combine_chunks()


def _tasks(groups: Sequence[RowGroup], rows: int) -> list[list[int]]:
    """Numbers of row groups that a task reads, in their order: small ones share a task, so that it has `rows` rows."""
    tasks: list[list[int]] = []
    size = rows
    for number, group in enumerate(groups):
        if size >= rows:
            tasks.append([])
            size = 0
        tasks[-1].append(number)
        size += group.rows
    return tasks


def read_rows(manifest: Manifest, columns: Columns, prepare: Prepare) -> pa.Table:
    """All rows of the manifest as plain rows with the prepared columns beside them, in the manifest's order.

    Ray Data's tasks read the row groups by `Manifest.batches`, as this process does: Ray's own reader of parquet sees
    some paths and types differently.

    Raises:
        InputError: A file or column cannot be read.
    """
    import ray
    import ray.data

    context = ray.data.DataContext.get_current()
    context.execution_options.preserve_order = True
    quiet_ray_data(context)
    rows = MEDIA_ROWS if columns.media else TEXT_ROWS  # media take time to read: few rows a task, so all CPUs have some
    groups = manifest.row_groups()

    def read(numbers: pa.Table) -> Iterator[pa.Table]:
        for number in numbers["group"].to_pylist():
            for batch in manifest.batches(groups[number], columns.projection, size=rows):
                yield pa.Table.from_batches([batch])

    def step(block: pa.Table) -> pa.Table:
        return prepare(normalize_rows(block, columns))

    with unwrapped_errors():
        tasks = [pa.table({"group": pa.array(numbers, pa.int64())}) for numbers in _tasks(groups, rows)]
        dataset = ray.data.from_arrow(tasks).map_batches(read, batch_format="pyarrow", batch_size=None)
        dataset = dataset.repartition(target_num_rows_per_block=rows)
        dataset = dataset.map_batches(step, batch_format="pyarrow", batch_size=rows)
        blocks = ray.get(dataset.to_arrow_refs())
    return pa.concat_tables([block for block in blocks if len(block)], promote_options="permissive").combine_chunks()
