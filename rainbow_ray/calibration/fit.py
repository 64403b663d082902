"""Calibration and thresholds, learned from out-of-fold scores: what a score of 0.8 really means, and when to say yes.

Numbers that are reported are cross-fitted: what is applied to a fold's songs was fitted on the songs of the others. The
bundle keeps what was fitted on all of them.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import numpy as np

from rainbow_ray.calibration.apply import TINY, Calibration, tempered
from rainbow_ray.config.schema import CalibrationConfig
from rainbow_ray.tasks.base import Task

LEAST_SONGS = 50
HALF = 0.5
TEMPERATURES = (0.05, 20.0)


@dataclass(frozen=True)
class Calibrated:
    """What all songs teach, and held-out scores as what the other folds teach makes them (and where yes begins)."""

    calibration: Calibration
    scores: np.ndarray
    thresholded: np.ndarray
    notes: tuple[str, ...] = ()
    by_fold: Mapping[int, Calibration] = field(default_factory=dict)  # what the other folds teach of each


def calibrate(
    config: CalibrationConfig, task: Task, targets: np.ndarray, scores: np.ndarray, songs: np.ndarray,
    folds: np.ndarray,
) -> Calibrated:  # fmt: skip
    """Learn from out-of-fold scores, unless some fold's others are too few: then the bundle is left alone as well."""
    if (config.method == "none" and config.threshold == "fixed") or not task.supports_calibration:
        return Calibrated(Calibration(), scores, scores)
    others = [len(np.unique(songs[folds != fold])) for fold in np.unique(folds)]
    one_split = len(others) == 1
    n = len(np.unique(songs)) if one_split else min(others)
    if n < LEAST_SONGS:
        beside = "" if one_split else " beside a fold"
        few = f"{n} songs{beside} are too few to learn a calibration or a threshold from (at least {LEAST_SONGS})"
        said = f"{few}: scores stay as they are, and yes is from 0.5 on"
        return Calibrated(Calibration(), scores, scores, (said,))
    made, notes = fit_calibration(config, task, targets, scores, songs)
    if one_split:
        alone = "one split has no other folds to learn from: the model is calibrated, its reported numbers are not"
        return Calibrated(made, scores, scores, (*notes, alone))
    by_fold = learn_by_fold(config, task, targets, scores, songs, folds)
    return Calibrated(made, *_apply_by_fold(by_fold, scores, folds), tuple(notes), by_fold)


def fit_calibration(
    config: CalibrationConfig, task: Task, targets: np.ndarray, scores: np.ndarray, songs: np.ndarray
) -> tuple[Calibration, list[str]]:
    """What these songs teach, and a note where they are too few to teach anything."""
    asked = config.method != "none" or config.threshold != "fixed"
    if not asked or not task.supports_calibration:
        return Calibration(), []
    n = len(np.unique(songs))
    if n < LEAST_SONGS:
        few = f"{n} songs are too few to learn a calibration or a threshold from (at least {LEAST_SONGS})"
        return Calibration(), [f"{few}: scores stay as they are, and yes is from 0.5 on"]
    truth = task.one_hot(targets).astype(np.float64)
    truth = truth[:, 0] if scores.ndim == 1 else truth
    made = _fit_scores(config.method, truth, scores, exclusive=task.has_exclusive_classes)
    if not task.supports_thresholds or config.threshold == "fixed":
        return made, []
    columns = made.probabilities(scores).reshape(len(scores), -1)
    choose_one = _chooser(config)
    chosen = [choose_one(truth.reshape(len(scores), -1)[:, i] > HALF, columns[:, i]) for i in range(columns.shape[1])]
    missed = [name.removeprefix("score_") for name, one in zip(task.score_names, chosen, strict=True) if one is None]
    of = "" if missed == ["score"] else f" of {', '.join(missed)}"
    notes = (
        [f"calibration.precision: no threshold{of} reaches {config.precision:g}: yes is from 0.5 on"] if missed else []
    )
    return dataclasses.replace(made, thresholds=tuple(HALF if one is None else one for one in chosen)), notes


