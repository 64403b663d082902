"""Score the chunks of a manifest, in this process or on Ray, and merge their files.

Ray Data passes chunks to actors that load the model once. A small table is scored in this process, because Ray would
take longer to start than to score it.
"""

from __future__ import annotations

import dataclasses
import shutil
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from rainbow_ray.data.manifest import open_manifest
from rainbow_ray.data.text_cells import id_column
from rainbow_ray.inference.chunks import INTERVALS, Chunk, ChunkPlan, ScoringJob, chunk_file, read_chunk
from rainbow_ray.inference.media_report import MediaReport, encode
from rainbow_ray.inference.prediction_files import (
    MEDIA,
    PredictionCounts,
    count_predictions,
    merge_files,
    predictions_table,
    with_unusable_counts,
)
from rainbow_ray.inference.predictor import Predictor
from rainbow_ray.training.fit_errors import user_facing_error
from rainbow_ray.utils.errors import TrainingError
from rainbow_ray.utils.io import atomic_write

if TYPE_CHECKING:
    from rainbow_ray.distributed.resources import RayResources

MAX_IN_PROCESS_ROWS = 20_000  # below, Ray takes longer to start than it saves
BATCH_ROWS = 4096  # rows in memory
MEDIA_BATCH_ROWS = 256  # rows in memory where media are read


@dataclass(frozen=True)
class ChunkResult:
    """Counts of a scored chunk.

    Attributes:
        number: Index of the chunk.
        n_rows: Rows of its file.
        n_unscored: Rows without a score.
        seconds: Duration of scoring.
    """

    number: int
    n_rows: int
    n_unscored: int
    seconds: float


