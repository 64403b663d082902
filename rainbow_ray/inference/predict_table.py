"""What `predict --manifest` does: a table checked, cut to parts, scored, joined, and told of while it goes."""

from __future__ import annotations

import argparse
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pyarrow as pa
from filelock import FileLock, Timeout
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TimeRemainingColumn

from rainbow_ray.data.manifest import RATE, Manifest, open_manifest
from rainbow_ray.data.normalize import holds_text, plain_type
from rainbow_ray.inference.batch_inference import (
    IN_PROCESS,
    ChunkPlan,
    Done,
    ScoringTask,
    finish,
    open_parts,
    part_file,
    plan_chunks,
    score_here,
    score_on_ray,
)
from rainbow_ray.inference.media_report import IN_COMMAND, MODALITIES_READ, max_unreadable, missing_columns
from rainbow_ray.inference.prediction_files import Tally, read_media_report
from rainbow_ray.inference.predictor import Predictor
from rainbow_ray.utils.console import is_live, text_column
from rainbow_ray.utils.errors import InputError, did_you_mean
from rainbow_ray.utils.paths import resolve_path

SONG_ID = "id"  # of tables of songs
SAY_EVERY = 5.0  # seconds


def score_manifest(predictor: Predictor, options: argparse.Namespace, root: Path, console: Console) -> None:
    """Score `options.manifest` into `options.out`, in parts. Raises `InputError` with all that is wrong."""
    out = options.out
    beside = out.with_name(f"{out.stem}.stretches{out.suffix}") if predictor.reads_segments else None
    begun = out.with_name(f"{out.name}.parts").exists() and options.resume  # it may have been stopped between the two
    if beside is not None and beside.exists() and not options.overwrite and not begun:
        raise InputError(f"--out {out}: stretches go to {beside}, which exists; another name, or --overwrite")
    folder = out.with_name(f"{out.name}.parts")
    manifest, notes = _table(predictor, options.manifest, root)
    task = _task(predictor, manifest, options, root, folder)
    notes += _check_times(predictor, manifest, task)
    # Ray Data's workers are told of in C++, on stderr, as errors that are none (ray#53727)
    os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")
    with _alone(folder):
        from rainbow_ray.distributed.ray_cluster import ray_cluster

        here = options.workers is None and options.address is None and manifest.rows < IN_PROCESS

        def opened(workers: int) -> ChunkPlan:
            plan = plan_chunks(task, workers, segments=predictor.reads_segments, part_rows=options.part_rows)
            return open_parts(
                plan, resume=options.resume, overwrite=options.overwrite, allow_missing=options.allow_missing
            )

        if here:
            plan = opened(1)
            watch = _MediaWatch(predictor, plan, root, allow_missing=options.allow_missing)
            with _progress(plan, console) as told:
                score_here(plan, watch.after(told))
        else:
            with ray_cluster(options.address, "go on with the same command and --resume") as cluster:
                workers = options.workers or cluster.gpus or cluster.cpus
                plan = opened(workers)
                watch = _MediaWatch(predictor, plan, root, allow_missing=options.allow_missing)
                with _progress(plan, console) as told:
                    score_on_ray(plan, cluster, workers, watch.after(told))
        watch.conclude()
        tally = finish(plan, out, beside)
    for note in [*notes, *tally.media.notes(root)]:
        console.print(f"Note: {note}")
    _conclude(tally, out, beside, console)


class _MediaWatch:
    """Ends a command as soon as too few files can be read, whatever the parts that are left hold.

    Raises:
        InputError: More files than `data.max_unreadable_fraction` of the run cannot be used.
    """

    def __init__(self, predictor: Predictor, plan: ChunkPlan, root: Path, *, allow_missing: bool) -> None:
        self.plan, self.root, self.allow_missing = plan, root, allow_missing
        self.limit = max_unreadable(predictor.bundle.info)
        self.report = plan.media

    def after(self, told: Callable[[Done], None]) -> Callable[[Done], None]:
        """Return a callback that passes on each part and looks at what was read in it."""

        def check(part: Done) -> None:
            told(part)
            if self.allow_missing:
                return
            self.report += read_media_report(part_file(self.plan.task.folder, part.number))
            if self.report.exceeds(self.limit, self.plan.rows):
                self._refuse(partial=len(self.plan.waiting) > 0)

        return check

    def conclude(self) -> None:
        """Judge all parts together, before anything is moved into place."""
        self.report = self.plan.media
        if not self.allow_missing and self.report.problems(self.limit, self.root, IN_COMMAND):
            self._refuse(partial=False)

    def _refuse(self, *, partial: bool) -> None:
        self.plan.refuse()
        raise InputError(self.report.problems(self.limit, self.root, IN_COMMAND, partial=partial))


def _table(predictor: Predictor, location: str, root: Path) -> tuple[Manifest, list[str]]:
    """The table to score; of a model of segments and a table of songs, the segments that are made of it."""
    manifest = open_manifest(location)
    if not predictor.reads_segments:
        return manifest, list(manifest.notes)
    from rainbow_ray.data.derive_segments import make_segments
    from rainbow_ray.setup.segment_table import TIMES, cache_folder

    info, names = predictor.bundle.info, manifest.schema.names
    song = info["id_column"] if info["id_column"] in names else SONG_ID
    if set(TIMES) & set(names) or song not in names:
        return manifest, list(manifest.notes)
    made, notes = make_segments(manifest, cache_folder(), song, info["segments"]["seconds"], root)
    return open_manifest(str(made), "segments"), [*manifest.notes, *notes]