def cross_fit(
    config: CalibrationConfig, task: Task, targets: np.ndarray, scores: np.ndarray, songs: np.ndarray,
    folds: np.ndarray,
) -> tuple[np.ndarray, np.ndarray]:  # fmt: skip
    """Calibrated scores, and the same with their thresholds at a half: each fold's by what the others teach.

    With one fold there are no others: nothing is changed.
    """
    return _apply_by_fold(learn_by_fold(config, task, targets, scores, songs, folds), scores, folds)


def learn_by_fold(
    config: CalibrationConfig, task: Task, targets: np.ndarray, scores: np.ndarray, songs: np.ndarray,
    folds: np.ndarray,
) -> dict[int, Calibration]:  # fmt: skip
    """For each fold what the songs of all others teach; nothing for one fold alone."""
    made = {}
    for fold in np.unique(folds):
        others = folds != fold
        if others.any():
            made[int(fold)] = fit_calibration(config, task, targets[others], scores[others], songs[others])[0]
    return made


def _apply_by_fold(
    by_fold: Mapping[int, Calibration], scores: np.ndarray, folds: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    probabilities, thresholded = scores.copy(), scores.copy()
    for fold, made in by_fold.items():
        inside = folds == fold
        probabilities[inside] = made.probabilities(scores[inside])
        thresholded[inside] = made.thresholded(probabilities[inside])
    return probabilities, thresholded


def _fit_scores(method: str, truth: np.ndarray, scores: np.ndarray, *, exclusive: bool) -> Calibration:
    if method == "temperature":
        from scipy.optimize import minimize_scalar

        def cost(log_temperature: float) -> float:
            p = np.clip(tempered(scores, float(np.exp(log_temperature)), exclusive=exclusive), TINY, 1 - TINY)
            if exclusive:
                return float(-np.mean(np.sum(truth * np.log(p), axis=1)))
            return float(-np.mean(truth * np.log(p) + (1 - truth) * np.log(1 - p)))

        found = minimize_scalar(cost, bounds=tuple(np.log(TEMPERATURES)), method="bounded")
        return Calibration(temperature=float(np.exp(found.x)), exclusive=exclusive)
    if method == "isotonic":
        from sklearn.isotonic import IsotonicRegression

        knots = []
        for column, told in zip(scores.reshape(len(scores), -1).T, truth.reshape(len(scores), -1).T, strict=True):
            model = IsotonicRegression(y_min=TINY, y_max=1 - TINY, out_of_bounds="clip").fit(column, told)
            knots.append((tuple(map(float, model.X_thresholds_)), tuple(map(float, model.y_thresholds_))))
        return Calibration(knots=tuple(knots), exclusive=exclusive)
    return Calibration()


def _chooser(config: CalibrationConfig) -> Callable[[np.ndarray, np.ndarray], float | None]:
    """How a threshold is chosen from truth and scores `(examples,)`; None where none does what is asked for."""

    def choose_one(truth: np.ndarray, scores: np.ndarray) -> float | None:
        if truth.all() or not truth.any():
            return HALF
        order = np.argsort(-scores, kind="stable")
        last = np.append(np.flatnonzero(np.diff(scores[order])), len(scores) - 1)  # equal scores stand together
        hits, said = np.cumsum(truth[order])[last], last + 1
        value = _values(config, hits, said, int(truth.sum()))
        if value is None:
            return None
        best = int(np.argmax(value))
        if config.threshold == "cost" and -config.cost_false_negative * truth.sum() > value[best]:
            return 1.0  # never yes is cheaper than any
        above = scores[order][last[best]]
        lowest = 0.0 if above > 0 else -1.0  # a score of 0 may be a yes as well
        below = scores[order][last[best] + 1] if last[best] + 1 < len(scores) else lowest
        return float((above + below) / 2)

    return choose_one


def _values(config: CalibrationConfig, hits: np.ndarray, said: np.ndarray, positives: int) -> np.ndarray | None:
    """What each threshold is worth; None where none reaches the precision that is asked for."""
    if config.threshold == "f1":
        return np.asarray(2 * hits / (said + positives))
    if config.threshold == "cost":
        wrong_yes, wrong_no = said - hits, positives - hits
        return np.asarray(-(config.cost_false_positive * wrong_yes + config.cost_false_negative * wrong_no))
    precise = hits / said >= config.precision
    return np.where(precise, hits / positives, -1.0) if precise.any() else None
