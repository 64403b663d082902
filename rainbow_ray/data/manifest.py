"""Tables of parquet files: opened by reading their footers, then read by row group, in this process or in Ray workers.

The package reads all rows through `Manifest.read` and `Manifest.batches`, so paths, types and errors are the same for
every reader.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any, TypeVar

import pyarrow as pa
import pyarrow.dataset as ds
from pyarrow.fs import FileSystem

from rainbow_ray.data.column_types import ADVICE, check_names, common_schema, path_value
from rainbow_ray.data.filesystems import (
    describe_not_found,
    display_path,
    open_filesystem,
)
from rainbow_ray.data.read_errors import describe_file_type, explain_read_error
from rainbow_ray.data.table_folders import FolderFiles, Values, list_folder
from rainbow_ray.utils.errors import InputError, printable
from rainbow_ray.utils.paths import is_url, resolve_location

DEMO = "demo"  # as `--manifest`: the generated demo songs
N_READER_THREADS = 8  # each reads one row group at a time
FOOTER_LENGTH = 8  # bytes at a file's end: the footer's length, and `PAR1`
MAX_PROBLEMS = 10  # files whose problems are reported together

T = TypeVar("T")


@dataclass(frozen=True)
class RowGroup:
    """A row group of a table.

    Attributes:
        file: Index of its file.
        group: Index of the row group within the file.
        start: Index of its first row within the table.
        rows: Number of rows.
    """

    file: int
    group: int
    start: int
    rows: int


@dataclass(frozen=True)
class Manifest:
    """A table in parquet files.

    Attributes:
        location: Absolute path or URL of a file or folder, the same for every process.
        files: Paths inside `filesystem`, in the order of the rows.
        filesystem: File system of the files.
        schema: The columns of all files, each with one type; dictionaries and views as plain types.
        rows: Number of rows.
        name: Name of the table in messages, which is also the option that selects it.
        groups: Number of rows of each row group, by file.
        partitions: Values of the partition columns, by file.
        notes: Notes for the user on how the table is read.
        written: The location as the user wrote it, for messages.
        mixed: Types of each column that files store with several types, as text for messages.
    """

    location: str
    files: tuple[str, ...]
    filesystem: FileSystem
    schema: pa.Schema
    rows: int
    name: str = "manifest"
    groups: tuple[tuple[int, ...], ...] = ()
    partitions: tuple[Values, ...] = ()
    notes: tuple[str, ...] = field(default=(), compare=False)
    written: str = field(default="", compare=False)
    mixed: Mapping[str, str] = field(default_factory=dict, compare=False)

    def __str__(self) -> str:
        return f"{self.name} {self.shown}"

    @property
    def shown(self) -> str:
        """The location as messages show it, on one line."""
        return printable(self.written or self.location)

    def row_groups(self) -> list[RowGroup]:
        """Return all row groups.

        Returns:
            Row groups in the order of the rows.
        """
        row_groups, start = [], 0
        for file, sizes in enumerate(self.groups):
            for group, rows in enumerate(sizes):
                row_groups.append(RowGroup(file, group, start, rows))
                start += rows
        return row_groups

    def fragment(self, file: int) -> Any:
        """Return a file as a fragment of a pyarrow dataset.

        Args:
            file: Index of the file.

        Returns:
            A `pyarrow.dataset.ParquetFileFragment`.
        """
        return _fragment(self.filesystem, self.files[file])

    def read(self, columns: Sequence[str] | None = None, groups: Sequence[RowGroup] | None = None) -> pa.Table:
        """Read columns of row groups into memory.

        Args:
            columns: Names of columns; None for all.
            groups: Row groups, in the order of the result; None for all.

        Returns:
            The table, with one type per column and the partition columns of its files.

        Raises:
            InputError: A file or column cannot be read.
        """
        names = list(self.schema.names if columns is None else columns)
        chosen = self.row_groups() if groups is None else list(groups)
        schema = pa.schema([self.schema.field(name) for name in names])

        def read_group(group: RowGroup) -> list[pa.RecordBatch]:
            return list(self.batches(group, names))

        if len(chosen) < 2:
            parts = [read_group(group) for group in chosen]
        else:
            with ThreadPoolExecutor(min(N_READER_THREADS, len(chosen))) as pool:
                parts = list(pool.map(read_group, chosen))
        batches = [batch for part in parts for batch in part]
        return pa.Table.from_batches(batches, schema).combine_chunks()

    def batches(self, group: RowGroup, columns: Sequence[str], size: int | None = None) -> Iterator[pa.RecordBatch]:
        """Read columns of one row group, some rows at a time.

        Args:
            group: The row group.
            columns: Names of columns, in the order of the result.
            size: Maximum number of rows of a batch, which limits the memory; None: pyarrow's default.

        Yields:
            Batches with the types of `schema`; columns that the file does not have are null.

        Raises:
            InputError: A column cannot be read.
        """
        if group.rows == 0:  # files without rows may have other types
            return
        constants = self.partitions[group.file] if self.partitions else {}
        stored = [name for name in columns if name not in constants]
        schema = pa.schema([self.schema.field(name) for name in columns])
        if not stored:
            yield _with_constants({}, schema, constants, group.rows)
            return
        batches = self._call(lambda: self._scan(group, stored, size), group, stored)
        while (batch := self._call(lambda: next(batches, None), group, stored)) is not None:
            if len(batch):
                values = dict(zip(stored, batch.columns, strict=True))
                yield _with_constants(values, schema, constants, len(batch))

    def size_of(self, columns: Sequence[str]) -> int:
        """Return the uncompressed size of columns according to the footers of the files.

        Args:
            columns: Names of columns.

        Returns:
            Size in bytes; of files with encrypted columns, the size of all their columns.
        """
        sizes = [
            self._call(functools.partial(self._size_in, file, set(columns)), RowGroup(file, 0, 0, 0), columns)
            for file in range(len(self.files))
        ]
        return sum(sizes)

    def _size_in(self, file: int, columns: set[str]) -> int:
        metadata = self.fragment(file).metadata
        groups = [metadata.row_group(i) for i in range(metadata.num_row_groups)]
        if _is_signed(self.filesystem, self.files[file], metadata):
            # pyarrow aborts the process when the metadata of an encrypted column are read
            return sum(group.total_byte_size for group in groups)
        paths = [metadata.schema.column(i).path.split(".")[0] for i in range(metadata.num_columns)]
        indices = [i for i, path in enumerate(paths) if path in columns]
        return sum(group.column(i).total_uncompressed_size for group in groups for i in indices)

    def _scan(self, group: RowGroup, columns: Sequence[str], size: int | None) -> Iterator[pa.RecordBatch]:
        part = self.fragment(group.file).subset(row_group_ids=[group.group])
        batch_options = {"batch_size": size, "batch_readahead": 1, "fragment_readahead": 1} if size is not None else {}
        # a schema of these columns only, because pyarrow adds columns (`__filename`) whose names may be in the table
        schema = pa.schema([self.schema.field(name) for name in columns])
        scanner = part.scanner(schema=schema, columns=list(columns), use_threads=size is None, **batch_options)
        return iter(scanner.to_batches())

    def _call(self, step: Callable[[], T], group: RowGroup, columns: Sequence[str]) -> T:
        """Call a function of pyarrow, and convert its errors to an `InputError` about the row group."""
        try:
            return step()
        except Exception as error:
            raise InputError(self._problems(error, group, columns)) from error

    def _problems(self, error: Exception, group: RowGroup, columns: Sequence[str]) -> list[str]:
        """Return a problem for each column of a row group that cannot be read, or one for the whole row group."""
        file = display_path(self.files[group.file], self.location)
        subject = f"{self}: {f'{file}, ' if file else ''}row group {group.group}"
        problems = []
        for name in columns:
            try:
                for _ in self._scan(group, [name], None):
                    pass
            except Exception as column_error:
                reason = explain_read_error(column_error, remote=is_url(self.location))
                if name in self.mixed and isinstance(column_error, pa.ArrowInvalid):  # a conversion failed
                    message = " ".join(str(column_error).split())[:200]
                    reason = f"it has {self.mixed[name]}, which have no common type ({message}); {ADVICE}"
                problems.append(f"{subject}, column {name!r} cannot be read: {reason}")
        return problems or [f"{subject} cannot be read: {explain_read_error(error, remote=is_url(self.location))}"]


def open_manifest(location: str, name: str = "manifest") -> Manifest:
    """Open a parquet file, a folder of parquet files, or an fsspec URL, reading only the footers of its files.

    Args:
        location: Path or URL; relative paths start from the working folder.
        name: Name of the table in messages, which is also the option that selects it.

    Returns:
        The opened table, with its schema, files and notes.

    Raises:
        InputError: It cannot be opened, is not a parquet table, has no rows, or its files have different types.
    """
    label = f"{name} {printable(location)}"
    if not location:
        raise InputError(f"--{name}: it is empty; name a parquet file, a folder or a URL")
    written_location, location = location, resolve_location(location)
    filesystem, path = open_filesystem(location, label)
    remote = is_url(location)
    try:
        info = filesystem.get_file_info(path)
        if info.type.name == "NotFound":
            if remote:
                filesystem.handler.fs.info(path)  # raises the reason: pyarrow reports any failure as "NotFound"
            raise InputError(describe_not_found(location, label, name))
        if info.type.name == "Unknown":
            raise InputError(f"{label}: neither a file nor a folder")
        if info.is_file and info.size == 0:
            raise InputError(f"{label}: the file is empty (0 bytes)")
        listed = None if info.is_file else list_folder(filesystem, path, label)
    except InputError:
        raise
    except Exception as error:
        raise InputError(f"{label}: cannot be opened: {explain_read_error(error, remote=remote)}") from error
    files = (path,) if listed is None else listed.files
    schemas, groups = _read_footers(filesystem, files, location, label)
    counts = [sum(sizes) for sizes in groups]
    file_names = [display_path(file, location) or "the file" for file in files]
    schema, mixed = common_schema(schemas, counts, file_names, label)
    partitions: tuple[Values, ...] = ()
    if listed is not None and listed.types:
        schema, partitions = _with_partitions(schema, schemas, counts, listed, label)
    rows = sum(counts)
    if rows == 0:
        raise InputError(f"{label}: the table has no rows")
    notes = tuple(f"{label}: {note}" for note in (listed.notes if listed is not None else ()))
    return Manifest(location, files, filesystem, schema, rows, name, groups, partitions, notes, written_location, mixed)


def _fragment(filesystem: FileSystem, path: str) -> Any:
    options = ds.ParquetFragmentScanOptions(page_checksum_verification=True)
    return ds.ParquetFileFormat(default_fragment_scan_options=options).make_fragment(path, filesystem)


def _is_signed(filesystem: FileSystem, path: str, metadata: Any) -> bool:
    """Return whether a footer is plain but signed, as with encrypted columns: it is then longer than its metadata.

    Reference:
        https://github.com/apache/parquet-format/blob/master/Encryption.md ("Plaintext footer mode")
    """
    with filesystem.open_input_file(path) as file:
        file.seek(file.size() - FOOTER_LENGTH)
        length = int.from_bytes(file.read(4), "little")
    return bool(length != metadata.serialized_size)


def _read_footers(
    filesystem: FileSystem, files: Sequence[str], location: str, label: str
) -> tuple[list[pa.Schema], tuple[tuple[int, ...], ...]]:
    """Return the schema and the sizes of the row groups of each file. Raises `InputError` with all unreadable files."""

    def footer(path: str) -> tuple[pa.Schema, tuple[int, ...]] | str:
        try:
            fragment = _fragment(filesystem, path)
            metadata = fragment.metadata
            sizes = tuple(metadata.row_group(i).num_rows for i in range(metadata.num_row_groups))
            check_names(fragment.physical_schema)
            return fragment.physical_schema, sizes
        except UnicodeDecodeError as error:
            name = printable(repr(error.object)[:80])
            file_name = display_path(path, location) or "the file"
            return f"{label}: {file_name} has a column whose name is not UTF-8 ({name}); rename it"
        except Exception as error:
            file = display_path(path, location)
            subject = f"{label}: {file} " if file else f"{label}: "
            file_type = describe_file_type(filesystem, path)
            if file_type is not None:
                return f"{subject}is not parquet but {file_type}" if file else f"{subject}not parquet but {file_type}"
            if isinstance(error, pa.ArrowInvalid | pa.ArrowTypeError):
                message = " ".join(str(error).split())[:200]
                return f"{subject}{'is ' if file else ''}not a complete parquet table ({message}); export it again"
            return f"{subject}cannot be read: {explain_read_error(error, remote=is_url(location))}"

    with ThreadPoolExecutor(min(N_READER_THREADS, len(files))) as pool:
        results = list(pool.map(footer, files))
    problems = [result for result in results if isinstance(result, str)]
    if problems:
        n_more = len(problems) - MAX_PROBLEMS
        further = [f"{label}: {n_more} more files like these"] if n_more > 0 else []
        raise InputError(problems[:MAX_PROBLEMS] + further)
    footers = [result for result in results if not isinstance(result, str)]
    return [schema for schema, _ in footers], tuple(sizes for _, sizes in footers)


def _with_partitions(
    schema: pa.Schema, schemas: Sequence[pa.Schema], rows: Sequence[int], listed: FolderFiles, label: str
) -> tuple[pa.Schema, tuple[Values, ...]]:
    """Add the partition columns; a column in the file has precedence over that of its path."""
    stored = {name for part, count in zip(schemas, rows, strict=True) if count for name in part.names}
    for key, kind in listed.types.items():
        if key not in schema.names:
            schema = schema.append(pa.field(key, kind))
        elif key not in stored:  # only files without rows have this column
            schema = schema.set(schema.get_field_index(key), pa.field(key, kind))
    partitions: list[Values] = []
    problems = []
    for part, path, values in zip(schemas, listed.files, listed.partitions, strict=True):
        constants: dict[str, Any] = {key: None for key in listed.types if key not in stored}
        for key, value in values.items():
            if key in stored and key in part.names:
                continue
            try:
                constants[key] = path_value(value, schema.field(key).type)
            except pa.ArrowException:
                problems.append(
                    f"{label}: {printable(path)}: {f'{key}={value}'!r} in the path is not a value of column {key!r},"
                    f" which other files have as {schema.field(key).type}; write the column into the file"
                )
        partitions.append(constants)
    if problems:
        raise InputError(problems[:MAX_PROBLEMS])
    return schema, tuple(partitions)


def _with_constants(values: Mapping[str, pa.Array], schema: pa.Schema, constants: Values, rows: int) -> pa.RecordBatch:
    """Return a batch with the columns of a schema, including those of the file's path."""
    arrays = [
        values[column.name] if column.name in values
        else pa.array([constants[column.name]], column.type).take(pa.nulls(rows, pa.int64()).fill_null(0))
        for column in schema
    ]  # fmt: skip
    return pa.RecordBatch.from_arrays(arrays, schema=schema)
