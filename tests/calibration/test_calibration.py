"""Calibration: what it mends, what it learns from, and what it leaves alone."""

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
SURE = RNG.normal(size=N) * 2
TRUTH = (RNG.random(N) < 1 / (1 + np.exp(-SURE))).astype(np.float32)
OVERSURE = (1 / (1 + np.exp(-3 * SURE))).astype(np.float32)  # logits three times too large
SONGS = np.arange(N)


def config(**keys) -> CalibrationConfig:
    return CalibrationConfig(**keys)


def ece(scores: np.ndarray) -> float:
    return Binary().metric("ece", TRUTH, scores) or 0.0


@pytest.mark.parametrize("method", ["temperature", "isotonic"])
def test_what_is_too_sure_is_mended(method):
    made, notes = fit_calibration(config(method=method), Binary(), TRUTH, OVERSURE, SONGS)
    assert not notes
    assert ece(made.probabilities(OVERSURE)) < ece(OVERSURE) / 2
    if method == "temperature":
        assert made.temperature == pytest.approx(3.0, rel=0.25)
    assert Calibration.from_json(made.to_json()) == made


def test_classes_are_mended_and_still_make_one():
    logits = RNG.normal(size=(N, 3))
    p = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    truth = np.array([RNG.choice(3, p=row) for row in p], dtype=np.float32)
    sure = (np.exp(4 * logits) / np.exp(4 * logits).sum(1, keepdims=True)).astype(np.float32)
    task = Multiclass(classes=("a", "b", "c"))
    for method in ("temperature", "isotonic"):
        made, _ = fit_calibration(config(method=method), task, truth, sure, SONGS)
        calibrated = made.probabilities(sure)
        np.testing.assert_allclose(calibrated.sum(1), 1.0, atol=1e-5)
        assert task.metric("log_loss", truth, calibrated) < task.metric("log_loss", truth, sure)
        assert not made.thresholds  # the likeliest class is taken


@pytest.mark.parametrize(
    ("keys", "worth"),
    [
        ({"threshold": "f1"}, lambda said: 2 * (said & (TRUTH > 0)).sum() / (said.sum() + TRUTH.sum())),
        (
            {"threshold": "cost", "cost_false_negative": 9.0},
            lambda said: -((said & (TRUTH == 0)).sum() + 9 * (~said & (TRUTH > 0)).sum()),
        ),
    ],
)
def test_no_other_threshold_is_worth_more(keys, worth):
    made, _ = fit_calibration(config(**keys), Binary(), TRUTH, OVERSURE, SONGS)
    (threshold,) = made.thresholds
    assert worth(threshold < OVERSURE) == max(worth(t < OVERSURE) for t in np.unique(OVERSURE) - 1e-9)
    assert ((made.thresholded(OVERSURE) > 0.5) == (threshold < OVERSURE)).all()


def test_recall_is_bought_only_at_the_precision_asked_for():
    made, _ = fit_calibration(config(threshold="recall_at_precision", precision=0.9), Binary(), TRUTH, OVERSURE, SONGS)
    said = made.thresholds[0] < OVERSURE
    assert TRUTH[said].mean() >= 0.9
    lower = made.thresholds[0] - 0.05 < OVERSURE
    assert TRUTH[lower].mean() < 0.9 or (lower == said).all()
    noise = RNG.random(N).astype(np.float32)
    made, _ = fit_calibration(
        config(threshold="recall_at_precision", precision=1.0),
        Binary(),
        1.0 - (noise > noise.max() - 1e-6),
        noise,
        SONGS,
    )
    assert made.thresholds == (0.5,)  # nothing reaches it


def test_each_label_has_a_threshold_of_its_own():
    targets = np.stack([TRUTH, TRUTH], axis=1)
    scores = np.stack([OVERSURE, OVERSURE / 10], axis=1)
    made, _ = fit_calibration(config(threshold="f1"), Multilabel(classes=("a", "b")), targets, scores, SONGS)
    assert made.thresholds[0] == pytest.approx(10 * made.thresholds[1], rel=1e-3)


def test_few_songs_teach_nothing():
    made, notes = fit_calibration(config(threshold="f1"), Binary(), TRUTH[:49], OVERSURE[:49], SONGS[:49])
    assert made == Calibration()
    assert "49 songs are too few" in notes[0]
    stems = np.repeat(np.arange(20), 20)
    assert fit_calibration(config(method="isotonic"), Binary(), TRUTH, OVERSURE, stems)[0] == Calibration()


def test_what_cannot_be_cross_fitted_is_not_calibrated_either():
    asked, few = config(method="isotonic", threshold="f1"), slice(0, 56)
    folds = np.arange(56) % 5
    made = calibrate(asked, Binary(), TRUTH[few], OVERSURE[few], SONGS[few], folds)
    assert made.calibration == Calibration()
    assert (made.scores == OVERSURE[few]).all()
    assert "outside of a fold are too few" in made.notes[0]
    enough = calibrate(asked, Binary(), TRUTH, OVERSURE, SONGS, SONGS % 5)
    assert enough.calibration != Calibration()
    assert enough.notes == ()


def test_one_split_says_that_its_numbers_are_not_calibrated():
    made = calibrate(config(method="temperature"), Binary(), TRUTH, OVERSURE, SONGS, np.zeros(len(TRUTH), int))
    assert made.calibration != Calibration()
    assert (made.scores == OVERSURE).all()
    assert "one split" in made.notes[0]


def test_never_yes_and_always_yes_are_thresholds_too():
    truth, scores = np.array([0.0] * 60 + [1.0] * 3), np.linspace(0.0, 1.0, 63).astype(np.float32)
    scores[-3:] = [0.1, 0.2, 0.3]
    songs = np.arange(63)
    dear = config(threshold="cost", cost_false_positive=20.0)
    made, _ = fit_calibration(dear, Binary(), truth, scores, songs)
    assert made.thresholded(scores).sum() == 0
    cheap = config(threshold="cost", cost_false_negative=1000.0)
    scores[-1] = 0.0
    made, _ = fit_calibration(cheap, Binary(), truth, scores, songs)
    assert made.thresholded(scores).sum() == 63


def test_a_precision_that_cannot_be_had_is_said():
    scores = np.linspace(0.0, 1.0, 60).astype(np.float32)
    truth = np.array([0.0, 1.0] * 29 + [0.0, 0.0])
    asked = config(threshold="recall_at_precision", precision=0.99)
    made, notes = fit_calibration(asked, Binary(), truth, scores, np.arange(60))
    assert made.thresholds == (0.5,)
    assert "no threshold reaches 0.99" in notes[0]


def test_a_folds_own_labels_do_not_reach_it():
    folds = SONGS % 5
    asked = config(method="isotonic", threshold="f1")
    before = cross_fit(asked, Binary(), TRUTH, OVERSURE, SONGS, folds)
    turned = np.where(folds == 2, 1 - TRUTH, TRUTH)
    after = cross_fit(asked, Binary(), turned, OVERSURE, SONGS, folds)
    for ours, theirs in zip(before, after, strict=True):
        assert (ours[folds == 2] == theirs[folds == 2]).all()
        assert (ours[folds != 2] != theirs[folds != 2]).any()


def test_nothing_is_changed_where_nothing_was_asked_for():
    scores, thresholded = cross_fit(config(), Binary(), TRUTH, OVERSURE, SONGS, SONGS % 5)
    assert (scores == OVERSURE).all()
    assert (thresholded == OVERSURE).all()
