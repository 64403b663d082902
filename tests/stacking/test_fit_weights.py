"""Weights are non-negative, follow the evidence, and without any give what the class frequencies alone would."""

from __future__ import annotations

import json

import numpy as np
import pytest

from rainbow_ray.stacking.fit import fit_weights
from rainbow_ray.stacking.linear_member import LinearMember, MemberInputs
from rainbow_ray.stacking.links import apply_link
from rainbow_ray.stacking.stack import NEURAL, Stack, StackWeights, mean_of_fits


def sigmoid(values: np.ndarray) -> np.ndarray:
    return apply_link(values, "sigmoid")


def binary_scores(n: int = 400, seed: int = 0) -> tuple[dict[str, np.ndarray], np.ndarray]:
    rng = np.random.default_rng(seed)
    signal = rng.normal(size=n)
    targets = (rng.random(n) < sigmoid(2 * signal)).astype(np.float64)
    scores = {
        "good": sigmoid(2 * signal),
        "noise": sigmoid(rng.normal(size=n)),
        "reversed": sigmoid(-2 * signal),
    }
    return scores, targets[:, None]


def log_loss(scores: np.ndarray, targets: np.ndarray) -> float:
    return float(-np.mean(np.log(np.where(targets[:, 0] > 0.5, scores, 1 - scores))))


def test_weights_follow_the_evidence():
    scores, targets = binary_scores(n=1000)
    weights = fit_weights("binary", scores, targets)
    by_name = dict(zip(weights.names, weights.weights, strict=True))
    assert by_name["good"] > 0.5
    assert by_name.get("noise", 0.0) < 0.3 * by_name["good"]
    assert "reversed" not in by_name, "a member that only harms gets no weight"
    assert min(by_name.values()) > 0


@pytest.mark.parametrize("n", [40, 100])
def test_one_good_member_among_useless_ones_decides(n):
    excess, excess_of_equal = [], []
    for seed in range(10):
        rng = np.random.default_rng(seed)
        targets = (rng.random(n + 2000) < 0.5).astype(np.float64)
        scores = {
            name: sigmoid(spread * rng.normal(size=len(targets)))
            for name, spread in zip("abcd", (3, 1, 2, 0.5), strict=True)
        }
        scores["good"] = sigmoid(3.2 * (targets - 0.5) + 1.2 * rng.normal(size=len(targets)))
        weights = fit_weights("binary", {k: v[:n] for k, v in scores.items()}, targets[:n, None])
        new = {k: np.clip(v[n:], 1e-6, 1 - 1e-6) for k, v in scores.items()}
        known, best = targets[n:, None], log_loss(new["good"], targets[n:, None])
        excess.append(log_loss(weights.combine(new).reshape(-1), known) - best)
        excess_of_equal.append(log_loss(sigmoid(sum(np.log(v / (1 - v)) for v in new.values()) / 5), known) - best)
    assert np.mean(excess) < 0.08
    assert np.mean(excess_of_equal) > 0.2  # so that the bound means something


def test_one_good_number_among_useless_ones_decides():
    rng = np.random.default_rng(0)
    targets = rng.normal(size=(60, 1))
    scores = {name: rng.normal(size=60) for name in "abcd"}
    scores["good"] = targets[:, 0] + 0.1 * rng.normal(size=60)
    weights = fit_weights("regression", scores, targets, robust=True)
    assert dict(zip(weights.names, weights.weights, strict=True))["good"] > 0.85


def test_copies_of_a_member_share_its_weight():
    scores, targets = binary_scores(n=50)
    weights = fit_weights("binary", {**scores, "copy": scores["good"]}, targets)
    by_name = dict(zip(weights.names, weights.weights, strict=True))
    assert by_name["copy"] == pytest.approx(by_name["good"], rel=0.02)


@pytest.mark.parametrize("n", [12, 60])
def test_without_skill_scores_are_near_the_frequencies(n):
    rng = np.random.default_rng(2)
    losses = []
    for _ in range(50):
        targets = (rng.random(n) < 0.2).astype(np.float64)
        targets[:2] = 0, 1
        scores = {name: sigmoid(2 * rng.normal(size=n)) for name in "abcd"}
        new_targets = (rng.random(2000) < targets.mean()).astype(np.float64)[:, None]
        new_scores = {name: sigmoid(2 * rng.normal(size=2000)) for name in "abcd"}
        weights = fit_weights("binary", scores, targets[:, None])
        frequency = np.full(2000, (targets.sum() + 0.5) / (n + 1))
        losses.append(log_loss(weights.combine(new_scores), new_targets) - log_loss(frequency, new_targets))
    assert np.mean(losses) < 0.12 if n == 12 else np.mean(losses) < 0.03


