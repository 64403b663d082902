"""Folders that are more than their files: tables of Delta Lake, Apache Iceberg and Apache Hudi.

Such a folder keeps files of earlier versions, which a reader of plain parquet would take for rows of today's. What its
log says is read where that is simple; otherwise the folder is refused.

References:
    Delta Lake: https://github.com/delta-io/delta/blob/master/PROTOCOL.md ("Action Reconciliation")
    Iceberg: https://iceberg.apache.org/spec/#table-metadata-fields
"""

from __future__ import annotations

import json
import posixpath
import re
from collections.abc import Collection, Iterator
from typing import Any
from urllib.parse import unquote

import pyarrow as pa
import pyarrow.parquet as pq
from pyarrow.fs import FileSystem

DELTA_LOG, ICEBERG_METADATA, HUDI = "_delta_log", "metadata", ".hoodie"
DELTA_COMMIT = re.compile(r"(\d+)\.json")
DELTA_CHECKPOINT = re.compile(r"(\d+)\.checkpoint(\.\d+\.\d+)?\.parquet")
ICEBERG_FILE = re.compile(r"v?(\d+)\b.*\.metadata\.json")
EXPORT = "export its present version as plain parquet and name that"


class NotUnderstoodError(Exception):
    """The log of a table says something that this reader does not know."""


def current_files(filesystem: FileSystem, folder: str, names: Collection[str]) -> tuple[frozenset[str] | None, str]:
    """Return which files of a folder belong to the present version of its table.

    Args:
        filesystem: Where the folder lies.
        folder: Its path there.
        names: Paths of all its files, relative to it.

    Returns:
        The relative paths of those files, None where all parquet files are meant; and the name of the format, empty for
        a plain folder.

    Raises:
        NotUnderstoodError: The folder is such a table, and its present version cannot be told.
    """
    tops = {name.partition("/")[0] for name in names}
    if HUDI in tops:
        raise NotUnderstoodError(f"this is a Hudi table; {EXPORT}")
    if DELTA_LOG in tops:
        return _delta(filesystem, folder, names)
    metadata = [name for name in names if _is_iceberg_metadata(name)]
    if metadata:
        _check_iceberg(filesystem, folder, metadata)
        return None, "Iceberg"
    return None, ""


def _delta(filesystem: FileSystem, folder: str, names: Collection[str]) -> tuple[frozenset[str] | None, str]:
    """The files that the actions of a Delta log leave."""
    active: dict[str, None] = {}
    for action in _delta_actions(filesystem, folder, names):
        _refuse_delta_features(action)
        path = (action.get("add") or action.get("remove") or {}).get("path")
        if path is None:
            continue
        path = unquote(path)
        if action.get("add"):
            active[path] = None
        else:
            active.pop(path, None)
    if not active:
        return None, ""
    missing = [path for path in active if path not in names]
    if missing:
        raise NotUnderstoodError(f"this is a Delta table, and {len(missing)} of its files are not in the folder"
                                 f" ({missing[0]}); copy it whole, or {EXPORT}")  # fmt: skip
    return frozenset(active), "Delta"


def _delta_actions(filesystem: FileSystem, folder: str, names: Collection[str]) -> Iterator[dict[str, Any]]:
    """The actions of the newest checkpoint and of all later commits, in their order."""
    logged = [posixpath.basename(name) for name in names if posixpath.dirname(name) == DELTA_LOG]
    checkpoints = {name: int(match[1]) for name in logged if (match := DELTA_CHECKPOINT.fullmatch(name))}
    if any(".checkpoint." in name and name not in checkpoints for name in logged):
        raise NotUnderstoodError(f"this is a Delta table with checkpoints of a newer kind; {EXPORT}")
    commits = {int(match[1]): name for name in logged if (match := DELTA_COMMIT.fullmatch(name))}
    start = max(checkpoints.values(), default=-1)
    later = sorted(version for version in commits if version > start)
    if later and later != list(range(start + 1, later[-1] + 1)):
        raise NotUnderstoodError(f"this is a Delta table, and commits are missing in its log; {EXPORT}")
    for name in sorted(name for name, version in checkpoints.items() if version == start):
        path = posixpath.join(folder, DELTA_LOG, name)
        yield from _checkpoint_actions(filesystem, path)
    for version in later:
        with filesystem.open_input_stream(posixpath.join(folder, DELTA_LOG, commits[version])) as file:
            lines = file.read().decode("utf-8").splitlines()
        for line in lines:
            if line.strip():
                yield json.loads(line)


def _checkpoint_actions(filesystem: FileSystem, path: str) -> Iterator[dict[str, Any]]:
    schema = pq.read_schema(path, filesystem=filesystem)
    kinds = [name for name in ("add", "metaData") if name in schema.names]
    for row in pq.read_table(path, columns=kinds, filesystem=filesystem).to_pylist(maps_as_pydicts="lossy"):
        yield {kind: value for kind, value in row.items() if value is not None and _has_content(value)}


def _has_content(value: Any) -> bool:
    return not isinstance(value, dict) or any(part is not None for part in value.values())


def _refuse_delta_features(action: dict[str, Any]) -> None:
    if (action.get("add") or {}).get("deletionVector"):
        raise NotUnderstoodError(f"this is a Delta table with deleted rows inside its files; {EXPORT}")
    configuration = (action.get("metaData") or {}).get("configuration") or {}
    if configuration.get("delta.columnMapping.mode", "none") != "none":
        raise NotUnderstoodError(f"this is a Delta table whose columns have other names in its files; {EXPORT}")


def _is_iceberg_metadata(name: str) -> bool:
    folder, _, file = name.rpartition("/")
    return folder == ICEBERG_METADATA and ICEBERG_FILE.fullmatch(file) is not None


def _check_iceberg(filesystem: FileSystem, folder: str, metadata: list[str]) -> None:
    """Raise `NotUnderstoodError` unless rows were only ever added: then all data files belong to the table."""

    def number(name: str) -> int:
        match = ICEBERG_FILE.fullmatch(posixpath.basename(name))
        assert match is not None
        return int(match[1])

    with filesystem.open_input_stream(posixpath.join(folder, max(metadata, key=number))) as file:
        document = json.loads(file.read().decode("utf-8"))
    snapshots = document.get("snapshots") or []
    operations = {(snapshot.get("summary") or {}).get("operation") for snapshot in snapshots}
    if operations - {"append"} or len(document.get("snapshot-log") or snapshots) != len(snapshots):
        raise NotUnderstoodError("this is an Iceberg table in which rows were replaced or deleted, and the old files"
                                 f" are in the folder too; {EXPORT}")  # fmt: skip


UNREADABLE_LOG = (OSError, ValueError, pa.ArrowException)
