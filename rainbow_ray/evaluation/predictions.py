"""`predictions.parquet`: targets, predictions and scores of every fit."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from rainbow_ray.calibration.apply import Calibration
from rainbow_ray.data.segments import TIMES
from rainbow_ray.evaluation.bootstrap import ScoredPredictions
from rainbow_ray.evaluation.results import Results
from rainbow_ray.evaluation.summary_format import PREDICTION, song_column
from rainbow_ray.setup.prepared import PreparedData
from rainbow_ray.tasks.segment_task import WEAK
from rainbow_ray.training.cross_validation import FitResult
from rainbow_ray.utils.io import atomic_write


def write_predictions(path: Path, data: PreparedData, results: Results, fits: Sequence[FitResult]) -> None:
    """Write a row for each example, fold and split, unique by (`example_id`, `fold`, `split`).

    Out-of-fold scores are calibrated with the other folds, all other scores with all of them. Out-of-fold stems have
    the scores and the prediction of their song, too, which the metrics are computed from.

    Args:
        path: File to write.
        data: The run's data.
        results: The run's results.
        fits: Results of the folds and of the refit, if any, whose fold is null.
    """
    tables = []
    for fit in fits:
        # songs whose audio windows are read anew each epoch have no scores in the training set
        train = fit.job.train[: len(fit.train_scores)]
        for split, rows, scores in (("train", train, fit.train_scores), ("val", fit.job.val, fit.val_scores)):
            out_of_fold = fit.job.fold if split == "val" else None
            predictions = _finalize(data, results, fit, out_of_fold, rows, scores)
            table = _to_table(data, fit.job.fold, split, rows, predictions)
            if data.source.songs is not None:
                columns = _song_columns(data, results, rows, is_out_of_fold=out_of_fold is not None)
                for name, column in columns.items():
                    table = table.append_column(name, column)
            tables.append(table)
    table = pa.concat_tables(tables)
    atomic_write(path, lambda file: pq.write_table(table, file))


def _finalize(
    data: PreparedData, results: Results, fit: FitResult, out_of_fold: int | None, rows: np.ndarray, scores: np.ndarray
) -> ScoredPredictions:
    """Return calibrated and decoded scores of one split of a fit, held out in the fold `out_of_fold`."""
    if out_of_fold is not None and data.source.songs is None:
        return results.predictions.take(rows)
    if results.stack is not None and len(scores):
        scores = results.stack.of_fit(fit.job.fold, rows, scores)
    if data.task.is_sequence_task:
        targets = data.source.targets
        task = data.task.fit_decoding(targets[fit.job.train])
        return ScoredPredictions(scores, task.decode_scores(targets[rows], scores) if len(scores) else scores)
    calibration = results.calibration
    if out_of_fold is not None:
        calibration = results.calibrations.get(out_of_fold, Calibration())
    calibrated = calibration.probabilities(scores)
    return ScoredPredictions(calibrated, calibration.thresholded(calibrated))


def _song_columns(
    data: PreparedData, results: Results, rows: np.ndarray, *, is_out_of_fold: bool
) -> dict[str, pa.Array]:
    """Return the scores and the prediction of each stem's song, null where they are not out of fold."""
    task, songs = data.task, data.source.songs
    assert songs is not None
    if not is_out_of_fold:
        types = {
            PREDICTION: task.prediction_type,
            **dict.fromkeys(task.score_names, pa.from_numpy_dtype(task.score_dtype)),
        }
        return {song_column(name): pa.nulls(len(rows), kind) for name, kind in types.items()}
    numbers, first = np.unique(songs, return_index=True)  # the scores of a song are at its first example
    predictions = results.predictions.take(first[np.searchsorted(numbers, songs[rows])])
    scores = predictions.scores.reshape(len(rows), len(task.score_names)).astype(task.score_dtype)
    decoded = task.decode_predictions(predictions.thresholded) if len(rows) else []
    return {
        song_column(PREDICTION): pa.array(decoded, task.prediction_type),
        **{song_column(name): pa.array(scores[:, i]) for i, name in enumerate(task.score_names)},
    }


def _to_table(
    data: PreparedData, fold: int | None, split: str, rows: np.ndarray, predictions: ScoredPredictions
) -> pa.Table:
    n_rows, task = len(rows), data.task
    scores = predictions.scores.reshape(n_rows, len(task.score_names)).astype(task.score_dtype)
    decoded = task.decode_predictions(predictions.thresholded) if n_rows else []
    indices = pa.array(rows)
    times: dict[str, pa.Array] = {}
    if task.is_sequence_task:
        times = {name: data.index.table[name].take(indices) for name in TIMES}
        # scores of weakly labeled segments were never compared with a label of the segment itself
        times[WEAK] = pa.array([task.is_weakly_labeled] * n_rows, pa.bool_())
    return pa.table(
        {
            "example_id": data.index.table["example_id"].take(indices),
            "song": data.index.table["song"].take(indices).cast(pa.string()),
            **times,
            "fold": pa.array([fold] * n_rows, pa.int32()),
            "split": pa.array([split] * n_rows, pa.string()),
            "target": task.target_column(data.source.targets[rows]),
            PREDICTION: pa.array(decoded, task.prediction_type),
            **{name: pa.array(scores[:, i]) for i, name in enumerate(task.score_names)},
        }
    )
