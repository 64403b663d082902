"""Score a table into a file: check its columns, cut it into chunks, score and merge them, and report progress."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
from filelock import FileLock, Timeout
from rich.console import Console

from rainbow_ray.data.arrow_types import holds_text, plain_type
from rainbow_ray.data.derive_segments import derive_segment_table
from rainbow_ray.data.manifest import Manifest, open_manifest
from rainbow_ray.distributed.assigned_resources import check_gpus
from rainbow_ray.distributed.ray_cluster import ray_cluster
from rainbow_ray.inference.batch_inference import (
    MAX_IN_PROCESS_ROWS,
    ChunkResult,
    merge_chunks,
    score_in_process,
    score_on_ray,
)
from rainbow_ray.inference.chunks import ChunkPlan, ScoringJob, chunk_file, claim_folder, plan_chunks
from rainbow_ray.inference.media_report import IN_COMMAND, MODALITIES_READ, max_unreadable, missing_columns
from rainbow_ray.inference.prediction_files import PredictionCounts, read_media_report
from rainbow_ray.inference.predictor import Predictor
from rainbow_ray.inference.row_scores import NOVELTY
from rainbow_ray.modalities.spec import get_modality
from rainbow_ray.setup.segment_table import TIMES, check_table_times, check_time_columns
from rainbow_ray.utils.cache_dir import make_cache_dir
from rainbow_ray.utils.count_progress import count_progress
from rainbow_ray.utils.errors import InputError, did_you_mean
from rainbow_ray.utils.paths import resolve_path

SONG_ID = "id"  # the usual column of songs
PROGRESS_SECONDS = 5.0  # between lines of progress where there is no terminal


@dataclass(frozen=True)
class TableRequest:
    """What to score, and how.

    Attributes:
        model: A run or a bundle.
        manifest: Parquet file, folder or URL.
        out: File of predictions.
        media_root: Folder that relative paths of audio and MIDI start from.
        device: `auto`, `cuda`, `mps` or `cpu`.
        chunk_rows: Rows per chunk; None: chosen from the size of the table.
        workers: Number of workers; None: all GPUs or CPUs where the table is large.
        address: Address of a Ray cluster; None: a local one, where Ray is needed.
        resume: Whether to continue an interrupted job.
        overwrite: Whether to replace an existing output.
        allow_missing: Whether to score rows whose audio or MIDI cannot be read, however many there are.
    """

    model: Path
    manifest: str
    out: Path
    media_root: Path
    device: str = "auto"
    chunk_rows: int | None = None
    workers: int | None = None
    address: str | None = None
    resume: bool = False
    overwrite: bool = False
    allow_missing: bool = False

    @property
    def folder(self) -> Path:
        """Folder of the chunks' files."""
        return chunk_folder(self.out)

    @property
    def intervals_out(self) -> Path:
        """File of intervals, for models that predict segments."""
        return intervals_path(self.out)


def chunk_folder(out: Path) -> Path:
    """Return the folder of the chunks of an output file.

    Args:
        out: File of predictions.

    Returns:
        The path `OUT.parts`.
    """
    return out.with_name(f"{out.name}.parts")


def intervals_path(out: Path) -> Path:
    """Return the file of intervals that belongs to a file of predictions of segments.

    Args:
        out: File of predictions.

    Returns:
        The path; of `scores.parquet` it is `scores.intervals.parquet`.
    """
    return out.with_name(f"{out.stem}.intervals{out.suffix}")


def predict_table(predictor: Predictor, request: TableRequest, console: Console) -> None:
    """Score a table and write the predictions.

    Args:
        predictor: The model of the request.
        request: What to score, and how.
        console: Where progress, notes and the summary are printed.

    Raises:
        InputError: The table lacks columns, too few media files can be read, the output exists, or another process
            writes it.
    """
    intervals_out = request.intervals_out if predictor.reads_segments else None
    # an interrupted job may have merged its intervals, and not yet its predictions
    is_resumed = request.resume and request.folder.exists()
    if intervals_out is not None and intervals_out.exists() and not request.overwrite and not is_resumed:
        raise InputError(f"--out {request.out}: intervals are written to {intervals_out}, which exists; choose another"
                         " name, or --overwrite")  # fmt: skip
    manifest, notes = open_table(predictor, request.manifest, request.media_root)
    job = make_job(predictor, manifest, request)
    notes += _check_times(predictor, manifest, job)
    with _exclusive_lock(request.folder):
        plan, media_limit = _score(predictor, job, request, manifest.rows, console)
        media_limit.check_all()
        counts = merge_chunks(plan, request.out, intervals_out)
    for note in [*notes, *counts.media.notes(request.media_root)]:
        console.print(f"Note: {note}")
    _print_summary(counts, request.out, intervals_out, console)