def test_exclusive_classes_and_several_labels():
    rng = np.random.default_rng(3)
    logits = rng.normal(size=(300, 4)) * 2
    labels = np.array([rng.choice(4, p=row) for row in apply_link(logits, "softmax")])
    scores = {"good": apply_link(logits, "softmax"), "noise": apply_link(rng.normal(size=(300, 4)), "softmax")}
    weights = fit_weights("multiclass", scores, np.eye(4)[labels])
    combined = weights.combine(scores)
    np.testing.assert_allclose(combined.sum(axis=1), 1)
    assert dict(zip(weights.names, weights.weights, strict=True))["good"] > 0.5
    labels_of_each = (rng.random((300, 4)) < apply_link(logits, "sigmoids")).astype(float)
    several = {"good": apply_link(logits, "sigmoids"), "noise": apply_link(rng.normal(size=(300, 4)), "sigmoids")}
    weights = fit_weights("multilabel", several, labels_of_each)
    assert weights.weights[0] > 0.5
    assert weights.combine(several).shape == (300, 4)


def test_robust_regression_ignores_outliers():
    rng = np.random.default_rng(4)
    signal = rng.normal(size=200) * 3
    targets = signal + rng.normal(size=200)
    targets[:10] += 60
    scores = {"good": signal + rng.normal(size=200), "noise": rng.normal(size=200) * 3}
    robust = fit_weights("regression", scores, targets[:, None], robust=True).combine(scores)
    squared = fit_weights("regression", scores, targets[:, None]).combine(scores)
    assert np.abs(robust - targets)[10:].mean() < np.abs(squared - targets)[10:].mean()
    np.testing.assert_allclose(np.median(robust - targets), 0, atol=0.4)


def test_a_certain_and_wrong_member_cannot_outweigh_all_others():
    weights = StackWeights(("a", "b"), (0.5, 0.5), (0.0,), "sigmoid")
    combined = weights.combine({"a": np.array([1e-30]), "b": np.array([0.99])})
    assert combined[0] > 0.2


def test_a_stack_survives_json_and_has_one_mean_over_fits():
    member = LinearMember("words", "word_presence", "sigmoid", np.array([[0.3]]), np.array([-0.1]), ("time",))
    stack = Stack(StackWeights((NEURAL, "words"), (0.7, 0.4), (0.05,), "sigmoid"), (member,))
    restored = Stack.from_json(json.loads(json.dumps(stack.to_json())))
    inputs, neural = MemberInputs(["time", "no"]), np.array([0.2, 0.9], dtype=np.float32)
    np.testing.assert_array_equal(restored.scores(neural, inputs), stack.scores(neural, inputs))
    mean = mean_of_fits([stack, restored], np.stack([neural, neural]), inputs, "binary")
    np.testing.assert_allclose(mean, stack.scores(neural, inputs))
    with pytest.raises(ValueError, match="does not fit a multiclass model"):
        stack.check("multiclass", 3)
    with pytest.raises(ValueError, match="lacks: words"):
        Stack.from_json({**stack.to_json(), "members": []})
    with pytest.raises(ValueError, match="negative"):
        Stack.from_json({**stack.to_json(), "weights": {NEURAL: -1.0}})


@pytest.mark.parametrize(("scale", "shift"), [(1e-5, 0.0), (0.001, 1e9), (1e6, -3e6)])
@pytest.mark.parametrize("robust", [False, True])
def test_numbers_of_any_scale_give_the_same_weights(scale, shift, robust):
    rng = np.random.default_rng(5)
    signal = rng.normal(size=60)
    targets = signal + rng.normal(size=60)
    scores = {name: signal + rng.normal(size=60) for name in "abc"}
    expected = fit_weights("regression", scores, targets[:, None], robust=robust)
    scaled = {name: values * scale + shift for name, values in scores.items()}
    weights = fit_weights("regression", scaled, (targets * scale + shift)[:, None], robust=robust)
    np.testing.assert_allclose(weights.weights, expected.weights, atol=1e-3)
    difference = (weights.combine(scaled) - shift) / scale - expected.combine(scores)
    assert np.abs(difference).max() < 2e-3


def test_baselines_of_close_numbers_keep_their_differences():
    from rainbow_ray.baselines.model_family import model_family
    from rainbow_ray.baselines.models import BaselineInputs, fit_bag_of_words, fit_tf_idf
    from rainbow_ray.tasks.registry import make_task

    rng = np.random.default_rng(6)
    texts = np.array(
        [" ".join(rng.choice(["time", "door", "rain", "wall", "salt"], 4)) for _ in range(60)], dtype=object
    )
    targets = np.array([text.count("time") for text in texts], dtype=np.float64)
    for fit in (fit_tf_idf, fit_bag_of_words):
        plain, close = (
            fit(
                BaselineInputs(model_family(make_task("regression")), values, texts, np.arange(60)), np.arange(60)
            ).scores(MemberInputs(texts.tolist()))
            for values in (targets, 1e9 + 0.001 * targets)
        )
        np.testing.assert_allclose((close - 1e9) / 0.001, plain, atol=1e-3)
