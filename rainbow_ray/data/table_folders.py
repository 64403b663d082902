"""Listing of the parquet files of a folder: hidden files are skipped, and Hive partitions become columns.

As in pyarrow and Spark, files and folders are hidden if their names start with `.` or `_`. Of tables of Delta Lake and
Iceberg, only the files of the current version are listed. Notes count the parquet files that are skipped.
"""

from __future__ import annotations

import heapq
import os
import posixpath
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import unquote

import pyarrow as pa
from pyarrow.fs import FileSelector, FileSystem, LocalFileSystem

from rainbow_ray.data.table_formats import DELTA_LOG, UNREADABLE_LOG, NotUnderstoodError, current_files
from rainbow_ray.utils.errors import InputError, format_names, printable

ENDINGS = (".parquet", ".pq", ".parq")
HIDDEN = (".", "_")
MAGIC = b"PAR1"
MAX_TYPE_CHECKS = 1000  # files whose first bytes are read
HIVE_NULL = "__HIVE_DEFAULT_PARTITION__"

Values = Mapping[str, str | int | None]


@dataclass(frozen=True)
class FolderFiles:
    """The files of a table in a folder.

    Attributes:
        files: Paths of the files, in the order of the rows.
        partitions: Values of the partition columns of each file, from its path (`album=1/`).
        types: Types of the partition columns.
        notes: Notes for the user, such as ignored files.
    """

    files: tuple[str, ...]
    partitions: tuple[Values, ...]
    types: Mapping[str, pa.DataType]
    notes: tuple[str, ...]


def list_folder(filesystem: FileSystem, folder: str, label: str) -> FolderFiles:
    """List the parquet files of a folder, at any depth.

    Args:
        filesystem: File system of the folder.
        folder: Path on that file system.
        label: Name of the table in messages.

    Returns:
        The files, their partition values and notes.

    Raises:
        InputError: The folder contains no parquet file, broken links, or the files of several versions of a table.
    """
    path_by_name, repeated_links = _walk(filesystem, folder)
    try:
        current, kind = current_files(filesystem, folder, path_by_name.keys())
    except NotUnderstoodError as error:
        raise InputError(f"{label}: {error}") from error
    except UNREADABLE_LOG as error:
        raise InputError(f"{label}: the log of this table cannot be read ({' '.join(str(error).split())[:200]});"
                         " export its current version as plain parquet") from error  # fmt: skip
    parquet_names = [name for name in sorted(path_by_name) if name.lower().endswith(ENDINGS)]
    visible = [name for name in parquet_names if not _is_hidden(name)]
    files = [name for name in visible if current is None or name in current]
    broken = [name for name in files if path_by_name[name] is None]
    if broken:
        raise InputError(f"{label}: {printable(broken[0])} is a link to a file that does not exist"
                         f"{f', and so are {len(broken) - 1} more' if len(broken) > 1 else ''}")  # fmt: skip
    visible_files, files = files, _without_repeats(filesystem, path_by_name, files)
    repeats = [name for name in visible_files if name not in set(files)]
    log = DELTA_LOG if kind == "Delta" else None
    hidden = [name for name in parquet_names if _is_hidden(name) and name.partition("/")[0] != log
              and _is_parquet(filesystem, path_by_name[name])]  # fmt: skip
    other_paths = {name: path for name, path in path_by_name.items() if name not in parquet_names}
    misnamed = _find_misnamed(filesystem, other_paths)
    notes = [
        *_note(hidden, "since a name in the path starts with . or _"),
        *_note(misnamed, f"since the name does not end in {', '.join(ENDINGS[:2])}"),
        *_note([name for name in visible if name not in visible_files], f"since the {kind} log no longer has them"),
        *_note(repeats, "since it links to a file that is already read"),
    ]
    if repeated_links:
        listed = printable(format_names(repeated_links))
        notes.append(f"links to folders that are already read are not followed: {listed}")
    if not files:
        raise InputError(f"{label}: the folder contains no parquet file (*.parquet){''.join(f'; {n}' for n in notes)}")
    values = [_partition_values(name) for name in files]
    types = _partition_types(values)
    if types:
        notes.append(f"columns of folder names (partitions): {', '.join(types)}")
    return FolderFiles(
        tuple(path for name in files if (path := path_by_name[name]) is not None),
        tuple({key: _typed(v, types[key]) for key, v in row.items()} for row in values),
        types,
        tuple(notes),
    )


