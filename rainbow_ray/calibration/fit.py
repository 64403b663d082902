"""Fitting of calibration and thresholds on out-of-fold scores.

Reported numbers are cross-fitted: the calibration of the songs of a fold is fitted on the songs of the other folds. The
bundle contains the calibration that is fitted on all songs.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np

from rainbow_ray.calibration.apply import MIN_PROBABILITY, Calibration, scale_temperature
from rainbow_ray.config.schema import CalibrationConfig
from rainbow_ray.tasks.base import Task

MIN_SONGS = 50
DEFAULT_THRESHOLD = 0.5
MIN_TEMPERATURE, MAX_TEMPERATURE = 0.05, 20.0


@dataclass(frozen=True)
class Calibrated:
    """Result of a calibration.

    Attributes:
        calibration: Calibration fitted on all songs, for the bundle.
        scores: Cross-fitted scores, `(examples, …)`.
        thresholded: Cross-fitted scores after thresholds, of the same shape.
        notes: Messages for the user.
        by_fold: Calibration of each fold, fitted on the other folds.
    """

    calibration: Calibration
    scores: np.ndarray
    thresholded: np.ndarray
    notes: tuple[str, ...] = ()
    by_fold: Mapping[int, Calibration] = field(default_factory=dict)


def calibrate(
    config: CalibrationConfig, task: Task, targets: np.ndarray, scores: np.ndarray, songs: np.ndarray,
    folds: np.ndarray, fold_scores: Mapping[int, np.ndarray] | None = None,
) -> Calibrated:  # fmt: skip
    """Fit a calibration on out-of-fold scores, and cross-fit these scores.

    If the songs outside of some fold are too few, neither the scores nor the bundle is calibrated.

    Args:
        config: The calibration section of the config.
        task: The task.
        targets: Targets, `(examples, …)`.
        scores: Out-of-fold scores, `(examples, …)`.
        songs: Song of each example, `(examples,)`.
        folds: Fold of each example, `(examples,)`.
        fold_scores: Scores by fold, `(examples, …)` each, which depend on no label of the fold: its calibration is
            fitted on them. None: on `scores`.

    Returns:
        The calibration and the cross-fitted scores.
    """
    if not (_is_requested(config) and task.supports_calibration):
        return Calibrated(Calibration(), scores, scores)
    n_other_songs = [len(np.unique(songs[folds != fold])) for fold in np.unique(folds)]
    is_one_split = len(n_other_songs) == 1
    n_songs = len(np.unique(songs)) if is_one_split else min(n_other_songs)
    if n_songs < MIN_SONGS:
        location_note = "" if is_one_split else " outside of a fold"
        return Calibrated(Calibration(), scores, scores, (_too_few(n_songs, location_note),))
    calibration, notes = fit_calibration(config, task, targets, scores, songs)
    if is_one_split:
        note = "one split has no other folds to fit on: the model is calibrated, but its reported numbers are not"
        return Calibrated(calibration, scores, scores, (*notes, note))
    by_fold = fit_by_fold(config, task, targets, scores, songs, folds, fold_scores)
    return Calibrated(calibration, *_apply_by_fold(by_fold, scores, folds), tuple(notes), by_fold)


def fit_calibration(
    config: CalibrationConfig, task: Task, targets: np.ndarray, scores: np.ndarray, songs: np.ndarray
) -> tuple[Calibration, list[str]]:
    """Fit a calibration and thresholds.

    Args:
        config: The calibration section of the config.
        task: The task.
        targets: Targets, `(examples, …)`.
        scores: Scores, `(examples, …)`.
        songs: Song of each example, `(examples,)`.

    Returns:
        The calibration, the default one for fewer than `MIN_SONGS` songs; and notes for the user.
    """
    if not (_is_requested(config) and task.supports_calibration):
        return Calibration(), []
    n_songs = len(np.unique(songs))
    if n_songs < MIN_SONGS:
        return Calibration(), [_too_few(n_songs)]
    indicators = task.one_hot(targets).astype(np.float64)
    indicators = indicators[:, 0] if scores.ndim == 1 else indicators
    calibration = _fit_scores(config.method, indicators, scores, exclusive=task.has_exclusive_classes)
    if not task.supports_thresholds or config.threshold == "fixed":
        return calibration, []
    columns = calibration.probabilities(scores).reshape(len(scores), -1)
    is_positive = indicators.reshape(len(scores), -1) > 0.5
    thresholds = [choose_threshold(config, is_positive[:, i], columns[:, i]) for i in range(columns.shape[1])]
    missed = [name.removeprefix("score_") for name, value in zip(task.score_names, thresholds, strict=True)
              if value is None]  # fmt: skip
    classes = "" if missed == ["score"] else f" of {', '.join(missed)}"
    notes = [f"calibration.precision: no threshold{classes} reaches {config.precision:g}; the threshold is"
             f" {DEFAULT_THRESHOLD:g}"] if missed else []  # fmt: skip
    chosen = tuple(DEFAULT_THRESHOLD if value is None else value for value in thresholds)
    return dataclasses.replace(calibration, thresholds=chosen), notes


def cross_fit(
    config: CalibrationConfig, task: Task, targets: np.ndarray, scores: np.ndarray, songs: np.ndarray,
    folds: np.ndarray,
) -> tuple[np.ndarray, np.ndarray]:  # fmt: skip
    """Calibrate the scores of each fold with what was fitted on the other folds.

    Args:
        config: The calibration section of the config.
        task: The task.
        targets: Targets, `(examples, …)`.
        scores: Out-of-fold scores, `(examples, …)`.
        songs: Song of each example, `(examples,)`.
        folds: Fold of each example, `(examples,)`; with a single fold, nothing is changed.

    Returns:
        Calibrated scores, and the same after thresholds.
    """
    return _apply_by_fold(fit_by_fold(config, task, targets, scores, songs, folds), scores, folds)


def fit_by_fold(
    config: CalibrationConfig, task: Task, targets: np.ndarray, scores: np.ndarray, songs: np.ndarray,
    folds: np.ndarray, fold_scores: Mapping[int, np.ndarray] | None = None,
) -> dict[int, Calibration]:  # fmt: skip
    """Fit a calibration for each fold on the songs of the other folds.

    Args:
        config: The calibration section of the config.
        task: The task.
        targets: Targets, `(examples, …)`.
        scores: Out-of-fold scores, `(examples, …)`.
        songs: Song of each example, `(examples,)`.
        folds: Fold of each example, `(examples,)`.
        fold_scores: As in `calibrate`.

    Returns:
        Calibrations by fold; none for a single fold.
    """
    by_fold = {}
    for fold in np.unique(folds):
        in_other_folds = folds != fold
        if in_other_folds.any():
            of_fold = scores if fold_scores is None else fold_scores[int(fold)]
            by_fold[int(fold)] = fit_calibration(
                config, task, targets[in_other_folds], of_fold[in_other_folds], songs[in_other_folds]
            )[0]
    return by_fold


def choose_threshold(config: CalibrationConfig, is_positive: np.ndarray, scores: np.ndarray) -> float | None:
    """Return the threshold with the best value of the configured criterion.

    Args:
        config: The calibration section of the config, with `threshold` other than `fixed`.
        is_positive: Labels, bool, `(examples,)`.
        scores: Calibrated scores, `(examples,)`.

    Returns:
        The middle between two neighboring scores; 0.5 if all labels are equal; None if no threshold reaches the
        configured precision.
    """
    if is_positive.all() or not is_positive.any():
        return DEFAULT_THRESHOLD
    order = np.argsort(-scores, kind="stable")
    last_of_tie = np.append(np.flatnonzero(np.diff(scores[order])), len(scores) - 1)
    hits, n_predicted = np.cumsum(is_positive[order])[last_of_tie], last_of_tie + 1
    values = _criterion(config, hits, n_predicted, int(is_positive.sum()))
    if values is None:
        return None
    best = int(np.argmax(values))
    if config.threshold == "cost" and -config.cost_false_negative * is_positive.sum() > values[best]:
        return 1.0  # never to predict the positive class costs less than any threshold
    lowest_positive = scores[order][last_of_tie[best]]
    lowest = 0.0 if lowest_positive > 0 else -1.0  # a score of 0 can be positive, too
    highest_negative = scores[order][last_of_tie[best] + 1] if last_of_tie[best] + 1 < len(scores) else lowest
    return float((lowest_positive + highest_negative) / 2)


def _is_requested(config: CalibrationConfig) -> bool:
    return config.method != "none" or config.threshold != "fixed"


def _too_few(n_songs: int, location_note: str = "") -> str:
    return (f"{n_songs} songs{location_note} are too few to fit a calibration or a threshold (at least {MIN_SONGS}):"
            f" scores are not calibrated, and the threshold is {DEFAULT_THRESHOLD:g}")  # fmt: skip


def _apply_by_fold(
    by_fold: Mapping[int, Calibration], scores: np.ndarray, folds: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    probabilities, thresholded = scores.copy(), scores.copy()
    for fold, calibration in by_fold.items():
        mask = folds == fold
        probabilities[mask] = calibration.probabilities(scores[mask])
        thresholded[mask] = calibration.thresholded(probabilities[mask])
    return probabilities, thresholded


def _fit_scores(method: str, indicators: np.ndarray, scores: np.ndarray, *, exclusive: bool) -> Calibration:
    if method == "temperature":
        return _fit_temperature(indicators, scores, exclusive=exclusive)
    if method == "isotonic":
        return _fit_isotonic(indicators, scores, exclusive=exclusive)
    return Calibration()


def _fit_temperature(indicators: np.ndarray, scores: np.ndarray, *, exclusive: bool) -> Calibration:
    """Return the temperature with the least log loss (Guo et al. 2017, section 4.2)."""
    from scipy.optimize import minimize_scalar

    def log_loss(log_temperature: float) -> float:
        scaled = scale_temperature(scores, float(np.exp(log_temperature)), exclusive=exclusive)
        p = np.clip(scaled, MIN_PROBABILITY, 1 - MIN_PROBABILITY)
        if exclusive:
            return float(-np.mean(np.sum(indicators * np.log(p), axis=1)))
        return float(-np.mean(indicators * np.log(p) + (1 - indicators) * np.log(1 - p)))

    bounds = tuple(np.log((MIN_TEMPERATURE, MAX_TEMPERATURE)))
    result = minimize_scalar(log_loss, bounds=bounds, method="bounded")
    return Calibration(temperature=float(np.exp(result.x)), exclusive=exclusive)


def _fit_isotonic(indicators: np.ndarray, scores: np.ndarray, *, exclusive: bool) -> Calibration:
    """Return an isotonic function for each column (Zadrozny & Elkan 2002)."""
    from sklearn.isotonic import IsotonicRegression

    knots = []
    for column, labels in zip(scores.reshape(len(scores), -1).T, indicators.reshape(len(scores), -1).T, strict=True):
        model = IsotonicRegression(y_min=MIN_PROBABILITY, y_max=1 - MIN_PROBABILITY, out_of_bounds="clip")
        model.fit(column, labels)
        knots.append((tuple(map(float, model.X_thresholds_)), tuple(map(float, model.y_thresholds_))))
    return Calibration(knots=tuple(knots), exclusive=exclusive)


def _criterion(
    config: CalibrationConfig, hits: np.ndarray, n_predicted: np.ndarray, n_positive: int
) -> np.ndarray | None:
    """Value of each threshold; None where none reaches the configured precision."""
    if config.threshold == "f1":
        return np.asarray(2 * hits / (n_predicted + n_positive))
    if config.threshold == "cost":
        false_positives, false_negatives = n_predicted - hits, n_positive - hits
        costs = config.cost_false_positive * false_positives + config.cost_false_negative * false_negatives
        return np.asarray(-costs)
    is_precise = hits / n_predicted >= config.precision
    return np.where(is_precise, hits / n_positive, -1.0) if is_precise.any() else None
