"""Tables of any size scored in parts: each part is a file that is there whole or not at all, so a stop loses little.

Parts are ranges of the manifest's rows (of segments, cut between songs). Ray Data hands them to warm workers, each of
which has read the model once and streams its rows; a small table is scored in this process, for which Ray would take
longer to start. In the end the parts become one file.
"""

from __future__ import annotations

import functools
import json
import operator
import shutil
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from rainbow_ray.bundle.bundle import bundle_hash
from rainbow_ray.data.manifest import Manifest, open_manifest
from rainbow_ray.data.normalize import id_column
from rainbow_ray.inference.media_report import MediaReport, encode
from rainbow_ray.inference.prediction_files import (
    MEDIA,
    Tally,
    join_parts,
    note_unusable,
    read_media_report,
    tally,
    to_table,
)
from rainbow_ray.inference.predictor import Predictor
from rainbow_ray.utils.errors import InputError, TrainingError
from rainbow_ray.utils.io import atomic_write

if TYPE_CHECKING:
    from rainbow_ray.distributed.ray_cluster import RayResources

IN_PROCESS = 20_000  # rows: below, Ray takes longer to start than it saves
PART_ROWS = 10_000
PARTS_A_WORKER = 8  # so that all have something to do until the end, and progress is told
LEAST_PART = 256
AT_ONCE = 4096  # rows in memory
MEDIA_AT_ONCE = 256
PLAN = "plan.json"
REFUSED = ".too-few-media"  # marks parts of which too few files could be read: `--allow-missing` goes on with them
TRIES = 3


@dataclass(frozen=True)
class Chunk:
    """Rows `start` to `stop` of the manifest."""

    number: int
    start: int
    stop: int


@dataclass(frozen=True)
class Done:
    """What became of a part."""

    number: int
    rows: int
    unscored: int
    seconds: float


@dataclass(frozen=True)
class ScoringTask:
    """All that a worker must know: it opens model and manifest for itself."""

    model: str
    device: str
    media_root: str
    manifest: str
    name: str  # what messages call the table
    columns: tuple[str, ...]
    song: str | None
    folder: Path  # of the parts
    threads: int | None = None