def _walk(filesystem: FileSystem, folder: str) -> tuple[dict[str, str | None], list[str]]:
    """Walk a folder and the visible folders that its links point to, each once.

    Returns:
        The path of each file by its relative name, None for a broken link; and the relative names of links that are not
        followed, because they point to a folder that is already read.
    """
    if not isinstance(filesystem, LocalFileSystem):
        infos = filesystem.get_file_info(FileSelector(folder, recursive=True))
        return {_relative(info.path, folder): info.path for info in infos if info.is_file}, []
    # pyarrow would follow a link to a parent folder endlessly, and ignore broken links
    path_by_name: dict[str, str | None] = {}
    repeated_links: list[str] = []
    visited: set[str] = set()
    pending = [(0, folder)]  # visible folders first, then links to folders, then hidden ones
    while pending:
        rank, parent = heapq.heappop(pending)
        real = os.path.realpath(parent)
        if real in visited:
            repeated_links += [_relative(parent, folder)] if rank == 1 and Path(parent).is_symlink() else []
            continue
        visited.add(real)
        with os.scandir(parent) as entries:
            paths = [Path(parent, entry.name) for entry in entries]
        for path in paths:
            if path.is_dir():
                own_rank = 2 if path.name.startswith(HIDDEN) else int(path.is_symlink())
                heapq.heappush(pending, (max(rank, own_rank), str(path)))
            else:
                path_by_name[_relative(str(path), folder)] = str(path) if path.exists() else None
    return path_by_name, repeated_links


def _without_repeats(filesystem: FileSystem, path_by_name: Mapping[str, str | None], names: Sequence[str]) -> list[str]:
    """Remove the names of links to other files of the list."""
    if not isinstance(filesystem, LocalFileSystem):
        return list(names)
    paths = {name: path for name in names if (path := path_by_name[name]) is not None}
    name_by_target: dict[str, str] = {}
    for name in sorted(paths, key=lambda name: Path(paths[name]).is_symlink()):
        name_by_target.setdefault(os.path.realpath(paths[name]), name)
    unique_names = set(name_by_target.values())
    return [name for name in names if name in unique_names]


def _relative(path: str, folder: str) -> str:
    base = folder.rstrip("/")
    return path[len(base) :].lstrip("/") if path.startswith(f"{base}/") else path.lstrip("/")


def _is_hidden(name: str) -> bool:
    return any(part.startswith(HIDDEN) for part in name.split("/"))


def _is_parquet(filesystem: FileSystem, path: str | None) -> bool:
    """Return whether a file starts with the magic bytes of parquet."""
    if path is None:
        return False
    try:
        with filesystem.open_input_stream(path) as file:
            return bytes(file.read(len(MAGIC))) == MAGIC
    except Exception:
        return False


def _find_misnamed(filesystem: FileSystem, path_by_name: Mapping[str, str | None]) -> list[str]:
    """Return visible parquet files without the extension of parquet; remote folders are not searched."""
    if not isinstance(filesystem, LocalFileSystem):
        return []
    candidates = [name for name in sorted(path_by_name) if not _is_hidden(name)][:MAX_TYPE_CHECKS]
    return [name for name in candidates if _is_parquet(filesystem, path_by_name[name])]


def _note(names: Sequence[str], reason: str) -> list[str]:
    if not names:
        return []
    files = "1 parquet file is" if len(names) == 1 else f"{len(names)} parquet files are"
    return [f"{files} not read, {reason}: {printable(format_names(names))}"]


def _partition_values(name: str) -> dict[str, str | None]:
    """Return the partition columns in the folders of a path, in the format of Hive: `key=value/`."""
    values: dict[str, str | None] = {}
    for part in posixpath.dirname(name).split("/"):
        key, equals, value = part.partition("=")
        if equals and key:
            values[unquote(key)] = None if value == HIVE_NULL else unquote(value)
    return values


def _partition_types(rows: Sequence[Mapping[str, str | None]]) -> dict[str, pa.DataType]:
    """Return the type of each partition column: int64 if all values are plain integers (not `07`), else string."""
    types: dict[str, pa.DataType] = {}
    for key in dict.fromkeys(key for row in rows for key in row):
        present = [value for row in rows if (value := row.get(key)) is not None]
        types[key] = pa.int64() if present and all(map(_is_integer, present)) else pa.string()
    return types


def _is_integer(text: str) -> bool:
    try:
        number = int(text)
    except ValueError:
        return False
    return str(number) == text and abs(number) < 2**63


def _typed(value: str | None, kind: pa.DataType) -> str | int | None:
    return int(value) if value is not None and pa.types.is_integer(kind) else value
