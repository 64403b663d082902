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
    has_actions = False
    for action, place in _delta_actions(filesystem, folder, names):
        has_actions = True
        added, removed = _json_object(action.get("add"), place), _json_object(action.get("remove"), place)
        _refuse_delta_features(added, _json_object(action.get("metaData"), place), place)
        path = (added or removed).get("path")
        if path is None:
            continue
        if not isinstance(path, str):
            raise _damaged(place, "a path in it is no text")
        path = unquote(path)
        if added:
            active[path] = None
        else:
            active.pop(path, None)
    if not has_actions:
        return None, ""
    if not active:
        raise NotUnderstoodError("the table has no rows: its Delta log has removed all files")
    missing = [path for path in active if path not in names]
    if missing:
        raise NotUnderstoodError(f"this is a Delta table, and {len(missing)} of its files are not in the folder"
                                 f" ({missing[0]}); copy it whole, or {EXPORT}")  # fmt: skip
    return frozenset(active), "Delta"


def _delta_actions(filesystem: FileSystem, folder: str, names: Collection[str]) -> Iterator[tuple[dict[str, Any], str]]:
    """The actions of the newest checkpoint and of all later commits, in their order, each with the file it is in."""
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
        for action in _checkpoint_actions(filesystem, path):
            yield action, posixpath.join(DELTA_LOG, name)
    for version in later:
        place = posixpath.join(DELTA_LOG, commits[version])
        with filesystem.open_input_stream(posixpath.join(folder, place)) as file:
            lines = file.read().split(b"\n")
        for line in lines:
            if line.strip():
                yield _parsed(line, place), place


def _checkpoint_actions(filesystem: FileSystem, path: str) -> Iterator[dict[str, Any]]:
    schema = pq.read_schema(path, filesystem=filesystem)
    kinds = [name for name in ("add", "metaData") if name in schema.names]
    for row in pq.read_table(path, columns=kinds, filesystem=filesystem).to_pylist(maps_as_pydicts="lossy"):
        yield {kind: value for kind, value in row.items() if value is not None and _has_content(value)}


def _has_content(value: Any) -> bool:
    return not isinstance(value, dict) or any(part is not None for part in value.values())


def _refuse_delta_features(added: dict[str, Any], metadata: dict[str, Any], place: str) -> None:
    if added.get("deletionVector"):
        raise NotUnderstoodError(f"this is a Delta table with deleted rows inside its files; {EXPORT}")
    configuration = _json_object(metadata.get("configuration"), place)
    if configuration.get("delta.columnMapping.mode", "none") != "none":
        raise NotUnderstoodError(f"this is a Delta table whose columns have other names in its files; {EXPORT}")


def _parsed(text: bytes, place: str) -> dict[str, Any]:
    """The JSON object that a text of a log holds. Raises `NotUnderstoodError` with the file, where it holds none."""
    try:
        document = json.loads(text)
    except ValueError as error:
        raise _damaged(place, " ".join(str(error).split())[:200]) from error
    if not isinstance(document, dict):
        raise _damaged(place, "an entry in it is no JSON object")
    return document


def _json_object(value: Any, place: str) -> dict[str, Any]:
    """A part of a log that must be a JSON object; empty where it is absent."""
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise _damaged(place, "an entry in it is no JSON object")
    return value


def _json_list(value: Any, place: str) -> list[Any]:
    """A part of a log that must be a JSON list; empty where it is absent."""
    if value is None:
        return []
    if not isinstance(value, list):
        raise _damaged(place, "an entry in it is no JSON list")
    return value


def _damaged(place: str, why: str) -> NotUnderstoodError:
    return NotUnderstoodError(f"the log of this table cannot be read: {place} is damaged ({why}); {EXPORT}")


def _is_iceberg_metadata(name: str) -> bool:
    folder, _, file = name.rpartition("/")
    return folder == ICEBERG_METADATA and ICEBERG_FILE.fullmatch(file) is not None


def _check_iceberg(filesystem: FileSystem, folder: str, metadata: list[str]) -> None:
    """Raise `NotUnderstoodError` unless rows were only ever added: then all data files belong to the table."""

    def number(name: str) -> int:
        match = ICEBERG_FILE.fullmatch(posixpath.basename(name))
        assert match is not None
        return int(match[1])

    place = max(metadata, key=number)
    with filesystem.open_input_stream(posixpath.join(folder, place)) as file:
        document = _parsed(file.read(), place)
    snapshots = [_json_object(entry, place) for entry in _json_list(document.get("snapshots"), place)]
    operations = {str(_json_object(entry.get("summary"), place).get("operation")) for entry in snapshots}
    if operations - {"append"} or len(_json_list(document.get("snapshot-log"), place) or snapshots) != len(snapshots):
        raise NotUnderstoodError("this is an Iceberg table in which rows were replaced or deleted, and the old files"
                                 f" are in the folder too; {EXPORT}")  # fmt: skip


UNREADABLE_LOG = (OSError, ValueError, pa.ArrowException)