class PartScorer:
    """A warm worker: it reads the model once and writes the files of the parts that it is given."""

    def __init__(self, task: ScoringTask) -> None:
        if task.threads is not None:
            import torch

            torch.set_num_threads(task.threads)
        self.task = task
        self.predictor = Predictor.load(task.model, task.device, task.media_root)
        self.manifest = open_manifest(task.manifest, task.name)

    def __call__(self, rows: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        """For Ray Data: columns of `Chunk` in, columns of `Done` out."""
        parts = zip(*(rows[name].tolist() for name in ("number", "start", "stop")), strict=True)
        done = [asdict(self.score(Chunk(*part))) for part in parts]
        return {name: np.array([one[name] for one in done]) for name in done[0]}

    def score(self, part: Chunk) -> Done:
        """Write a part's file (of segments, two)."""
        began = time.perf_counter()
        rows, unscored = (self._segments if self.predictor.reads_segments else self._songs)(part)
        return Done(part.number, rows, unscored, time.perf_counter() - began)

    def _songs(self, part: Chunk) -> tuple[int, int]:
        task, predictor = self.task, self.predictor
        counts = [0, 0]
        texts = predictor.bundle.info["text_columns"]
        media = set(task.columns) - {*texts, task.song}

        def write(file: Path) -> None:
            writer, report = None, MediaReport()
            size = MEDIA_AT_ONCE if media else AT_ONCE
            for batch in read_range(self.manifest, list(task.columns), part, size):
                rows = pa.Table.from_batches([batch])
                found, read = predictor.predict_with_report(rows)
                report += read
                songs = id_column(rows[task.song], task.song) if task.song is not None else None
                table = to_table(found, predictor.bundle.task, predictor.score_names, task.song, songs)
                writer = writer or pq.ParquetWriter(file, table.schema)
                writer.write_table(table)
                counts[0] += len(table)
                counts[1] += int(found["prediction"].isna().sum())
            if writer is not None:
                writer.add_key_value_metadata({MEDIA: encode(report)})
                writer.close()

        atomic_write(part_file(task.folder, part.number), write)
        return counts[0], counts[1]

    def _segments(self, part: Chunk) -> tuple[int, int]:
        table = pa.Table.from_batches(list(read_range(self.manifest, list(self.task.columns), part, AT_ONCE)))
        own = self.predictor.bundle.info["id_column"]
        if own not in table.column_names and self.task.song in table.column_names:
            table = table.rename_columns({self.task.song: own})
        found = self.predictor.segments_with_report(table)
        stretches = note_unusable(pa.Table.from_pandas(found.stretches, preserve_index=False), found.unusable)
        segments = pa.Table.from_pandas(found.segments, preserve_index=False)
        metadata = {**(segments.schema.metadata or {}), MEDIA: encode(found.media)}
        segments = segments.replace_schema_metadata(metadata)
        atomic_write(part_file(self.task.folder, part.number, "stretches"), lambda f: pq.write_table(stretches, f))
        atomic_write(part_file(self.task.folder, part.number), lambda f: pq.write_table(segments, f))
        return len(segments), int(found.segments["prediction"].isna().sum())


def part_file(folder: Path, number: int, kind: str = "part") -> Path:
    return folder / f"{kind}-{number:06d}.parquet"


def read_range(manifest: Manifest, columns: list[str], part: Chunk, size: int) -> Iterator[pa.RecordBatch]:
    """A part's rows, at most `size` at once; row groups that have none of them are not read."""
    for group in manifest.row_groups():
        if group.start < part.stop and group.start + group.rows > part.start:
            at = group.start
            for batch in manifest.batches(group, columns, size):
                first, stop = max(part.start - at, 0), min(part.stop - at, len(batch))
                if first < stop:
                    yield batch.slice(first, stop - first)
                at += len(batch)


def plan_parts(rows: int, size: int, cuts: np.ndarray | None = None) -> list[Chunk]:
    """Ranges of about `size` rows. `cuts`, sorted, are the places where they may end (the last is `rows`)."""
    ends = []
    at = 0
    while at < rows:
        wanted = min(at + size, rows)
        if cuts is not None:
            wanted = int(cuts[np.searchsorted(cuts, wanted)])
        ends.append((at, wanted))
        at = wanted
    return [Chunk(number, *pair) for number, pair in enumerate(ends)]


def between_songs(codes: np.ndarray) -> np.ndarray:
    """Places where all earlier rows' songs have ended: `codes`, `(rows,)`, number the song of each row."""
    last = np.zeros(codes.max(initial=0) + 1, dtype=np.int64)
    last[codes] = np.arange(len(codes))  # the last of equal ones stays
    reach = np.maximum.accumulate(last[codes])
    return np.flatnonzero(reach == np.arange(len(codes))) + 1


@dataclass(frozen=True)
class ChunkPlan:
    """What is to be scored, and which of it is still to be done."""

    task: ScoringTask
    parts: list[Chunk]
    rows: int

    @property
    def waiting(self) -> list[Chunk]:
        return [part for part in self.parts if not _is_whole(part_file(self.task.folder, part.number))]

    @property
    def media(self) -> MediaReport:
        """What could be read of audio and MIDI in the parts that are scored."""
        files = [part_file(self.task.folder, part.number) for part in self.parts]
        return functools.reduce(operator.add, map(read_media_report, filter(_is_whole, files)), MediaReport())

    def refuse(self) -> None:
        """Mark the parts as those of a table of which too few files could be read."""
        (self.task.folder / REFUSED).touch()


def _is_whole(file: Path) -> bool:
    try:
        pq.read_metadata(file)
    except (OSError, pa.ArrowException):  # not there yet, or torn
        return False
    return True


def plan_chunks(task: ScoringTask, workers: int, *, segments: bool, part_rows: int | None) -> ChunkPlan:
    """Cut the manifest to parts for so many workers."""
    manifest = open_manifest(task.manifest, task.name)
    size = part_rows or max(LEAST_PART, min(PART_ROWS, -(-manifest.rows // (workers * PARTS_A_WORKER))))
    cuts = None
    if segments and manifest.rows and task.song is not None:
        songs = manifest.read([task.song])[task.song].combine_chunks().dictionary_encode()
        songs = songs.combine_chunks() if isinstance(songs, pa.ChunkedArray) else songs
        codes = np.asarray(songs.indices.fill_null(-1)) + 1
        cuts = between_songs(codes)
    return ChunkPlan(task, plan_parts(manifest.rows, size, cuts), manifest.rows)


def open_parts(plan: ChunkPlan, *, resume: bool, overwrite: bool, allow_missing: bool = False) -> ChunkPlan:
    """Claim the folder of the parts: a new one, or, with `resume`, that of a command that was stopped.

    Parts of which too few files could be read are gone on with where that is allowed now, otherwise begun anew.

    Raises `InputError` for one that is there and was not asked for, or was made of something else.
    """
    folder = plan.task.folder
    identity = {
        "model": bundle_hash(Path(plan.task.model)),
        "manifest": plan.task.manifest,
        "files": _files_of(plan.task),
        "media root": plan.task.media_root,
        "rows": plan.rows,
        "columns": list(plan.task.columns),
    }
    if folder.exists():
        _check_ours(folder)
        if (folder / REFUSED).exists():
            resume = allow_missing and not _differences(_read_plan(folder), identity)
            overwrite = not resume
            (folder / REFUSED).unlink()
        if overwrite and not resume:
            shutil.rmtree(folder)
        elif not resume:
            raise InputError(f"{folder}: an earlier command was stopped in the middle; --resume goes on with it,"
                             " --overwrite begins anew")  # fmt: skip
    known = _read_plan(folder)
    if known is None:  # a new one, or one that died before it knew its parts
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        document = {**identity, "parts": [[part.start, part.stop] for part in plan.parts]}
        atomic_write(folder / PLAN, lambda file: file.write_text(json.dumps(document), encoding="utf-8"))
        return plan
    differ = _differences(known, identity)
    if differ:
        raise InputError(f"{folder}: it was begun with another {' and '.join(differ)}; --overwrite begins anew")
    return ChunkPlan(plan.task, [Chunk(i, *pair) for i, pair in enumerate(known["parts"])], plan.rows)


def _differences(known: dict[str, Any] | None, identity: dict[str, Any]) -> list[str]:
    """What parts were begun with that is another now."""
    return [name for name, value in identity.items() if (known or {}).get(name) != value]


def _files_of(task: ScoringTask) -> list[list[Any]]:
    """What the manifest's files are by now: name, size, when they were written."""
    manifest = open_manifest(task.manifest, task.name)
    found = manifest.filesystem.get_file_info(list(manifest.files))
    return [[one.path, one.size, one.mtime_ns] for one in found]


def _check_ours(folder: Path) -> None:
    """Raise `InputError` for a folder of that name that is not one of parts: nothing of somebody else's is deleted."""
    own = (PLAN, "part-", "stretches-", ".")
    if not folder.is_dir() or any(not file.name.startswith(own) for file in folder.iterdir()):
        raise InputError(f"{folder}: parts go there, and something else has that name; another --out")


def _read_plan(folder: Path) -> dict[str, Any] | None:
    try:
        found = json.loads((folder / PLAN).read_text(encoding="utf-8"))
    except (OSError, ValueError):  # a command that died before it had one
        return None
    return found if isinstance(found, dict) and isinstance(found.get("parts"), list) else None


def score_here(plan: ChunkPlan, told: Callable[[Done], None]) -> None:
    """Score what is waiting in this process."""
    waiting = plan.waiting
    scorer = PartScorer(plan.task) if waiting else None
    for part in waiting:
        assert scorer is not None
        told(scorer.score(part))


def score_on_ray(plan: ChunkPlan, cluster: RayResources, workers: int, told: Callable[[Done], None]) -> None:
    """Score what is waiting on warm workers of a running Ray."""
    import ray

    from rainbow_ray.distributed.ray_errors import quiet_ray_data, unwrapped_errors
    from rainbow_ray.training.cross_validation import user_facing_error

    waiting = plan.waiting
    if not waiting:
        return
    quiet_ray_data(ray.data.DataContext.get_current())
    side_by_side, resources = cluster.slots(min(workers, len(waiting)))
    task = ScoringTask(**{**vars(plan.task), "threads": int(resources["num_cpus"])})
    dataset = ray.data.from_items([asdict(part) for part in waiting], override_num_blocks=len(waiting))
    dataset = dataset.map_batches(
        PartScorer, fn_constructor_args=(task,), batch_size=1, batch_format="numpy",
        compute=ray.data.ActorPoolStrategy(size=side_by_side, max_tasks_in_flight_per_actor=1), **resources,
    )  # fmt: skip
    with unwrapped_errors(user_facing_error):
        for row in dataset.iter_rows():
            told(Done(int(row["number"]), int(row["rows"]), int(row["unscored"]), float(row["seconds"])))
    if plan.waiting:
        raise TrainingError(f"{len(plan.waiting)} parts were not written; go on with --resume")


def finish(plan: ChunkPlan, out: Path, beside: Path | None) -> Tally:
    """One file of all parts (and one of all stretches), then the parts are gone. What there is in them."""
    folder = plan.task.folder
    stretches = [part_file(folder, part.number, "stretches") for part in plan.parts] if beside is not None else []
    found = tally([part_file(folder, part.number) for part in plan.parts], stretches)
    if beside is not None:
        join_parts(stretches, beside)
    join_parts([part_file(folder, part.number) for part in plan.parts], out)
    shutil.rmtree(folder)
    return found