class ChunkScorer:
    """Worker that loads a model once and writes the files of the chunks that it receives.

    Args:
        job: Model, manifest and folder.
    """

    def __init__(self, job: ScoringJob) -> None:
        if job.n_threads is not None:
            import torch

            torch.set_num_threads(job.n_threads)
        self.job = job
        self.predictor = Predictor.load(job.model, job.device, job.media_root)
        self.manifest = open_manifest(job.manifest, job.manifest_name)

    def __call__(self, batch: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Score a batch of Ray Data.

        Args:
            batch: Columns with the fields of `Chunk`.

        Returns:
            Columns with the fields of `ChunkResult`.
        """
        fields = zip(*(batch[name].tolist() for name in ("number", "start", "stop")), strict=True)
        results = [asdict(self.score(Chunk(*values))) for values in fields]
        return {name: np.array([result[name] for result in results]) for name in results[0]}

    def score(self, chunk: Chunk) -> ChunkResult:
        """Write the files of a chunk.

        Args:
            chunk: Rows to score.

        Returns:
            Counts of rows.
        """
        started = time.perf_counter()
        score_rows = self._score_segments if self.predictor.reads_segments else self._score_songs
        n_rows, n_unscored = score_rows(chunk)
        return ChunkResult(chunk.number, n_rows, n_unscored, time.perf_counter() - started)

    def _score_songs(self, chunk: Chunk) -> tuple[int, int]:
        """Write the predictions of songs, batch by batch; return the numbers of rows and of those without a score."""
        job, predictor = self.job, self.predictor
        n_rows, n_unscored = 0, 0
        media_columns = set(job.columns) - {*predictor.bundle.info["text_columns"], job.song}

        def write(file: Path) -> None:
            nonlocal n_rows, n_unscored
            writer, report = None, MediaReport()
            batch_rows = MEDIA_BATCH_ROWS if media_columns else BATCH_ROWS
            for batch in read_chunk(self.manifest, list(job.columns), chunk, batch_rows):
                rows = pa.Table.from_batches([batch])
                predictions, batch_report = predictor.predict_with_report(rows)
                report += batch_report
                songs = id_column(rows[job.song], job.song) if job.song is not None else None
                table = predictions_table(predictions, predictor.bundle.task, predictor.score_names, job.song, songs)
                writer = writer or pq.ParquetWriter(file, table.schema)
                writer.write_table(table)
                n_rows += len(table)
                n_unscored += int(predictions["prediction"].isna().sum())
            if writer is not None:
                writer.add_key_value_metadata({MEDIA: encode(report)})
                writer.close()

        atomic_write(chunk_file(job.folder, chunk.number), write)
        return n_rows, n_unscored

    def _score_segments(self, chunk: Chunk) -> tuple[int, int]:
        """Write segments and intervals; return the numbers of segments and of those without a prediction."""
        job = self.job
        table = pa.Table.from_batches(list(read_chunk(self.manifest, list(job.columns), chunk, BATCH_ROWS)))
        id_name = self.predictor.bundle.info["id_column"]
        if id_name not in table.column_names and job.song in table.column_names:
            table = table.rename_columns({job.song: id_name})
        scores = self.predictor.segments_with_report(table)
        intervals = with_unusable_counts(pa.Table.from_pandas(scores.intervals, preserve_index=False), scores.unusable)
        segments = pa.Table.from_pandas(scores.segments, preserve_index=False)
        metadata = {**(segments.schema.metadata or {}), MEDIA: encode(scores.media)}
        segments = segments.replace_schema_metadata(metadata)
        # the file of segments marks the chunk as finished, so it is written last
        interval_file = chunk_file(job.folder, chunk.number, INTERVALS)
        atomic_write(interval_file, lambda file: pq.write_table(intervals, file))
        atomic_write(chunk_file(job.folder, chunk.number), lambda file: pq.write_table(segments, file))
        return len(segments), int(scores.segments["prediction"].isna().sum())


def score_in_process(plan: ChunkPlan, on_progress: Callable[[ChunkResult], None]) -> None:
    """Score the pending chunks in this process.

    Args:
        plan: Chunks to score.
        on_progress: Called after each chunk.
    """
    pending = plan.pending
    if not pending:
        return  # no model needs to be loaded
    scorer = ChunkScorer(plan.job)
    for chunk in pending:
        on_progress(scorer.score(chunk))


def score_on_ray(
    plan: ChunkPlan, cluster: RayResources, n_workers: int, on_progress: Callable[[ChunkResult], None]
) -> None:
    """Score the pending chunks on actors of a running Ray cluster.

    Args:
        plan: Chunks to score.
        cluster: Resources that the actors share.
        n_workers: Largest number of actors.
        on_progress: Called in this process after each chunk.

    Raises:
        TrainingError: Some chunks were not written.
    """
    import ray

    from rainbow_ray.distributed.ray_errors import quiet_ray_data, unwrapped_errors

    pending = plan.pending
    if not pending:
        return
    quiet_ray_data(ray.data.DataContext.get_current())
    n_actors, resources = cluster.allocate_fits(min(n_workers, len(pending)))
    job = dataclasses.replace(plan.job, n_threads=int(resources["num_cpus"]))
    dataset = ray.data.from_items([asdict(chunk) for chunk in pending], override_num_blocks=len(pending))
    dataset = dataset.map_batches(
        ChunkScorer, fn_constructor_args=(job,), batch_size=1, batch_format="numpy",
        compute=ray.data.ActorPoolStrategy(size=n_actors, max_tasks_in_flight_per_actor=1), **resources,
    )  # fmt: skip
    with unwrapped_errors(user_facing_error):
        for row in dataset.iter_rows():
            on_progress(_chunk_result(row))
    n_pending = len(plan.pending)
    if n_pending:
        raise TrainingError(f"{n_pending} chunks were not written; continue with --resume")


def _chunk_result(row: dict[str, Any]) -> ChunkResult:
    """Convert a row of Ray Data, whose values are numpy scalars."""
    return ChunkResult(int(row["number"]), int(row["n_rows"]), int(row["n_unscored"]), float(row["seconds"]))


def merge_chunks(plan: ChunkPlan, out: Path, intervals_out: Path | None) -> PredictionCounts:
    """Merge the files of all chunks, then delete the folder of the job.

    Args:
        plan: Chunks, all of them finished.
        out: File of predictions.
        intervals_out: File of intervals; None for models that do not predict segments.

    Returns:
        Counts of what the files contain.
    """
    interval_files = plan.files(INTERVALS) if intervals_out is not None else []
    counts = count_predictions(plan.files(), interval_files)
    if intervals_out is not None:
        merge_files(interval_files, intervals_out)
    merge_files(plan.files(), out)
    shutil.rmtree(plan.job.folder)
    return counts
