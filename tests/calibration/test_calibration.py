"""Calibration of probabilities and thresholds, its cross-fitting, and scores that stay unchanged."""

from __future__ import annotations

import numpy as np
import pytest

from rainbow_ray.calibration.apply import Calibration
from rainbow_ray.calibration.fit import calibrate, cross_fit, fit_calibration
from rainbow_ray.config.schema import CalibrationConfig
from rainbow_ray.tasks.binary import Binary
from rainbow_ray.tasks.multiclass import Multiclass
from rainbow_ray.tasks.multilabel import Multilabel

RNG = np.random.default_rng(0)
N = 400
LOG_ODDS = RNG.normal(size=N) * 2
TRUTH = (RNG.random(N) < 1 / (1 + np.exp(-LOG_ODDS))).astype(np.float32)
OVERCONFIDENT = (1 / (1 + np.exp(-3 * LOG_ODDS))).astype(np.float32)  # logits three times too large
SONGS = np.arange(N)


def config(**keys) -> CalibrationConfig:
    return CalibrationConfig(**keys)


def ece(scores: np.ndarray) -> float:
    return Binary().metric("ece", TRUTH, scores) or 0.0


@pytest.mark.parametrize("method", ["temperature", "isotonic"])
def test_overconfident_scores_are_calibrated(method):
    calibration, notes = fit_calibration(config(method=method), Binary(), TRUTH, OVERCONFIDENT, SONGS)
    assert not notes
    assert ece(calibration.probabilities(OVERCONFIDENT)) < ece(OVERCONFIDENT) / 2
    if method == "temperature":
        assert calibration.temperature == pytest.approx(3.0, rel=0.25)
    assert Calibration.from_json(calibration.to_json()) == calibration


def test_calibrated_class_probabilities_sum_to_one():
    logits = RNG.normal(size=(N, 3))
    p = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    truth = np.array([RNG.choice(3, p=row) for row in p], dtype=np.float32)
    overconfident = (np.exp(4 * logits) / np.exp(4 * logits).sum(1, keepdims=True)).astype(np.float32)
    task = Multiclass(classes=("a", "b", "c"))
    for method in ("temperature", "isotonic"):
        calibration, _ = fit_calibration(config(method=method), task, truth, overconfident, SONGS)
        calibrated = calibration.probabilities(overconfident)
        np.testing.assert_allclose(calibrated.sum(1), 1.0, atol=1e-5)
        assert task.metric("log_loss", truth, calibrated) < task.metric("log_loss", truth, overconfident)
        assert not calibration.thresholds  # the most probable class is predicted


@pytest.mark.parametrize(
    ("keys", "utility"),
    [
        (
            {"threshold": "f1"},
            lambda is_positive: 2 * (is_positive & (TRUTH > 0)).sum() / (is_positive.sum() + TRUTH.sum()),
        ),
        (
            {"threshold": "cost", "cost_false_negative": 9.0},
            lambda is_positive: -((is_positive & (TRUTH == 0)).sum() + 9 * (~is_positive & (TRUTH > 0)).sum()),
        ),
    ],
)
def test_the_threshold_maximizes_its_utility(keys, utility):
    calibration, _ = fit_calibration(config(**keys), Binary(), TRUTH, OVERCONFIDENT, SONGS)
    (threshold,) = calibration.thresholds
    assert utility(threshold < OVERCONFIDENT) == max(
        utility(t < OVERCONFIDENT) for t in np.unique(OVERCONFIDENT) - 1e-9
    )
    assert ((calibration.thresholded(OVERCONFIDENT) > 0.5) == (threshold < OVERCONFIDENT)).all()


def test_the_recall_threshold_has_at_least_the_requested_precision():
    calibration, _ = fit_calibration(
        config(threshold="recall_at_precision", precision=0.9), Binary(), TRUTH, OVERCONFIDENT, SONGS
    )
    predicted = calibration.thresholds[0] < OVERCONFIDENT
    assert TRUTH[predicted].mean() >= 0.9
    predicted_below = calibration.thresholds[0] - 0.05 < OVERCONFIDENT
    assert TRUTH[predicted_below].mean() < 0.9 or (predicted_below == predicted).all()
    noise = RNG.random(N).astype(np.float32)
    calibration, _ = fit_calibration(
        config(threshold="recall_at_precision", precision=1.0),
        Binary(),
        1.0 - (noise > noise.max() - 1e-6),
        noise,
        SONGS,
    )
    assert calibration.thresholds == (0.5,)  # no threshold reaches this precision


