"""Tables of Delta Lake, Apache Iceberg and Apache Hudi: the data files of the current version.

Their folders also contain files of earlier versions, which a reader of plain parquet would read as current rows. The
log of a table is evaluated if it uses basic features only; otherwise the folder is rejected.

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
EXPORT = "export its current version as plain parquet"


class NotUnderstoodError(Exception):
    """The log of a table uses a feature that this reader does not support."""


def current_files(filesystem: FileSystem, folder: str, names: Collection[str]) -> tuple[frozenset[str] | None, str]:
    """Return which files of a folder belong to the current version of its table.

    Args:
        filesystem: File system of the folder.
        folder: Its path there.
        names: Paths of all its files, relative to it.

    Returns:
        The relative paths of those files, None where all parquet files are meant; and the name of the format, empty for
        a plain folder.

    Raises:
        NotUnderstoodError: The folder is such a table, and its current version cannot be determined.
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
    """Return the data files that remain after all actions of a Delta log."""
    active: dict[str, None] = {}
    has_actions = False
    for action, file in _delta_actions(filesystem, folder, names):
        has_actions = True
        added, removed = _json_object(action.get("add"), file), _json_object(action.get("remove"), file)
        _refuse_delta_features(added, _json_object(action.get("metaData"), file), file)
        path = (added or removed).get("path")
        if path is None:
            continue
        if not isinstance(path, str):
            raise _damaged(file, "a path in it is not a string")
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
    """Yield the actions of the newest checkpoint and of all later commits, in order, each with its log file."""
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
        log_file = posixpath.join(DELTA_LOG, commits[version])
        with filesystem.open_input_stream(posixpath.join(folder, log_file)) as file:
            lines = file.read().split(b"\n")
        for line in lines:
            if line.strip():
                yield _parse_json(line, log_file), log_file


def _checkpoint_actions(filesystem: FileSystem, path: str) -> Iterator[dict[str, Any]]:
    schema = pq.read_schema(path, filesystem=filesystem)
    kinds = [name for name in ("add", "metaData") if name in schema.names]
    for row in pq.read_table(path, columns=kinds, filesystem=filesystem).to_pylist(maps_as_pydicts="lossy"):
        yield {kind: value for kind, value in row.items() if value is not None and _has_content(value)}


def _has_content(value: Any) -> bool:
    return not isinstance(value, dict) or any(part is not None for part in value.values())


def _refuse_delta_features(added: dict[str, Any], metadata: dict[str, Any], file: str) -> None:
    if added.get("deletionVector"):
        raise NotUnderstoodError(f"this is a Delta table with deleted rows inside its files; {EXPORT}")
    configuration = _json_object(metadata.get("configuration"), file)
    if configuration.get("delta.columnMapping.mode", "none") != "none":
        raise NotUnderstoodError(f"this is a Delta table whose columns have other names in its files; {EXPORT}")


def _parse_json(text: bytes, file: str) -> dict[str, Any]:
    """Parse a JSON object of a log. Raises `NotUnderstoodError` with the log file if the text is not a JSON object."""
    try:
        document = json.loads(text)
    except ValueError as error:
        raise _damaged(file, " ".join(str(error).split())[:200]) from error
    if not isinstance(document, dict):
        raise _damaged(file, "an entry in it is not a JSON object")
    return document


def _json_object(value: Any, file: str) -> dict[str, Any]:
    """Return a value of a log that must be a JSON object; an empty one for None."""
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise _damaged(file, "an entry in it is not a JSON object")
    return value


def _json_list(value: Any, file: str) -> list[Any]:
    """Return a value of a log that must be a JSON list; an empty one for None."""
    if value is None:
        return []
    if not isinstance(value, list):
        raise _damaged(file, "an entry in it is not a JSON list")
    return value


def _damaged(file: str, reason: str) -> NotUnderstoodError:
    return NotUnderstoodError(f"the log of this table cannot be read: {file} is damaged ({reason}); {EXPORT}")


def _is_iceberg_metadata(name: str) -> bool:
    folder, _, file = name.rpartition("/")
    return folder == ICEBERG_METADATA and ICEBERG_FILE.fullmatch(file) is not None


def _check_iceberg(filesystem: FileSystem, folder: str, metadata: list[str]) -> None:
    """Raise `NotUnderstoodError` unless rows were only ever added: then all data files belong to the table."""

    def number(name: str) -> int:
        match = ICEBERG_FILE.fullmatch(posixpath.basename(name))
        assert match is not None
        return int(match[1])

    newest = max(metadata, key=number)
    with filesystem.open_input_stream(posixpath.join(folder, newest)) as file:
        document = _parse_json(file.read(), newest)
    snapshots = [_json_object(entry, newest) for entry in _json_list(document.get("snapshots"), newest)]
    operations = {str(_json_object(entry.get("summary"), newest).get("operation")) for entry in snapshots}
    if operations - {"append"} or len(_json_list(document.get("snapshot-log"), newest) or snapshots) != len(snapshots):
        raise NotUnderstoodError("this is an Iceberg table in which rows were replaced or deleted, and the old files"
                                 f" are in the folder too; {EXPORT}")  # fmt: skip


UNREADABLE_LOG = (OSError, ValueError, pa.ArrowException)