def _task(
    predictor: Predictor, manifest: Manifest, options: argparse.Namespace, root: Path, folder: Path
) -> ScoringTask:
    """What workers need to know. Raises `InputError` for columns that the model reads and the table has not."""
    info, names = predictor.bundle.info, manifest.schema.names
    own = info.get("id_column", SONG_ID)
    wrong = _wrong_texts(manifest, info["text_columns"])
    times: list[str] = []
    if predictor.reads_segments:
        from rainbow_ray.setup.segment_table import wrong_times

        own = own if own in names else SONG_ID
        wrong = [*wrong_times(manifest), *wrong]
        times = [name for name in info["times"] if name is not None and name in names]
        if own not in names:
            wrong.append(f"{manifest}: no column {info['id_column']!r}, which names each segment's song"
                         f"{did_you_mean(info['id_column'], names)}")  # fmt: skip
    song = own if own in names else None
    if song is not None and pa.types.is_nested(plain_type(manifest.schema.field(song).type)):
        wrong.append(f"{manifest}: column {song!r} names songs by {manifest.schema.field(song).type}; text or numbers"
                     " are needed")  # fmt: skip
    if song in ("prediction", "reason", MODALITIES_READ, *predictor.score_names):
        wrong.append(f"{manifest}: the column {song!r} has a name that predictions have; rename it")
    if predictor.reads_media:
        lines = missing_columns(info["media_columns"], names, IN_COMMAND, info["text_columns"])
        missing = [f"{manifest}: {line}" for line in lines]
        if not root.is_dir():
            missing.append(f"--media-root {root}: no such folder; audio and MIDI are looked for there. Name another, or"
                           " score without them with --allow-missing")  # fmt: skip
        wrong += [] if options.allow_missing else missing
    if wrong:
        raise InputError(wrong)
    wanted = [name for pair in info.get("media_columns", {}).values() for name in pair]
    wanted += [RATE] if "audio" in info.get("media_columns", {}) else []  # arrays of samples have their rate there
    media = [name for name in wanted if name in names]
    columns = tuple(dict.fromkeys([*([song] if song else []), *info["text_columns"], *times, *media]))
    return ScoringTask(
        str(resolve_path(options.model)), options.device, str(resolve_path(root)), manifest.location, manifest.name,
        columns, song, resolve_path(folder)
    )  # fmt: skip


def _check_times(predictor: Predictor, manifest: Manifest, task: ScoringTask) -> list[str]:
    """Warnings about the times of a table of segments. Raises `InputError` where they cannot be in seconds."""
    if not predictor.reads_segments or task.song is None:
        return []
    from rainbow_ray.setup.segment_table import check_table_times

    return check_table_times(manifest, task.song, next(iter(predictor.bundle.info["text_columns"]), ""))


def _wrong_texts(manifest: Manifest, wanted: list[str]) -> list[str]:
    """Columns of texts that are missing, or hold something else."""
    names, problems = manifest.schema.names, []
    for name in wanted:
        if name not in names:
            problems.append(f"{manifest}: no column {name!r}, which this model reads{did_you_mean(name, names)}")
            continue
        kind = manifest.schema.field(name).type
        if not holds_text(kind):
            problems.append(f"{manifest}: column {name!r} holds {kind}, not text")
    return problems


@contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """One command at a time writes a file's parts. The lock is the system's: it goes with who held it."""
    lock = FileLock(folder.with_name(f".{folder.name}.lock"))
    try:
        lock.acquire(timeout=0)
    except Timeout as error:
        raise InputError(f"{folder}: another command is writing there") from error
    try:
        yield
    finally:
        lock.release()
        Path(lock.lock_file).unlink(missing_ok=True)


@contextmanager
def _progress(plan: ChunkPlan, console: Console) -> Iterator[Callable[[Done], None]]:
    """A bar on a terminal, a plain line now and then elsewhere: rows, rate, what is left."""
    waiting = {part.number: part.stop - part.start for part in plan.waiting}
    before, total = plan.rows - sum(waiting.values()), plan.rows
    if before:
        console.print(f"{before} of {total} rows were scored before")
    began = said = time.monotonic()
    done = 0
    columns = (text_column("scoring"), BarColumn(), MofNCompleteColumn(), text_column("{task.fields[rate]}"),
               TimeRemainingColumn())  # fmt: skip
    bar = Progress(*columns, console=console) if is_live(console) else None
    task = bar.add_task("", total=total, completed=before, rate="") if bar else None

    def told(part: Done) -> None:
        nonlocal done, said
        done += waiting[part.number]
        now = time.monotonic()
        rate = done / max(now - began, 1e-9)
        if bar is not None and task is not None:
            bar.update(task, completed=before + done, rate=f"{rate:,.0f} rows/s")
        elif now - said > SAY_EVERY or before + done == total:
            said = now
            left = (total - before - done) / rate
            console.print(f"{before + done} of {total} rows, {rate:,.0f} a second"
                          + (f", about {left:.0f} s left" if before + done < total else ""))  # fmt: skip

    if bar is None:
        yield told
        return
    with bar:
        yield told


def _conclude(tally: Tally, out: Path, beside: Path | None, console: Console) -> None:
    """What lies where, and what has no score, by reason."""
    told = ", ".join(f"{n} ({reason})" for reason, n in tally.reasons.items())
    why = f"; without a score: {told}" if told else ""
    read = (
        ", ".join(f"{n} {names or 'nothing'}" for names, n in tally.media.rows.items())
        if tally.media.modalities
        else ""
    )
    if read:
        console.print(f"What the scores have read: {read}")
    if beside is None:
        console.print(f"{tally.rows} predictions in {out}{why}")
        return
    marked = " (WEAK: only songs' labels were learned)" if tally.weak else ""
    console.print(f"{tally.rows} segments in {out}{marked}, stretches in {beside}")
    for reason, n in tally.unusable.items():
        console.print(f"  in no stretch: {n}: {reason}")