def test_each_label_has_its_own_threshold():
    targets = np.stack([TRUTH, TRUTH], axis=1)
    scores = np.stack([OVERCONFIDENT, OVERCONFIDENT / 10], axis=1)
    calibration, _ = fit_calibration(config(threshold="f1"), Multilabel(classes=("a", "b")), targets, scores, SONGS)
    assert calibration.thresholds[0] == pytest.approx(10 * calibration.thresholds[1], rel=1e-3)


def test_too_few_songs_are_not_calibrated():
    calibration, notes = fit_calibration(config(threshold="f1"), Binary(), TRUTH[:49], OVERCONFIDENT[:49], SONGS[:49])
    assert calibration == Calibration()
    assert "49 songs are too few" in notes[0]
    song_of_stem = np.repeat(np.arange(20), 20)
    assert fit_calibration(config(method="isotonic"), Binary(), TRUTH, OVERCONFIDENT, song_of_stem)[0] == Calibration()


def test_scores_that_cannot_be_cross_fitted_are_not_calibrated():
    settings, subset = config(method="isotonic", threshold="f1"), slice(0, 56)
    folds = np.arange(56) % 5
    calibrated = calibrate(settings, Binary(), TRUTH[subset], OVERCONFIDENT[subset], SONGS[subset], folds)
    assert calibrated.calibration == Calibration()
    assert (calibrated.scores == OVERCONFIDENT[subset]).all()
    assert "outside of a fold are too few" in calibrated.notes[0]
    with_all_songs = calibrate(settings, Binary(), TRUTH, OVERCONFIDENT, SONGS, SONGS % 5)
    assert with_all_songs.calibration != Calibration()
    assert with_all_songs.notes == ()


def test_scores_of_a_single_split_are_not_calibrated_with_a_note():
    calibrated = calibrate(
        config(method="temperature"), Binary(), TRUTH, OVERCONFIDENT, SONGS, np.zeros(len(TRUTH), int)
    )
    assert calibrated.calibration != Calibration()
    assert (calibrated.scores == OVERCONFIDENT).all()
    assert "one split" in calibrated.notes[0]


def test_thresholds_may_predict_no_or_all_positives():
    truth, scores = np.array([0.0] * 60 + [1.0] * 3), np.linspace(0.0, 1.0, 63).astype(np.float32)
    scores[-3:] = [0.1, 0.2, 0.3]
    songs = np.arange(63)
    costly_false_positives = config(threshold="cost", cost_false_positive=20.0)
    calibration, _ = fit_calibration(costly_false_positives, Binary(), truth, scores, songs)
    assert calibration.thresholded(scores).sum() == 0
    costly_false_negatives = config(threshold="cost", cost_false_negative=1000.0)
    scores[-1] = 0.0
    calibration, _ = fit_calibration(costly_false_negatives, Binary(), truth, scores, songs)
    assert calibration.thresholded(scores).sum() == 63


def test_an_unreachable_precision_has_a_note():
    scores = np.linspace(0.0, 1.0, 60).astype(np.float32)
    truth = np.array([0.0, 1.0] * 29 + [0.0, 0.0])
    settings = config(threshold="recall_at_precision", precision=0.99)
    calibration, notes = fit_calibration(settings, Binary(), truth, scores, np.arange(60))
    assert calibration.thresholds == (0.5,)
    assert "no threshold reaches 0.99" in notes[0]


def test_scores_of_a_fold_do_not_depend_on_its_labels():
    folds = SONGS % 5
    settings = config(method="isotonic", threshold="f1")
    expected = cross_fit(settings, Binary(), TRUTH, OVERCONFIDENT, SONGS, folds)
    flipped = np.where(folds == 2, 1 - TRUTH, TRUTH)
    actual = cross_fit(settings, Binary(), flipped, OVERCONFIDENT, SONGS, folds)
    for first, second in zip(expected, actual, strict=True):
        assert (first[folds == 2] == second[folds == 2]).all()
        assert (first[folds != 2] != second[folds != 2]).any()


def test_scores_are_unchanged_without_calibration():
    scores, thresholded = cross_fit(config(), Binary(), TRUTH, OVERCONFIDENT, SONGS, SONGS % 5)
    assert (scores == OVERCONFIDENT).all()
    assert (thresholded == OVERCONFIDENT).all()