def _score(
    predictor: Predictor, job: ScoringJob, request: TableRequest, n_rows: int, console: Console
) -> tuple[ChunkPlan, MediaLimit]:
    """Score all chunks of a table, in this process or on Ray."""

    def claim(n_workers: int) -> tuple[ChunkPlan, MediaLimit]:
        plan = plan_chunks(job, n_workers, segments=predictor.reads_segments, chunk_rows=request.chunk_rows)
        plan = claim_folder(
            plan, resume=request.resume, overwrite=request.overwrite, allow_missing=request.allow_missing
        )
        limit = max_unreadable(predictor.bundle.info)
        return plan, MediaLimit(plan, limit, request.media_root, allow_missing=request.allow_missing)

    if request.workers is None and request.address is None and n_rows < MAX_IN_PROCESS_ROWS:
        plan, media_limit = claim(1)
        with _progress(plan, console) as on_progress:
            score_in_process(plan, media_limit.after(on_progress))
        return plan, media_limit
    # ray prints the normal exit of Ray Data's workers as an error, from C++ to stderr (ray#53727)
    with ray_cluster(request.address, "continue with the same command and --resume", "fatal") as cluster:
        check_gpus(cluster, request.device)
        n_workers = request.workers or cluster.gpus or cluster.cpus
        plan, media_limit = claim(n_workers)
        with _progress(plan, console) as on_progress:
            score_on_ray(plan, cluster, n_workers, media_limit.after(on_progress))
    return plan, media_limit


class MediaLimit:
    """Ends a job once more media files are unreadable than the remaining chunks can make up for.

    Args:
        plan: Chunks of the job.
        limit: Fraction of the files that may be unreadable.
        media_root: Folder that relative paths start from.
        allow_missing: Whether any number of files may be unreadable.
    """

    def __init__(self, plan: ChunkPlan, limit: float, media_root: Path, *, allow_missing: bool) -> None:
        self.plan, self.limit, self.media_root, self.allow_missing = plan, limit, media_root, allow_missing
        self.report = plan.media

    def after(self, on_progress: Callable[[ChunkResult], None]) -> Callable[[ChunkResult], None]:
        """Add the check to a progress callback.

        Args:
            on_progress: Called first.

        Returns:
            A callback that raises `InputError` once the limit is exceeded.
        """

        def check(result: ChunkResult) -> None:
            on_progress(result)
            if self.allow_missing:
                return
            self.report += read_media_report(chunk_file(self.plan.job.folder, result.number))
            if self.report.exceeds(self.limit, self.plan.n_rows):
                self._refuse(partial=len(self.plan.pending) > 0)

        return check

    def check_all(self) -> None:
        """Check all chunks together, before the output is written.

        Raises:
            InputError: More files than the limit are unreadable, or no row names a file.
        """
        self.report = self.plan.media
        if not self.allow_missing and self.report.problems(self.limit, self.media_root, IN_COMMAND):
            self._refuse(partial=False)

    def _refuse(self, *, partial: bool) -> None:
        self.plan.mark_refused()
        raise InputError(self.report.problems(self.limit, self.media_root, IN_COMMAND, partial=partial))


def open_table(predictor: Predictor, location: str, media_root: Path) -> tuple[Manifest, list[str]]:
    """Open the table to score; a table of songs becomes one of segments for a model that predicts segments.

    Args:
        predictor: The model.
        location: File, folder or URL of the table.
        media_root: Folder that relative paths of media start from.

    Returns:
        The table, and notes for the user.

    Raises:
        InputError: The table cannot be read.
    """
    manifest = open_manifest(location)
    if not predictor.reads_segments:
        return manifest, list(manifest.notes)
    info, names = predictor.bundle.info, manifest.schema.names
    song = info["id_column"] if info["id_column"] in names else SONG_ID
    if set(TIMES) & set(names) or song not in names:
        return manifest, list(manifest.notes)
    path, notes = derive_segment_table(
        manifest, make_cache_dir("segments"), song, info["segments"]["seconds"], media_root
    )
    return open_manifest(str(path), "segments"), [*manifest.notes, *notes]


def make_job(predictor: Predictor, manifest: Manifest, request: TableRequest) -> ScoringJob:
    """Select the columns to read and build the arguments of the workers.

    Args:
        predictor: The model.
        manifest: The table.
        request: What to score, and how.

    Returns:
        Arguments of the workers, with absolute paths.

    Raises:
        InputError: The table lacks columns that the model reads, or they have another type.
    """
    info, names = predictor.bundle.info, manifest.schema.names
    song_name = info.get("id_column", SONG_ID)
    if predictor.reads_segments and song_name not in names:
        song_name = SONG_ID
    song = song_name if song_name in names else None
    problems = _segment_problems(predictor, manifest, song) if predictor.reads_segments else []
    problems += _text_problems(manifest, info["text_columns"])
    problems += _song_problems(predictor, manifest, song)
    if predictor.reads_media and not request.allow_missing:
        problems += _media_problems(predictor, manifest, request.media_root)
    if problems:
        raise InputError(problems)
    times = [name for name in info["times"] if name is not None and name in names] if predictor.reads_segments else []
    media = [name for pair in info.get("media_columns", {}).values() for name in pair]
    rates = [get_modality(name).rate_column for name in info.get("media_columns", {})]
    media += [rate for rate in rates if rate is not None]  # of columns with arrays of samples
    selected = [*([song] if song else []), *info["text_columns"], *times, *(name for name in media if name in names)]
    return ScoringJob(
        str(resolve_path(request.model)), request.device, str(resolve_path(request.media_root)), manifest.location,
        manifest.name, tuple(dict.fromkeys(selected)), song, resolve_path(request.folder)
    )  # fmt: skip


