"""Layers and initial values of the prediction head."""

from __future__ import annotations

import torch

from rainbow_ray.config.schema import ClassifierConfig
from rainbow_ray.nn.head import make_head


def test_head_has_the_configured_layers():
    head = make_head(10, 2, ClassifierConfig(hidden_dims=[8, 4], activation="tanh", dropout=0.1))
    kinds = [type(module).__name__ for module in head]
    assert kinds == ["Dropout", "Linear", "Tanh", "Dropout", "Linear", "Tanh", "Dropout", "Linear"]
    assert head[-1].weight.shape == (2, 4)


def test_logits_of_a_new_head_are_its_bias():
    head = make_head(10, 2, ClassifierConfig())
    torch.testing.assert_close(head(torch.randn(3, 10)), head[-1].bias.expand(3, 2))
