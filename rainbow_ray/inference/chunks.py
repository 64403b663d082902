"""Chunks of a manifest: contiguous ranges of rows, each scored into one file, so that an interrupted job can resume.

The folder of a job lies next to its output, as `OUT.parts/`, and holds `plan.json` and one `part-NNNNNN.parquet` per
finished chunk (for segments also `intervals-NNNNNN.parquet`). Every file is written atomically, so a chunk is finished
if and only if its file can be read.
"""

from __future__ import annotations

import functools
import json
import operator
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from rainbow_ray.bundle.bundle import bundle_hash
from rainbow_ray.data.manifest import Manifest, open_manifest
from rainbow_ray.inference.media_report import MediaReport
from rainbow_ray.inference.prediction_files import read_media_report
from rainbow_ray.utils.errors import InputError
from rainbow_ray.utils.io import atomic_write

MAX_CHUNK_ROWS = 10_000
MIN_CHUNK_ROWS = 256
CHUNKS_PER_WORKER = 8  # so that no worker is idle near the end, and progress is visible
PLAN = "plan.json"
PREDICTIONS, INTERVALS = "part", "intervals"  # prefixes of the files of a chunk
EARLIER_INTERVALS = "stretches"  # the prefix that version 0.1 wrote
EARLIER_KEYS = {"parts": "chunks", "media root": "media_root"}  # of plan.json, that version 0.1 wrote
REFUSED = ".too-few-media"  # marks a job that ended because too few media files could be read


@dataclass(frozen=True)
class Chunk:
    """A contiguous range of rows of a manifest.

    Attributes:
        number: Index of the chunk.
        start: First row.
        stop: One past the last row.
    """

    number: int
    start: int
    stop: int


@dataclass(frozen=True)
class ScoringJob:
    """The arguments of a worker, which opens the model and the manifest itself.

    Attributes:
        model: Absolute path of a run or a bundle.
        device: Device that the model runs on.
        media_root: Folder that relative paths of media start from.
        manifest: Location of the table.
        manifest_name: Name of the table in messages.
        columns: Columns to read.
        song: Column that names the song, or None.
        folder: Folder of the chunks' files.
        n_threads: Threads of torch, or None for its default.
    """

    model: str
    device: str
    media_root: str
    manifest: str
    manifest_name: str
    columns: tuple[str, ...]
    song: str | None
    folder: Path
    n_threads: int | None = None


@dataclass(frozen=True)
class ChunkPlan:
    """The chunks of a job.

    Attributes:
        job: Arguments of the workers.
        chunks: All chunks, in the order of their rows.
        n_rows: Rows of the manifest.
    """

    job: ScoringJob
    chunks: list[Chunk]
    n_rows: int

    def files(self, kind: str = PREDICTIONS) -> list[Path]:
        """Return the files of all chunks.

        Args:
            kind: `PREDICTIONS` or `INTERVALS`.

        Returns:
            One path per chunk; files of chunks that are not finished do not exist.
        """
        return [chunk_file(self.job.folder, chunk.number, kind) for chunk in self.chunks]

    @property
    def pending(self) -> list[Chunk]:
        """Chunks without a readable file."""
        return [chunk for chunk, file in zip(self.chunks, self.files(), strict=True) if not _is_readable(file)]

    @property
    def media(self) -> MediaReport:
        """Report on the media files of the finished chunks."""
        finished = filter(_is_readable, self.files())
        return functools.reduce(operator.add, map(read_media_report, finished), MediaReport())

    def mark_refused(self) -> None:
        """Record that the job ended because too few media files could be read."""
        (self.job.folder / REFUSED).touch()


def chunk_file(folder: Path, number: int, kind: str = PREDICTIONS) -> Path:
    """Return the path of a file of a chunk.

    Args:
        folder: Folder of the job.
        number: Index of the chunk.
        kind: `PREDICTIONS` or `INTERVALS`.

    Returns:
        The path.
    """
    return folder / f"{kind}-{number:06d}.parquet"


