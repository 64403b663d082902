"""What is done for rare classes: one means at a time, or a word about it."""

from __future__ import annotations

import pytest

from rainbow_ray.config import TrainingConfig
from rainbow_ray.training.imbalance import stacked


@pytest.mark.parametrize("how", ["oversample", "undersample"])
@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("pos_weight", 5.0),
        ("class_weights", [1.0, 2.0]),
        ("class_weights", {"a": 1.0, "b": 3.0}),
        ("loss", "class_balanced"),
        ("loss", "logit_adjusted"),
    ],
)
def test_weights_on_top_of_a_sampler_warn(how, key, value):
    training = TrainingConfig(sampling=how, **{key: value})
    (warning,) = stacked(training, {"training.sampling", f"training.{key}"})
    assert f"training.{key}" in warning
    assert f"training.sampling={how}" in warning


def test_weights_that_the_sampler_leaves_nothing_to_do_warn_only_who_set_them():
    training = TrainingConfig(sampling="oversample", class_weights="balanced")
    assert stacked(training, {"training.sampling"}) == []
    (warning,) = stacked(training, {"training.sampling", "training.class_weights"})
    assert "nothing is left" in warning


def test_one_means_alone_is_silent():
    everything = {"training.sampling", "training.pos_weight", "training.class_weights", "training.loss"}
    assert stacked(TrainingConfig(pos_weight=5.0, class_weights=[1.0, 2.0]), everything) == []
    assert stacked(TrainingConfig(sampling="oversample", pos_weight=None, class_weights="none"), everything) == []
    assert stacked(TrainingConfig(sampling="oversample"), {"training.sampling"}) == []
