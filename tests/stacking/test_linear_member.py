"""Linear members give the scores of the scikit-learn models that they were fitted from, and survive JSON exactly."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
from sklearn.ensemble import GradientBoostingClassifier, GradientBoostingRegressor
from sklearn.feature_extraction.text import CountVectorizer, TfidfVectorizer
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.pipeline import make_pipeline

from rainbow_ray.baselines.model_family import model_family
from rainbow_ray.baselines.models import BaselineInputs, fit_bag_of_words, fit_constant, fit_tf_idf
from rainbow_ray.stacking.linear_member import LinearMember, MemberInputs
from rainbow_ray.tasks.registry import make_task

WORDS = ["rainbow", "it's", "ÜBER", "a", "shadow", "time", "naïve", "time-lapse", "42", "memory"]
TASKS = {
    "binary": ("binary", {}),
    "multiclass": ("multiclass", {"classes": ["a", "b", "c", "d"]}),
    "multilabel": ("multilabel", {"classes": ["a", "b", "c"]}),
    "regression": ("regression", {}),
}


def texts_and_targets(kind: str, n: int = 60) -> tuple[Any, Any]:
    rng = np.random.default_rng(3)
    texts = np.array([" ".join(rng.choice(WORDS, size=rng.integers(0, 12))) for _ in range(n)], dtype=object)
    has_time = np.array(["time" in text for text in texts])
    targets = {
        "binary": has_time.astype(np.float32),
        "multiclass": np.where(has_time, 1, rng.integers(0, 3, n)).astype(np.float32),  # nothing of class 3
        "multilabel": np.stack([has_time, rng.random(n) < 0.5, np.ones(n)], axis=1).astype(np.float32),
        "regression": (3.0 * has_time + rng.normal(size=n)).astype(np.float64),
    }
    return texts, targets[kind]


def inputs_of(kind: str) -> BaselineInputs:
    texts, targets = texts_and_targets(kind)
    name, state = TASKS[kind]
    return BaselineInputs(model_family(make_task(name, **state)), targets, texts, np.arange(len(texts)))


@pytest.mark.parametrize("kind", ["binary", "multiclass"])
def test_classifiers_have_the_probabilities_of_scikit_learn(kind):
    inputs, train = inputs_of(kind), np.arange(45)
    labels = inputs.models.labels(inputs.targets[train])
    fits = {
        fit_tf_idf: make_pipeline(TfidfVectorizer(), LogisticRegression(class_weight="balanced", max_iter=2000)),
        fit_bag_of_words: make_pipeline(
            CountVectorizer(binary=True), GradientBoostingClassifier(n_estimators=100, max_depth=1, random_state=0)
        ),
    }
    for fit, model in fits.items():
        expected = model.fit(inputs.texts[train], labels).predict_proba(inputs.texts)
        scores = fit(inputs, train).scores(inputs.member_inputs)
        np.testing.assert_allclose(scores if kind == "multiclass" else scores[:, None],
                                   np.pad(expected, ((0, 0), (0, 1))) if kind == "multiclass" else expected[:, 1:],
                                   atol=1e-9)  # fmt: skip


def test_regression_has_the_numbers_of_scikit_learn():
    inputs, train = inputs_of("regression"), np.arange(45)
    fits = {
        fit_tf_idf: make_pipeline(TfidfVectorizer(), Ridge(alpha=1.0)),
        fit_bag_of_words: make_pipeline(
            CountVectorizer(binary=True), GradientBoostingRegressor(n_estimators=100, max_depth=1, random_state=0)
        ),
    }
    for fit, model in fits.items():
        expected = model.fit(inputs.texts[train], inputs.targets[train]).predict(inputs.texts)
        np.testing.assert_allclose(fit(inputs, train).scores(inputs.member_inputs), expected, atol=1e-9)


def test_a_label_that_all_songs_have_is_certain_and_one_that_none_has_impossible():
    inputs = inputs_of("multilabel")
    inputs.targets[:, 1] = 0
    scores = fit_tf_idf(inputs, np.arange(45)).scores(inputs.member_inputs)
    assert (scores[:, 2] > 1 - 1e-9).all()
    assert (scores[:, 1] < 1e-9).all()
    assert len(np.unique(scores[:, 0])) > 10


@pytest.mark.parametrize("kind", TASKS)
def test_the_constant_member_gives_the_frequencies(kind):
    inputs, train = inputs_of(kind), np.arange(45)
    scores = fit_constant(inputs, train, name="trivial").scores(inputs.member_inputs)
    expected = inputs.models.constant(inputs.targets[train], len(inputs.texts))
    np.testing.assert_allclose(scores, expected, atol=1e-9)


@pytest.mark.parametrize("kind", TASKS)
@pytest.mark.parametrize("fit", [fit_tf_idf, fit_bag_of_words])
def test_members_survive_json_exactly(kind, fit):
    inputs = inputs_of(kind)
    member = fit(inputs, np.arange(45))
    restored = LinearMember.from_json(json.loads(json.dumps(member.to_json())))
    np.testing.assert_array_equal(restored.scores(inputs.member_inputs), member.scores(inputs.member_inputs))


def test_words_without_an_effect_are_not_kept():
    inputs = inputs_of("binary")
    member = fit_bag_of_words(inputs, np.arange(45))
    assert "time" in member.vocabulary
    assert np.any(member.weights != 0, axis=1).all()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"weights": [[1.0]]}, "lengths"),
        ({"weights": [[float("nan")]] * 10}, "finite"),
        ({"kind": "pickle"}, "unknown kind"),
        ({"link": "exec"}, "unknown kind or link"),
        ({"idf": [1.0]}, "lengths"),
        ({"key": "audio"}, "lengths"),
    ],
)
def test_damaged_members_are_refused(change, message):
    document = fit_tf_idf(inputs_of("binary"), np.arange(45)).to_json()
    with pytest.raises(ValueError, match=message):
        LinearMember.from_json({**document, **change})


def test_texts_that_no_vocabulary_knows_have_the_intercept():
    member = fit_tf_idf(inputs_of("binary"), np.arange(45))
    scores = member.scores(MemberInputs(["", "unknown words only", "!!"]))
    np.testing.assert_allclose(scores, 1 / (1 + np.exp(-member.bias[0])))
