"""Ray Data reads the manifest, brings it to plain rows and prepares it; batches are cut from what it gives.

What fits into memory is read once, before any worker starts (`read_rows`). What does not is read anew each epoch
(`data/streamed.py`), through the same `normalize_rows` and `prepare`.
"""

from __future__ import annotations

import dataclasses
import functools
import operator
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa

from rainbow_ray.data.manifest import Columns, Manifest, normalize_rows
from rainbow_ray.data.parquet_table import RowGroup
from rainbow_ray.data.segments import PLACE, SHARES, TIMES
from rainbow_ray.distributed.ray_errors import quiet_ray_data, unwrapped_errors

if TYPE_CHECKING:
    import torch

    from rainbow_ray.data.examples import Examples

MEDIA_ROWS = 32  # that a task reads the audio and MIDI of
TEXT_ROWS = 4096  # that a task prepares, where only text is read
PLACES = 20  # of a large manifest are looked at

Prepare = Callable[[pa.Table], pa.Table]
Collate = Callable[["Examples", np.ndarray], "dict[str, torch.Tensor]"]


@dataclass(frozen=True)
class SegmentTimes:
    """When segments are, and which of them a model sees together.

    `times` is `(segments, 4)`: start and end in seconds, and both as shares of the song. `run`, `(segments,)`, numbers
    what is read together from 0, in order; None: all of it, outside of training.
    """

    times: torch.Tensor
    run: torch.Tensor | None

    def to(self, device: torch.device) -> SegmentTimes:
        run = self.run.to(device, non_blocking=True) if self.run is not None else None
        return SegmentTimes(self.times.to(device, non_blocking=True), run)


@dataclass(frozen=True)
class Batch:
    """What a model is given: flat units of each modality, and how they belong to examples.

    `units[modality]` holds that modality's padded inputs, `(units, …)`; `unit_to_example[modality]` is `(units,)`:
    text has one unit an example, media have one a window, or none; None says that each example has just one.
    `present[modality]`, `(examples,)`, says which
    examples have it. `targets` and `weights` are `(examples, …)`.
    """

    example_ids: list[str]
    songs: list[str]
    units: dict[str, dict[str, torch.Tensor]]
    unit_to_example: Mapping[str, torch.Tensor | None]
    present: dict[str, torch.Tensor]
    targets: torch.Tensor
    weights: torch.Tensor
    line: SegmentTimes | None = None  # of segments

    def to(self, device: torch.device) -> Batch:
        def move(tensor: torch.Tensor) -> torch.Tensor:
            return to_device(tensor, device)

        return Batch(
            self.example_ids,
            self.songs,
            {name: {key: move(value) for key, value in inputs.items()} for name, inputs in self.units.items()},
            {name: None if owner is None else move(owner) for name, owner in self.unit_to_example.items()},
            {name: move(there) for name, there in self.present.items()},
            move(self.targets),
            move(self.weights),
            self.line.to(device) if self.line is not None else None,
        )

    @property
    def has_any(self) -> torch.Tensor:
        """Which examples have any modality at all, `(examples,)`."""
        return functools.reduce(operator.or_, self.present.values())

    def only(self, modalities: Collection[str]) -> Batch:
        """The same batch as if examples had nothing else."""
        present = {name: there & (name in modalities) for name, there in self.present.items()}
        return dataclasses.replace(self, present=present)


def to_device(tensor: torch.Tensor, device: torch.device) -> torch.Tensor:
    """Move a tensor; where the device has no float64 (Apple's GPUs), narrowed."""
    narrowed = tensor.float() if device.type == "mps" and tensor.is_floating_point() else tensor
    return narrowed.to(device, non_blocking=True)


def make_batch(
    examples: Examples, indices: np.ndarray, collates: Mapping[str, Collate], run: np.ndarray | None = None
) -> Batch:
    """Gather examples to one batch, each modality padding its own inputs.

    A modality's `to_example` says whose its units are (one each, without it), and its `present` who has it. `run` says
    which segments are read together, as in `Part`.
    """
    import torch

    rows = pa.array(indices)
    units = {name: collate(examples, indices) for name, collate in collates.items()}
    each, owners, present = torch.arange(len(indices)), {}, {}
    for name, inputs in units.items():
        owners[name] = inputs.pop("to_example", each)
        counts = torch.bincount(owners[name], minlength=len(indices))
        present[name] = inputs.pop("present") if "present" in inputs else counts > 0
    return Batch(
        example_ids=examples.table["example_id"].take(rows).to_pylist(),
        songs=examples.table["song"].take(rows).to_pylist(),
        units=units,
        unit_to_example=owners,
        present=present,
        targets=torch.from_numpy(examples.targets[indices]),
        weights=torch.from_numpy(examples.weights[indices]),
        line=make_segment_times(examples.table, indices, run),
    )


def make_segment_times(table: pa.Table, indices: np.ndarray, run: np.ndarray | None) -> SegmentTimes | None:
    """When some rows of a table of segments are, read together as `run` says; None of a table of songs."""
    if PLACE not in table.column_names:
        return None
    import torch

    rows = pa.array(indices)
    times = np.stack([table[name].take(rows).to_numpy() for name in (*TIMES, *SHARES)], axis=1)
    numbers = np.arange(len(indices))
    if run is not None and len(run):
        numbers = np.concatenate([[0], np.cumsum(np.diff(run) != 0)])
    return SegmentTimes(torch.from_numpy(times), torch.from_numpy(numbers))


def head(manifest: Manifest, names: list[str], most: int | None = None) -> pa.Table:
    """Columns of the first rows of row groups spread over the whole manifest: about `most` rows, without it all."""
    if most is None or manifest.rows <= most:
        return manifest.read(names)
    groups = [group for group in manifest.row_groups() if group.rows]
    chosen = np.unique(np.linspace(0, len(groups) - 1, PLACES).round().astype(int))
    each = -(-most // len(chosen))
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


def read_here(manifest: Manifest, columns: Columns, prepare: Prepare, *, most: int | None = None) -> pa.Table:
    """Rows as `read_rows` gives them, of `head`, and with their number there as `row`; without Ray."""
    rows = prepare(normalize_rows(head(manifest, columns.projection, most), columns))
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
