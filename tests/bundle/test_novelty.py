"""Novelty flags 5% of held-out training songs and songs unlike all of them; a missing modality does not count."""

from __future__ import annotations

import numpy as np
import pytest

from rainbow_ray.bundle.novelty import Novelty, fit_novelty


def features(n: int, seed: int = 0, width: int = 24) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(n, width)).astype(np.float32) + 5


def fitted(n: int = 400) -> Novelty:
    novelty = fit_novelty({"text": features(n)}, np.arange(n), seed=0)
    assert novelty is not None
    return novelty


def test_new_songs_of_the_same_kind_are_flagged_as_often_as_held_out_ones():
    scores = fitted().score({"text": features(4000, seed=1)})
    assert 0.03 < (scores > 1).mean() < 0.075


def test_unlike_songs_are_flagged():
    unlike = features(100, seed=2)
    unlike[:, :12] = 5  # the training songs vary there
    unlike[:, 12:] += 8
    assert (fitted().score({"text": unlike}) > 1).all()


def test_rows_of_a_training_song_do_not_vouch_for_each_other():
    songs = np.repeat(np.arange(100), 3)
    rows = np.repeat(features(100), 3, axis=0) + 1e-3 * features(300, seed=3)
    novelty = fit_novelty({"text": rows}, songs, seed=0)
    alone = fit_novelty({"text": rows[::3]}, songs[::3], seed=0)
    assert novelty is not None
    assert alone is not None
    assert novelty.scales["text"] == pytest.approx(alone.scales["text"], rel=0.1)


def test_a_missing_modality_does_not_count():
    text, audio = features(60), features(60, seed=4, width=8)
    audio[::2] = 0
    novelty = fit_novelty({"text": text, "audio": audio}, np.arange(60), seed=0)
    assert novelty is not None
    scores = novelty.score({"text": text[:4], "audio": np.zeros((4, 8), np.float32)})
    assert np.isfinite(scores).all()
    assert np.isnan(novelty.score({"text": np.zeros((1, 24)), "audio": np.zeros((1, 8))})).all()


def test_few_songs_have_no_threshold():
    assert fit_novelty({"text": features(9)}, np.arange(9), seed=0) is None
    assert fit_novelty({"text": np.ones((40, 3))}, np.arange(40), seed=0) is None
    assert fit_novelty({}, np.arange(40), seed=0) is None


def test_arrays_survive_and_damage_is_refused():
    novelty, new = fitted(50), {"text": features(5, seed=5)}
    arrays = novelty.to_arrays()
    np.testing.assert_array_equal(Novelty.from_arrays(arrays).score(new), novelty.score(new))
    for name, value in (
        ("threshold", np.array([0.0])),
        ("text/center", np.zeros(3)),
        ("text/scale", np.array([np.nan])),
    ):
        with pytest.raises(ValueError, match="damaged"):
            Novelty.from_arrays({**arrays, name: value})
    with pytest.raises(ValueError, match="lacks"):
        Novelty.from_arrays({name: value for name, value in arrays.items() if name != "text/references"})


def test_a_large_training_set_is_sampled():
    novelty = fit_novelty({"text": features(3000, width=4)}, np.arange(3000), seed=0)
    assert novelty is not None
    assert len(novelty.references["text"]) == 2000