def read_chunk(manifest: Manifest, columns: list[str], chunk: Chunk, batch_rows: int) -> Iterator[pa.RecordBatch]:
    """Read the rows of a chunk; row groups without any of them are skipped.

    Args:
        manifest: Table to read.
        columns: Columns to read.
        chunk: Range of rows.
        batch_rows: Largest number of rows per batch.

    Yields:
        Record batches, in the order of their rows.
    """
    for group in manifest.row_groups():
        if group.start < chunk.stop and group.start + group.rows > chunk.start:
            first_row = group.start
            for batch in manifest.batches(group, columns, batch_rows):
                start, stop = max(chunk.start - first_row, 0), min(chunk.stop - first_row, len(batch))
                if start < stop:
                    yield batch.slice(start, stop - start)
                first_row += len(batch)


def cut_chunks(n_rows: int, size: int, boundaries: np.ndarray | None = None) -> list[Chunk]:
    """Cut rows into chunks of about the same size.

    Args:
        n_rows: Rows to cut.
        size: Rows per chunk.
        boundaries: Sorted rows, `(boundaries,)`, after which a chunk may end; the last is `n_rows`. None: any row.

    Returns:
        Chunks that cover all rows once. A chunk extends to the next boundary.
    """
    chunks: list[Chunk] = []
    start = 0
    while start < n_rows:
        stop = min(start + size, n_rows)
        if boundaries is not None:
            stop = int(boundaries[np.searchsorted(boundaries, stop)])
        chunks.append(Chunk(len(chunks), start, stop))
        start = stop
    return chunks


def song_boundaries(codes: np.ndarray) -> np.ndarray:
    """Return the rows at which every song of the earlier rows has ended.

    Args:
        codes: Song number of each row, `(rows,)`, int.

    Returns:
        Row numbers, sorted; the last is the number of rows.
    """
    last_rows = np.zeros(codes.max(initial=0) + 1, dtype=np.int64)
    last_rows[codes] = np.arange(len(codes))  # of repeated codes, numpy keeps the last assignment
    open_until = np.maximum.accumulate(last_rows[codes])
    return np.flatnonzero(open_until == np.arange(len(codes))) + 1


