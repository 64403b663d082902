"""Results of a run: metrics of its out-of-fold predictions, their comparison with the baselines, and warnings."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from rainbow_ray.baselines.common import Baselines
from rainbow_ray.baselines.features import ReferenceFeatures
from rainbow_ray.baselines.names import NO_CONTEXT
from rainbow_ray.calibration.apply import Calibration
from rainbow_ray.calibration.fit import calibrate
from rainbow_ray.data.dataset import scatter_song_means
from rainbow_ray.evaluation.bootstrap import (
    Difference,
    ScoredPredictions,
    best_baseline,
    bootstrap_ci,
    compute_metrics,
    paired_bootstrap,
    verdict,
)
from rainbow_ray.evaluation.diagnostics import training_warnings
from rainbow_ray.evaluation.learning_curve import LearningCurve, fit_learning_curve
from rainbow_ray.evaluation.modality_ablation import ModalityAblation, ablate_modalities, modality_warnings
from rainbow_ray.evaluation.stacked_scores import StackedScores, stack_scores
from rainbow_ray.setup.plan import RunPlan
from rainbow_ray.setup.prepared import PreparedData
from rainbow_ray.tasks.base import Metrics, Task
from rainbow_ray.tasks.scores import decode_folds, is_scored
from rainbow_ray.training.cross_validation import FitResult, out_of_fold


@dataclass(frozen=True)
class ScoredSongs:
    """Table of the examples that results are measured on, a row for each; a song's stems share one row.

    Attributes:
        rows: Index of each example in the dataset, int64, `(n,)`.
        targets: Targets, `(n, …)`.
        scores: Out-of-fold scores, each calibrated with the other folds, `(n,)` or `(n, classes)`.
        thresholded: Scores that `Task.decode_predictions` converts to the predictions, of the same shape.
        folds: Fold whose validation set has the example, `(n,)`.
        song_ids: Integer code of the song, `(n,)`.
    """

    rows: np.ndarray
    targets: np.ndarray
    scores: np.ndarray
    thresholded: np.ndarray
    folds: np.ndarray
    song_ids: np.ndarray

    @property
    def predictions(self) -> ScoredPredictions:
        """Scores and thresholded scores."""
        return ScoredPredictions(self.scores, self.thresholded)

    @property
    def n_songs(self) -> int:
        """Number of songs."""
        return len(np.unique(self.song_ids))

    def take(self, rows: np.ndarray) -> ScoredSongs:
        """Return some of the examples.

        Args:
            rows: Indices into the table, or a mask.

        Returns:
            The table of these examples.
        """
        return ScoredSongs(*(column[rows] for column in vars(self).values()))


@dataclass(frozen=True)
class Measurements:
    """Metrics of the model.

    Attributes:
        metrics: Metrics by name, None where undefined.
        undefined: Reason why each undefined metric is.
        ci95: 95% bootstrap interval over songs by metric, None where there is none.
        details: Further entries of `summary.json`, such as the confusion matrix.
    """

    metrics: Metrics
    undefined: dict[str, str]
    ci95: dict[str, list[float] | None]
    details: dict[str, Any]


@dataclass(frozen=True)
class BaselineComparison:
    """The model compared with the baselines on the songs that both scored.

    Attributes:
        baselines: Metrics by name of the baseline.
        best: Name of the baseline that is best on the headline metric, if any.
        difference: Paired difference of the headline metric between the model and that baseline.
        verdict: A sentence on whether the model is better.
        n_songs: Number of songs compared.
    """

    baselines: dict[str, Metrics]
    best: str | None
    difference: Difference | None
    verdict: str
    n_songs: int


@dataclass(frozen=True)
class NeuralComparison:
    """The stacked ensemble compared with its neural network alone, which is calibrated as a run without a stack is.

    Attributes:
        metrics: Metrics of the neural network.
        difference: Paired difference of the headline metric between the two.
    """

    metrics: Metrics
    difference: Difference | None


@dataclass(frozen=True)
class Diagnosis:
    """What points to problems of the training.

    Attributes:
        warnings: Messages, each with settings to try.
        modalities: Results with subsets of the modalities, by subset; empty for a single modality.
    """

    warnings: list[str]
    modalities: dict[str, ModalityAblation]


@dataclass(frozen=True)
class Results:
    """All results of a run.

    Attributes:
        predictions: Out-of-fold scores of all examples of the dataset, NaN where no fold scored an example.
        measurements: Metrics of the model.
        comparison: Comparison with the baselines.
        diagnosis: Warnings and the modality ablation.
        calibration: Calibration fitted on the out-of-fold scores of all songs, which the bundle keeps.
        calibrations: Calibration of each fold's scores, fitted on the other folds.
        calibration_notes: Messages about what could not be calibrated.
        n_labeled_examples: Number of measured examples that have a label.
        stack: The stacked ensemble; None where the model is the neural network alone.
        neural: Comparison of the stacked ensemble with its neural network.
        references: Features of the songs, with which new songs are compared.
        curve: What more songs would bring; None where that cannot be said.
    """

    predictions: ScoredPredictions
    measurements: Measurements
    comparison: BaselineComparison
    diagnosis: Diagnosis
    calibration: Calibration
    calibrations: Mapping[int, Calibration]
    calibration_notes: tuple[str, ...]
    n_labeled_examples: int
    stack: StackedScores | None = None
    neural: NeuralComparison | None = None
    references: ReferenceFeatures | None = None
    curve: LearningCurve | None = None


def evaluate(plan: RunPlan, data: PreparedData, folds: Sequence[FitResult], baselines: Baselines) -> Results:
    """Combine, calibrate and measure the out-of-fold scores of a run, and compare them with the baselines.

    Args:
        plan: The run's plan.
        data: The run's data.
        folds: Results of the folds.
        baselines: Results of the baselines, at least of one. With their fits, a stacked ensemble is measured, else the
            neural network alone.

    Returns:
        The results.
    """
    task, targets, seed = data.task, data.source.targets, plan.config.reproducibility.seed
    neural = scatter_song_means(data.source, out_of_fold(data.source, task, folds, lambda fold: fold.val_scores))
    stack = None
    if baselines.fits is not None:
        stack = stack_scores(data, folds, baselines.fits, plan.config.training.headline, seed=seed)
    raw = neural if stack is None else scatter_song_means(data.source, stack.scores)
    rows = np.flatnonzero(data.split.fold >= 0)
    rows = rows[is_scored(raw[rows], task)]
    song_ids, fold_of_row = data.index.codes("song", rows), data.split.fold[rows]
    fold_scores = None
    if stack is not None:
        fold_scores = {k: scatter_song_means(data.source, values)[rows] for k, values in enumerate(stack.fold_scores)}
    calibrated = calibrate(
        plan.config.calibration, task, targets[rows], raw[rows], song_ids, fold_of_row, fold_scores
    )  # fmt: skip
    predictions = ScoredPredictions(raw, raw.copy())
    predictions.scores[rows], predictions.thresholded[rows] = calibrated.scores, calibrated.thresholded
    predictions.thresholded[rows] = _decode(data, predictions.thresholded)[rows]
    songs = ScoredSongs(
        rows, targets[rows], predictions.scores[rows], predictions.thresholded[rows], fold_of_row, song_ids
    )
    return Results(
        predictions,
        measure(task, songs, seed=seed),
        compare(plan, data, songs, baselines.scores),
        diagnose(plan, data, folds, songs, predictions.scores if stack is None else neural),
        calibrated.calibration,
        calibrated.by_fold,
        tuple(calibrated.notes),
        int(task.has_label(songs.targets).sum()),
        stack,
        None if stack is None else _measure_neural(plan, data, songs, neural),
        baselines.references,
        _learning_curve(plan, data, baselines),
    )


def measure(task: Task, songs: ScoredSongs, *, seed: int) -> Measurements:
    """Compute all metrics with their bootstrap intervals.

    Args:
        task: The task.
        songs: The examples to measure.
        seed: Seed of the bootstrap.

    Returns:
        The metrics.
    """
    metrics, undefined = compute_metrics(task, songs.targets, songs.predictions)
    ci95 = bootstrap_ci(task, songs.targets, songs.predictions, songs.song_ids, seed=seed)
    return Measurements(metrics, undefined, ci95, task.details(songs.targets, songs.thresholded))


def compare(
    plan: RunPlan, data: PreparedData, songs: ScoredSongs, baselines: Mapping[str, np.ndarray]
) -> BaselineComparison:
    """Compare the model with the baselines on the examples that both scored.

    Of a large dataset, baselines score only some examples.

    Args:
        plan: The run's plan.
        data: The run's data.
        songs: The examples that the model scored.
        baselines: Out-of-fold scores of each baseline, `(examples, …)`, NaN where it has none.

    Returns:
        The comparison on the headline metric.
    """
    task, metric = data.task, plan.config.training.headline
    scores = {name: scatter_song_means(data.source, values) for name, values in baselines.items()}
    shared = songs.take(is_scored(next(iter(scores.values()))[songs.rows], task))
    predictions = {name: ScoredPredictions(values, values).take(shared.rows) for name, values in scores.items()}
    if NO_CONTEXT in scores:  # the same model, so that its scores are decoded in the same way
        decoded = _decode(data, scores[NO_CONTEXT])
        predictions[NO_CONTEXT] = ScoredPredictions(scores[NO_CONTEXT], decoded).take(shared.rows)
    measured = {name: compute_metrics(task, shared.targets, values)[0] for name, values in predictions.items()}
    best = best_baseline(task, metric, measured)
    model_scores = shared.predictions.for_metric(task, metric)
    difference = None
    if best is not None:
        difference = paired_bootstrap(
            task, metric, shared.targets, model_scores, predictions[best].for_metric(task, metric), shared.song_ids,
            seed=plan.config.reproducibility.seed,
        )  # fmt: skip
    value = task.metric(metric, shared.targets, model_scores)
    baseline = measured[best][metric] if best is not None else None
    sentence = verdict(metric, best, baseline, value, difference, shared.n_songs)
    return BaselineComparison(measured, best, difference, sentence, shared.n_songs)


def _learning_curve(plan: RunPlan, data: PreparedData, baselines: Baselines) -> LearningCurve | None:
    if baselines.curve is None:
        return None
    targets, seed = data.source.targets[baselines.curve.rows], plan.config.reproducibility.seed
    return fit_learning_curve(data.task, plan.config.training.headline, targets, baselines.curve, seed=seed)


def _measure_neural(plan: RunPlan, data: PreparedData, songs: ScoredSongs, scores: np.ndarray) -> NeuralComparison:
    """Measure the neural network's out-of-fold scores on the songs that the stacked ensemble scored."""
    task, metric, rows = data.task, plan.config.training.headline, songs.rows
    calibrated = calibrate(plan.config.calibration, task, songs.targets, scores[rows], songs.song_ids, songs.folds)
    thresholded = scores.copy()
    thresholded[rows] = calibrated.thresholded
    predictions = ScoredPredictions(calibrated.scores, _decode(data, thresholded)[rows])
    metrics, _ = compute_metrics(task, songs.targets, predictions)
    difference = paired_bootstrap(
        task, metric, songs.targets, songs.predictions.for_metric(task, metric), predictions.for_metric(task, metric),
        songs.song_ids, seed=plan.config.reproducibility.seed,
    )  # fmt: skip
    return NeuralComparison(metrics, difference)


def diagnose(
    plan: RunPlan, data: PreparedData, folds: Sequence[FitResult], songs: ScoredSongs, scores: np.ndarray
) -> Diagnosis:
    """Return warnings about the training, and the modality ablation.

    Args:
        plan: The run's plan.
        data: The run's data.
        folds: Results of the folds.
        songs: The measured examples.
        scores: Out-of-fold scores of all examples of the dataset, `(examples, …)`.

    Returns:
        The diagnosis.
    """
    task, training = data.task, plan.config.training
    predictions = task.decode_predictions(songs.thresholded[task.has_label(songs.targets)])
    messages = training_warnings(training, [fold.facts for fold in folds], predictions, task.imbalance_advice)
    modalities = ablate_modalities(plan, data, folds, scores, songs.rows)
    return Diagnosis([*messages, *modality_warnings(training.headline, modalities)], modalities)


def _decode(data: PreparedData, scores: np.ndarray) -> np.ndarray:
    """Decode scores of segments with what each fold's training set teaches; scores of songs stay as they are."""
    folds = [data.split.train_val_indices(fold) for fold in range(data.split.n_folds)]
    return decode_folds(data.task, data.source.targets, folds, scores)
