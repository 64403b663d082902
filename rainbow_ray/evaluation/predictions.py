"""`predictions.parquet`: targets, predictions and scores of every fit."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from rainbow_ray.data.segments import TIMES
from rainbow_ray.evaluation.bootstrap import ScoredPredictions
from rainbow_ray.evaluation.results import Results
from rainbow_ray.setup.prepared import PreparedData
from rainbow_ray.tasks.segment_task import WEAK
from rainbow_ray.training.cross_validation import FitResult
from rainbow_ray.utils.io import atomic_write


def write_predictions(path: Path, data: PreparedData, results: Results, fits: Sequence[FitResult]) -> None:
    """Write a row for each example, fold and split, unique by (`example_id`, `fold`, `split`).

    Out-of-fold scores are calibrated with the other folds, all other scores with all of them.

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
            predictions = _finalize(data, results, fit, split, rows, scores)
            tables.append(_to_table(data, fit.job.fold, split, rows, predictions))
    table = pa.concat_tables(tables)
    atomic_write(path, lambda file: pq.write_table(table, file))


def _finalize(
    data: PreparedData, results: Results, fit: FitResult, split: str, rows: np.ndarray, scores: np.ndarray
) -> ScoredPredictions:
    """Return calibrated and decoded scores of one split of a fit."""
    if split == "val" and fit.job.fold is not None and data.source.songs is None:
        return results.predictions.take(rows)
    if results.stack is not None and len(scores):
        scores = results.stack.of_fit(fit.job.fold, rows, scores)
    if data.task.is_sequence_task:
        targets = data.source.targets
        task = data.task.fit_decoding(targets[fit.job.train])
        return ScoredPredictions(scores, task.decode_scores(targets[rows], scores) if len(scores) else scores)
    calibrated = results.calibration.probabilities(scores)
    return ScoredPredictions(calibrated, results.calibration.thresholded(calibrated))


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
            "prediction": pa.array(decoded, task.prediction_type),
            **{name: pa.array(scores[:, i]) for i, name in enumerate(task.score_names)},
        }
    )
