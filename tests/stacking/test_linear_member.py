"""Linear members give the scores of the scikit-learn models that they were fitted from, and survive JSON exactly."""

from __future__ import annotations

import dataclasses
import json
from typing import Any

import numpy as np
import pytest
from sklearn.ensemble import GradientBoostingClassifier, GradientBoostingRegressor
from sklearn.feature_extraction.text import CountVectorizer, TfidfVectorizer
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.pipeline import make_pipeline

from rainbow_ray.baselines.model_family import model_family
from rainbow_ray.baselines.models import (
    DESCRIPTOR_FRACTION,
    BaselineInputs,
    _levels_between,
    fit_bag_of_words,
    fit_boosted_descriptors,
    fit_constant,
    fit_tf_idf,
)
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


def described(kind: str, seed: int = 0) -> BaselineInputs:
    inputs, rng = inputs_of(kind), np.random.default_rng(seed)
    has_time = np.array(["time" in text for text in inputs.texts])
    values = np.stack([3 * has_time + rng.normal(size=60), rng.integers(0, 3, 60), np.full(60, 7.0)], axis=1)
    return dataclasses.replace(inputs, media_features={"midi_descriptors": values.astype(np.float32)})


@pytest.mark.parametrize("kind", TASKS)
def test_boosted_descriptors_score_like_scikit_learn_on_what_exceeds_their_thresholds(kind):
    inputs, train = described(kind), np.arange(45)
    member = fit_boosted_descriptors(inputs, train, key="midi_descriptors")
    assert (member.name, member.kind, member.input_width) == ("midi descriptors + boosting", "steps", 3)
    assert set(member.columns) <= {0, 1}, "a constant has no threshold"
    copy = LinearMember.from_json(json.loads(json.dumps(member.to_json())))
    scores = member.scores(inputs.member_inputs)
    np.testing.assert_array_equal(scores, copy.scores(inputs.member_inputs))
    values = inputs.media_features["midi_descriptors"]
    levels = [_levels_between(values[train, column].astype(np.float64)) for column in range(3)]
    steps = np.concatenate([values[:, [i]] > levels[i] for i in range(3)], axis=1).astype(float)
    expected = inputs.models.fit_predict(
        inputs.models.boosting(0, DESCRIPTOR_FRACTION), steps, inputs.targets, train, np.arange(60)
    )
    np.testing.assert_allclose(scores, expected, atol=1e-9)


def test_the_last_digits_of_descriptors_do_not_change_scores():
    inputs = described("binary")
    member = fit_boosted_descriptors(inputs, np.arange(45), key="midi_descriptors")
    values = inputs.media_features["midi_descriptors"] + np.float32(2e-6)
    np.testing.assert_array_equal(
        member.scores(inputs.member_inputs),
        member.scores(MemberInputs(inputs.texts.tolist(), {"midi_descriptors": values})),
    )


@pytest.mark.parametrize(("field", "value"), [("columns", [9]), ("thresholds", [0.0, 1.0]), ("key", None)])
def test_damaged_thresholds_are_refused(field, value):
    document = {"name": "x", "kind": "steps", "link": "sigmoid", "bias": [0.0], "weights": [[1.0]], "key": "midi",
                "columns": [2], "thresholds": [0.5], "width": 3}  # fmt: skip
    assert LinearMember.from_json(document).input_width == 3
    with pytest.raises(ValueError, match="do not match"):
        LinearMember.from_json(document | {field: value})


def test_descriptors_that_are_all_constant_give_the_class_frequencies():
    inputs = dataclasses.replace(inputs_of("binary"), media_features={"midi_descriptors": np.ones((60, 2))})
    member = fit_boosted_descriptors(inputs, np.arange(45), key="midi_descriptors")
    assert len(set(member.scores(inputs.member_inputs))) == 1
