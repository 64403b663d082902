"""Which files of a folder are the table: hidden ones are passed over, partitions are columns, versions are respected.

A file or folder below the given one is hidden where its name begins with `.` or `_`, as in pyarrow and Spark. What is
passed over although it is a parquet file is counted in a note.
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
from rainbow_ray.utils.errors import InputError, printable

ENDINGS = (".parquet", ".pq", ".parq")
HIDDEN = (".", "_")
MAGIC = b"PAR1"
MOST_PEEKS = 1000  # files whose first bytes are looked at
SHOWN = 3
HIVE_NULL = "__HIVE_DEFAULT_PARTITION__"

Values = Mapping[str, str | int | None]


@dataclass(frozen=True)
class FolderFiles:
    """The files of a table in a folder.

    Attributes:
        files: Paths of the files, in the order of the rows.
        partitions: For each file, the values of the columns that its path spells (`album=1/`).
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
        InputError: The folder holds no parquet file, broken links, or the files of several versions of a table.
    """
    found, repeated_links = _walk(filesystem, folder)
    try:
        current, kind = current_files(filesystem, folder, found.keys())
    except NotUnderstoodError as error:
        raise InputError(f"{label}: {error}") from error
    except UNREADABLE_LOG as error:
        raise InputError(f"{label}: the log of this table cannot be read ({' '.join(str(error).split())[:200]});"
                         " export its present version as plain parquet and name that") from error  # fmt: skip
    named = [name for name in sorted(found) if name.lower().endswith(ENDINGS)]
    visible = [name for name in named if not _is_hidden(name)]
    files = [name for name in visible if current is None or name in current]
    broken = [name for name in files if found[name] is None]
    if broken:
        raise InputError(f"{label}: {printable(broken[0])} is a link to a file that is not there"
                         f"{f', and so are {len(broken) - 1} more' if len(broken) > 1 else ''}")  # fmt: skip
    listed, files = files, _without_repeats(filesystem, found, files)
    repeats = [name for name in listed if name not in set(files)]
    log = DELTA_LOG if kind == "Delta" else None
    hidden = [name for name in named if _is_hidden(name) and name.partition("/")[0] != log
              and _is_parquet(filesystem, found[name])]  # fmt: skip
    foreign = _foreign(filesystem, {name: path for name, path in found.items() if name not in named})
    notes = [
        *_note(hidden, "since a name in the path begins with . or _"),
        *_note(foreign, f"since the name does not end in {', '.join(ENDINGS[:2])}"),
        *_note([name for name in visible if name not in listed], f"since the {kind} log no longer has them"),
        *_note(repeats, "since it links to a file that is read already"),
    ]
    if repeated_links:
        notes.append(f"links to folders that are read already are not followed: {_examples(repeated_links)}")
    if not files:
        raise InputError(f"{label}: the folder holds no parquet file (*.parquet){''.join(f'; {n}' for n in notes)}")
    values = [_partition_values(name) for name in files]
    types = _partition_types(values)
    if types:
        notes.append(f"columns of folder names (partitions): {', '.join(types)}")
    return FolderFiles(
        tuple(path for name in files if (path := found[name]) is not None),
        tuple({key: _typed(v, types[key]) for key, v in row.items()} for row in values),
        types,
        tuple(notes),
    )


def _walk(filesystem: FileSystem, folder: str) -> tuple[dict[str, str | None], list[str]]:
    """Walk a folder and the visible folders that links in it lead to, each once.

    Returns:
        The path of each file by its relative name, None for a link that leads nowhere; and the relative names of links
        that are not followed, since they lead to a folder that is read already.
    """
    if not isinstance(filesystem, LocalFileSystem):
        infos = filesystem.get_file_info(FileSelector(folder, recursive=True))
        return {_relative(info.path, folder): info.path for info in infos if info.is_file}, []
    # pyarrow follows a link that leads back up for ever, and leaves out links that lead nowhere
    found: dict[str, str | None] = {}
    repeated_links: list[str] = []
    seen: set[str] = set()
    pending = [(0, folder)]  # visible folders first, then links to folders, then hidden ones
    while pending:
        rank, parent = heapq.heappop(pending)
        real = os.path.realpath(parent)
        if real in seen:
            repeated_links += [_relative(parent, folder)] if rank == 1 and Path(parent).is_symlink() else []
            continue
        seen.add(real)
        with os.scandir(parent) as entries:
            paths = [Path(parent, entry.name) for entry in entries]
        for path in paths:
            if path.is_dir():
                own = 2 if path.name.startswith(HIDDEN) else int(path.is_symlink())
                heapq.heappush(pending, (max(rank, own), str(path)))
            else:
                found[_relative(str(path), folder)] = str(path) if path.exists() else None
    return found, repeated_links


def _without_repeats(filesystem: FileSystem, found: Mapping[str, str | None], names: Sequence[str]) -> list[str]:
    """The names of files without links to others of them."""
    if not isinstance(filesystem, LocalFileSystem):
        return list(names)
    paths = {name: path for name in names if (path := found[name]) is not None}
    first: dict[str, str] = {}
    for name in sorted(paths, key=lambda name: Path(paths[name]).is_symlink()):
        first.setdefault(os.path.realpath(paths[name]), name)
    kept = set(first.values())
    return [name for name in names if name in kept]


def _relative(path: str, folder: str) -> str:
    base = folder.rstrip("/")
    return path[len(base) :].lstrip("/") if path.startswith(f"{base}/") else path.lstrip("/")


def _is_hidden(name: str) -> bool:
    return any(part.startswith(HIDDEN) for part in name.split("/"))


def _is_parquet(filesystem: FileSystem, path: str | None) -> bool:
    """Whether a file begins as parquet does."""
    if path is None:
        return False
    try:
        with filesystem.open_input_stream(path) as file:
            return bytes(file.read(len(MAGIC))) == MAGIC
    except Exception:
        return False


def _foreign(filesystem: FileSystem, others: Mapping[str, str | None]) -> list[str]:
    """Visible parquet files whose names do not say so; of a remote folder they are not looked for."""
    if not isinstance(filesystem, LocalFileSystem):
        return []
    candidates = [name for name in sorted(others) if not _is_hidden(name)][:MOST_PEEKS]
    return [name for name in candidates if _is_parquet(filesystem, others[name])]


def _note(names: Sequence[str], why: str) -> list[str]:
    if not names:
        return []
    files = "1 parquet file is" if len(names) == 1 else f"{len(names)} parquet files are"
    return [f"{files} not read, {why}: {_examples(names)}"]


def _examples(names: Sequence[str]) -> str:
    return ", ".join(printable(name) for name in names[:SHOWN]) + (", …" if len(names) > SHOWN else "")


def _partition_values(name: str) -> dict[str, str | None]:
    """Columns that the folders of a path spell, as Hive writes them: `key=value/`."""
    values: dict[str, str | None] = {}
    for part in posixpath.dirname(name).split("/"):
        key, equals, value = part.partition("=")
        if equals and key:
            values[unquote(key)] = None if value == HIVE_NULL else unquote(value)
    return values


def _partition_types(rows: Sequence[Mapping[str, str | None]]) -> dict[str, pa.DataType]:
    """int64 where all values are plain integers (`07` is none), otherwise strings."""
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