def plan_chunks(job: ScoringJob, n_workers: int, *, segments: bool, chunk_rows: int | None) -> ChunkPlan:
    """Cut a manifest into chunks.

    Args:
        job: Arguments of the workers.
        n_workers: Workers that share the chunks.
        segments: Whether rows are segments, whose songs must not be cut.
        chunk_rows: Rows per chunk; None: chosen from the number of rows and workers.

    Returns:
        A plan whose chunks have no files yet.
    """
    manifest = open_manifest(job.manifest, job.manifest_name)
    balanced_rows = -(-manifest.rows // (n_workers * CHUNKS_PER_WORKER))
    size = chunk_rows or max(MIN_CHUNK_ROWS, min(MAX_CHUNK_ROWS, balanced_rows))
    boundaries = None
    if segments and manifest.rows and job.song is not None:
        songs = manifest.read([job.song])[job.song].combine_chunks().dictionary_encode()
        songs = songs.combine_chunks() if isinstance(songs, pa.ChunkedArray) else songs
        boundaries = song_boundaries(np.asarray(songs.indices.fill_null(-1)) + 1)
    return ChunkPlan(job, cut_chunks(manifest.rows, size, boundaries), manifest.rows)


def claim_folder(plan: ChunkPlan, *, resume: bool, overwrite: bool, allow_missing: bool = False) -> ChunkPlan:
    """Create the folder of a job, or reopen that of an interrupted one.

    Args:
        plan: The job, with new chunks.
        resume: Whether to continue an interrupted job.
        overwrite: Whether to delete the chunks of an interrupted job.
        allow_missing: Whether media files may be unreadable. A job that ended because too many were is then continued,
            otherwise started again.

    Returns:
        The plan with the chunks of the folder.

    Raises:
        InputError: The folder belongs to something else, to an interrupted job that neither `resume` nor `overwrite`
            allows to be used, or to a job with other inputs.
    """
    folder = plan.job.folder
    identity = _identity(plan)
    if folder.exists():
        _check_is_job_folder(folder)
        if (folder / REFUSED).exists():
            resume = allow_missing and not _differences(_read_plan(folder), identity)
            overwrite = not resume
            (folder / REFUSED).unlink()
        if overwrite and not resume:
            shutil.rmtree(folder)
        elif not resume:
            raise InputError(f"{folder}: contains the chunks of an interrupted prediction; continue it with --resume,"
                             " or start again with --overwrite")  # fmt: skip
    document = _read_plan(folder)
    if document is None:  # a new folder, or a job that was killed before it wrote its plan
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        document = {**identity, "chunks": [[chunk.start, chunk.stop] for chunk in plan.chunks]}
        text = json.dumps(document)
        atomic_write(folder / PLAN, lambda file: file.write_text(text, encoding="utf-8"))
        return plan
    changed = _differences(document, identity)
    if changed:
        raise InputError(f"{folder}: the interrupted prediction used different {' and '.join(changed)}; start again"
                         " with --overwrite")  # fmt: skip
    _rename_earlier_files(folder)
    chunks = [Chunk(number, start, stop) for number, (start, stop) in enumerate(document["chunks"])]
    return ChunkPlan(plan.job, chunks, plan.n_rows)


def _identity(plan: ChunkPlan) -> dict[str, Any]:
    """Return the inputs of a job, which must be the same when it is resumed."""
    manifest = open_manifest(plan.job.manifest, plan.job.manifest_name)
    files = manifest.filesystem.get_file_info(list(manifest.files))
    return {
        "model": bundle_hash(Path(plan.job.model)),
        "manifest": plan.job.manifest,
        "files": [[file.path, file.size, file.mtime_ns] for file in files],
        "media_root": plan.job.media_root,
        "rows": plan.n_rows,
        "columns": list(plan.job.columns),
    }


def _differences(document: Mapping[str, Any] | None, identity: Mapping[str, Any]) -> list[str]:
    """Return names of the inputs that differ from those of the interrupted job."""
    return [name for name, value in identity.items() if (document or {}).get(name) != value]


def _check_is_job_folder(folder: Path) -> None:
    """Raise `InputError` for a folder with other files, so that nothing of the user's is deleted."""
    prefixes = (PLAN, f"{PREDICTIONS}-", f"{INTERVALS}-", f"{EARLIER_INTERVALS}-", ".")
    if not folder.is_dir() or any(not file.name.startswith(prefixes) for file in folder.iterdir()):
        raise InputError(f"{folder}: this name is needed for chunks of predictions, but something else exists there;"
                         " choose another --out")  # fmt: skip


def _read_plan(folder: Path) -> dict[str, Any] | None:
    """Return the content of `plan.json` under today's keys; None for a job that was killed before it wrote one."""
    try:
        document = json.loads((folder / PLAN).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    if not isinstance(document, dict):
        return None
    document = {EARLIER_KEYS.get(name, name): value for name, value in document.items()}
    return document if isinstance(document.get("chunks"), list) else None


def _rename_earlier_files(folder: Path) -> None:
    """Give files of intervals that version 0.1 wrote their present name."""
    for file in folder.glob(f"{EARLIER_INTERVALS}-*.parquet"):
        file.rename(folder / file.name.replace(EARLIER_INTERVALS, INTERVALS, 1))


def _is_readable(file: Path) -> bool:
    """Return whether a file exists and is a whole parquet file."""
    try:
        pq.read_metadata(file)
    except (OSError, pa.ArrowException):
        return False
    return True
