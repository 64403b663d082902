"""Parquet files for tests: written and damaged; and the message of a table that is refused."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from rainbow_ray.data.manifest import open_manifest
from rainbow_ray.utils.errors import InputError
from tests.song_tables import song_rows


def put(path: Path, table: pa.Table | None = None, **options: object) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.table(song_rows(24, 1)) if table is None else table, path, **options)
    return path


def refused(path: Path | str) -> str:
    with pytest.raises(InputError) as error:
        open_manifest(str(path))
    return str(error.value)


def damage(path: Path, group: int, column: str) -> None:
    """Overwrite the first page of a column in a row group."""
    metadata = pq.read_metadata(path).row_group(group)
    chunk = next(c for i in range(metadata.num_columns) if (c := metadata.column(i)).path_in_schema == column)
    start = chunk.dictionary_page_offset or chunk.data_page_offset
    content = bytearray(path.read_bytes())
    content[start + 2 : start + chunk.total_compressed_size] = b"\xff" * (chunk.total_compressed_size - 2)
    path.write_bytes(content)