def _segment_problems(predictor: Predictor, manifest: Manifest, song: str | None) -> list[str]:
    """Return messages on columns of songs and times that a table of segments lacks."""
    problems = list(check_time_columns(manifest))
    if song is None:
        name = predictor.bundle.info["id_column"]
        problems.append(f"{manifest}: no column {name!r}, which names each segment's song"
                        f"{did_you_mean(name, manifest.schema.names)}")  # fmt: skip
    return problems


def _text_problems(manifest: Manifest, columns: list[str]) -> list[str]:
    """Return messages on text columns that are missing or have another type."""
    names, problems = manifest.schema.names, []
    for name in columns:
        if name not in names:
            problems.append(f"{manifest}: no column {name!r}, which this model reads{did_you_mean(name, names)}")
        elif not holds_text(manifest.schema.field(name).type):
            problems.append(f"{manifest}: column {name!r} holds {manifest.schema.field(name).type}, not text")
    return problems


def _song_problems(predictor: Predictor, manifest: Manifest, song: str | None) -> list[str]:
    """Return messages on a column of songs whose type or name cannot be used."""
    problems = []
    if song is not None and pa.types.is_nested(plain_type(manifest.schema.field(song).type)):
        problems.append(f"{manifest}: column {song!r} names songs by {manifest.schema.field(song).type}; text or"
                        " numbers are needed")  # fmt: skip
    if song in ("prediction", "reason", NOVELTY, MODALITIES_READ, *predictor.score_names):
        problems.append(f"{manifest}: column {song!r} has the name of a column of predictions; rename it")
    return problems


def _media_problems(predictor: Predictor, manifest: Manifest, media_root: Path) -> list[str]:
    """Return messages on columns of media that are missing, and on a media root that does not exist."""
    info = predictor.bundle.info
    lines = missing_columns(info["media_columns"], manifest.schema.names, IN_COMMAND, info["text_columns"])
    problems = [f"{manifest}: {line}" for line in lines]
    if not media_root.is_dir():
        problems.append(f"--media-root {media_root}: no such folder; audio and MIDI files are searched there. Name"
                        " another, or score without them with --allow-missing")  # fmt: skip
    return problems


def _check_times(predictor: Predictor, manifest: Manifest, job: ScoringJob) -> list[str]:
    """Return warnings about the times of a table of segments. Raises `InputError` where they cannot be seconds."""
    if not predictor.reads_segments or job.song is None:
        return []
    return check_table_times(manifest, job.song, next(iter(predictor.bundle.info["text_columns"]), ""))


@contextmanager
def _exclusive_lock(folder: Path) -> Iterator[None]:
    """Let one process at a time write the chunks of an output. The operating system releases the lock of a dead one."""
    lock = FileLock(folder.with_name(f".{folder.name}.lock"))
    try:
        lock.acquire(timeout=0)
    except Timeout as error:
        raise InputError(f"{folder}: another process is writing there; wait for it, or choose another --out") from error
    try:
        yield
    finally:
        lock.release()
        Path(lock.lock_file).unlink(missing_ok=True)


@contextmanager
def _progress(plan: ChunkPlan, console: Console) -> Iterator[Callable[[ChunkResult], None]]:
    """Show progress: a bar on a terminal, elsewhere a line every few seconds."""
    chunk_sizes = {chunk.number: chunk.stop - chunk.start for chunk in plan.pending}
    n_before, n_total = plan.n_rows - sum(chunk_sizes.values()), plan.n_rows
    if n_before:
        console.print(f"{n_before} of {n_total} rows were scored before")
    with count_progress(
        console, "scoring", n_total, "rows", completed=n_before, seconds_between_lines=PROGRESS_SECONDS,
        ends_with_line=True,
    ) as advance:  # fmt: skip
        yield lambda result: advance(chunk_sizes[result.number])


def _print_summary(counts: PredictionCounts, out: Path, intervals_out: Path | None, console: Console) -> None:
    """Print the files, the modalities read, and the number of rows without a score, by reason."""
    if counts.media.modalities:
        read = ", ".join(f"{n} {names or 'nothing'}" for names, n in counts.media.rows.items())
        console.print(f"Modalities read, by number of rows: {read}")
    if intervals_out is None:
        reasons = ", ".join(f"{n} ({reason})" for reason, n in counts.reasons.items())
        console.print(f"{counts.n_rows} predictions in {out}" + (f"; without a score: {reasons}" if reasons else ""))
        return
    weak = " (WEAK: learned from labels of songs, not of segments)" if counts.weak else ""
    console.print(f"{counts.n_rows} segments in {out}{weak}, intervals in {intervals_out}")
    for reason, n in counts.unusable.items():
        console.print(f"  in no interval: {n}: {reason}")
